"""The verdict on scores that are given: flags, what a reference can do, and the view of the training set."""

import numpy as np
import pytest

from plap_jax.audit.stream import Scored
from plap_jax.audit.verdict import agreement, judge


def scored(values, stderr=0.01):
    values = np.asarray(values, float)
    columns = {"kappa": values, "kappa/stderr": np.full(len(values), stderr), "nfe": np.full(len(values), 16)}
    return Scored(columns | {"kappa/n_units": np.full(len(values), 16)}, [str(i) for i in range(len(values))])


def test_a_reference_that_is_too_small_says_how_many_it_takes():
    verdict = judge("kappa", scored([0.9, 0.1, 0.2]), scored([0.3, 0.4]), 0.05)
    assert not verdict.flagged.any() and verdict.fewest == 20
    assert "too small to reject anything: it needs at least 19 images" in verdict.lines[1]
    assert "and 59 to flag a single one" in verdict.lines[1] and len(verdict.lines) == 2
    enough = judge("kappa", scored([0.9, 0.1, 0.2]), scored(np.linspace(0, 0.5, 59)), 0.05)
    assert enough.flagged.tolist() == [True, False, False] and enough.threshold == 0.9
    assert len(enough.lines) == 1 and "1 of 3 images flagged" in enough.lines[0]
    assert "exchangeable with the 59 reference images" in enough.lines[0]


def test_what_is_not_tested_and_scores_as_high_as_flags_is_told():
    images = scored([0.9, 0.95, 0.2, 0.1])
    images.columns["stays"] = np.array([True, False, True, False])
    verdict = judge("kappa", images, scored(np.linspace(0, 0.5, 59)), 0.05)
    assert verdict.flagged.tolist() == [True, False, False, False]
    assert "2 audited images are near-duplicates of another" in verdict.lines[1]
    assert verdict.lines[1].endswith("and not tested; 1 of them scores as high as flagged ones")


def test_flags_come_at_least_so_many_at_a_time_but_need_not_exceed_the_whole_reference():
    # 100 images, 199 of reference: at least 10 together. 20 that one reference image exceeds are flagged all the same.
    reference = scored([*np.linspace(0, 0.5, 198), 0.95])
    for n, flagged in ((20, 20), (19, 0)):
        verdict = judge("kappa", scored([0.9] * n + [-1.0] * (100 - n)), reference, 0.05)
        assert verdict.fewest == 10 and int(verdict.flagged.sum()) == flagged
        assert "none is flagged unless at least 10 of 100 stand out" in verdict.lines[1]


def test_both_views_agree_or_not():
    one = scored([0.9, 0.8, 0.1, 0.2])
    one.columns["ratio"] = np.asarray([0.1, 0.2, 0.9, 0.8])
    both = agreement(judge("kappa", one, None, None), one, 1 / 3)
    assert both.copies.tolist() == [True, True, False, False] and both.correlation == pytest.approx(1)
    one.columns["ratio"] = np.full(4, 0.5)
    assert agreement(judge("kappa", one, None, None), one, 1 / 3).correlation is None
