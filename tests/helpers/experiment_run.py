"""An experiment at scale=smoke within this process, and the words of those on small images."""

import os
import subprocess
import sys

from hydra import compose, initialize_config_dir

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.core.tracker import Tracker
from tests.helpers.places import ROOT

# After so few steps a network that predicts x0 copies already, and with 0.5 for 1/3 enough to measure.
FIXED = ("scale=smoke", "tracking=disabled", "prediction=x0", "labels.max_ratio=0.5")


def environment(cache):
    """What XLA has compiled is shared by all runs beside one cache: they differ in other things."""
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(cache.parent / "compiled")}
    return os.environ | compiled | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def finish(exp, words, cache, code=0):
    """Runs with these words alone, for experiments without the sections of ``FIXED``."""
    return _finished([sys.executable, "-m", "experiments.run", f"+exp={exp}", *words], cache, code)


def _finished(words, cache, code):
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def here(exp, directory, *overrides):
    """Runs at scale=smoke in this process; its report."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config, module = check(compose("config", [f"+exp={exp}", "scale=smoke", "tracking=disabled", *overrides]))
    report = Report(directory, config.model_dump(mode="json"))
    module.run(config, report=report, cache=Cache(directory.parent / "cache"), tracker=Tracker())
    report.write_metrics()
    return report
