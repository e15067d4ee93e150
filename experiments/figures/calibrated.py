"""Figures of the four ways to score training images, from the arrays of the image experiment."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.figures.style import COLUMN, PAGE, SEQUENTIAL, grid, save, with_intervals

Arrays = Mapping[str, np.ndarray]
LABELS = {
    "raw": "one noise level",
    "calibrated": "difficulty taken out",
    "baseline": "control subtracted",
    "both": "both",
}
TITLES = {"kappa": "κ$_1$", "norm": "score norm", "contrast": "contrast", "combined": "κ$_1$ and contrast"}
FEATURE = "log_png_size"


def draw_ways(a: Arrays, figures: Path) -> None:
    """Copies in training against AUC, a line for each way to score, test half with 95 % intervals."""
    figure, axes = grid(1, len(a["columns"]), width=PAGE, height=2.6, sharey=True)
    for j, (panel, which) in enumerate(zip(axes[0], a["columns"], strict=True)):
        for i, way in enumerate(a["ways"]):
            estimate = a["auc"][i, j].T
            if np.isfinite(estimate).any():
                with_intervals(panel, a["doses"], estimate, i, len(a["ways"]), label=LABELS[str(way)], spread=1.06)
        panel.axhline(0.5, color="#999999", lw=0.6, zorder=0)
        panel.set_xscale("log", base=2)
        apart = np.append(a["doses"][1:] / a["doses"][:-1] > 1.4, True)  # of two neighbours, the higher has its label
        panel.set_xticks(a["doses"], [str(dose) * bool(told) for dose, told in zip(a["doses"], apart, strict=True)])
        panel.minorticks_off()
        panel.set_title(TITLES[str(which)])
        panel.set_xlabel("copies in the training set")
    axes[0, 0].set_ylabel("AUC against held out")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(a["ways"]))
    save(figure, figures, "calibrated")


def draw_difficulty(a: Arrays, train: Arrays, figures: Path) -> None:
    """κ_1 at one noise level against how hard images are, before and after difficulty was taken out; test half."""
    shown, level = a["image"], int(train["chosen_plain"][1])
    feature = a["difficulty"][shown, list(a["statistics"]).index(FEATURE)] / np.log(2)
    copies = train["copies"][shown]
    values = {
        f"κ$_1$ at σ = {a['sigma'][level]:.2g}": train["kappa_1"][shown],
        "above images as hard,\nin standard deviations": a["residuals_calibrated"][:, level],
    }
    figure, axes = grid(2, 1, height=4.6, sharex=True, width=COLUMN)
    planted = copies >= 2
    for panel, (label, value) in zip(axes[:, 0], values.items(), strict=True):
        panel.scatter(feature[copies == 0], value[copies == 0], s=3, color="#BBBBBB", lw=0, label="held out")
        drawn = panel.scatter(
            feature[planted], value[planted], s=14, c=np.log2(copies[planted]), cmap=SEQUENTIAL, marker="s", lw=0
        )
        panel.set_ylabel(label)
    axes[0, 0].set_title("before: simple images score high")
    axes[1, 0].set_title("after")
    axes[1, 0].set_xlabel("log$_2$ of the bytes as PNG: simple to busy")
    bar = figure.colorbar(drawn, ax=axes[:, 0], label="copies of planted images (grey: held out)")
    doses = np.unique(copies[planted])
    bar.set_ticks(np.log2(doses), labels=[str(dose) for dose in doses])
    save(figure, figures, "difficulty")
