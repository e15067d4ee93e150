"""Tables as files."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV file in UTF-8 of at least one row; names that are no UTF-8 with backslashes."""
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace", newline="")


def finite_or_none(value: float) -> float | None:
    """A Python number; None for NaN and infinity, which tables leave empty."""
    return float(value) if np.isfinite(value) else None
