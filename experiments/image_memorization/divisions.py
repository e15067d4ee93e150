"""What an audit would flag: planted images of one dose among held-out ones, against a reference, many times over.

Held-out images of the test half are divided at random into audited ones and the reference; the planted ones are of both
halves, for nothing about a calibrated score was chosen on either.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from experiments.image_memorization.calibrated import columns, digests, of_audits
from experiments.image_memorization.study import CONTROL, Study
from experiments.image_memorization.train_images import TrainImages
from experiments.shared.networks import MAIN
from plap_jax.adjustment import adjust
from plap_jax.calibration import benjamini_hochberg, conformal_p_values
from plap_jax.difficulty import difficulty

SUFFIX = {"calibrated": "", "baseline": "_baseline", "raw": "_raw"}


class Audit(Section):
    """One kind of audit."""

    copies: int = Field(ge=2, description="of the planted images; null where planting.copies lacks it")
    reference: int = Field(ge=1, description="held-out images that are the reference")
    score: Literal["calibrated", "baseline", "raw"] = Field(description="raw: κ_1 at the validated level")
    divisions: int = Field(ge=2, description="of the held-out images into audited and reference")

    @property
    def name(self) -> str:
        """``k40_ref300``, with ``_baseline`` or ``_raw``."""
        return f"k{self.copies}_ref{self.reference}{SUFFIX[self.score]}"


class Audits(Section):
    """Audits whose power is measured."""

    heldout: int = Field(ge=1, description="held-out images among the audited ones")
    fdr: float = Field(gt=0, lt=1, description="false-discovery rate")
    kinds: list[Audit] = Field(description="which audits are simulated")


def run(config: RunConfig, study: Study, found: TrainImages, *, report: Report) -> None:
    """Metrics ``audit/NAME/{power,false_share}``, means over the divisions; table ``audits`` with their spread.

    power: the share of planted images that are flagged; false_share: of the flagged, the share that is held out, 0
    where nothing is flagged, whose mean is the false-discovery rate.
    """
    audits: Audits = config.audits
    if not audits.kinds:
        return
    images = study.images
    network, control = (of_audits(columns(found.scores[name])) for name in (MAIN, CONTROL))
    # As in an audit; differences to the control, with it as the baseline
    evidence = {"calibrated": network, "baseline": network - control, "raw": found.kappa_1[:, None]}
    z, digest = difficulty(images.points), digests(images.points)
    heldout = np.flatnonzero(~images.validation & images.is_heldout)
    rows = []
    with report.stage("evaluate/audits"):
        for kind in audits.kinds:
            planted = np.flatnonzero(images.copies == kind.copies)
            needed = audits.heldout + kind.reference
            reason = None if len(planted) else f"no image stands {kind.copies} times in the training set"
            if len(heldout) < needed:
                reason = f"{len(heldout)} held-out images in the test half, {needed} are needed"
            if reason:
                for name in ("power", "false_share"):
                    report.metric(f"audit/{kind.name}/{name}", None, reason)
                continue
            shares = []
            rng = np.random.default_rng(config.seed)
            for _ in range(kind.divisions):
                chosen = np.concatenate([planted, rng.permutation(heldout)[:needed]])
                score = evidence[kind.score][chosen]
                score = score[:, 0] if kind.score == "raw" else adjust(score, z[chosen], digest[chosen]).score
                shares.append(flagged_shares(score, len(planted), kind.reference, audits.fdr))
            mean, spread = np.mean(shares, axis=0), np.std(shares, axis=0, ddof=1)
            row = {"audit": kind.name, "copies": kind.copies, "planted": len(planted), "heldout": audits.heldout}
            row |= {"reference": kind.reference, "score": kind.score, "divisions": kind.divisions}
            for i, name in enumerate(("power", "false_share")):
                report.metric(f"audit/{kind.name}/{name}", float(mean[i]))
                row |= {name: float(mean[i]), f"{name}_spread": float(spread[i])}
            rows.append(row)
    report.table("audits", rows)


def flagged_shares(score: np.ndarray, n_planted: int, n_reference: int, fdr: float) -> tuple[float, float]:
    """Power and false share of one audit.

    Args:
        score: of planted images, the other audited ones, the reference, in this order; higher = more memorized.
        n_planted, n_reference: how many are the first, and the last.
        fdr: of Benjamini–Hochberg.
    """
    flagged = benjamini_hochberg(conformal_p_values(score[:-n_reference], score[-n_reference:]), fdr)
    return float(flagged[:n_planted].mean()), float(flagged[n_planted:].sum() / max(1, flagged.sum()))
