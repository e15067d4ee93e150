"""Tables of a run as columns: read, choose rows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

Columns = Mapping[str, np.ndarray]


def read(path: Path) -> Columns:
    """The columns of an ``.npz`` file."""
    with np.load(path) as stored:
        return dict(stored)


def where(a: Columns, **equal: object) -> Columns:
    """The rows in which these columns have these values (or one of them)."""
    n = len(next(iter(a.values())))
    of = np.full(n, True)
    for name, value in equal.items():
        of &= np.isin(a[name], value if isinstance(value, tuple) else (value,))
    return {name: column[of] for name, column in a.items()}


def distinct(column: np.ndarray) -> list:
    """The values of a column in the order in which they first come."""
    return list(dict.fromkeys(column.tolist()))
