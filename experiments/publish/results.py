"""The tables of docs/results.md from the runs behind them: ``python -m experiments.publish.results DIRECTORY``.

DIRECTORY holds a sweep over seeds per name: ``digits``, ``patches``, ``fashion``, ``detection``, ``trajectory``, as
``make results`` leaves them. A table stands in the document between ``<!-- table NAME -->`` and ``<!-- end -->``; those
whose sweep is not there stay as they are.
"""

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from tabulate import tabulate

from experiments.core.files import write_text
from experiments.core.report import MANIFEST, METRICS
from experiments.core.revision import require_clean
from experiments.publish.pooled import ORACLE, PooledCell, cells_of, chosen_family, runs_of
from plap_jax.console import plain_console
from plap_jax.metrics import Interval, mean_interval

DOCUMENT = Path(__file__).parents[2] / "docs" / "results.md"
BLOCK = re.compile(r"<!-- table (?P<name>\S+) -->\n.*?<!-- end -->", re.DOTALL)
DOSES = {"reproduced": "dose/{}/reproduced", "detected at 1 % FPR": "dose/{}/detected"}
OF_TRAINING = {"AUC of κ_1": "auc", "AUC of the score norm": "score_norm_auc", "gain": "gain_over_score_norm"}
SHARE = re.compile(
    r"trajectory/g(?P<guidance>[^/]+)/(?P<statistic>[^/]+)/auc(?P<own>_own_caption)?_at_(?P<share>\d+)pct"
)
HEADLINE = {
    "training images, 40 copies against held out: AUC": "train_images/auc",
    "TPR at 1 % FPR": "train_images/tpr_at_1pct_fpr",
    "all planted images against held out: AUC": "train_images/auc_planted",
    "single images against held out: AUC": "train_images/auc_single_vs_heldout",
    "control, all planted images: AUC": "control/auc",
    "control, 40 copies: AUC": "control/auc_headline",
    "generated images, copies against others: AUC": "samples/auc",
    "generated images: TPR at 1 % FPR": "samples/tpr_at_1pct_fpr",
    "AUC for p = 1": "samples/auc/p1",
    "AUC for p = 1.5": "samples/auc/p1.5",
    "AUC for p = 2": "samples/auc/p2",
    "AUC for p = 3": "samples/auc/p3",
    "AUC with absolute distance as the label": "samples/auc_by_distance",
    "AUC of the score norm": "samples/score_norm_auc",
    "gain of κ_1 over it": "samples/gain_over_score_norm",
    "AUC of the control on the same images": "samples/control_auc",
    "share of copies, by ratio": "samples/copy_fraction",
    "share of copies, by distance": "samples/copy_fraction_by_distance",
    "8 directions instead of 128, training images: AUC": "directions/train_images/difference",
    "8 directions instead of 128, samples: AUC": "directions/samples/difference",
}
IMAGES = ("digits", "patches", "fashion")  # sweeps of the image experiment
WAYS = {
    "": "one noise level",
    "_calibrated": "difficulty taken out",
    "_baseline": "control subtracted",
    "_both": "both",
}
EVIDENCE = {"": "κ_1", "_norm": "score norm", "_contrast": "contrast", "_combined": "κ_1 and contrast"}
AUDITED = {"": "difficulty taken out", "baseline": "difficulty and control taken out", "raw": "κ_1 at one noise level"}
COLUMNS = {"auc": "AUC", "tpr_at_1pct_fpr": "TPR at 1 % FPR"}  # of a detector, over seeds
RIVALS = 4  # of which the differences are shown


@cache
def metrics_of(run: Path) -> dict[str, Any]:
    """Read once: a benchmark has thousands of metrics, and every cell of a table asks for one."""
    return json.loads((run / METRICS).read_text())


def source(sweep: Path) -> str:
    """Which commit and command the runs come from."""
    manifests = [json.loads((run / MANIFEST).read_text()) for run in runs_of(sweep)]
    local = ("tracking=", "cache_dir=", "seed=", "hydra.")
    words = [word for word in manifests[0]["overrides"] if not word.startswith(local)]
    seeds = ",".join(str(m["seed"]) for m in manifests)
    commits = sorted({(m["git"]["commit"] or "unknown")[:7] for m in manifests})
    command = shlex.join(["python", "-m", "experiments.run", "-m", *words, f"seed={seeds}"])
    return f"`{command}`, commit {', '.join(commits)}\n"


def over_seeds(runs: Sequence[Path], metric: str) -> str:
    """Mean ± half of Student's interval over the runs that have it."""
    values = []
    for run in runs:
        found = metrics_of(run).get(metric)
        values += [] if found is None else [found["value"] if isinstance(found, dict) else found]
    if len(values) < 2:
        return "" if not values else f"{values[0]:.3f}"
    interval = mean_interval(values)
    half = interval.high - interval.value
    return f"{interval.value:.3f}" if half < 5e-4 else f"{interval.value:.3f} ± {half:.3f}"


def headline(sweep: Path) -> str:
    """The main numbers of the image experiment."""
    runs = runs_of(sweep)
    return table(["", ""], [[label, over_seeds(runs, metric)] for label, metric in HEADLINE.items()])


def doses(sweep: Path) -> str:
    """Dose and response of the image experiment."""
    runs = runs_of(sweep)
    metrics = metrics_of(runs[0])
    copies = sorted({int(key.split("/")[1]) for key in metrics if key.startswith("dose/")})
    rows: list[list[Any]] = [["visits", *(f"{metrics[f'dose/{k}/visits']:,.0f}" for k in copies)]]
    rows += [[label, *(over_seeds(runs, metric.format(k)) for k in copies)] for label, metric in DOSES.items()]
    for label, metric in OF_TRAINING.items():
        rows.append([label, *(over_seeds(runs, f"train_images/k{k}/{metric}") for k in copies)])
    return table(["copies", *copies], rows)


def ways(sweep: Path) -> str:
    """AUC of the image experiment by copies: at one level, with difficulty, the control or both taken out."""
    runs = runs_of(sweep)
    copies = sorted({int(key.split("/")[1]) for key in metrics_of(runs[0]) if key.startswith("dose/")})
    rows = []
    for (end, evidence), (way, label) in product(EVIDENCE.items(), WAYS.items()):
        cells = [over_seeds(runs, f"train_images/k{k}/auc{way}{end}") for k in copies]
        if any(cells):
            rows.append([evidence, label, *cells])
    return table(["evidence", "way", *copies], rows)


def membership(sweep: Path) -> str:
    """Single images against held-out ones: published attacks, and the scores of an audit."""
    runs = runs_of(sweep)
    names = [key.split("/")[1] for key in metrics_of(runs[0]) if key.startswith("attacks/") and key.endswith("/auc")]
    found = {f"{name} (attack)": f"attacks/{name}/auc" for name in names}
    for (end, evidence), way in product(EVIDENCE.items(), ("", "_calibrated")):
        found[f"{evidence}, {WAYS[way]}"] = f"train_images/k1/auc{way}{end}"
    rows = [[label, over_seeds(runs, metric)] for label, metric in found.items()]
    return table(["score", "AUC"], sorted((row for row in rows if row[1]), key=lambda row: row[1], reverse=True))


def audits(sweep: Path) -> str:
    """What audits flag of planted images among held-out ones, means over divisions and seeds."""
    runs = runs_of(sweep)
    names = [key.split("/")[1] for key in metrics_of(runs[0]) if key.startswith("audit/") and key.endswith("/power")]
    rows = []
    for name in names:
        copies, reference, *score = name.split("_")
        numbers = [over_seeds(runs, f"audit/{name}/{metric}") for metric in ("power", "false_share")]
        rows.append([copies[1:], reference[3:], AUDITED["_".join(score)], *numbers])
    rows.sort(key=lambda row: -int(row[0]))
    return table(["copies", "reference", "score", "power", "false share"], rows)


def ranking(task: str, prompt: str) -> Callable[[Path], str]:
    """All detectors on one task, best mean first: cost, and AUC at every guidance scale."""

    def write(sweep: Path) -> str:
        runs = runs_of(sweep)
        cells = _cells(runs, task, prompt)
        names = next(iter(cells.values())).names
        order = sorted(names, key=lambda n: -sum(cell.interval(n).value for cell in cells.values()))
        rows = []
        for name in order:
            prefix = f"detection/{task}/{prompt}"
            numbers = [over_seeds(runs, f"{prefix}/g{g}/kall/{name}/{metric}") for metric in COLUMNS for g in cells]
            rows.append([name, _nfe(runs, prefix, name), *numbers])
        heads = ["detector", "NFE", *(f"{label}, guidance {g}" for label in COLUMNS.values() for g in cells)]
        filled = [i for i in range(len(heads)) if any(row[i] for row in rows)]  # no TPR of fewer than 100 negatives
        return table([heads[i] for i in filled], [[row[i] for i in filled] for row in rows])

    return write


def family(sweep: Path) -> str:
    """One p-Laplacian for all seeds and scales, chosen on validation, against the others that are best on test."""
    runs = runs_of(sweep)
    member, rows = chosen_family(runs), []
    for guidance, cell in _cells(runs, "image", "unknown").items():
        others = [name for name in cell.names if name not in (member, ORACLE, "manifold_bias")]
        others = [name for name in others if not name.startswith(("flux_", "p_laplacian", "ball_average"))]
        for other in sorted(others, key=lambda n, c=cell: -c.interval(n).value)[:RIVALS]:
            aucs = [f"{cell.interval(name).value:.3f}" for name in (member, other)]
            rows.append([guidance, member, aucs[0], other, aucs[1], shown(cell.difference(member, other))])
    return table(["guidance", "chosen", "its AUC", "other", "AUC of other", "difference"], rows)


def copied(sweep: Path) -> str:
    """Share of generated images that are copies, by what stands behind their caption."""
    runs = runs_of(sweep)
    metrics = metrics_of(runs[0])
    keys = [key.split("/") for key in metrics if key.startswith("samples/") and key.endswith("/copy_fraction")]
    groups = list(dict.fromkeys(key[2] for key in keys))
    groups.sort(key=lambda g: (not g.startswith("k"), int(g[1:]) if g[1:].isdigit() else 0))
    scales = list(dict.fromkeys(key[1] for key in keys))
    rows = [[s[1:], *(over_seeds(runs, f"samples/{s}/{g}/copy_fraction") for g in groups)] for s in scales]
    return table(["guidance", *groups], rows)


def trajectories(sweep: Path) -> str:
    """AUC along the generation: by guidance scale, set of images and statistic, at shares of the steps done."""
    runs = runs_of(sweep)
    metrics = metrics_of(runs[0])
    found = [SHARE.fullmatch(key) for key in metrics]
    rows: dict[tuple[str, str, str], dict[int, str]] = {}
    for key in filter(None, found):
        captions = "own" if key["own"] else "all"
        row = rows.setdefault((key["guidance"], captions, key["statistic"]), {})
        row[int(key["share"])] = over_seeds(runs, key[0])
    shares = sorted({share for row in rows.values() for share in row})
    body = [[*place, *(row.get(share, "") for share in shares)] for place, row in sorted(rows.items())]
    return table(["guidance", "captions", "statistic", *(f"{share} %" for share in shares)], body)


TABLES: dict[str, tuple[str, Callable[[Path], str]]] = {
    **{f"{name}/source": (name, source) for name in (*IMAGES, "detection", "trajectory")},
    **{f"{name}/headline": (name, headline) for name in IMAGES},
    **{f"{name}/doses": (name, doses) for name in IMAGES},
    **{f"{name}/ways": (name, ways) for name in IMAGES},
    **{f"{name}/membership": (name, membership) for name in IMAGES},
    "fashion/audits": ("fashion", audits),
    **{
        f"detection/{task}/{prompt}": ("detection", ranking(task, prompt))
        for task in ("image", "prompt")
        for prompt in ("known", "unknown")
    },
    "detection/copies": ("detection", copied),
    "detection/family": ("detection", family),
    "trajectory/summary": ("trajectory", trajectories),
}


def filled(text: str, directory: Path) -> str:
    """``text`` with every table whose sweep lies in ``directory`` made anew.

    Raises:
        ValueError: a table of a name that nothing makes, or runs of code that was changed since its commit.
    """

    def made(block: re.Match) -> str:
        name = block["name"]
        if name not in TABLES:
            raise ValueError(f"table {name}: must be one of {', '.join(TABLES)}")
        sweep, make = TABLES[name]
        runs = runs_of(directory / sweep)
        if len(runs) < 2:
            return block[0]
        for run in runs:
            if json.loads((run / MANIFEST).read_text())["git"]["dirty"]:
                raise ValueError(f"{run}: must be a run of committed code; its tree was changed")
        return f"<!-- table {name} -->\n{make(directory / sweep)}<!-- end -->"

    return BLOCK.sub(made, text)


def table(headers: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """As Markdown."""
    return tabulate(rows, headers=[str(h) for h in headers], tablefmt="github", disable_numparse=True) + "\n"


def shown(interval: Interval) -> str:
    """``+0.012 ± 0.004``."""
    return f"{interval.value:+.3f} ± {interval.high - interval.value:.3f}"


def _cells(runs: Sequence[Path], task: str, prompt: str) -> dict[str, PooledCell]:
    """Guidance → the cell, where two runs have measured it.

    Raises:
        ValueError: there is none.
    """
    prefix = f"{task}/{prompt}/g"
    found = {name: cell for name, cell in cells_of(runs).items() if name.startswith(prefix)}
    if not found:
        raise ValueError(f"cell={prefix}…: must be measured by two runs of the sweep")
    return {name.removeprefix(prefix): found[name] for name in sorted(found, key=lambda n: float(n[len(prefix) :]))}


def _nfe(runs: Sequence[Path], prefix: str, name: str) -> str:
    found = set()
    for run in runs:
        metrics = metrics_of(run)
        found |= {metrics[key] for key in metrics if key.startswith(prefix) and key.endswith(f"/kall/{name}/nfe")} - {
            None
        }
    return "–".join(str(n) for n in sorted({min(found), max(found)}))


def main(arguments: Sequence[str]) -> int:
    """Exit code: 2 with one line on stderr where a table cannot be made, or where code was changed since its commit."""
    plain_console()
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print(
            "usage: python -m experiments.publish.results DIRECTORY, with a sweep in each sub-directory",
            file=sys.stderr,
        )
        return 2
    try:
        require_clean()
        write_text(DOCUMENT, filled(DOCUMENT.read_text(encoding="utf-8"), Path(arguments[0])))
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"→ {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
