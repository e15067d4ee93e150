"""Tables of the benchmark in three forms: detector × form, by copies, and what was foretold of κ_1."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.publish.over_seeds import metrics_of, over_seeds, table
from experiments.publish.pooled import runs_of

FORMS = {"raw": "raw", "calibrated": "difficulty out", "baseline": "baseline"}
LEAD = re.compile(r"hypothesis/(?P<form>[^/]+)/g(?P<guidance>[^/]+)/k(?P<copies>\d+)/lead")
DIFFICULTY = re.compile(r"difficulty/g(?P<guidance>[^/]+)/alone/auc")
EXPLAINED = {
    "alone": "statistics of the pixels alone",
    "kept": "κ_1",
    "taken_out": "κ_1, difficulty out",
    "taken_out_of_others": "the same, fitted to images that are no copies",
}
AUC = re.compile(r"detection/(?P<cell>.+)/g(?P<guidance>[^/]+)/k(?P<copies>[^/]+)/(?P<name>[^/]+)/auc")


def by_form(task: str, prompt: str) -> Callable[[Path], str]:
    """AUC of every detector in every form at every guidance scale, the best with difficulty taken out first."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        scales, _, names = _measured(runs, f"{task}/{prompt}")
        keys = {(form, g): f"detection/{task}/{prompt}/g{g}/kall/{{}}/auc" for form in FORMS for g in scales}

        def rank(name: str) -> float:
            own = [key.format(_in(form, name)) for (form, _), key in keys.items() if form != "baseline"]
            return -_mean(runs, own)

        return _filled(runs, sorted(names, key=rank), keys)

    return write


def rates(sweep: Path) -> str:
    """TPR at 1 % FPR by image, prompt unknown, of every detector in every form; empty below 100 negatives."""
    runs = runs_of(sweep)
    scales, _, names = _measured(runs, "image/unknown")
    keys = {(form, g): f"detection/image/unknown/g{g}/kall/{{}}/tpr_at_1pct_fpr" for form in FORMS for g in scales}
    return _filled(runs, names, keys)


def by_copies(form: str, scale: str) -> Callable[[Path], str]:
    """AUC of every detector by image, prompt unknown, in one form at one guidance scale, by copies."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        _, copies, names = _measured(runs, "image/unknown")
        keys = [f"detection/image/unknown/g{scale}/k{k}/{{}}/auc" for k in copies]
        names = sorted(names, key=lambda name: -_mean(runs, [key.format(_in(form, name)) for key in keys]))
        rows = [[name, *(over_seeds(runs, key.format(_in(form, name))) for key in keys)] for name in names]
        return _without_empty(["detector", *copies], rows)

    return write


def foretold(sweep: Path) -> str:
    """The lead of κ_1 over the rival that is best on a seed's test half, by copies; intervals over seeds."""
    runs = runs_of(sweep)
    found = [match for run in runs for key in metrics_of(run) if (match := LEAD.fullmatch(key))]
    copies = sorted({int(match["copies"]) for match in found})
    lines = dict.fromkeys((match["form"], match["guidance"]) for match in found)
    order = sorted(lines, key=lambda line: (list(FORMS).index(line[0]), float(line[1])))
    rows = [
        [FORMS[form], scale, *(over_seeds(runs, f"hypothesis/{form}/g{scale}/k{k}/lead") for k in copies)]
        for form, scale in order
    ]
    return table(["form", "guidance", *copies], rows)


def explained(sweep: Path) -> str:
    """AUC by image of the pixels' statistics alone, and of κ_1 with difficulty left in and taken out in two ways."""
    runs = runs_of(sweep)
    keys = [match for run in runs for key in metrics_of(run) if (match := DIFFICULTY.fullmatch(key))]
    scales = sorted({match["guidance"] for match in keys}, key=float)
    rows = [[scale, *(over_seeds(runs, f"difficulty/g{scale}/{name}/auc") for name in EXPLAINED)] for scale in scales]
    return table(["guidance", *EXPLAINED.values()], rows)


def _measured(runs: Sequence[Path], cell: str) -> tuple[list[str], list[str], list[str]]:
    """Guidance scales, single numbers of copies, and detectors, of what any run tells of this cell."""
    keys = dict.fromkeys(key for run in runs for key in metrics_of(run))
    found = [match for match in map(AUC.fullmatch, keys) if match and match["cell"] == cell]
    scales = sorted({match["guidance"] for match in found}, key=float)
    copies = sorted({match["copies"] for match in found if match["copies"].isdigit()}, key=int)
    endings = tuple(f"_{form}" for form in FORMS)
    return scales, copies, sorted({match["name"] for match in found if not match["name"].endswith(endings)})


def _filled(runs: Sequence[Path], names: Sequence[str], keys: Mapping[tuple[str, str], str]) -> str:
    """A row for each detector, a column for each form and guidance scale."""
    rows = [
        [name, *(over_seeds(runs, key.format(_in(form, name))) for (form, _), key in keys.items())] for name in names
    ]
    return _without_empty(["detector", *(f"{FORMS[form]}, g = {scale}" for form, scale in keys)], rows)


def _without_empty(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Neither rows nor columns of nothing."""
    rows = [row for row in rows if any(row[1:])]
    kept = [0, *(i for i in range(1, len(heads)) if any(row[i] for row in rows))]
    return table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _in(form: str, name: str) -> str:
    return name if form == "raw" else f"{name}_{form}"


def _mean(runs: Sequence[Path], keys: Sequence[str]) -> float:
    """Over the keys and runs that have a value; 0 without any."""
    values = [found["value"] for run in runs for key in keys if (found := metrics_of(run).get(key)) is not None]
    return float(np.mean(values)) if values else 0.0
