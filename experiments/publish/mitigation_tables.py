"""Tables of docs/mitigation.md: what every method saves and costs, over seeds."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.publish.over_seeds import cell, metrics_of, over_seeds, table
from experiments.publish.pooled import runs_of

NETWORKS = {"mitigation": "unet", "mitigation_dit": "dit", "mitigation_digits": "mlp"}  # sweep → its network
MEMORIZED = {  # of a method at the strength of each seed's validation half, on memorized captions
    "copies": "copies",
    "copies_by_distance": "by distance",
    "agreement": "agreement",
    "agreement_change": "its change",
    "diversity_change": "diversity, change",
    "coverage": "coverage",
    "nfe_ratio": "evaluations, ratio",
}
OTHERS = {  # on captions that are not memorized
    "others/copies": "copies",
    "others/agreement": "agreement",
    "others/agreement_change": "its change",
    "others/diversity_change": "diversity, change",
    "others/moved": "images changed",
    "others/nfe_ratio": "evaluations, ratio",
}

CURVES = {"copies": "copies", "copies_by_distance": "by distance", "agreement": "agreement", "nfe": "evaluations"}


def measured(network: str, columns: dict[str, str]) -> Callable[[Path], str]:
    """A row for each guidance scale and method, a column for each measure."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        rows = []
        for scale, method in _methods(runs):
            prefix = f"mitigation/{network}/g{scale}/{method}"
            rows.append([scale, method, *(over_seeds(runs, f"{prefix}/{name}") for name in columns)])
        return table(["guidance", "method", *columns.values()], rows)

    return write


def curves(sweep: Path) -> str:
    """A row for each guidance scale, method and strength: what it does to the test captions, chosen or not."""
    runs, found = runs_of(sweep), {}
    for run in runs:
        for row in _rows(run, "strengths"):
            place = (f"{float(row['guidance']):g}", row["method"], row["strength"])
            found.setdefault(place, []).append(row)
    body = [
        [*place, *(cell([float(row[f"test_{name}"]) for row in rows], len(runs)) for name in CURVES)]
        for place, rows in found.items()
    ]
    return table(["guidance", "method", "strength", *CURVES.values()], body)


def chosen(network: str) -> Callable[[Path], str]:
    """The strengths that validation captions chose, in how many seeds the goal is met, and which methods are better."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        rows = []
        for scale, method in _methods(runs):
            found = [row for run in runs if (row := _chosen(run, scale, method))]
            strengths = [row["strength"] for row in found]
            told = [metrics_of(run).get(f"mitigation/{network}/g{scale}/{method}/goal_met") for run in runs]
            judged = [one for one in told if one is not None]
            beaten = [name for row in found for name in row["dominated_by"].split()]
            if strengths and method != "none":
                rows.append([scale, method, _counted(strengths), _share(judged), _counted(beaten)])
        return table(["guidance", "method", "strength (seeds)", "goal met", "better in both (seeds)"], rows)

    return write


def _methods(runs: Sequence[Path]) -> list[tuple[str, str]]:
    """Guidance scale and method, in the order of the runs."""
    return list(dict.fromkeys((f"{float(row['guidance']):g}", row["method"]) for run in runs for row in _rows(run)))


def _chosen(run: Path, scale: str, method: str) -> dict[str, Any] | None:
    rows = _rows(run)
    return next((row for row in rows if row["method"] == method and float(row["guidance"]) == float(scale)), None)


def _rows(run: Path, name: str = "methods") -> list[dict[str, Any]]:
    with (run / "tables" / f"{name}.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def _counted(names: Sequence[str]) -> str:
    """``a (3), b (2)``."""
    return ", ".join(f"{name} ({names.count(name)})" for name in dict.fromkeys(names))


def _share(values: Sequence[float]) -> str:
    """``2 of 5``; of seeds without enough copies nothing is told."""
    return f"{int(sum(values))} of {len(values)}" if values else ""


MITIGATION = {
    f"{sweep}/{name}": (sweep, write)
    for sweep, network in NETWORKS.items()
    for name, write in {
        "memorized": measured(network, MEMORIZED),
        "others": measured(network, OTHERS),
        "chosen": chosen(network),
        "curves": curves,
    }.items()
}
