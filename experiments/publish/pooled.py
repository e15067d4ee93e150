"""The detection benchmark over seeds: one table from the runs of a sweep, intervals over seeds.

``python -m experiments.publish.pooled SWEEP_DIR`` writes ``sweep/detection.csv``, ``.md`` and ``.tex`` below SWEEP_DIR.

A run's own intervals resample its captions. Over seeds they are Student's, of the values or of the differences within
each seed: the captions' part of the variance is in the spread between seeds already, and to draw both again, seeds and
the captions of each, covers too little where seeds differ and too much where captions do.
"""

import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.core.errors import UserError
from experiments.core.ledger import MANIFEST, METRICS, claim
from experiments.core.report import write_rows
from plap_jax.console import plain_console
from plap_jax.metrics import Interval, mean_interval

ALL = "all"
AUC = re.compile(r"detection/(?P<cell>[^/]+/[^/]+/g[^/]+/k[^/]+)/(?P<detector>[^/]+)/auc")
ORACLE, REFERENCE = "copy_ratio", "flux_p1"
Row = dict[str, Any]


@dataclass(frozen=True)
class PooledCell:
    """All detectors on one task, over seeds.

    Attributes:
        names: of the detectors.
        auc: ``(n seeds, n detectors)``, n ≥ 2; NaN where a seed has none, of detectors on a subset of the images.
    """

    names: list[str]
    auc: np.ndarray

    def interval(self, name: str) -> Interval:
        """Mean AUC over the seeds that have it."""
        return _over(self._of(name))

    def difference(self, name: str, other: str) -> Interval:
        """Mean over seeds of the AUC of one minus that of another."""
        return _over(self._of(name) - self._of(other))

    def _of(self, name: str) -> np.ndarray:
        return self.auc[:, self.names.index(name)]


def _over(values: np.ndarray) -> Interval:
    """Of those that are finite; a single one has no interval."""
    values = values[np.isfinite(values)]
    if len(values) > 1:
        return mean_interval(values)
    value = float(values[0]) if len(values) else math.nan
    return Interval(value, -math.inf, math.inf, len(values))


def runs_of(sweep: Path) -> list[Path]:
    """The finished runs of a sweep over seeds, by their number.

    Raises:
        ValueError: two runs of one seed.
    """
    found = [path.parent for path in sweep.glob(f"*/{METRICS}")]
    runs = sorted(found, key=lambda path: (len(path.name), path.name))
    seeds = [json.loads((run / MANIFEST).read_text())["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"SWEEP_DIR={sweep}: must hold one run per seed; it holds seeds {seeds}")
    return runs


def pool(runs: Sequence[Path], cell: str) -> PooledCell | None:
    """The cell ``task/prompt/g…/k…`` of all runs that measured it; None where fewer than two did.

    Raises:
        ValueError: runs with different detectors.
    """
    found = []
    for run in runs:
        aucs = _aucs(run).get(cell, {})
        if any(auc is not None for auc in aucs.values()):
            found.append({name: math.nan if auc is None else auc for name, auc in aucs.items()})
    if len(found) < 2:
        return None
    names = list(found[0])
    if any(list(theirs) != names for theirs in found):
        raise ValueError(f"cell={cell}: must hold the same detectors in every run")
    return PooledCell(names, np.asarray([list(aucs.values()) for aucs in found]))


def cells_of(runs: Sequence[Path]) -> dict[str, PooledCell]:
    """``task/prompt/g…`` → the cell, of all that two runs have measured."""
    end = f"/k{ALL}"
    names = sorted({cell.removesuffix(end) for run in runs for cell in _aucs(run) if cell.endswith(end)})
    found = {name: pool(runs, f"{name}{end}") for name in names}
    return {name: cell for name, cell in found.items() if cell is not None}


@cache
def _aucs(run: Path) -> dict[str, dict[str, float | None]]:
    """Cell → detector → AUC, None where a run could not measure it; read once."""
    found: dict[str, dict[str, float | None]] = {}
    for key, value in json.loads((run / METRICS).read_text()).items():
        if match := AUC.fullmatch(key):
            found.setdefault(match["cell"], {})[match["detector"]] = value and value["value"]
    return found


def detection_rows(runs: Sequence[Path]) -> list[Row]:
    """One row per detector and cell: AUC, its difference to ``flux_p1``, TPR at 1 % FPR, and what it costs."""
    metrics = [json.loads((run / METRICS).read_text()) for run in runs]
    costs = [_table(run) for run in runs]
    rows = []
    for name, pooled in cells_of(runs).items():
        task, prompt, guidance = name.split("/")
        for detector in sorted(pooled.names, key=lambda d, c=pooled: -c.interval(d).value):
            auc, gain = pooled.interval(detector), pooled.difference(detector, REFERENCE)
            tprs = [m[f"detection/{name}/k{ALL}/{detector}/tpr_at_1pct_fpr"] for m in metrics]
            told = [t["value"] for t in tprs if t is not None]
            tpr = mean_interval(told) if len(told) >= 2 else None
            mine = [c[name, detector] for c in costs if (name, detector) in c]
            nfe = sorted({int(row["nfe"]) for row in mine})
            rows.append(
                {"task": task, "prompt": prompt, "guidance": guidance.removeprefix("g"), "detector": detector}
                | {"auc": auc.value, "auc_low": auc.low, "auc_high": auc.high}
                | {f"minus_{REFERENCE}": gain.value, "low": gain.low, "high": gain.high}
                | {"tpr_at_1pct_fpr": tpr and tpr.value, "tpr_low": tpr and tpr.low, "tpr_high": tpr and tpr.high}
                | {"nfe": "–".join(str(n) for n in sorted({nfe[0], nfe[-1]}))}
                | {"ms_per_image": float(np.median([float(row["ms_per_image"]) for row in mine]))}
                | {"needs": mine[0]["needs"], "seeds": len(pooled.auc)}
            )
    return rows


def chosen_family(runs: Sequence[Path]) -> str:
    """Prompt unknown, by image: the p-Laplacian of highest mean validation AUC over all guidance scales and seeds.

    ``manifold_bias`` is κ_1 under another name and takes no part.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        for (cell, detector), row in _table(run).items():
            member = row["family"] == "p-laplacian" and detector != "manifold_bias"
            if cell.startswith("image/unknown/") and member:
                found.setdefault(detector, []).append(float(row["validation_auc"]))
    if not found:
        raise ValueError("family: no p-Laplacian was measured by image with the prompt unknown")
    return max(found, key=lambda name: float(np.mean(found[name])))


def _table(run: Path) -> dict[tuple[str, str], Row]:
    with (run / "tables" / "detection.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {(f"{r['task']}/{r['prompt']}/g{float(r['guidance']):g}", r["detector"]): r for r in rows}


def write(sweep: Path) -> list[Row]:
    """The table of one sweep; returns its rows.

    Raises:
        ValueError: fewer than two finished runs below ``sweep``.
        UserError: somebody else's files would be replaced.
    """
    runs = runs_of(sweep)
    if len(runs) < 2:
        raise ValueError(f"SWEEP_DIR={sweep}: must hold at least two finished runs of the detection benchmark")
    claim(sweep, "SWEEP_DIR", ("sweep",))
    rows = detection_rows(runs)
    write_rows(sweep / "sweep" / "detection", rows, kinds=("csv", "md", "tex"))
    return rows


def main(arguments: Sequence[str]) -> int:
    """Exit code: 2 with one line on stderr where there is nothing to pool."""
    plain_console()
    if len(arguments) != 1:
        print("usage: python -m experiments.publish.pooled SWEEP_DIR", file=sys.stderr)
        return 2
    try:
        rows = write(Path(arguments[0]))
    except (ValueError, OSError, UserError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(rows)} rows → {Path(arguments[0]) / 'sweep' / 'detection.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
