"""One run of an experiment: config checked, cache, report and tracker made, results written, figures drawn."""

import contextlib
import importlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from experiments.core.cache import Cache
from experiments.core.errors import JobFailed, Refused, UserError, one_line
from experiments.core.files import write_text
from experiments.core.ledger import (
    ERROR,
    HYDRA,
    LOCK,
    LOG,
    LOG_HEAD,
    has_results,
    open_ledger,
    refuse_foreign,
    remove_results,
)
from experiments.core.report import Report
from experiments.core.schema import BaseConfig, check
from experiments.core.tracker import Tracker
from plap_jax.console import require_device

log = logging.getLogger(__name__)


def execute(config: DictConfig) -> float:
    """Runs the experiment of ``config`` in Hydra's run directory; returns its objective.

    Raises:
        Refused: the run failed; from a single run.
        UserError, JobFailed: the run failed; from a job of a sweep, for Hydra's launchers to record, so that the
            other jobs go on.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        refuse_foreign(directory, "hydra.sweep.dir" if is_sweep else "hydra.run.dir")
        with _alone_in(directory), _logged_to(directory):
            return _recorded(config, directory)
    except Exception as error:
        line = one_line(error)
        failure = JobFailed(f"{type(error).__name__}: {error}") if line is None else UserError(line)
        if is_sweep:
            raise failure from None
        raise Refused(failure) from None


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Refuses a directory in which another run is writing: two would mix their results."""
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"hydra.run.dir={directory}: another run is writing there") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _logged_to(directory: Path) -> Iterator[None]:
    """From here on there is a ledger, and ``LOG`` says what the terminal says.

    Hydra would open the log itself before this directory has been accepted: the first warning of any library would
    then be written into somebody else's file, or make one that the ledger does not know.
    """
    open_ledger(directory)
    if not (directory / LOG).exists():
        write_text(directory / LOG, LOG_HEAD)
    handler = logging.FileHandler(directory / LOG, encoding="utf-8")
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _recorded(config: DictConfig, directory: Path) -> float:
    """The run; what it fails with stands in ``ERROR``. Nothing is removed before the config has been accepted."""
    try:
        try:
            require_device()
            checked, module = check(config)
        except Exception:
            if not has_results(directory):  # otherwise .hydra is that of the results, and stays
                _write_hydra(config, directory)
            raise
        remove_results(directory)
        _write_hydra(config, directory)
        return _run(checked, module, directory)
    except Exception as error:
        line = one_line(error)
        if line is None:
            traceback.print_exc()
        with contextlib.suppress(OSError, UserError):  # a full disk may be what failed
            write_text(directory / ERROR, (line or traceback.format_exc().rstrip()) + "\n")
        raise


def _write_hydra(config: DictConfig, directory: Path) -> None:
    """What Hydra would write, and is kept from writing (conf/hydra) before it is known whose directory this is."""
    hydra = HydraConfig.instance().cfg
    parts = {"config": config, "hydra": hydra, "overrides": hydra.hydra.overrides.task}
    for name, part in parts.items():
        write_text(directory / HYDRA / f"{name}.yaml", OmegaConf.to_yaml(part))


def _run(checked: BaseConfig, module: ModuleType, directory: Path) -> float:
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
