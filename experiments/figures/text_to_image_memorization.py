"""Figures of memorized prompts, from the run's arrays alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.figures.style import COLOURS, PAGE, grid, mosaic, save, show_image

Arrays = Mapping[str, np.ndarray]
TITLES = {"kappa": "κ$_1$ without the prompt", "kappa_given": "κ$_1$ given the prompt", "kappa_gap": "κ$^Δ$"}
CLASSES = {"memorized prompts": (True, COLOURS[1]), "other prompts": (False, COLOURS[6])}
COLUMNS = 12  # pictures in a row


def draw(directory: Path) -> None:
    """Histograms of the scores, and some of the images."""
    arrays = dict(np.load(directory / "arrays" / "text_to_image.npz"))
    draw_histograms(arrays, directory / "figures")
    draw_pictures(arrays, directory / "figures")


def draw_histograms(a: Arrays, figures: Path) -> None:
    """The scores of memorized and other prompts, the very values of the tables."""
    figure, axes = grid(1, len(TITLES), height=2.4)
    for panel, (name, title) in zip(axes[0], TITLES.items(), strict=True):
        bins = np.linspace(a[name].min(), a[name].max() + 1e-9, 30)
        for label, (kind, colour) in CLASSES.items():
            values = a[name][a["memorized"] == kind]
            how = {"density": True, "histtype": "stepfilled", "alpha": 0.4, "color": colour}
            panel.hist(values, bins, label=f"{label} ({len(values)})", **how)
        panel.set_xlabel(title)
    axes[0, 0].set_ylabel("density")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save(figure, figures, "histograms")


def draw_pictures(a: Arrays, figures: Path) -> None:
    """The first images of each class; frames: whether their prompt is memorized."""
    frames = [CLASSES["memorized prompts" if a["memorized"][i] else "other prompts"][1] for i in a["shown"]]
    sheet = mosaic(a["pictures"], frames, columns=min(COLUMNS, len(frames)))
    figure, axes = grid(1, 1, height=PAGE * sheet.shape[0] / sheet.shape[1] + 0.4)
    show_image(axes[0, 0], sheet)
    axes[0, 0].set_title("generated images; frames: memorized prompts in orange, others in black")
    save(figure, figures, "pictures")
