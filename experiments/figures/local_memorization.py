"""Figures of local memorization, from the run's arrays alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.style import COLOURS, DIVERGING, PAGE, grid, save, show_image, with_intervals

Arrays = Mapping[str, np.ndarray]
DECOY = 0  # the dose of a region that training never saw
KINDS = ("logo", "sleeve", "background")
DOSES = (40, 16, 4, DECOY)  # rows of the figure, the first images of each kind
FEW = 5  # maps in the figure: the first of the run's, with the one that rivals are compared with
# What a page of figures says below each.
CAPTIONS = {
    "maps": "Images that training never saw, with a region that it saw so many times; the region; the maps.",
    "doses": "How well each map tells the pixels of the region, against the number of training images that share it; "
    "0: a region that training never saw.",
}


def draw(directory: Path) -> None:
    """``maps`` and ``doses``, from ``arrays/local.npz``."""
    with np.load(directory / "arrays" / "local.npz") as stored:
        arrays = dict(stored)
    draw_maps(arrays, directory / "figures")
    draw_doses(arrays, directory / "figures")


def draw_maps(a: Arrays, figures: Path) -> None:
    """Rows: an image of each dose and kind; columns: image, mask, maps."""
    shown = _rows(a)
    names = _columns(a)
    figure, axes = grid(len(shown), 2 + len(names), width=PAGE, height=0.95 * len(shown) + 0.3)
    titles = ("image", "region", *(str(a["labels"][a["names"].tolist().index(name)]) for name in names))
    for row, i in enumerate(shown):
        panels = axes[row]
        show_image(panels[0], _picture(a["images"][i]))
        show_image(panels[1], np.repeat(np.where(a["masks"][i], 0.0, 0.85)[..., None], 3, axis=-1))
        for panel, name in zip(panels[2:], names, strict=True):
            _show_map(panel, a[f"map_{name}"][i], a["masks"][i])
        dose = int(a["dose"][i])
        told = f"{dose} images" if dose else "never seen"
        panels[0].text(
            -0.12, 0.5, told, transform=panels[0].transAxes, ha="right", va="center", rotation=90, fontsize=7
        )
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title.replace(" − ", "\n− ", 1), fontsize=7)
    save(figure, figures, "maps")


def draw_doses(a: Arrays, figures: Path) -> None:
    """Pixel AUC of every map against the dose, 95 % intervals over regions; decoys on the left."""
    names = a["names"].tolist()
    doses = np.unique(a["table_dose"])
    figure, axes = grid(1, 2, width=PAGE, height=3.4, sharey=True)
    groups = [
        [n for n in names if n.startswith("kappa")],
        [n for n in names if n == a["main"] or not n.startswith("kappa")],
    ]
    for panel, group in zip(axes[0], groups, strict=True):
        for nth, name in enumerate(group):
            of = a["table_map"] == name
            order = np.argsort(a["table_dose"][of])
            x = np.maximum(a["table_dose"][of][order], 1)
            colour = {"color": COLOURS[6], "lw": 1.8} if name == a["main"] else {}
            estimate = a["table_auc"][of][order].T
            with_intervals(panel, x, estimate, nth, len(group), label=str(a["labels"][names.index(name)]), **colour)
        panel.axhline(0.5, color="grey", lw=0.5)
        panel.set_xscale("log", base=2)
        panel.set_xticks(np.maximum(doses, 1), [str(dose) for dose in doses])
        panel.minorticks_off()
        panel.set_ylim(top=1.02)
        panel.set_xlabel("training images that share the region")
        handles, labels = panel.get_legend_handles_labels()
        panel.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, columnspacing=1)
    axes[0, 0].set_ylabel("AUC over pixels")
    save(figure, figures, "doses")


def _rows(a: Arrays) -> list[int]:
    """The first image of each dose and kind, of the doses that the run has."""
    doses = [dose for dose in DOSES if dose in a["dose"]] or np.unique(a["dose"])[::-1].tolist()
    found = []
    for dose in doses:
        for kind in KINDS:
            members = np.flatnonzero((a["dose"] == dose) & (a["kind"] == kind))
            found += members[:1].tolist()
    return found


def _columns(a: Arrays) -> list[str]:
    names, main = a["names"].tolist(), str(a["main"])
    rivals = [name for name in names if name != main]
    order = ["kappa", "score_gap", "curvature_gap", "error_difference", "denoised_difference", *rivals]
    return [main, *dict.fromkeys(name for name in order if name in rivals)][:FEW]


def _picture(image: np.ndarray) -> np.ndarray:
    grey = np.clip((image + 1) / 2, 0, 1)
    return np.repeat(grey, 3, axis=-1) if grey.shape[-1] == 1 else grey


def _show_map(panel: Axes, values: np.ndarray, mask: np.ndarray) -> None:
    """Zero in the middle of the colours, the outline of the region on top."""
    most = float(np.quantile(np.abs(values), 0.99)) or 1.0
    panel.imshow(values, cmap=DIVERGING, vmin=-most, vmax=most, interpolation="nearest")
    panel.contour(mask, levels=[0.5], colors="black", linewidths=0.6)
    panel.set_axis_off()
