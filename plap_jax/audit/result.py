"""What an audit found: numbers by name, a table, a page."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from plap_jax.audit.calibrated import Calibration
from plap_jax.audit.claims import Claims, claims
from plap_jax.audit.denoising import Denoising
from plap_jax.audit.fitness import Fitness
from plap_jax.audit.images import Pictures, picture
from plap_jax.audit.maps import CurvatureMaps, maps_by_image
from plap_jax.audit.notebook import notebook_view
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.stream import NEAR, Scored
from plap_jax.audit.table import ranked_rows, write_parquet, write_rows
from plap_jax.audit.training import Training
from plap_jax.audit.verdict import Verdict, extreme_reference
from plap_jax.audit.words import notices_of, without_score
from plap_jax.typing import require

NOTEBOOK_ROWS = 20  # images that a notebook shows


@dataclass(frozen=True, repr=False)
class AuditResult:
    """What an audit says of n images, in the order in which they were given; arrays have length n.

    Images that could not be read or scored are not among them: ``skipped`` has these, and ``names`` the others.

    Attributes:
        verdict: scores, p-values, flags; the properties below give them by name.
        meaning: what was measured, in words.
        sigma: the noise level that was given; None: the calibrated score, or a detector at its own level.
        settings: of the audit.
        pictures, reference_pictures: the images, which are read again for pages, and their prompts.
        audited, reference: all that was measured; no reference is None.
        training: the training images, or None.
        calibration: how difficulty was taken out; None where the score is a plain one.
        fitness: whether reference and audited images are of one kind; None where that is not known.
        denoising: whether the model denoises such images at all; None where that is not known.
        maps: curvature maps of flagged images; None where there are none.
        words: the settings in words.
    """

    verdict: Verdict
    meaning: str
    sigma: float | None
    settings: AuditSettings
    pictures: Pictures
    audited: Scored
    reference: Scored | None
    reference_pictures: Pictures | None = None
    training: Training | None = None
    calibration: Calibration | None = None
    fitness: Fitness | None = None
    denoising: Denoising | None = None
    maps: CurvatureMaps | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Files, relative to their folder; of an array, numbers of rows."""
        return self.audited.names

    @property
    def score(self) -> np.ndarray:
        """Higher = more memorized; the calibrated one in robust standard deviations, a plain κ in [−1, 1]."""
        return self.verdict.score

    @property
    def stderr(self) -> np.ndarray:
        """Standard errors of the scores, over random directions."""
        return self.verdict.stderr

    @property
    def p_value(self) -> np.ndarray | None:
        """Conformal p-values against the reference; None without one."""
        return self.verdict.p_value

    @property
    def q_value(self) -> np.ndarray | None:
        """The lowest false-discovery rate at which an image is flagged; None without a reference."""
        return self.verdict.q_value

    @property
    def flagged(self) -> np.ndarray | None:
        """Booleans: found memorized at the false-discovery rate; None without a reference."""
        return self.verdict.flagged

    @property
    def z(self) -> np.ndarray:
        """Robust z-scores, against the reference where there is one."""
        return self.verdict.z

    @property
    def nfe(self) -> np.ndarray:
        """Evaluations for each image, of the model; those of a baseline are as many."""
        return self.audited.columns["nfe"]

    @property
    def nfe_spent(self) -> float:
        """Evaluations of the model spent per audited image, with those that only filled batches up."""
        return float(self.audited.columns["spent"].mean())

    @property
    def nfe_total(self) -> float:
        """All evaluations that the audit spent: images, reference, maps and checks, of the model and the baseline."""
        sides = [one.columns for one in (self.audited, self.reference) if one is not None]
        judged = sum(one[name].sum() for one in sides for name in ("spent", "baseline/spent") if name in one)
        return float(judged) + self.nfe_maps + (0 if self.denoising is None else self.denoising.spent)

    @property
    def nfe_maps(self) -> float:
        """Those of them that went into curvature maps, after the verdict."""
        return 0.0 if self.maps is None else self.maps.spent

    @property
    def curvature_map(self) -> list[np.ndarray | None]:
        """For each flagged image ``(h, w)`` of the model's grid: where the density is peaked; None for others."""
        return maps_by_image(self.maps, "value", len(self.names))

    @property
    def curvature_map_stderr(self) -> list[np.ndarray | None]:
        """Standard errors of ``curvature_map``, over the directions."""
        return maps_by_image(self.maps, "stderr", len(self.names))

    @property
    def reference_score(self) -> np.ndarray | None:
        """Scores of the reference images; None without one."""
        return self.verdict.reference

    @property
    def lines(self) -> list[str]:
        """The result in words, the most important first."""
        return [*self.verdict.lines, *self.notices]

    @cached_property
    def notices(self) -> list[str]:
        """What a reader of these numbers has to know: an unfit reference, levels left out, images of the training set.

        Near-duplicates of training images are told where the training images are at hand and the score is calibrated.
        """
        measured = (self.fitness, self.calibration, self.audited, self.reference, self.denoising)
        found = notices_of(*measured, controlled=self.verdict.fdr is not None)
        sides = {"audited": (self.audited, self.pictures), "reference": (self.reference, self.reference_pictures)}
        for kind, (scored, pictures) in sides.items():
            found += [] if scored is None or pictures is None else without_score(kind, scored, pictures.source.names)
        return found

    @property
    def claims(self) -> Claims:
        """What the numbers prove and what they do not."""
        n_reference = 0 if self.reference_score is None else len(self.reference_score)
        own = self.verdict.fdr is None and n_reference > 0
        kind = {"own_generations": own, "calibrated": self.calibration is not None}
        n_tested = self.verdict.n_tested
        kind["can_flag"] = self.verdict.fewest is None or n_tested == 0 or self.verdict.fewest <= n_tested
        kind["denoises"] = self.denoising is None or self.denoising.warning is None
        of_training = {"training_set": self.training is not None, "max_ratio": self.settings.max_ratio}
        return claims(self.verdict.fdr, n_reference, **kind, **of_training)

    @property
    def kappa(self) -> np.ndarray | None:
        """``(n, L)`` κ₁ at every noise level; None where one score was measured."""
        return self._of_audited("kappa")

    @property
    def evidence(self) -> np.ndarray | None:
        """``(n, 2L)`` κ₁ and the contrast at every level, difficulty taken out, in robust standard deviations."""
        return None if self.calibration is None else self.calibration.adjusted.residuals[: len(self.names)]

    @property
    def expected(self) -> np.ndarray | None:
        """``(n,)`` mean κ₁ of images as hard as each; ``measured`` is its own."""
        return None if self.calibration is None else self.calibration.expected[: len(self.names)]

    @property
    def measured(self) -> np.ndarray | None:
        """``(n,)`` mean κ₁ over the levels; with a baseline, beyond the baseline's."""
        return None if self.calibration is None else self.calibration.measured[: len(self.names)]

    @cached_property
    def same_as(self) -> list[str | None]:
        """For each near-duplicate that is not tested the name of the image that is, or of the reference; else None."""
        n = len(self.names)
        if self.calibration is None:
            return [None] * n
        names = [*self.names, *(() if self.reference is None else (f"reference: {x}" for x in self.reference.names))]
        pairs = zip(self.calibration.group[:n].tolist(), self.calibration.stays[:n].tolist(), strict=True)
        return [None if stays else names[group] for group, stays in pairs]

    @property
    def extreme_reference(self) -> list[tuple[str, float]]:
        """(name, score) of reference images that score like flagged ones, or far outside of the others; high to low.

        They are not removed. One memorized image in the reference can hide all memorized images among the audited.
        """
        return extreme_reference(self.verdict, self.reference)

    def _of_audited(self, name: str) -> np.ndarray | None:
        return None if self.calibration is None else getattr(self.calibration, name)[: len(self.names)]

    @property
    def near_training(self) -> np.ndarray | None:
        """``(n,)`` booleans: near-duplicates of a training image; None without these, and for plain scores."""
        return self.audited.columns.get(NEAR)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of images that were not scored."""
        return self.audited.skipped

    @property
    def score_name(self) -> str:
        """What the score is, in words."""
        return self.meaning if self.calibration is None else "calibrated score"

    def to_rows(self) -> list[dict[str, Any]]:
        """A row for each image, the highest score first; numbers, texts and None."""
        return list(ranked_rows(self))

    def skipped_rows(self) -> list[dict[str, str]]:
        """A row for each file of the images and of the reference that was left out: ``set``, ``file``, ``reason``."""
        both = {"images": self.skipped, "reference": [] if self.reference is None else self.reference.skipped}
        return [{"set": kind, "file": name, "reason": why} for kind, names in both.items() for name, why in names]

    def save_csv(self, path: str | os.PathLike, *, max_rows: int | None = None) -> None:
        """``to_rows`` as a CSV file in UTF-8; of more than ``max_rows`` images those with the highest scores."""
        write_rows(Path(path).expanduser(), ranked_rows(self, max_rows))

    def save_parquet(self, path: str | os.PathLike) -> None:
        """``to_rows`` as a Parquet file, which is written and read several times as fast.

        Raises:
            ImportError: pyarrow is not installed (extra ``cluster``).
        """
        write_parquet(Path(path).expanduser(), self)

    def save_maps(self, path: str | os.PathLike) -> None:
        """The curvature maps as an ``.npz``: ``curvature_map``, its ``_stderr``, ``_index`` and ``_names``.

        Raises:
            ValueError: there are none.
        """
        require(self.maps is not None, "maps", None, "must be there: no image is flagged, or maps were not asked for")
        self.maps.save(Path(path).expanduser(), self.names)

    def save_report(self, path: str | os.PathLike, *, max_rows: int = 2000, table: str | None = None) -> None:
        """One HTML file that opens offline: ranked images with intervals, a histogram, and what all of it proves.

        Args:
            path: of the file.
            max_rows: images on the page, those with the highest scores.
            table: the file with all of them, which the page names where it leaves some out.

        Raises:
            ImportError: Jinja is not installed; the message names the extra.
        """
        load_writer().write_report(Path(path).expanduser(), self, max_rows, table)

    def __repr__(self) -> str:
        first, *more = self.lines
        return "\n".join([f"AuditResult: {first}", *more, *(f"  {line}" for line in self._first(5))])

    def _repr_html_(self) -> str:
        """What a notebook shows: the result in words, and the highest scores with their pictures."""
        shown = self.verdict.order[:NOTEBOOK_ROWS].tolist()
        rows = [
            row | {"score": self.score[i], "stderr": self.stderr[i]}
            for row, i in zip(ranked_rows(self, NOTEBOOK_ROWS), shown, strict=True)
        ]
        source, indices = self.pictures.source, self.audited.columns["index"]
        return notebook_view(self.lines, rows, [picture(source, indices[i]) for i in shown])

    def _first(self, n: int) -> list[str]:
        return [f"{self.names[i]}  {self.score[i]:.4f} ± {self.stderr[i]:.2g}" for i in self.verdict.order[:n].tolist()]


def load_writer() -> ModuleType:
    """``plap_jax.audit.report``, loaded when it is asked for, so that everything else works without Jinja.

    Raises:
        ImportError: Jinja is not installed; the message names the extra.
    """
    try:
        return importlib.import_module("plap_jax.audit.report")
    except ModuleNotFoundError as error:
        raise ImportError(f"a report needs {error.name}: pip install '.[audit]' in the repository") from error
