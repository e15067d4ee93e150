"""The page of an audit, from its result."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plap_jax.audit.histogram import Histogram
from plap_jax.audit.page import Nearest, Page, Row, write_page
from plap_jax.audit.result import AuditResult, pixels
from plap_jax.data.images import UnusableImage


def write_report(path: Path, result: AuditResult, max_rows: int, table: str | None = None) -> None:
    """``page_of(result)`` as one file."""
    write_page(path, page_of(result, max_rows, table))


def page_of(result: AuditResult, max_rows: int, table: str | None = None) -> Page:
    """All that the page says, with the ``max_rows`` highest scores."""
    verdict = result.verdict
    n_reference = 0 if verdict.reference is None else len(verdict.reference)
    generations = verdict.fdr is None and n_reference > 0
    highest = verdict.order[:max_rows].tolist()
    # In their own order: to go back in a compressed file is to begin again.
    pictures = {i: _picture(result, i) for i in sorted(highest)}
    return Page(
        title=f"Audit: {result.words.get('model', 'a model')}",
        headline=". ".join(line[0].upper() + line[1:] for line in result.lines) + ".",
        rows=[_row(result, i, pictures[i]) for i in highest],
        settings=dict(result.words),
        histogram=Histogram(
            verdict.score,
            verdict.reference,
            verdict.threshold,
            "model's own generations" if generations else "reference",
        ),
        claims=result.claims,
        summary=_tiles(result),
        n_images=len(result.audited),
        table=table,
        score_name=result.score_name,
        **_meaning(result),
    )


CALIBRATED = (
    "How far the evidence of an image lies above that of images as hard as it is, in robust standard deviations, mean "
    "over all noise levels. Higher = more memorized."
)


def _meaning(result: AuditResult) -> dict[str, str]:
    """What the score is; the page has κ₁'s."""
    if result.calibration is not None:
        return {"score_meaning": CALIBRATED}
    return {} if result.verdict.name == "kappa" else {"score_meaning": "Higher = more memorized."}


def _row(result: AuditResult, i: int, picture: np.ndarray | None) -> Row:
    verdict, index = result.verdict, int(result.audited.columns["index"][i])
    tested, prompt = verdict.flagged is not None, result.pictures.prompt(index)
    return Row(
        result.names[i],
        float(verdict.score[i]),
        float(verdict.low[i]),
        float(verdict.high[i]),
        picture,
        p_value=float(verdict.p_value[i]) if tested and np.isfinite(verdict.p_value[i]) else None,
        flagged=bool(verdict.flagged[i]) if tested else None,
        z=float(verdict.z[i]) if np.isfinite(verdict.z[i]) else None,
        nearest=_nearest(result, i),
        prompt=None if prompt is None else str(prompt),
    )


def _picture(result: AuditResult, i: int) -> np.ndarray | None:
    """None where the image is gone since it was scored, which costs no report."""
    try:
        return pixels(result.pictures.source.read(int(result.audited.columns["index"][i])))
    except UnusableImage:
        return None


def _nearest(result: AuditResult, i: int) -> Nearest | None:
    if result.training is None:
        return None
    index = int(result.audited.columns["nearest"][i])
    ratio = float(result.audited.columns["ratio"][i])
    return Nearest(result.training.names[index], ratio, pixels(result.training.images[index]))


def _tiles(result: AuditResult) -> dict[str, str]:
    """The few numbers at the top."""
    verdict = result.verdict
    n_reference = 0 if verdict.reference is None else len(verdict.reference)
    tiles = {"images": f"{len(verdict.score):,}"}
    if verdict.flagged is not None:
        tiles |= {"flagged": f"{int(verdict.flagged.sum()):,}", "false-discovery rate": f"{verdict.fdr:g}"}
    tiles |= {"reference": f"{n_reference:,}" if n_reference else "none"}
    if result.calibration is None:
        tiles |= {"noise level σ": "its own" if result.sigma is None else f"{result.sigma:g}"}
    else:
        tiles |= {"explained by difficulty": f"{100 * result.calibration.explained:.0f} %"}
    return tiles | {"evaluations": f"{result.nfe_total:,.0f}"}
