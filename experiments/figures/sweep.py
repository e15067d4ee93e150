"""Every headline metric of a sweep against what varied in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.figures.style import COLOURS, PAGE, grid, save

N_PANELS, COLUMNS = 28, 4


class PlottedRun(Protocol):
    """What is drawn of a run."""

    overrides: dict[str, str]
    metrics: dict[str, Any]


def draw(directory: Path, runs: Sequence[PlottedRun], keys: Sequence[str], metrics: Sequence[str]) -> None:
    """``directory/results.png`` and ``.pdf``: a panel per metric, its first key (not the seed) along the axis.

    Runs that differ in the seed alone stand side by side in one colour; intervals are those of ``metrics.json``.
    The first 28 of the metrics that any run has a value for are drawn.
    """
    axis, hues = _roles(keys)
    ticks = list(dict.fromkeys(run.overrides.get(axis, "") for run in runs))
    groups = list(dict.fromkeys(_label(run, hues) for run in runs))
    shown = [name for name in metrics if any(_has(run, name) for run in runs)][:N_PANELS]
    rows = max(1, -(-len(shown) // COLUMNS))
    figure, axes = grid(rows, COLUMNS, width=PAGE, height=1.8 * rows + 0.3)
    for panel, name in zip(axes.flat, shown, strict=False):
        for i, group in enumerate(groups):
            members = [run for run in runs if _label(run, hues) == group and _has(run, name)]
            place = [ticks.index(run.overrides.get(axis, "")) for run in members]
            values = [run.metrics[name] for run in members]
            _points(panel, np.array(place, int), values, i, len(groups), group)
        panel.set_title(_two_lines(name), fontsize=7)
        panel.set_xticks(range(len(ticks)), ticks)
        panel.set_xlim(-0.5, len(ticks) - 0.5)
        panel.set_xlabel(axis)
    for panel in axes.flat[len(shown) :]:
        panel.set_axis_off()
    if hues and shown:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(groups)))
    save(figure, directory, "results")


def _two_lines(name: str) -> str:
    """A metric's name broken at its middle slash, as a panel is narrow."""
    parts = name.split("/")
    lines = "/".join(parts[: -(-len(parts) // 2)]), "/".join(parts[-(-len(parts) // 2) :])
    return "/\n".join(line for line in lines if line)


def _roles(keys: Sequence[str]) -> tuple[str, list[str]]:
    others = [key for key in keys if key != "seed"]
    return (others[0], others[1:]) if others else ("seed", [])


def _label(run: PlottedRun, hues: Sequence[str]) -> str:
    return ", ".join(f"{key}={run.overrides.get(key, '')}" for key in hues)


def _has(run: PlottedRun, name: str) -> bool:
    return run.metrics.get(name) is not None


def _points(panel: Any, place: np.ndarray, values: Sequence[Any], group: int, n_groups: int, label: str) -> None:
    """One group's values and intervals, spread a little around each tick so that none hides another."""
    nth = np.array([sum(place[:i] == place[i]) for i in range(len(place))])
    most = max(nth, default=0) + 1
    x = place + 0.7 * ((group + (nth + 0.5) / most) / n_groups - 0.5)
    intervals = [v if isinstance(v, dict) else {"value": v, "low": v, "high": v} for v in values]
    y, low, high = (np.array([v[key] for v in intervals], float) for key in ("value", "low", "high"))
    panel.errorbar(
        x, y, yerr=[y - low, high - y], fmt="o", ms=2.5, lw=0.8, color=COLOURS[group % len(COLOURS)], label=label
    )
