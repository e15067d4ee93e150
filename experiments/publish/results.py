"""Tables of docs/results.md, local.md and mitigation.md from their runs: ``python -m experiments.publish.results DIR``.

DIR holds a sweep over seeds per name: ``digits``, ``patches``, ``fashion``, ``detection``, ``trajectory``, ``clothes``,
``clothes_dit``, ``clothes_difficulty``, ``clothes_trajectory``, ``local_unet``, ``local_dit``, ``mitigation``,
``mitigation_dit``, ``mitigation_digits``, as ``make results`` leaves them. A table stands in a document between
``<!-- table NAME -->`` and ``<!-- end -->``; those whose sweep is not there stay as they are.
"""

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

from experiments.core.files import write_text
from experiments.core.report import MANIFEST
from experiments.core.revision import require_clean
from experiments.publish.form_tables import by_copies, by_form, explained, foretold, rates
from experiments.publish.image_tables import audits, doses, headline, membership, ways
from experiments.publish.local_tables import LOCAL, NETWORKS
from experiments.publish.mitigation_tables import MITIGATION
from experiments.publish.over_seeds import metrics_of, over_seeds, table
from experiments.publish.pack import PLACES
from experiments.publish.pooled import ORACLE, PooledCell, cells_of, chosen_family, runs_of
from plap_jax.console import plain_console
from plap_jax.metrics import Interval

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENTS = (DOCS / "results.md", DOCS / "local.md", DOCS / "mitigation.md")
BLOCK = re.compile(r"<!-- table (?P<name>\S+) -->\n.*?<!-- end -->", re.DOTALL)
SHARE = re.compile(
    r"trajectory/g(?P<guidance>[^/]+)/(?P<statistic>[^/]+)/auc(?P<own>_own_caption)?_at_(?P<share>\d+)pct"
)
CLOTHES = ("clothes", "clothes_dit")  # sweeps of the benchmark in three forms
FOLLOWED = ("trajectory", "clothes_trajectory")  # those of trajectories
IMAGES = ("digits", "patches", "fashion")  # sweeps of the image experiment
COLUMNS = {"auc": "AUC", "tpr_at_1pct_fpr": "TPR at 1 % FPR"}  # of a detector, over seeds
RIVALS = 4  # of which the differences are shown


def source(sweep: Path) -> str:
    """Which commit and command the runs come from."""
    manifests = [json.loads((run / MANIFEST).read_text()) for run in runs_of(sweep)]
    words = [word for word in manifests[0]["overrides"] if not word.startswith((*PLACES, "seed="))]
    seeds = ",".join(str(m["seed"]) for m in manifests)
    commits = sorted({(m["git"]["commit"] or "unknown")[:7] for m in manifests})
    command = shlex.join(["python", "-m", "experiments.run", "-m", *words, f"seed={seeds}"])
    return f"`{command}`, commit {', '.join(commits)}\n"


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
    **{
        f"{name}/source": (name, source)
        for name in (*IMAGES, "detection", "trajectory", *CLOTHES, "clothes_trajectory")
    },
    **{f"{name}/headline": (name, headline) for name in IMAGES},
    **{f"{name}/doses": (name, doses) for name in IMAGES},
    **{f"{name}/ways": (name, ways) for name in IMAGES},
    **{f"{name}/membership": (name, membership) for name in IMAGES},
    **{f"{name}/audits": (name, audits) for name in ("digits", "fashion")},
    **{
        f"detection/{task}/{prompt}": ("detection", ranking(task, prompt))
        for task in ("image", "prompt")
        for prompt in ("known", "unknown")
    },
    "detection/copies": ("detection", copied),
    "detection/family": ("detection", family),
    **{f"{name}/summary": (name, trajectories) for name in FOLLOWED},
    **{
        f"{name}/{task}/{prompt}": (name, by_form(task, prompt))
        for name in CLOTHES
        for task in ("image", "prompt")
        for prompt in ("known", "unknown")
    },
    **{
        f"{name}/{form}/g{scale}": (name, by_copies(form, scale))
        for name in CLOTHES
        for form in ("raw", "calibrated", "baseline")
        for scale in ("1", "2", "4")
    },
    **{f"{name}/rates": (name, rates) for name in CLOTHES},
    **{f"{name}/copies": (name, copied) for name in CLOTHES},
    **{f"{name}/hypothesis": (name, foretold) for name in CLOTHES},
    "clothes_difficulty/source": ("clothes_difficulty", source),
    "clothes_difficulty/explained": ("clothes_difficulty", explained),
    **{f"local/{network}/source": (f"local_{network}", source) for network in NETWORKS},
    **LOCAL,
    **{f"{sweep}/source": (sweep, source) for sweep in ("mitigation", "mitigation_dit", "mitigation_digits")},
    **MITIGATION,
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
        made = {path: filled(path.read_text(encoding="utf-8"), Path(arguments[0])) for path in DOCUMENTS}
        for path, text in made.items():
            write_text(path, text)
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"→ {', '.join(str(path) for path in DOCUMENTS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
