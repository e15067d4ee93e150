"""What an audit leaves behind in a run's directory: tables, arrays and metrics."""

import numpy as np

from experiments.core.report import Report
from plap_jax.audit import AuditResult
from plap_jax.audit.verdict import agreement

NEVER_ASKED = "images are ranked, not tested: no reference that is known not to be in the training data"
NO_LEVEL = "no noise level was given: the score is of all of them, or of a detector at its own"
NOT_TRIED = "no calibrated score with a reference, or fewer than 20 images of a side"
PLAIN = "a plain score: difficulty is not taken out"


def write_tables(report: Report, result: AuditResult, skipped: list[dict[str, str]]) -> None:
    """``tables/audit.csv``, the highest score first, ``skipped.csv``, and ``summary`` with the first twenty."""
    rows = result.to_rows()
    report.table("audit", rows, kinds=("csv",))
    report.table("skipped", skipped)
    report.table("summary", rows[:20])


def write_metrics(report: Report, result: AuditResult, n_skipped: int) -> None:
    """Numbers of the audit as a whole."""
    verdict = result.verdict
    report.metric("audit/images", len(result.names))
    report.metric("audit/skipped", n_skipped)
    report.metric("audit/sigma", result.sigma, NO_LEVEL if result.sigma is None else None)
    calibrated = result.calibration is not None
    explained = result.calibration.explained if calibrated else None
    report.metric("audit/explained_by_difficulty", explained, None if calibrated else PLAIN)
    fit = result.fitness
    for name, value in (("auc", fit and fit.auc), ("p_value", fit and fit.p_value)):
        report.metric(f"audit/reference_told_apart/{name}", value, None if fit else NOT_TRIED)
    report.metric("audit/evaluations_per_image", result.nfe_spent)
    report.metric("audit/evaluations", result.nfe_total)
    report.metric("audit/evaluations_of_maps", result.nfe_maps)
    report.metric("audit/score_median", float(np.median(result.score)))
    report.metric("audit/score_highest", float(result.score.max()))
    report.metric("audit/stderr_median", float(np.median(result.stderr)))
    report.metric("audit/reference_images", 0 if verdict.reference is None else len(verdict.reference))
    tested = result.flagged is not None
    numbers = {
        "flagged": lambda: int(result.flagged.sum()),
        "tested": lambda: verdict.n_tested,
        "smallest_p_value": lambda: float(np.nanmin(result.p_value)) if verdict.n_tested else None,
        "fewest_discoveries": lambda: verdict.fewest,
        "reference_for_one": lambda: verdict.needed,
    }
    for name, number in numbers.items():
        report.metric(f"audit/{name}", number() if tested else None, None if tested else NEVER_ASKED)
    if result.training is not None:
        both = agreement(verdict, result.audited, result.settings.max_ratio)
        report.metric("audit/copies", int(both.copies.sum()))
        reason = None if both.correlation is not None else "scores or ratios do not vary"
        report.metric("audit/rank_correlation_with_copy_ratio", both.correlation, reason)
        if tested:
            report.metric("audit/flagged_copies", int((both.copies & result.flagged).sum()))


def write_arrays(report: Report, result: AuditResult, on_sheet: int) -> None:
    """``arrays/audit.npz``: all scores, the pictures of the contact sheet, and curvature maps."""
    verdict, columns = result.verdict, result.audited.columns
    top = verdict.order[:on_sheet]
    more = {}
    if result.training is not None:
        more["sheet_nearest"] = result.training.images[columns["nearest"][top].astype(int)]
    nothing = np.zeros(0)
    if result.calibration is not None:
        more |= {"expected": result.expected, "measured": result.measured, "evidence": result.evidence}
        more |= {
            "noise_levels": result.calibration.levels,
            "difficulty": result.calibration.difficulty[: len(result.names)],
        }
        more |= {"envelope": np.asarray(verdict.envelope, float).reshape(-1, 4)}
    if result.maps is not None:
        more |= result.maps.arrays(result.names)
    report.arrays(
        "audit",
        score=verdict.score,
        stderr=verdict.stderr,
        reference=nothing if verdict.reference is None else verdict.reference,
        threshold=np.nan if verdict.threshold is None else verdict.threshold,
        z=verdict.z,
        p_value=nothing if verdict.p_value is None else verdict.p_value,
        flagged=np.zeros(len(verdict.score), bool) if verdict.flagged is None else verdict.flagged,
        sheet=np.stack([result.pictures.source.read(int(columns["index"][i])) for i in top]),
        sheet_index=top,
        score_name=result.score_name,
        **more,
    )
