"""The page of an audit, from its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plap_jax.audit.claims import difficulty_in_words, maps_in_words
from plap_jax.audit.drawings import Scatter
from plap_jax.audit.heat import Heat
from plap_jax.audit.histogram import Histogram
from plap_jax.audit.images import picture, pixels
from plap_jax.audit.page import Nearest, Page, Row, write_page
from plap_jax.audit.result import AuditResult
from plap_jax.audit.slider import Slider, slider
from plap_jax.audit.words import listed

MOST_EXTREME = 24  # reference images that the page shows
CALIBRATED = (
    "How far the evidence of an image lies above that of images as hard as it is, in robust standard deviations, mean "
    "over all noise levels. Higher = more memorized."
)


def write_report(path: Path, result: AuditResult, max_rows: int, table: str | None = None) -> None:
    """``page_of(result)`` as one file."""
    write_page(path, page_of(result, max_rows, table))


def page_of(result: AuditResult, max_rows: int, table: str | None = None) -> Page:
    """All that the page says, with the ``max_rows`` highest scores."""
    verdict, tested = result.verdict, _tested(result)
    n_reference = 0 if verdict.reference is None else len(verdict.reference)
    generations = verdict.fdr is None and n_reference > 0
    highest = verdict.order[:max_rows].tolist()
    # In their own order: to go back in a compressed file is to begin again.
    pictures = {i: picture(result.pictures.source, result.audited.columns["index"][i]) for i in sorted(highest)}
    same_as = result.same_as
    return Page(
        title=f"Audit: {result.words.get('model', 'a model')}",
        headline=" ".join(_sentences(result.verdict.lines)),
        rows=[_row(result, i, pictures[i], same_as[i]) for i in highest],
        settings=dict(result.words),
        histogram=Histogram(
            verdict.score[tested],
            verdict.reference,
            verdict.threshold,
            "model's own generations" if generations else "reference",
        ),
        claims=result.claims,
        summary=_tiles(result),
        n_images=len(result.audited),
        table=table,
        score_name=result.score_name,
        notices=_sentences(result.notices),
        slider=_slider(result),
        **_extreme(result),
        **_meaning(result),
        **_difficulty(result),
        **_maps(result),
    )


def _sentences(lines: list[str]) -> list[str]:
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def _meaning(result: AuditResult) -> dict[str, str]:
    """What the score is; the page has κ₁'s."""
    if result.calibration is not None:
        return {"score_meaning": CALIBRATED}
    return {} if result.verdict.name == "kappa" else {"score_meaning": "Higher = more memorized."}


def _tested(result: AuditResult) -> np.ndarray:
    """``(n,)`` booleans; all where nothing is tested."""
    tested = result.verdict.tested
    return np.ones(len(result.names), bool) if tested is None else tested


def _slider(result: AuditResult) -> Slider | None:
    verdict = result.verdict
    if not verdict.envelope:
        return None
    return slider(verdict.envelope, verdict.p_value, verdict.score, verdict.flagged, verdict.fdr)


def _difficulty(result: AuditResult) -> dict[str, Any]:
    """How it was taken out, in words and as a picture."""
    found = result.calibration
    if found is None:
        return {}
    n, stays = len(result.names), found.stays
    with_baseline = found.baseline_kappa is not None
    flagged = result.flagged
    scatter = Scatter(
        measured=result.measured,
        expected=result.expected,
        score=result.score,
        tested=_tested(result),
        flagged=np.zeros(n, bool) if flagged is None else flagged,
        names=result.names,
        reference_measured=found.measured[n:][stays[n:]],
        reference_expected=found.expected[n:][stays[n:]],
        of_difference=with_baseline,
    )
    words = difficulty_in_words(found.explained, with_baseline=with_baseline)
    return {"difficulty": words, "scatter": scatter, "levels": found.levels.tolist()}


def _maps(result: AuditResult) -> dict[str, Any]:
    """What the curvature maps are, in words."""
    found = result.maps
    if found is None:
        return {}
    several = len(found.levels) > 1
    each = f", {found.n_directions // len(found.levels)} at each" if several else ""
    how = [
        "No unit; 0 where nothing is drawn back, about 1 everywhere around a sharp maximum of all pixels."
        if not found.of_difference
        else "No unit; the difference of two maps, of which either is about 1 everywhere around a sharp maximum.",
        f"{'Mean over' if several else 'At'} σ = {listed(found.levels)}, from {found.n_directions} further directions "
        f"for each image{each}, drawn after the verdict, which they do not change: {found.spent:,.0f} evaluations in "
        "all. Open a picture to enlarge it and to see its standard error.",
    ]
    if found.of_latents:
        (h, w), (height, width) = found.value.shape[1:], found.image_shape
        how.append(
            f"The maps are of the model’s {h}×{w} latents, drawn at the size of the image: a cell stands for "
            f"{height // h}×{width // w} pixels and some of their neighbourhood."
        )
    if len(found.rows) < found.n_flagged:
        how.append(f"There are maps of {len(found.rows):,} of the {found.n_flagged:,} flagged images.")
    return {
        "maps": [maps_in_words(of_difference=found.of_difference), " ".join(how)],
        "map_cells": "latent cells" if found.of_latents else "pixels",
        "maps_of_difference": found.of_difference,
    }


def _heat(result: AuditResult, i: int) -> Heat | None:
    if result.maps is None or i not in result.maps.places:
        return None
    place = result.maps.places[i]
    return Heat(result.maps.value[place], result.maps.stderr[place])


def _extreme(result: AuditResult) -> dict[str, Any]:
    """The reference images that score highest, with their pictures."""
    found = result.extreme_reference
    if not found:
        return {}
    reference, source = result.reference, result.reference_pictures.source
    places = {name: i for i, name in enumerate(reference.names)}
    indices = {name: reference.columns["index"][places[name]] for name, _ in found[:MOST_EXTREME]}
    pictures = {name: picture(source, index) for name, index in sorted(indices.items(), key=lambda one: one[1])}
    rows = [Row(name, score, thumbnail=pictures[name]) for name, score in found[:MOST_EXTREME]]
    return {"extreme": rows, "n_extreme": len(found)}


def _row(result: AuditResult, i: int, picture: np.ndarray | None, same_as: str | None) -> Row:
    verdict, index = result.verdict, int(result.audited.columns["index"][i])
    has_flags, prompt = verdict.flagged is not None, result.pictures.prompt(index)
    is_tested = has_flags and np.isfinite(verdict.p_value[i])
    in_deviations = has_flags and result.calibration is not None  # the score is, already
    return Row(
        result.names[i],
        float(verdict.score[i]),
        float(verdict.low[i]),
        float(verdict.high[i]),
        picture,
        p_value=float(verdict.p_value[i]) if is_tested else None,
        flagged=bool(verdict.flagged[i]) if has_flags else None,
        z=float(verdict.z[i]) if np.isfinite(verdict.z[i]) and not in_deviations else None,
        nearest=_nearest(result, i),
        prompt=None if prompt is None else str(prompt),
        same_as=same_as,
        heat=_heat(result, i),
        **_evidence(result, i),
    )


def _evidence(result: AuditResult, i: int) -> dict[str, Any]:
    """Of one image at all levels, and both models' κ₁ where there is a baseline."""
    found = result.calibration
    if found is None:
        return {}
    shown = {"evidence": found.adjusted.residuals[i]}
    if found.baseline_kappa is None:
        return shown
    return shown | {"kappa": float(found.kappa[i].mean()), "baseline": float(found.baseline_kappa[i].mean())}


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
    if verdict.flagged is not None and verdict.flagged.any():
        at = next(row for row in verdict.envelope if row.flagged == verdict.flagged.sum())
        tiles |= {"not false, at least": f"{at.at_least_true:,}"}
    tiles |= {"reference": f"{n_reference:,}" if n_reference else "none"}
    if result.calibration is None:
        tiles |= {"noise level σ": "its own" if result.sigma is None else f"{result.sigma:g}"}
    else:
        tiles |= {"of the spread is difficulty": f"{100 * max(result.calibration.explained, 0):.0f} %"}
    tiles |= {"evaluations": f"{result.nfe_total:,.0f}"}
    return tiles | ({"of these for maps": f"{result.nfe_maps:,.0f}"} if result.nfe_maps else {})
