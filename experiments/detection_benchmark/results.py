"""Metrics, tables and arrays of all cells: task × prompt known or not × guidance × copies × detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.core.report import Report
from experiments.detection_benchmark import hypothesis
from experiments.detection_benchmark.evaluation import Chosen, Measured, choose, measure
from experiments.detection_benchmark.parts import Cell, Part, narrowed, parts
from experiments.detection_benchmark.scoring import CandidateScores
from experiments.detection_benchmark.tasks import ALL, DetectionTask, groups_of
from experiments.shared.methods import Method, Prompt
from plap_jax.metrics import Interval

FPRS = np.concatenate([[0.0], np.geomspace(1e-3, 1, 61)])  # of the ROC curves
Row = dict[str, Any]


@dataclass
class Results:
    """What has been measured so far, and ``write`` for all of it."""

    methods: Mapping[str, Method]
    reference: str
    seed: int
    copies: tuple[int, ...]
    rows: list[Row] = field(default_factory=list)
    _metrics: list[tuple[str, Interval | float | None, str | None]] = field(default_factory=list)
    _arrays: dict[str, Any] = field(default_factory=dict)
    _resamples: dict[str, Any] = field(default_factory=dict)
    _choices: dict[Cell, tuple[Chosen, Measured | str]] = field(default_factory=dict)
    _measured: dict[tuple[Cell, str], list[tuple[Part, Measured]]] = field(default_factory=dict)

    def add(self, cell: Cell, task: DetectionTask, scored: Mapping[str, CandidateScores]) -> None:
        """Chooses, measures and keeps one cell for every number of copies."""
        for part in parts(scored, self.reference):
            units = task if part.images is None else task.of_images(part.images)
            chosen = choose(units, {name: narrowed(one, part.images) for name, one in part.scored.items()})
            for copies, members in groups_of(self.copies).items():
                measured = chosen if isinstance(chosen, str) else measure(units, chosen, members, self.seed)
                self._keep(cell, copies, chosen, measured, part)
                if isinstance(measured, Measured):
                    self._measured.setdefault((cell, copies), []).append((part, measured))
                    if part.images is None:
                        self._keep_resamples(cell, copies, measured)
                if copies == ALL and isinstance(chosen, Chosen) and part.images is None:
                    self._choices[cell] = chosen, measured
                    self._keep_arrays(cell, units, chosen)

    def write(self, report: Report) -> None:
        """Metrics ``detection/…``, ``hypothesis/…`` and ``family/…``, tables; arrays scores, resamples and summary."""
        for name, value, reason in self._metrics:
            report.metric(name, value, reason)
        self._family(report)
        hypothesis.write(report, self._measured, self.methods, self.reference)
        report.table("detection", [row for row in self.rows if row["copies"] == ALL], kinds=("csv", "md", "tex"))
        report.table("detection_by_copies", self.rows, kinds=("csv",))
        report.arrays("scores", **self._arrays)
        report.arrays("resamples", **self._resamples)
        report.arrays("summary", **_columns(self.rows))

    def _keep(self, cell: Cell, copies: str, chosen: Chosen | str, measured: Measured | str, part: Part) -> None:
        for i, name in enumerate(part.scored):
            if name not in part.names:
                continue
            one = part.scored[name]
            prefix = f"detection/{cell.name}/k{copies}/{name}"
            head = {"task": cell.task, "prompt": cell.prompt, "guidance": cell.guidance, "copies": copies}
            if isinstance(measured, str) or isinstance(chosen, str):
                self._metrics += [(f"{prefix}/{key}", None, str(measured)) for key in ("auc", "tpr_at_1pct_fpr", "nfe")]
                continue
            best = chosen.candidate[i]
            found = {"auc": measured.auc_interval(i), "tpr_at_1pct_fpr": measured.tpr_interval(i)}
            gain = measured.difference(i, measured.names.index(self.reference))
            self._metrics += [
                (f"{prefix}/{key}", value, None if value else measured.no_tpr) for key, value in found.items()
            ]
            self._metrics.append((f"{prefix}/nfe", int(one.evaluations[best]), None))
            row = head | {"detector": name, "family": self.methods[name].family}
            for key, value in {**found, f"auc_minus_{self.reference}": gain}.items():
                ends = (value.value, value.low, value.high) if value else (None, None, None)
                row |= dict(zip((key, f"{key}_low", f"{key}_high"), ends, strict=True))
            row |= {
                "validation_auc": chosen.validation_auc[i],
                "images": len(one.images),
                "nfe": int(one.evaluations[best]),
                "ms_per_image": float(one.milliseconds[best]),
                "needs": needs_of(self.methods[name], cell.prompt),
                "chosen": " ".join(f"{key}={value}" for key, value in one.candidates[best].items()),
            }
            self.rows.append(row)

    def _keep_resamples(self, cell: Cell, copies: str, measured: Measured) -> None:
        self._resamples |= {
            f"{cell.name}/k{copies}/names": np.asarray(measured.names),
            f"{cell.name}/k{copies}/auc": np.asarray(measured.auc),
            f"{cell.name}/k{copies}/auc_resampled": measured.auc_resampled.astype(np.float32),
        }

    def _keep_arrays(self, cell: Cell, task: DetectionTask, chosen: Chosen) -> None:
        """The chosen statistics of all units, and the ROC curves of the test half."""
        positive, negative = task.test_classes()
        values = {
            "names": np.asarray(chosen.names),
            "values": chosen.values,
            "positive": task.positive,
            "copies": task.copies,
            "clusters": task.clusters,
            "validation": task.validation,
            "fpr": FPRS,
        }
        if positive.any() and negative.any():
            pos, neg = chosen.values[:, positive], chosen.values[:, negative]
            values["tpr"] = np.stack([_roc(*classes) for classes in zip(pos, neg, strict=True)])
        self._arrays |= {f"{cell.name}/{key}": value for key, value in values.items()}

    def _family(self, report: Report) -> None:
        """Prompt unknown, by image: the p-Laplacian that is best on the validation halves, against the best other."""
        cells = {c: found for c, found in self._choices.items() if (c.task, c.prompt) == ("image", "unknown")}
        measured_by_all = set.intersection(*(set(found[0].names) for found in cells.values())) if cells else set()

        def of_family(family: str) -> list[str]:
            return [n for n, m in self.methods.items() if m.family == family and n in measured_by_all]

        members, others = of_family("p-laplacian"), of_family("other")
        if not cells or not members or not others:
            return
        mean = {n: float(np.mean([c.validation_auc[c.names.index(n)] for c, _ in cells.values()])) for n in members}
        best = max(mean, key=mean.__getitem__)
        rows = []
        for cell, (chosen, measured) in cells.items():
            name = f"family/{cell.name}/lead_over_best_other"
            if isinstance(measured, str):
                report.metric(name, None, measured)
                continue
            rival = max(others, key=lambda n, m=measured: m.auc[m.names.index(n)])
            i, j = (chosen.names.index(n) for n in (best, rival))
            lead = measured.difference(i, j)
            report.metric(name, lead)
            rows.append({"cell": cell.name, "chosen": best, "best_other_on_test": rival} | lead.as_dict())
        report.table("family", rows)


def needs_of(method: Method, prompt: Prompt) -> str:
    """What a detector is told, in words; a prompt that it could do without in brackets."""
    kind = method.kind
    needs = sorted(kind.needs)
    return ", ".join(needs + ["(prompt)"] * (kind.takes_prompt and prompt == "known"))


def _roc(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """The share of the positives above which no larger share of these negatives lies than each of ``FPRS``."""
    passing = 1 - np.searchsorted(np.sort(neg), pos) / len(neg)
    return np.mean(passing[:, None] <= FPRS, axis=0)


def _columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """The rows as one array per column, text as text, what is missing as NaN."""
    columns = {key: [row[key] for row in rows] for key in rows[0]} if rows else {}
    return {key: np.asarray([np.nan if x is None else x for x in column]) for key, column in columns.items()}
