"""Numbers of the smoke runs as they were committed, ``tests/expected/NAME.json``: what changes them is noticed.

``WRITE_EXPECTED=1 make test`` writes them anew; the commit then shows which results a change has moved.
"""

import json
import os
from fnmatch import fnmatch

from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from tests.helpers.places import TESTS

EXPECTED = TESTS / "expected"
# Another processor rounds otherwise, and training carries that on.
ABSOLUTE, RELATIVE = 0.02, 0.05


def check(exp, directory):
    """Holds a run's headline metrics against the committed ones."""
    found, path = headline(exp, json.loads((directory / "metrics.json").read_text())), EXPECTED / f"{exp}.json"
    if os.environ.get("WRITE_EXPECTED"):
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    expected = json.loads(path.read_text())
    assert set(found) == set(expected), set(found) ^ set(expected)
    moved = {name: (value, expected[name]) for name, value in found.items() if not close(value, expected[name])}
    assert not moved, moved


def headline(exp, metrics):
    """The metrics that the terminal shows."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        patterns = compose("config", [f"+exp={exp}"]).headline
    return {name: value for name, value in metrics.items() if any(fnmatch(name, p) for p in patterns)}


def close(value, expected):
    """Equal for counts and what has no value, else within rounding, or within half of the interval's half-width."""
    if isinstance(expected, dict):
        slack = (expected["high"] - expected["low"]) / 4
        return isinstance(value, dict) and abs(value["value"] - expected["value"]) <= ABSOLUTE + slack
    if isinstance(expected, float) and isinstance(value, float):
        return abs(value - expected) <= ABSOLUTE + RELATIVE * abs(expected)
    return value == expected
