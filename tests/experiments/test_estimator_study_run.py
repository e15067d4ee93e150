"""The study of the estimators at scale=smoke, run as a user runs it, against its arrays."""

import csv
import json

import numpy as np
import pytest

from experiments.estimator_study.methods import PLAIN
from experiments.estimator_study.scenes import AWAY
from tests.helpers import expected_numbers

pytestmark = pytest.mark.slow  # its scenes, methods and fits by themselves: test_estimator_study.py


def columns(path):
    with np.load(path) as stored:
        return dict(stored)


def where(a, **equal):
    of = np.all([a[name] == value for name, value in equal.items()], axis=0)
    return {name: column[of] for name, column in a.items()}


@pytest.fixture(scope="module")
def study(shared):
    return shared.first("estimator_study", "scale=smoke", "tracking=disabled")


def test_what_a_run_leaves(study):
    metrics = json.loads((study / "metrics.json").read_text())
    assert {"gain/digits_d_64/held_out/antithetic", "radius/order/p1", "radius/best/p1"} <= set(metrics)
    assert metrics["score_error/bounds_broken"] == 0
    assert not [name for name in metrics if "cost" in name or name.endswith("_ms")]
    for name in ("convergence", "orders", "bounds", "coverage", "gains", "radius", "score_error", "breakdown", "cost"):
        assert (study / "figures" / f"{name}.png").stat().st_size > 10_000
        assert (study / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_errors_fall_and_contain_what_they_should(study):
    a = columns(study / "arrays" / "convergence.npz")
    plain = where(a, score="mixture, d = 2", method=PLAIN, kind=AWAY, p=1.0)
    assert plain["rmse"][0] > plain["rmse"][-1] > 0
    assert np.all((plain["rmse_low"] < plain["rmse"]) & (plain["rmse"] < plain["rmse_high"]))
    # χ² of the 32 repetitions of scale=smoke: the interval of a root mean square is about ±25 %
    np.testing.assert_allclose(plain["rmse_high"] / plain["rmse"], 1.33, atol=0.05)
    np.testing.assert_allclose(plain["stderr"], plain["rmse"], rtol=0.5)
    bounded = a["bound"][np.isfinite(a["bound"])]
    assert len(bounded) and np.all(bounded > a["quantile"][np.isfinite(a["bound"])])
    assert np.all(np.isnan(a["bound"][(a["family"] != "boundary") | (a["p"] != 1)]))


def test_metrics_come_from_the_arrays(study):
    metrics = json.loads((study / "metrics.json").read_text())
    a = columns(study / "arrays" / "convergence.npz")
    line = where(a, score="mixture, d = 2", method=PLAIN, kind=AWAY, p=1.0)
    slope = np.polyfit(np.log(line["evaluations"]), np.log(line["rmse"]), 1)[0]
    assert metrics["slope/mixture_d_2/p1"] == pytest.approx(slope)
    g = where(columns(study / "arrays" / "gains.npz"), score="mixture, d = 2", kind=AWAY, method="antithetic")
    assert metrics["gain/mixture_d_2/away/antithetic"] == pytest.approx(float(g["gain"][0]))
    assert g["gain"][0] > 4  # away from the modes of a mixture


def test_bias_grows_with_the_square_of_the_radius(study):
    metrics = json.loads((study / "metrics.json").read_text())
    assert metrics["radius/order/p1"] == pytest.approx(2, abs=0.15)
    assert metrics["radius/order/p3"] == pytest.approx(2, abs=0.15)
    with open(study / "tables" / "radius.csv") as file:
        rows = list(csv.DictReader(file))
    spread = {float(r["radius"]): float(r["spread"]) for r in rows if float(r["p"]) == 1}
    assert spread[0.05] > 5 * spread[0.5]


def test_its_numbers_are_those_that_were_committed(study):
    expected_numbers.check("estimator_study", study)
