"""An experiment at scale=smoke within this process, and the words of those on small images."""

from hydra import compose, initialize_config_dir

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.core.tracker import Tracker

# After so few steps a network that predicts x0 copies already, and with 0.5 for 1/3 enough to measure.
FIXED = ("scale=smoke", "tracking=disabled", "prediction=x0", "labels.max_ratio=0.5")


def here(exp, directory, *overrides):
    """Runs at scale=smoke in this process; its report."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config, module = check(compose("config", [f"+exp={exp}", "scale=smoke", "tracking=disabled", *overrides]))
    report = Report(directory, config.model_dump(mode="json"))
    module.run(config, report=report, cache=Cache(directory.parent / "cache"), tracker=Tracker())
    report.write_metrics()
    return report
