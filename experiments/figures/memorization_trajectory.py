"""The figure of memorization along generation, from the run's arrays."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.style import COLOURS, grid, save

Arrays = Mapping[str, np.ndarray]
CLASSES = {"copies": COLOURS[1], "others": COLOURS[6]}
# Statistic → label, colour, line; the dashes tell them apart without colour too.
LINES = {
    "flux_p1": ("κ$_1$, no prompt", COLOURS[0], "-"),
    "flux_prompt_p1": ("κ$_1$, prompt", COLOURS[2], "--"),
    "flux_gap_p1": ("κ$^Δ$", COLOURS[3], "-."),
    "flux_p1_calibrated": ("κ$_1$, no prompt, difficulty taken out", COLOURS[4], ":"),
}
ROWS = ("κ$_1$, no prompt", "κ$^Δ$", "AUC, all captions", "AUC, own captions")
TICKS = (0, 50, 100)
# What a page of figures says below each.
CAPTIONS = {
    "trajectory": "κ_1 and κ^Δ along the generation, and how well they tell copies from others at each step.",
}


def draw(directory: Path) -> None:
    """``trajectory.png`` and ``.pdf``, from ``arrays/trajectory.npz``."""
    with np.load(directory / "arrays" / "trajectory.npz") as stored:
        draw_trajectory(dict(stored), directory / "figures")


def draw_trajectory(a: Arrays, figures: Path) -> None:
    """Columns: guidance. Flux of copies and others, mean and 10–90 %; AUC of the one against the other, 95 % bands."""
    scales, names = a["guidance"].tolist(), a["statistics"].tolist()
    figure, axes = grid(len(ROWS), len(scales), height=6.2, sharex=True, sharey="row")
    for column, guidance in enumerate(scales):
        mine = {key.partition("/")[2]: value for key, value in a.items() if key.startswith(f"g{guidance:g}/")}
        n = len(mine["sigmas"])
        share = 100 * np.arange(1, n + 1) / n
        panels = axes[:, column]
        for panel, name in zip(panels, ("flux_p1", "flux_gap_p1"), strict=False):
            for label, colour in CLASSES.items():
                mean, low, high = mine[f"bands_{label}"][names.index(name)].T
                panel.plot(share, mean, color=colour, ls="-" if label == "copies" else "--", label=label)
                panel.fill_between(share, low, high, color=colour, alpha=0.2, lw=0)
        n_copies = int(mine["is_copy"].sum())
        panels[0].set_title(f"guidance {guidance:g}\n{n_copies} copies\n{len(mine['is_copy']) - n_copies} others")
        for panel, kind in zip(panels[2:], ("auc", "auc_own_caption"), strict=True):
            _aucs(panel, share, mine.get(kind), names)
        _levels(panels[0], share, mine["sigmas"])
        panels[-1].set_xticks(TICKS)
        panels[-1].set_xlim(0, 100)
    for panel, label in zip(axes[:, 0], ROWS, strict=True):
        panel.set_ylabel(label)
    axes[-1, len(scales) // 2].set_xlabel("steps done (%)")
    for row, side in ((0, "upper"), (2, "lower")):
        handles, labels = axes[row, 0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc=f"outside {side} center", ncols=len(labels))
    save(figure, figures, "trajectory")


def _aucs(panel: Axes, share: np.ndarray, measured: np.ndarray | None, names: list[str]) -> None:
    panel.axhline(0.5, color="grey", lw=0.5)
    panel.set_ylim(0, 1.03)
    if measured is None:
        panel.text(0.5, 0.6, "one class\nis empty", transform=panel.transAxes, ha="center", fontsize=7)
        return
    for name, (label, colour, line) in LINES.items():
        if name not in names:
            continue
        value, low, high = measured[names.index(name)].T
        panel.plot(share, value, line, color=colour, label=label)
        panel.fill_between(share, low, high, color=colour, alpha=0.15, lw=0)


def _levels(panel: Axes, share: np.ndarray, sigmas: np.ndarray) -> None:
    """The noise level of some steps, on the upper axis."""
    top = panel.secondary_xaxis("top")
    at = [np.searchsorted(share, tick) for tick in TICKS[1:]]
    top.set_xticks(share[at], [f"{sigma:.2f}" for sigma in sigmas[at]])
    top.set_xlabel("σ$_t$", fontsize=7, labelpad=2)
