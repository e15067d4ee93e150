"""The detection benchmark over seeds: one table from the runs of a sweep, with intervals over seeds and captions.

``python -m experiments.pooled SWEEP_DIR`` writes ``sweep/detection.csv``, ``.md`` and ``.tex``, and our detector
against every other, ``sweep/flux_contrast_all`` and ``sweep/flux_contrast_hard`` (few copies), below SWEEP_DIR.
"""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import METRICS, write_rows
from plap_jax.metrics import Interval, mean_interval

N_DRAWS = 4000
ALL, HARD = "all", "1to8"
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """All detectors on one task, over seeds.

    Attributes:
        names: of the detectors.
        auc: ``(n seeds, n detectors)``.
        draws: ``(n detectors, N_DRAWS)``: means over seeds drawn with replacement, each of captions drawn likewise.
    """

    names: list[str]
    auc: np.ndarray
    draws: np.ndarray

    def interval(self, name: str) -> Interval:
        """Mean AUC over seeds."""
        i = self.names.index(name)
        return _interval(self.auc[:, i].mean(), self.draws[i], len(self.auc))

    def difference(self, name: str, other: str) -> Interval:
        """Mean AUC of one minus that of another, the same seeds and captions drawn for both."""
        i, j = self.names.index(name), self.names.index(other)
        return _interval((self.auc[:, i] - self.auc[:, j]).mean(), self.draws[i] - self.draws[j], len(self.auc))


def pool(runs: Sequence[Path], cell: str, seed: int = 0) -> Cell | None:
    """The cell ``task/prompt/g…/k…`` of all runs that measured it; None where fewer than two did.

    A draw takes as many seeds as there are, with replacement, and of each one of its resamples of captions.
    """
    found = []
    for run in runs:
        with np.load(run / "arrays" / "resamples.npz") as stored:
            if f"{cell}/auc" in stored:
                found.append([stored[f"{cell}/{key}"] for key in ("names", "auc", "auc_resampled")])
    if len(found) < 2:
        return None
    names = found[0][0].tolist()
    if any(one[0].tolist() != names for one in found):
        raise ValueError(f"cell={cell}: must hold the same detectors in every run")
    rng = np.random.default_rng(seed)
    auc, resampled = np.stack([one[1] for one in found]), np.stack([one[2] for one in found])
    seeds = rng.integers(len(found), size=(N_DRAWS, len(found)))
    columns = rng.integers(resampled.shape[2], size=seeds.shape)
    # (draws, seeds, detectors) -> means over the seeds drawn
    draws = np.nanmean(resampled[seeds, :, columns], axis=1).T
    return Cell(names, auc, draws)


def _interval(value: float, draws: np.ndarray, n: int) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(value), min(float(value), float(low)), max(float(value), float(high)), n)


def detection_rows(runs: Sequence[Path], cells: Sequence[str], reference: str) -> list[Row]:
    """One row per detector and cell: AUC, its difference to ``reference``, TPR at 1 % FPR, and what it costs."""
    metrics = [json.loads((run / METRICS).read_text()) for run in runs]
    costs = [_costs(run) for run in runs]
    rows = []
    for name in cells:
        pooled = pool(runs, f"{name}/k{ALL}")
        if pooled is None:
            continue
        task, prompt, guidance = name.split("/")
        for detector in sorted(pooled.names, key=lambda d, c=pooled: -c.interval(d).value):
            auc, gain = pooled.interval(detector), pooled.difference(detector, reference)
            tprs = [m[f"detection/{name}/k{ALL}/{detector}/tpr_at_1pct_fpr"] for m in metrics]
            tpr = mean_interval([t["value"] for t in tprs if t is not None])
            mine = [c[name, detector] for c in costs if (name, detector) in c]
            nfe = sorted({int(row["nfe"]) for row in mine})
            rows.append(
                {"task": task, "prompt": prompt, "guidance": guidance.removeprefix("g"), "detector": detector}
                | {"auc": auc.value, "auc_low": auc.low, "auc_high": auc.high}
                | {"minus_" + reference: gain.value, "low": gain.low, "high": gain.high}
                | {"tpr_at_1pct_fpr": tpr.value, "tpr_half_width": tpr.high - tpr.value}
                | {"nfe": "–".join(str(n) for n in sorted({nfe[0], nfe[-1]}))}
                | {"ms_per_image": float(np.median([float(row["ms_per_image"]) for row in mine]))}
                | {"needs": mine[0]["needs"], "seeds": len(pooled.auc)}
            )
    return rows


def against_rows(runs: Sequence[Path], cells: Sequence[str], detector: str, copies: str) -> list[Row]:
    """``detector`` against every other that does not see the training data, in every cell."""
    rows = []
    for name in cells:
        pooled = pool(runs, f"{name}/k{copies}")
        if pooled is None or detector not in pooled.names:
            continue
        others = [other for other in pooled.names if other not in (detector, "copy_ratio")]
        for other in sorted(others, key=lambda o, c=pooled: -c.interval(o).value):
            gain, mine, its = pooled.difference(detector, other), pooled.interval(detector), pooled.interval(other)
            rows.append(
                {"cell": f"{name}/k{copies}", "detector": detector, "auc": mine.value, "other": other}
                | {"auc_of_other": its.value, "difference": gain.value, "low": gain.low, "high": gain.high}
            )
    return rows


def _costs(run: Path) -> dict[tuple[str, str], Row]:
    with (run / "tables" / "detection.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    return {(f"{r['task']}/{r['prompt']}/g{float(r['guidance']):g}", r["detector"]): r for r in rows}


def write(sweep: Path, reference: str = "flux_p1", ours: str = "flux_contrast") -> list[Row]:
    """The tables of one sweep; returns the rows of the first.

    Raises:
        ValueError: fewer than two finished runs below ``sweep``.
    """
    runs = sorted(path.parent for path in sweep.glob(f"*/{METRICS}"))
    if len(runs) < 2:
        raise ValueError(f"SWEEP_DIR={sweep}: must hold at least two finished runs of the detection benchmark")
    with np.load(runs[0] / "arrays" / "resamples.npz") as stored:
        cells = sorted({key.rsplit("/", 2)[0] for key in stored.files})
    rows = detection_rows(runs, cells, reference)
    write_rows(sweep / "sweep" / "detection", rows, kinds=("csv", "md", "tex"))
    for name, copies in (("all", ALL), ("hard", HARD)):
        write_rows(sweep / "sweep" / f"{ours}_{name}", against_rows(runs, cells, ours, copies))
    return rows


def main(arguments: Sequence[str]) -> int:
    """Exit code: 2 with one line on stderr where there is nothing to pool."""
    if len(arguments) != 1:
        print("usage: python -m experiments.pooled SWEEP_DIR", file=sys.stderr)
        return 2
    try:
        rows = write(Path(arguments[0]))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(rows)} rows → {Path(arguments[0]) / 'sweep' / 'detection.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
