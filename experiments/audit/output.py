"""What an audit leaves behind: tables, arrays, metrics, and the page."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.audit.claims import claims
from experiments.audit.histogram import Histogram
from experiments.audit.images import Source
from experiments.audit.level import Level
from experiments.audit.page import Nearest, Page, Row
from experiments.audit.settings import Settings
from experiments.audit.stream import Scored
from experiments.audit.training import Training
from experiments.audit.verdict import Verdict, agreement
from experiments.core.report import Report

NAMES = {
    "kappa": "κ₁ without a prompt",
    "kappa_given": "κ₁ given the prompt",
    "kappa_gap": "κ^Δ, the flux of what the prompt adds",
}
NEVER_ASKED = "images are ranked, not tested: no reference that is known not to be in the training data"


def score_name(verdict: Verdict, settings: Settings) -> str:
    """The score in words."""
    return NAMES.get(verdict.name) or f"detector {next(iter(settings.detector))}"


def write_tables(
    report: Report, verdict: Verdict, audited: Scored, training: Training | None, skipped: list[dict[str, str]]
) -> None:
    """``tables/audit.csv``, the highest score first, ``skipped.csv``, and ``summary`` with the first twenty."""
    rows = [_row(rank, i, verdict, audited, training) for rank, i in enumerate(verdict.order.tolist(), 1)]
    report.table("audit", rows, kinds=("csv",))
    report.table("skipped", skipped)
    report.table("summary", rows[:20])


def _row(rank: int, i: int, verdict: Verdict, audited: Scored, training: Training | None) -> dict[str, Any]:
    columns = audited.columns
    row: dict[str, Any] = {"rank": rank, "file": audited.names[i]}
    for name in [name for name in columns if f"{name}/stderr" in columns]:
        row |= {name: float(columns[name][i]), f"{name}_stderr": float(columns[f"{name}/stderr"][i])}
    row |= {"low": float(verdict.low[i]), "high": float(verdict.high[i]), "nfe": int(columns["nfe"][i])}
    if verdict.flagged is not None:
        row |= {"p_value": float(verdict.p_value[i]), "q_value": float(verdict.q_value[i])}
        row |= {"flagged": int(verdict.flagged[i])}
    row["z"] = float(verdict.z[i]) if np.isfinite(verdict.z[i]) else None
    if training is not None:
        row |= {"nearest": training.names[int(columns["nearest"][i])]}
        row |= {"copy_ratio": float(columns["ratio"][i]), "distance": float(columns["distance"][i])}
    return row


def write_metrics(
    report: Report, settings: Settings, level: Level, verdict: Verdict, audited: Scored, n_skipped: int, searched: bool
) -> None:
    """Numbers of the audit as a whole."""
    report.metric("audit/images", len(audited))
    report.metric("audit/skipped", n_skipped)
    report.metric("audit/sigma", level.sigma)
    report.metric("audit/evaluations_per_image", float(audited.columns["nfe"].mean()))
    report.metric("audit/score_median", float(np.median(verdict.score)))
    report.metric("audit/score_highest", float(verdict.score.max()))
    report.metric("audit/stderr_median", float(np.median(verdict.stderr)))
    report.metric("audit/reference_images", 0 if verdict.reference is None else len(verdict.reference))
    tested = verdict.flagged is not None
    numbers = {
        "flagged": lambda: int(verdict.flagged.sum()),
        "smallest_p_value": lambda: float(verdict.p_value.min()),
        "fewest_discoveries": lambda: verdict.fewest,
        "reference_for_one": lambda: verdict.needed,
    }
    for name, number in numbers.items():
        report.metric(f"audit/{name}", number() if tested else None, None if tested else NEVER_ASKED)
    if searched:
        both = agreement(verdict, audited, settings.labels.max_ratio)
        report.metric("audit/copies", int(both.copies.sum()))
        reason = None if both.correlation is not None else "scores or ratios do not vary"
        report.metric("audit/rank_correlation_with_copy_ratio", both.correlation, reason)
        if tested:
            report.metric("audit/flagged_copies", int((both.copies & verdict.flagged).sum()))


def write_arrays(
    report: Report, settings: Settings, level: Level, verdict: Verdict, audited: Scored, source: Source, training: Any
) -> None:
    """``arrays/audit.npz``: all scores, and the pictures of the contact sheet."""
    top = verdict.order[: settings.on_sheet]
    of_nearest = {}
    if training is not None:
        of_nearest["sheet_nearest"] = training.images[audited.columns["nearest"][top].astype(int)]
    levels = np.asarray(level.spreads, float).reshape(-1, 2)
    nothing = np.zeros(0)
    report.arrays(
        "audit",
        score=verdict.score,
        stderr=verdict.stderr,
        reference=nothing if verdict.reference is None else verdict.reference,
        threshold=np.nan if verdict.threshold is None else verdict.threshold,
        z=verdict.z,
        p_value=nothing if verdict.p_value is None else verdict.p_value,
        flagged=np.zeros(len(audited), bool) if verdict.flagged is None else verdict.flagged,
        sheet=np.stack([source.read(int(audited.columns["index"][i])) for i in top]),
        sheet_index=top,
        sigma=levels[:, 0],
        spread=levels[:, 1],
        score_name=score_name(verdict, settings),
        **of_nearest,
    )


def page(
    title: str,
    words: Mapping[str, str],
    settings: Settings,
    level: Level,
    verdict: Verdict,
    audited: Scored,
    source: Source,
    training: Training | None,
    prompts: list | None,
) -> Page:
    """All that the page says."""
    n_reference = 0 if verdict.reference is None else len(verdict.reference)
    generations = verdict.fdr is None and n_reference > 0
    columns, rows = audited.columns, []
    for i in verdict.order[: settings.on_page].tolist():
        index = int(columns["index"][i])
        tested = verdict.flagged is not None
        rows.append(
            Row(
                audited.names[i],
                float(verdict.score[i]),
                float(verdict.low[i]),
                float(verdict.high[i]),
                pixels(source.read(index)),
                p_value=float(verdict.p_value[i]) if tested else None,
                flagged=bool(verdict.flagged[i]) if tested else None,
                z=float(verdict.z[i]) if np.isfinite(verdict.z[i]) else None,
                nearest=None if training is None else _nearest(training, audited, i),
                prompt=None if prompts is None else str(prompts[index]),
            )
        )
    of_training = {"training_set": training is not None, "max_ratio": settings.labels.max_ratio}
    return Page(
        title=title,
        headline=". ".join(line[0].upper() + line[1:] for line in verdict.lines) + ".",
        rows=rows,
        settings=dict(words),
        histogram=Histogram(
            verdict.score,
            verdict.reference,
            verdict.threshold,
            "model's own generations" if generations else "reference",
        ),
        claims=claims(verdict.fdr, n_reference, own_generations=generations, **of_training),
        summary=_tiles(settings, verdict, level),
        n_images=len(audited),
        score_name=score_name(verdict, settings),
        **({} if verdict.name == "kappa" else {"score_meaning": "Higher = more memorized."}),
    )


def _tiles(settings: Settings, verdict: Verdict, level: Level) -> dict[str, str]:
    """The few numbers at the top."""
    n_reference = 0 if verdict.reference is None else len(verdict.reference)
    tiles = {"images": f"{len(verdict.score):,}"}
    if verdict.flagged is not None:
        tiles |= {"flagged": f"{int(verdict.flagged.sum()):,}", "false-discovery rate": f"{settings.fdr:g}"}
    return tiles | {"reference": f"{n_reference:,}" if n_reference else "none", "noise level σ": f"{level.sigma:g}"}


def _nearest(training: Training, audited: Scored, i: int) -> Nearest:
    index = int(audited.columns["nearest"][i])
    return Nearest(training.names[index], float(audited.columns["ratio"][i]), pixels(training.images[index]))


def pixels(image: np.ndarray) -> np.ndarray | None:
    """``(h, w, c)`` in [−1, 1] as uint8; None where it has neither one nor three channels."""
    if image.shape[2] not in (1, 3):
        return None
    return np.round(np.clip((image + 1) * 127.5, 0, 255)).astype(np.uint8)
