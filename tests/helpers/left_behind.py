"""What a run has left in its directory, read again."""

import json

import numpy as np


def metrics(directory):
    """``metrics.json``."""
    return json.loads((directory / "metrics.json").read_text())


def arrays(directory, name):
    """``arrays/NAME.npz``, by name."""
    with np.load(directory / "arrays" / f"{name}.npz") as stored:
        return dict(stored)
