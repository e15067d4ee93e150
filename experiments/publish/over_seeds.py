"""Metrics of a sweep as cells of tables: means over seeds with their intervals."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tabulate import tabulate

from experiments.core.report import METRICS
from plap_jax.metrics import mean_interval


@cache
def metrics_of(run: Path) -> dict[str, Any]:
    """Read once: a benchmark has thousands of metrics, and every cell of a table asks for one."""
    return json.loads((run / METRICS).read_text())


def over_seeds(runs: Sequence[Path], metric: str) -> str:
    """Mean ± half of Student's interval over the runs that have it; their number, where it is not all of them.

    Of two runs both values, since an interval over two says nothing.
    """
    values = []
    for run in runs:
        found = metrics_of(run).get(metric)
        values += [] if found is None else [found["value"] if isinstance(found, dict) else found]
    return cell(values, len(runs))


def cell(values: Sequence[float], n_runs: int) -> str:
    """The same of the values themselves."""
    if not values:
        return ""
    some = f" ({len(values)})" if len(values) < n_runs else ""
    if len(values) <= 2:
        return ", ".join(dict.fromkeys(f"{value:.3f}" for value in values)) + some
    interval = mean_interval(values)
    half = interval.high - interval.value
    return f"{interval.value:.3f}{some}" if half < 5e-4 else f"{interval.value:.3f} ± {half:.3f}{some}"


def table(headers: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """As Markdown."""
    return tabulate(rows, headers=[str(h) for h in headers], tablefmt="github", disable_numparse=True) + "\n"
