"""What an audit was asked and found, in words for a reader of its page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plap_jax.audit.calibrated import Calibration
from plap_jax.audit.denoising import Denoising
from plap_jax.audit.fitness import Fitness
from plap_jax.audit.images import Source
from plap_jax.audit.prompts import is_file
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.stream import NEAR, Scored


def listed(levels: Iterable[float]) -> str:
    """Noise levels as a reader sees them."""
    return ", ".join(f"{level:g}" for level in levels)


def in_both(audited: Scored, reference: Scored | None) -> int:
    """How many audited images stand in the reference, too."""
    return 0 if reference is None else int(np.isin(audited.digests, reference.digests).sum())


def where_from(images: Any, reference: Any, prompts: Any, training: Any) -> dict[str, str]:
    """Where things come from, by name: a page is passed on, and its reader has other folders."""
    words = {"prompts": "none" if prompts is None else _named(prompts) if is_file(prompts) else _text(prompts)}
    words |= {"training set": "not at hand" if training is None else _named(training)}
    words |= {"folder of images": _named(images)}
    return words | ({} if reference is None else {"folder of reference": _named(reference)})


def _named(given: Any) -> str:
    """As it was given, and of an absolute path the last part."""
    if not isinstance(given, str | os.PathLike):
        return "an array in memory"
    return Path(given).name if Path(given).is_absolute() else str(given)


def _text(prompts: Any) -> str:
    return str(prompts) if isinstance(prompts, str | int | np.integer) else "one for each image"


def in_words(
    meaning: str,
    settings: AuditSettings,
    audited: Scored,
    source: Source,
    reference: Scored | None,
    fdr: float | None,
    calibration: Calibration | None,
) -> dict[str, str]:
    """The settings for a reader."""
    both = in_both(audited, reference)
    told = "none" if reference is None else f"{len(reference)} images"
    words = {"images": f"{source.words}; {len(audited.skipped)} skipped"}
    if calibration is not None:
        missing = {"not finite": calibration.left_out, "not on the schedule": calibration.not_reached}
        left = "".join(f"; left out, {why}: {listed(levels)}" for why, levels in missing.items() if levels)
        words["score"] = f"calibrated, from {meaning} and the contrast with the shifted image, difficulty taken out"
        words["noise levels"] = f"σ = {listed(calibration.levels)}, all together{left}"
        words["directions"] = f"{settings.n_directions} at each level, the same for all images"
        pairs = f"in chains of pairs up to {settings.duplicate_distance:g} apart"
        words["near-duplicates"] = f"{set_aside(calibration, audited)}, {pairs}"
    else:
        words["score"] = meaning
    words["reference"] = told + f"; holds {both} of the audited images too" * bool(both)
    words["false-discovery rate"] = "none: no error control" if fdr is None else f"{fdr:g}, Benjamini–Hochberg"
    return words


def set_aside(calibration: Calibration, audited: Scored) -> str:
    """How many near-duplicates are not tested or compared with, and on which side."""
    others, own = int((~calibration.stays).sum()), int((~audited.columns["stays"]).sum())
    told = f"{others} set aside"
    return told if others == own else f"{told}, {own} audited and {others - own} of the reference"


def notices_of(
    fitness: Fitness | None,
    calibration: Calibration | None,
    audited: Scored,
    reference: Scored | None,
    denoising: Denoising | None = None,
    *,
    controlled: bool = False,
) -> list[str]:
    """What a reader of the numbers has to know, each a clause without a full stop.

    ``controlled``: the reference is known to hold no training image.
    """
    found = [one.warning for one in (denoising, fitness) if one is not None and one.warning is not None]
    if calibration is not None and calibration.left_out:
        found.append(f"what the model says is not finite at σ = {listed(calibration.left_out)}, which is left out")
    if calibration is not None and calibration.not_reached:
        found.append(f"the schedule does not reach σ = {listed(calibration.not_reached)}, which is left out")
    for kind, side in {"audited": audited, "reference": reference}.items():
        n = 0 if side is None or NEAR not in side.columns else int(side.columns[NEAR].sum())
        if n:
            are = "is a near-duplicate" if n == 1 else "are near-duplicates"
            of_which = ", as may be where training images are audited" if kind == "audited" else ""
            found.append(f"{n} of {len(side)} {kind} images {are} of training images{of_which}")
    if controlled and calibration is not None and (both := in_both(audited, reference)):
        stand = "stands" if both == 1 else "stand"
        allowed = "which is to hold images known not to be in the training data"
        found.append(f"{both} of {len(audited)} audited images {stand} in the reference, too, {allowed}")
    return found


def without_score(kind: str, scored: Scored, names: Sequence[str]) -> list[str]:
    """That images have no score, so that an array's rows and a result's are not the same; nothing where all have one.

    Args:
        kind: of the images.
        scored: those that have one, and what was skipped.
        names: of all images; other files that were skipped are none.
    """
    images = set(names) if scored.skipped else set()
    skipped = [one for one in scored.skipped if one[0] in images]
    if not skipped:
        return []
    (name, why), more = skipped[0], f", and {len(skipped) - 1} more" * (len(skipped) > 1)
    are = "images are skipped and have" if more else "image is skipped and has"
    return [f"{len(skipped)} {kind} {are} no score: {name}: {why}{more}"]
