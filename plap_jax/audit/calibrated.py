"""The calibrated score: evidence at all levels, difficulty taken out, over audited and reference images together."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from plap_jax.adjustment import Adjusted, adjust, blocks, tempering
from plap_jax.audit.stream import DIFFICULTY, DIGEST, INDEX, NOT_FINITE, THUMBNAIL, Scored
from plap_jax.data.duplicates import groups, representatives
from plap_jax.data.rows import stacked
from plap_jax.typing import require

log = logging.getLogger(__name__)
CALIBRATED = "calibrated"
STATISTICS = ("kappa", "contrast")  # of the evidence, each (n, L)
MOST_MISSING = 0.1  # of the images; a level at which more of them have no finite evidence is left out
GONE = "is gone, or changed, since the other model was asked about it"


@dataclass(frozen=True)
class Calibration:
    """How difficulty was taken out of the evidence; rows are the audited images, then the reference.

    Attributes:
        levels: ``(L,)`` noise levels, σ of a variance-preserving schedule.
        kappa, contrast: ``(N, L)`` of the model, higher = more memorized (``plap_jax.evidence``).
        baseline_kappa, baseline_contrast: likewise of the baseline model, or None.
        adjusted: of κ₁ at all levels, then the contrast; with a baseline of the differences to it.
        difficulty: ``(N, k)``.
        stays: ``(N,)`` booleans: one of each group of near-duplicates, and all images without any.
        group: ``(N,)`` the row of the one that stays.
        left_out: levels without finite evidence.
        not_reached: levels that the model's schedule, or the baseline's, does not have.
    """

    levels: np.ndarray
    kappa: np.ndarray
    contrast: np.ndarray
    baseline_kappa: np.ndarray | None
    baseline_contrast: np.ndarray | None
    adjusted: Adjusted
    difficulty: np.ndarray
    stays: np.ndarray
    group: np.ndarray
    left_out: tuple[float, ...] = ()
    not_reached: tuple[float, ...] = ()

    @cached_property
    def measured(self) -> np.ndarray:
        """``(N,)`` mean κ₁ over the levels, or its difference to the baseline's."""
        return np.concatenate([self._difference(some).mean(axis=1) for some in blocks(len(self.kappa))])

    @cached_property
    def expected(self) -> np.ndarray:
        """``(N,)`` the same as it is of images as hard as each."""
        n, adjusted, found = len(self.levels), self.adjusted, np.empty(len(self.kappa))
        for some in blocks(len(found)):
            residuals, spread = (np.ascontiguousarray(one[some, :n]) for one in (adjusted.residuals, adjusted.spread))
            gained = np.where(adjusted.used[:n], residuals * spread, 0)
            found[some] = (self._difference(some) - gained).mean(axis=1)
        return found

    @property
    def explained(self) -> float:
        """The share of the evidence's spread that difficulty explains, mean over the columns that are used."""
        return max(0.0, float(self.adjusted.explained[self.adjusted.used].mean()))

    def _difference(self, some: slice) -> np.ndarray:
        kappa, other = self.kappa[some], self.baseline_kappa
        return kappa if other is None else kappa - other[some]


def paired(scored: Scored, baseline: Scored, levels: list[float], of_baseline: list[float]) -> Scored:
    """The evidence of both models, of the images that both have seen, at the levels that both have; of none, nothing.

    Args:
        scored, baseline: of the same source.
        levels, of_baseline: of each model.
    """
    if not len(scored) or not len(baseline):
        return Scored({}, [], sorted([*scored.skipped, *((name, GONE) for name in scored.names)]))
    index = baseline.columns[INDEX]
    rows = np.minimum(np.searchsorted(index, scored.columns[INDEX]), len(index) - 1)
    same = index[rows] == scored.columns[INDEX]
    same &= baseline.columns[DIGEST][rows] == scored.columns[DIGEST]
    scored, rows = scored.only(same, GONE), rows[same]
    mine, other = ([one.index(level) for level in levels if level in of_baseline] for one in (levels, of_baseline))
    columns = dict(scored.columns)
    for name in (*STATISTICS, "kappa_stderr"):
        columns[name] = scored.columns[name][:, mine]
        columns[f"baseline/{name}"] = baseline.columns[name][rows][:, other]
    for name in ("nfe", "spent"):
        columns[f"baseline/{name}"] = baseline.columns[name][rows]
    return Scored(columns, scored.names, scored.skipped)


def calibrate(
    audited: Scored, reference: Scored | None, levels: list[float], duplicate_distance: float, salt: bytes = b""
) -> tuple[Scored, Scored | None, Calibration]:
    """Adds the calibrated score to the columns of both sides, which the rule is not told apart by.

    Args:
        audited, reference: with evidence, difficulty and thumbnails.
        levels: of the evidence.
        duplicate_distance: see ``AuditSettings``.
        salt: of the hashes that choose one of each group, so that nobody can make an image that is preferred.

    Returns:
        Both with the columns ``calibrated``, its ``/stderr`` and ``/n_units``, and ``stays``; without images whose
        evidence is not finite, which are skipped.

    Raises:
        ValueError: fewer than three images with finite evidence, or evidence that does not vary.
    """
    sides = [audited] if reference is None else [audited, reference]
    good = _usable_levels(sides, levels)
    kept = [np.all([np.isfinite(values[:, good]).all(axis=1) for values in _evidence(one)], axis=0) for one in sides]
    for name, rows in zip(("images", "reference"), kept, strict=False):
        require(bool(rows.any()), name, len(rows), "must hold an image at which the model's evidence is finite")
    n_kept = sum(int(rows.sum()) for rows in kept)
    allowed = "must be at least 3 with the reference, to take difficulty out; or give sigma"
    require(n_kept >= 3, "images", n_kept, allowed)
    sides = [one if rows.all() else one.only(rows, NOT_FINITE) for one, rows in zip(sides, kept, strict=True)]

    def pooled(name: str) -> np.ndarray:
        return together([one.columns[name] for one in sides])

    def at_levels(name: str) -> np.ndarray:
        return pooled(name) if good.all() else pooled(name)[:, good]

    with_baseline = f"baseline/{STATISTICS[0]}" in audited.columns
    digests = _salted(pooled(DIGEST), salt)
    labels = groups(stacked([one.columns[THUMBNAIL] for one in sides]), duplicate_distance)
    stays = representatives(labels, digests)
    allowed = (
        f"are near-duplicates of {int(stays.sum())} image(s) all of them, and at least 3 different ones are needed"
    )
    require(int(stays.sum()) >= 3, "images", len(labels), allowed)
    model = [at_levels(name) for name in STATISTICS]
    base = [at_levels(f"baseline/{name}") for name in STATISTICS] if with_baseline else [None, None]
    evidence = np.concatenate([a if b is None else a - b for a, b in zip(model, base, strict=True)], axis=1)
    difficulty = pooled(DIFFICULTY)
    adjusted = adjust(evidence, difficulty, digests, fitted=stays)
    del evidence, digests
    stderr = at_levels("kappa_stderr") + (at_levels("baseline/kappa_stderr") if with_baseline else 0)
    columns = {CALIBRATED: adjusted.score, f"{CALIBRATED}/stderr": _stderr(adjusted, stderr)}
    columns |= {f"{CALIBRATED}/n_units": pooled("n_units"), "stays": stays}
    ends = np.cumsum([len(one) for one in sides])
    parts = {name: np.split(column, ends[:-1]) for name, column in columns.items()}
    sides = [
        Scored(one.columns | {name: part[i] for name, part in parts.items()}, one.names, one.skipped)
        for i, one in enumerate(sides)
    ]
    places = np.zeros(len(labels), int)
    places[labels[stays]] = np.flatnonzero(stays)
    left_out = tuple(level for level, kept_level in zip(levels, good, strict=True) if not kept_level)
    known = np.asarray(levels)[good]
    found = Calibration(known, *model, *base, adjusted, difficulty, stays, places[labels], left_out)
    return sides[0], sides[1] if reference is not None else None, found


def _salted(digests: np.ndarray, salt: bytes) -> np.ndarray:
    """``(n,)`` uint64, of the same content the same."""
    found, salt = np.empty(len(digests), np.uint64), salt[:64]
    for some in blocks(len(digests)):
        stored = digests[some].astype("<u8").tobytes()
        each = [stored[i : i + 8] for i in range(0, len(stored), 8)]
        made = [hashlib.blake2b(one, digest_size=8, key=salt).digest() for one in each]
        found[some] = np.frombuffer(b"".join(made), np.uint64)
    return found


def together(parts: list[np.ndarray]) -> np.ndarray:
    """All rows, one part after the other; not copied where they are the beginning and the rest of one array."""
    whole = parts[0].base if isinstance(parts[0].base, np.ndarray) else None
    if whole is not None and whole.dtype == parts[0].dtype and whole.flags.c_contiguous:
        ends = np.cumsum([len(part) for part in parts]).tolist()
        slices = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        pairs = zip(slices, parts, strict=True)
        if ends[-1] == len(whole) and all(a.__array_interface__ == b.__array_interface__ for a, b in pairs):
            return whole
    return np.concatenate(parts)


def _evidence(side: Scored) -> list[np.ndarray]:
    """All columns that must be finite, ``(n, L)`` each."""
    return [side.columns[name] for name in side.columns if name.removeprefix("baseline/") in STATISTICS]


def _columns_of(name: str) -> tuple[str, ...]:
    return tuple(f"{name}/{statistic}" if name == "baseline" else statistic for statistic in STATISTICS)


def _usable_levels(sides: list[Scored], levels: list[float]) -> np.ndarray:
    """``(L,)`` booleans, over all images together; a level that is left out is told.

    Raises:
        ValueError: at none the evidence is finite.
    """
    finite = np.concatenate([np.all([np.isfinite(values) for values in _evidence(one)], axis=0) for one in sides])
    good = finite.mean(axis=0) >= 1 - MOST_MISSING
    for name in ("baseline", "model"):
        own = [one.columns[key] for one in sides for key in one.columns if key in _columns_of(name)]
        if own and not any(np.isfinite(values).any() for values in own):
            raise ValueError(f"{name}: answers NaN or infinity at every noise level, for every image")
    require(
        bool(good.any()),
        "noise_levels",
        levels,
        f"at each the evidence of more than {100 * MOST_MISSING:.0f} % of the images is not finite",
    )
    for level in np.asarray(levels)[~good].tolist():
        log.warning("  noise level %g is left out: evidence is not finite there", level)
    return good


def _stderr(adjusted: Adjusted, stderr: np.ndarray) -> np.ndarray:
    """Of the score ``(n,)``, from κ₁'s ``(n, L)``: at most the mean, since levels share their directions.

    Where the score counts evidence by its logarithm, an error counts as much less as the evidence does.
    """
    used, found = adjusted.used, np.empty(len(stderr))
    of_kappa = np.flatnonzero(used[: stderr.shape[1]])
    for some in blocks(len(found)):
        parts = (adjusted.residuals, adjusted.spread, stderr)
        residuals, spread, own = (np.asfortranarray(one[some][:, of_kappa]) for one in parts)
        found[some] = (tempering(residuals) / spread * own).sum(axis=1) / used.sum()
    return found
