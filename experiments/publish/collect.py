"""One table and one plot over all runs of a sweep: ``python -m experiments.publish.collect SWEEP_DIR``."""

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.core.errors import Refused, UserError
from experiments.core.files import write_text
from experiments.core.ledger import ERROR, METRICS, MULTIRUN, claim, open_ledger, refuse_foreign
from experiments.core.report import Value, flatten, shown, write_rows
from plap_jax.console import plain_console

OVERRIDES = Path(".hydra/overrides.yaml")
CONFIG = Path(".hydra/config.yaml")


class SweepWatch(Callback):
    """Remembers the directory of this process's sweep, and refuses one that holds files of somebody else."""

    directory: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before the first job."""
        if not OmegaConf.is_missing(config, "name"):  # otherwise Hydra's sweeper will say so
            directory = Path(config.hydra.sweep.dir).absolute()
            try:
                for place in (directory, *directory.glob("[0-9]*")):
                    refuse_foreign(place, "hydra.sweep.dir")
            except UserError as error:
                raise Refused(error) from None  # Hydra would only warn of an Exception
            open_ledger(directory)
            write_text(directory / MULTIRUN, OmegaConf.to_yaml(config))  # as Hydra's sweeper will write it again
            SweepWatch.directory = directory


@dataclass(frozen=True)
class Run:
    """What one job left: its name in the sweep, its overrides, its metrics (none if it failed early), its error."""

    job: str
    overrides: dict[str, str]
    metrics: dict[str, Value]
    error: str


def runs_in(directory: Path) -> list[Run]:
    """The runs of a sweep, in the order of their jobs."""
    found = [path.parents[1] for path in directory.glob(f"*/{OVERRIDES}")]
    return [_read(path) for path in sorted(found, key=lambda path: (len(path.name), path.name))]


def collect(directory: Path) -> list[Run]:
    """Writes ``sweep/results.csv``, ``.md`` and a plot below ``directory``; failed runs are listed as such.

    The csv holds every metric with its interval, the others those that the experiment's ``headline`` names.

    Raises:
        ValueError: no run in ``directory``.
        UserError: somebody else's files would be replaced.
    """
    runs = runs_in(directory)
    if not runs:
        raise ValueError(f"SWEEP_DIR={directory}: must be a directory with a run in each sub-directory")
    claim(directory, "SWEEP_DIR", ("sweep",))
    keys = [key for key in runs[0].overrides if len({run.overrides.get(key) for run in runs}) > 1]
    headline = _headline(directory / runs[0].job, runs)
    full = [_labels(run, keys) | flatten(run.metrics) for run in runs]
    write_rows(directory / "sweep" / "results", full, kinds=("csv",))
    brief = [
        _labels(run, keys) | {name: shown(run.metrics[name]) for name in headline if name in run.metrics}
        for run in runs
    ]
    write_rows(directory / "sweep" / "results", brief, kinds=("md",))
    importlib.import_module("experiments.figures.sweep").draw(directory / "sweep", runs, keys, headline)
    return runs


def tell(directory: Path, runs: Sequence[Run]) -> None:
    """Where the table is, and which runs failed."""
    failed = [run for run in runs if run.error]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs → {directory / 'sweep' / 'results.md'}")
    for run in failed:
        overrides = " ".join(f"{key}={value}" for key, value in run.overrides.items())
        print(f"  failed: {run.job} ({overrides}): {run.error}")


def _read(path: Path) -> Run:
    overrides = OmegaConf.to_container(OmegaConf.load(path / OVERRIDES))
    pairs = (str(override).lstrip("+").partition("=") for override in overrides)
    is_done, has_failed = (path / METRICS).is_file(), (path / ERROR).is_file()
    metrics = json.loads((path / METRICS).read_text()) if is_done else {}
    error = (path / ERROR).read_text(encoding="utf-8").splitlines()[-1] if has_failed else ""
    unfinished = "" if is_done or has_failed else "did not finish"
    return Run(path.name, {key: value for key, _, value in pairs}, metrics, error or unfinished)


def _labels(run: Run, keys: Sequence[str]) -> dict[str, str]:
    varying = {key: run.overrides.get(key, "") for key in keys}
    return {"job": run.job} | varying | {"status": f"failed: {run.error}" if run.error else "ok"}


def _headline(run: Path, runs: Sequence[Run]) -> list[str]:
    config = OmegaConf.load(run / CONFIG)
    names = sorted({name for r in runs for name in r.metrics})
    patterns = [config.get("objective", "*"), *config.get("headline", [])]
    return list(dict.fromkeys(name for pattern in patterns for name in names if fnmatch(name, pattern)))


def main(arguments: Sequence[str]) -> int:
    """Exit code: 2 with one line on stderr where there is nothing to collect."""
    plain_console()
    if len(arguments) != 1:
        print("usage: python -m experiments.publish.collect SWEEP_DIR", file=sys.stderr)
        return 2
    try:
        tell(Path(arguments[0]), collect(Path(arguments[0])))
    except (ValueError, OSError, UserError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
