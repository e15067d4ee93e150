"""Figures of mitigation, from the run's arrays alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.style import COLOURS, MARKERS, PAGE, grid, mosaic, save, show_image

Arrays = Mapping[str, np.ndarray]
LABELS = {
    "none": "no method",
    "guard": "guard",
    "guard_prompt": "guard, prompt known",
    "late_guidance": "late guidance",
    "prompt_embedding": "prompt embedding",
    "random_tokens": "random tokens",
    "sharp_noise": "noise by sharpness",
    "gap_noise": "noise by |g|",
}
COPY, ORIGINAL = COLOURS[1], COLOURS[4]
GREY = "0.85"
DRAWN = (*COLOURS[:6], "0.5")  # of the methods; none is a point of its own in black
# What a page of figures says below each.
CAPTIONS = {
    "pareto": "Share of copies, agreement with the caption and evaluations as a multiple of those without a method, "
    "test captions of memorized images. A point for each strength, a line through those that no other of the method is "
    "better than in both; large: the one chosen on validation captions, with its 95 % intervals.",
    "sheet": "The same noise by each method at its chosen strength, at the guidance with most copies; red: a copy; "
    "first row: the nearest training image of what comes without any method.",
}


def draw(directory: Path) -> None:
    """``pareto`` and ``sheet``, from ``arrays/mitigation.npz``."""
    with np.load(directory / "arrays" / "mitigation.npz") as stored:
        arrays = dict(stored)
    draw_pareto(arrays, directory / "figures")
    draw_sheet(arrays, directory / "figures")


def draw_pareto(a: Arrays, figures: Path) -> None:
    """Columns: guidance. Above: copies against agreement; below: copies against evaluations."""
    scales = a["guidance"].tolist()
    figure, axes = grid(2, len(scales), width=PAGE, height=5.2, sharex=True, sharey="row")
    for column, guidance in enumerate(scales):
        mine = _at(a, guidance)
        mine["nfe"] = mine["nfe"] / mine["nfe"][mine["methods"] == "none", 0]
        for row, name in enumerate(("agreement", "nfe")):
            panel = axes[row, column]
            for nth, method in enumerate(dict.fromkeys(mine["methods"].tolist())):
                _curve(panel, mine, method, name, nth)
        axes[0, column].set_title(f"guidance {guidance:g}")
        axes[1, column].set_xlabel("share of copies")
    axes[0, 0].set_ylabel("agreement with the caption")
    axes[1, 0].set_ylabel("evaluations, × those of no method")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    save(figure, figures, "pareto")


def _curve(panel: Axes, a: Arrays, method: str, name: str, nth: int) -> None:
    members = a["methods"] == method
    x, y = a["copies"][members], a[name][members]
    colour, marker = (COLOURS[6], "*") if method == "none" else (DRAWN[(nth - 1) % 7], MARKERS[(nth - 1) % 7])
    better = y[:, 0] if name == "agreement" else -y[:, 0]
    best_of = front(x[:, 0], better)
    panel.plot(x[:, 0], y[:, 0], color=colour, marker=marker, ms=2.5, ls="", alpha=0.7)
    panel.plot(x[best_of, 0], y[best_of, 0], color=colour, lw=0.8, alpha=0.7)
    best = np.flatnonzero(a["chosen"][members])[0]
    panel.plot(*x[best, :1], *y[best, :1], color=colour, marker=marker, ms=6, ls="", label=LABELS.get(method, method))
    panel.hlines(y[best, 0], *x[best, 1:], color=colour, lw=0.7)
    panel.vlines(x[best, 0], *y[best, 1:], color=colour, lw=0.7)


def front(copies: np.ndarray, better: np.ndarray) -> np.ndarray:
    """The points that no other is at least as good as in both and better in one, by rising share of copies."""
    order = np.lexsort((-better, copies))
    best_so_far = np.concatenate([[-np.inf], np.maximum.accumulate(better[order])[:-1]])
    return order[better[order] > best_so_far]


def draw_sheet(a: Arrays, figures: Path) -> None:
    """A row for each method, the same noise in each column, at the guidance with most copies without any."""
    plain = [_at(a, guidance) for guidance in a["guidance"].tolist()]
    mine = max(plain, key=lambda one: one["copies"][one["methods"].tolist().index("none"), 0])
    names, images, copies = mine["sheet_methods"].tolist(), mine["sheet_images"], mine["sheet_copies"]
    columns = images.shape[1]
    figure, axes = grid(1 + len(names), 1, width=PAGE, height=0.62 * (1 + len(names)))
    show_image(axes[0, 0], mosaic(mine["sheet_training"], [GREY] * columns, columns))
    for panel, row, is_copy in zip(axes[1:, 0], images, copies, strict=True):
        show_image(panel, mosaic(row, [COPY if one else ORIGINAL for one in is_copy], columns))
    for panel, label in zip(axes[:, 0], ("training", *(LABELS.get(name, name) for name in names)), strict=True):
        panel.text(-0.01, 0.5, label, transform=panel.transAxes, ha="right", va="center", fontsize=7)
    save(figure, figures, "sheet")


def _at(a: Arrays, guidance: float) -> dict[str, np.ndarray]:
    prefix = f"g{guidance:g}/"
    return {key.removeprefix(prefix): value for key, value in a.items() if key.startswith(prefix)}
