"""Which experiments there are: the files of ``conf/exp``."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[1] / "conf"


def experiments() -> list[str]:
    """Names of all experiments, sorted."""
    return sorted(path.stem for path in (CONF / "exp").glob("*.yaml"))


def choose_an_experiment() -> str:
    """What to answer when none was chosen."""
    return f"+exp=NAME is missing: must be one of {', '.join(experiments())}"
