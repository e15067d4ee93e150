"""From the result of an audit to its page."""

import dataclasses

import jax
import numpy as np
import pytest

from plap_jax import audit_images
from plap_jax.audit.fitness import Fitness
from plap_jax.audit.report import MOST_EXTREME, page_of, write_report
from tests.helpers.memorizing_model import MEMORIZED, factory, images

N, N_REFERENCE = 19, 61  # with a near-duplicate and a memorized reference image


@pytest.fixture(scope="module")
def result():
    audited = np.concatenate([MEMORIZED[:8], images(N - 9, seed=1), MEMORIZED[:1]])
    reference = np.concatenate([images(N_REFERENCE - 1, seed=2), MEMORIZED[-1:]])
    how = {"noise_levels": (0.1, 0.3), "key": jax.random.key(0)}
    return audit_images(factory(), audited, reference=reference, fdr=0.3, **how)


@pytest.fixture(scope="module")
def page(result):
    return page_of(result, 2000)


def test_near_duplicates_are_named_and_counted_nowhere(result, page):
    untested = [row for row in page.rows if row.p_value is None]
    assert [row.same_as for row in untested] == [name for name in ("0", str(N - 1)) if name != untested[0].name]
    assert not any(row.flagged for row in untested)
    assert page.histogram.audited.size == N - 1 and page.slider.n_tested == N - 1
    assert page.scatter.tested.sum() == N - 1 and len(page.scatter.measured) == N


def test_rows_hold_the_evidence_of_their_image(result, page):
    for row in page.rows:
        i = result.names.index(row.name)
        np.testing.assert_array_equal(row.evidence, result.evidence[i])
        assert row.score == result.score[i] and row.z is None and row.kappa is None
    assert page.levels == [0.1, 0.3]
    assert page.scatter.reference_measured.shape == (N_REFERENCE,)


def test_the_slider_starts_at_what_is_flagged(result, page):
    start = page.slider.positions[page.slider.start]
    assert start.flagged == result.flagged.sum() > 0
    assert page.summary["not false, at least"] == str(start.at_least_true)
    np.testing.assert_array_equal((result.score >= start.score) & result.verdict.tested, result.flagged)


def test_a_memorized_reference_image_is_shown_with_its_picture(result, page):
    assert page.extreme[0].name == str(N_REFERENCE - 1) and page.extreme[0].thumbnail.shape == (4, 4, 1)
    assert page.n_extreme == len(result.extreme_reference) and len(page.extreme) <= MOST_EXTREME
    assert [row.score for row in page.extreme] == [score for _, score in result.extreme_reference[:MOST_EXTREME]]


def test_warnings_come_first(result):
    calibration = dataclasses.replace(result.calibration, left_out=(0.58,), not_reached=(0.03, 0.05))
    warned = dataclasses.replace(result, calibration=calibration, fitness=Fitness(0.9, 0.005))
    told = page_of(warned, 5)
    unfit, left, not_reached = told.notices
    assert unfit.startswith("The reference differs in kind") and unfit.endswith(".")
    assert left == "What the model says is not finite at σ = 0.58, which is left out."
    assert not_reached == "The schedule does not reach σ = 0.03, 0.05, which is left out."
    assert "not finite" not in told.headline and "flagged" in told.headline
    assert [f"{line[0].upper()}{line[1:]}." for line in warned.lines[-3:]] == told.notices


def test_with_a_baseline_both_models_stand_beside_each_other(result):
    n = len(result.calibration.kappa)
    beside = np.full((n, 2), 0.25)
    calibration = dataclasses.replace(result.calibration, baseline_kappa=beside, baseline_contrast=beside)
    page = page_of(dataclasses.replace(result, calibration=calibration), 2000)
    for row in page.rows:
        assert row.kappa == pytest.approx(result.calibration.kappa[result.names.index(row.name)].mean())
        assert row.baseline == 0.25
    assert page.scatter.of_difference
    assert "has not seen these images" in page.difficulty[0]
    assert "baseline" not in " ".join(page_of(result, 5).difficulty)


def test_without_a_reference_there_is_no_threshold(result, tmp_path):
    verdict = dataclasses.replace(
        result.verdict, reference=None, fdr=None, p_value=None, q_value=None, flagged=None, tested=None
    )
    found = dataclasses.replace(result, verdict=verdict, reference=None)
    page = page_of(found, 2000)
    assert page.slider is None and page.extreme == () and page.difficulty
    write_report(tmp_path / "report.html", found, 2000)
    html = (tmp_path / "report.html").read_text()
    assert 'id="threshold"' not in html and "How difficulty was taken out" in html and "not tested" in html
    assert "of these flagged" not in html


def test_a_reference_too_small_to_flag_anything_is_no_rate_that_is_held(result):
    verdict = dataclasses.replace(result.verdict, reference=result.verdict.reference[:2])
    assert dataclasses.replace(result, verdict=verdict).claims.control == "Reference too small to flag anything"
    none = dataclasses.replace(verdict, tested=np.zeros(len(verdict.score), bool))
    for one in (result.verdict, none):  # where nothing is tested, that is another matter
        assert dataclasses.replace(result, verdict=one).claims.control.startswith("False-discovery rate held")
