"""One run of an experiment: config checked, cache, report and tracker made, results written, figures drawn."""

import contextlib
import importlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from experiments.core.cache import Cache
from experiments.core.errors import JobFailed, Refused, UserError, one_line
from experiments.core.files import write_text
from experiments.core.report import ERROR, Report, remove_results
from experiments.core.schema import BaseConfig, check
from experiments.core.tracker import Tracker

log = logging.getLogger(__name__)


def execute(config: DictConfig) -> float:
    """Runs the experiment of ``config`` in Hydra's run directory; returns its objective.

    Raises:
        Refused: the run failed; from a single run.
        UserError, JobFailed: the run failed; from a job of a sweep, for Hydra's launchers to record, so that the
            other jobs go on.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        with _alone_in(directory):
            remove_results(directory)
            return _run(config, directory)
    except Exception as error:
        failure = _failure(error, directory)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise failure from None
        raise Refused(failure) from None


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Refuses a directory in which another run is writing: two would mix their results."""
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"hydra.run.dir={directory}: another run is writing there") from None
    try:
        yield
    finally:
        lock.release()


def _failure(error: Exception, directory: Path) -> UserError | JobFailed:
    line = one_line(error)
    if line is None:
        traceback.print_exc()
    with contextlib.suppress(OSError):  # a full disk may be what failed
        write_text(directory / ERROR, (line or traceback.format_exc().rstrip()) + "\n")
    return JobFailed(f"{type(error).__name__}: {error}") if line is None else UserError(line)


def _run(config: DictConfig, directory: Path) -> float:
    checked, module = check(config)
    report = Report(directory, checked.model_dump(mode="json"), list(HydraConfig.get().overrides.task))
    cache = Cache(to_absolute_path(checked.cache_dir))
    log.info("%s  scale=%s seed=%d  →  %s", checked.name, checked.scale, checked.seed, directory)
    tracker = _tracker(checked, report)
    failed = True
    try:
        module.run(checked, report=report, cache=cache, tracker=tracker)
        report.write_metrics()
        if checked.figures is not None:
            with report.stage("figures"):
                importlib.import_module(checked.figures).draw(directory)
        with report.stage("tracking"):
            tracker.publish(report)
        failed = False
    finally:
        report.write_manifest()
        tracker.finish(failed=failed)
    log.info("%s\n  → %s", report.summary(checked.headline), directory)
    return report.objective(checked.objective)


def _tracker(checked: BaseConfig, report: Report) -> Tracker:
    """The tracker of the config, or none with a warning: a tracker that fails must not fail the run."""
    try:
        tracker: Tracker = checked.tracking.make()
    except Exception as error:
        log.warning("tracking is off: %s: %s", type(error).__name__, " ".join(str(error).split()))
        return Tracker()
    hydra = HydraConfig.get()
    is_sweep = hydra.mode == RunMode.MULTIRUN
    group = f"{checked.name}/{Path(hydra.sweep.dir).name}" if is_sweep else checked.name
    tracker.start(directory=report.directory, group=group, config=report.config)
    return tracker
