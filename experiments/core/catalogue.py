"""Which experiments there are: the files of ``conf/exp``."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"


def experiments() -> list[str]:
    """Names of all experiments, sorted."""
    return sorted(path.stem for path in (CONF / "exp").glob("*.yaml"))


def choose_an_experiment() -> str:
    """What to answer when none was chosen, or several."""
    return f"+exp=NAME must name one experiment: {', '.join(experiments())}"
