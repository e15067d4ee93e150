"""Figures of the image experiment, from its arrays alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from experiments.figures.calibrated import draw_difficulty, draw_ways
from experiments.figures.style import (
    COLOURS,
    COLUMN,
    MARKERS,
    SEQUENTIAL,
    grid,
    mosaic,
    save,
    show_image,
    with_intervals,
)

Arrays = Mapping[str, np.ndarray]
PLANTED, SINGLE, HELDOUT = COLOURS[1], COLOURS[4], COLOURS[6]
# Of more images than this the contact sheet shows the highest half of them, and a regular choice of the rest.
ON_SHEET = 240
PAIRS_PER_ROW, PAIR_ROWS = 4, 7
# What a page of figures says below each.
CAPTIONS = {
    "contact_sheet": "Training and held-out images in the order of κ_1, most memorized first.",
    "samples": "Generated images, at equal steps of their order by κ_1, each beside the training image nearest to it.",
    "histograms": "κ_1 of training images by number of copies, and of generated images.",
    "levels": "AUC against the noise level, for every order p.",
    "dose_response": "Detection and reproduction against the number of copies.",
    "learning": "Detection and reproduction along the training.",
    "calibrated": "AUC against the number of copies: at one noise level, and with difficulty, the control, or both "
    "taken out.",
    "difficulty": "κ_1 against how hard an image is, before and after difficulty was taken out.",
}


def draw(directory: Path) -> None:
    """Every figure whose arrays the run in ``directory`` left."""
    arrays, figures = directory / "arrays", directory / "figures"
    found = {path.stem: dict(np.load(path)) for path in sorted(arrays.glob("*.npz"))}
    if "train_images" in found:
        draw_contact_sheet(found["train_images"], figures)
    if {"train_images", "samples"} <= found.keys():
        draw_samples(found["train_images"], found["samples"], figures)
        draw_histograms(found["train_images"], found["samples"], figures)
        draw_levels(found["train_images"], found["samples"], figures)
    if {"dose", "train_images"} <= found.keys():
        draw_dose(found["dose"], found["train_images"], figures)
    if {"calibrated", "train_images"} <= found.keys():
        draw_ways(found["calibrated"], figures)
        draw_difficulty(found["calibrated"], found["train_images"], figures)
    if "learning" in found:
        draw_learning(found["learning"], figures)


def draw_contact_sheet(a: Arrays, figures: Path) -> None:
    """Training images from highest to lowest κ_1, row by row; a frame tells how often an image was planted."""
    seen = np.flatnonzero(a["copies"] > 0)
    order = seen[np.argsort(-a["kappa_1"][seen], kind="stable")]
    if len(order) > ON_SHEET:
        rest = np.linspace(ON_SHEET // 2, len(order) - 1, ON_SHEET // 2).astype(int)
        order = order[np.concatenate([np.arange(ON_SHEET // 2), rest])]
    frames = [_frame(int(copies), int(a["headline"])) for copies in a["copies"][order]]
    sheet = mosaic(a["images"][order], frames, columns=16)
    figure, axes = grid(1, 1, height=COLUMN * sheet.shape[0] / sheet.shape[1] + 0.6)
    panel = axes[0, 0]
    show_image(panel, sheet)
    shown = f"the highest {ON_SHEET // 2}, then every few" if len(seen) > ON_SHEET else "all"
    panel.set_title(f"training images by κ$_1$, high to low\n({shown}; {len(order)} of {len(seen)})")
    labels = {f"{a['headline']} copies": PLANTED, "fewer copies": COLOURS[5], "single": "#CCCCCC"}
    handles = [panel.plot([], [], "s", color=colour, label=label)[0] for label, colour in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    save(figure, figures, "contact_sheet")


def _frame(copies: int, headline: int) -> str:
    if copies >= 2:
        return PLANTED if copies == headline else COLOURS[5]
    return "#CCCCCC"


def draw_samples(train: Arrays, a: Arrays, figures: Path) -> None:
    """Generated images beside their nearest training image (right), at equal steps of the ranking by κ_1."""
    order = np.argsort(-a["kappa_1"], kind="stable")
    n = min(PAIRS_PER_ROW * PAIR_ROWS, len(order))
    chosen = order[np.linspace(0, len(order) - 1, n).astype(int)]
    figure, axes = grid(PAIR_ROWS, PAIRS_PER_ROW, height=1.5 * COLUMN)
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, i in zip(axes.flat, chosen, strict=False):
        is_copy = a["ratio"][i] < a["max_ratio"]
        frames = [PLANTED if is_copy else "#CCCCCC"] * 2
        show_image(panel, mosaic(np.stack([a["images"][i], train["images"][a["nearest"][i]]]), frames, columns=2))
        label = f"copy of ×{a['nearest_copies'][i]}" if is_copy else "new"
        panel.set_title(f"{a['kappa_1'][i]:.3f}, {a['ratio'][i]:.2f}\n{label}", fontsize=7, pad=2)
    figure.suptitle("generated image and nearest training image:\nκ$_1$ from high to low, d$_1$/d$_2$", fontsize=8)
    save(figure, figures, "samples")


def draw_histograms(train: Arrays, samples: Arrays, figures: Path) -> None:
    """κ_1 of memorized and other images, test halves; dashed: means."""
    test = ~train["validation"]
    copies, headline = train["copies"], train["headline"]
    generated = ~samples["validation"]
    is_copy = samples["ratio"] < samples["max_ratio"]
    sets = [
        (
            "training images",
            train["kappa_1"],
            {
                f"{headline} copies": (test & (copies == headline), PLANTED),
                "fewer copies": (test & (copies >= 2) & (copies != headline), COLOURS[5]),
                "single": (test & (copies == 1), SINGLE),
                "held out": (test & (copies == 0), HELDOUT),
            },
        ),
        (
            "generated images",
            samples["kappa_1"],
            {"copies": (generated & is_copy, PLANTED), "others": (generated & ~is_copy, HELDOUT)},
        ),
    ]
    figure, axes = grid(2, 1, height=4.2)
    for panel, (title, kappa, classes) in zip(axes[:, 0], sets, strict=True):
        _shares(panel, kappa, classes)
        panel.set_title(f"{title}, test half")
        panel.set_ylabel("% of the class (√ scale)")
    axes[1, 0].set_xlabel("κ$_1$ at the chosen noise level")
    save(figure, figures, "histograms")


def _shares(panel: Axes, kappa: np.ndarray, classes: Mapping[str, tuple[np.ndarray, str]]) -> None:
    """Share of each class by bin; on a square-root scale, as memorized images fill few bins and others many."""
    everyone = np.logical_or.reduce([chosen for chosen, _ in classes.values()])
    if not everyone.any():
        return
    bins: Any = np.linspace(kappa[everyone].min(), kappa[everyone].max() + 1e-9, 40)
    for label, (chosen, colour) in classes.items():
        if chosen.any():
            options = {"weights": np.full(chosen.sum(), 100 / chosen.sum()), "color": colour}
            panel.hist(kappa[chosen], bins, histtype="stepfilled", alpha=0.3, **options)
            panel.hist(kappa[chosen], bins, histtype="step", label=f"{label} ({chosen.sum()})", **options)
            panel.axvline(kappa[chosen].mean(), color=colour, ls="--", lw=0.8)
    panel.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    panel.set_yticks([0, 1, 5, 10, 25, 50, 100])
    top = max(patch.get_path().vertices[:, 1].max() for patch in panel.patches)
    panel.set_ylim(0, min(1.1 * top, 102))
    panel.legend(loc="upper left", handlelength=1.2, frameon=True, edgecolor="none")


def draw_levels(train: Arrays, samples: Arrays, figures: Path) -> None:
    """AUC and TPR at 1 % FPR over the noise level, a line per p, with 95 % intervals; test halves.

    Generated images only where there are copies among them.
    """
    sets = {f"{train['headline']} copies\nagainst held out": train}
    if np.isfinite(samples["auc"]).any():
        sets["copies among\ngenerated images"] = samples
    figure, axes = grid(2, len(sets), height=4, sharex=True)
    for column, (title, a) in enumerate(sets.items()):
        for row, (name, label) in enumerate({"auc": "AUC", "tpr_at_1pct_fpr": "TPR at 1 % FPR"}.items()):
            panel = axes[row, column]
            for order, p in enumerate(a["p"]):
                named = {"label": f"p = {p:g}", "spread": 1.06}
                with_intervals(panel, a["sigma"], a[name][order].T, order, len(a["p"]), ms=2.5, **named)
            panel.set_ylabel(label if column == 0 else "")
            panel.set_xscale("log")
            panel.set_xticks(a["sigma"], [f"{sigma:.2g}" for sigma in a["sigma"]], rotation=90)
            panel.minorticks_off()
            panel.set_ylim(top=1.02)
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel("noise level σ")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, columnspacing=1)
    save(figure, figures, "levels")


def draw_dose(a: Arrays, train: Arrays, figures: Path) -> None:
    """Copies in training against detection and reproduction; and each image's κ_1 against how often it came out.

    The second only where one came out at all.
    """
    came_out = bool(a["times_reproduced"].any())
    figure, axes = grid(1 + came_out, 1, height=5 if came_out else 3)
    upper = axes[0, 0]
    lines = {"detected": "detected at 1 % FPR", "reproduced": "reproduced by a sample", "auc": "AUC against held out"}
    for nth, (name, label) in enumerate(lines.items()):
        estimate = (a[name], a[f"{name}_low"], a[f"{name}_high"])
        with_intervals(upper, a["copies"], estimate, nth, len(lines), label=label)
    upper.set_xscale("log", base=2)
    apart = np.append(a["copies"][1:] / a["copies"][:-1] > 1.4, True)  # of two neighbours, the higher has its label
    upper.set_xticks(
        a["copies"], [f"{copies:g}" * bool(shown) for copies, shown in zip(a["copies"], apart, strict=True)]
    )
    upper.set_xlabel("copies in the training set")
    upper.set_ylim(-0.02, 1.04)
    per_copy = a["visits"][0] / a["copies"][0]
    top = upper.secondary_xaxis("top", functions=(lambda c: c * per_copy, lambda v: v / per_copy))
    top.set_xlabel("visits by training")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    if came_out:
        _draw_times(axes[1, 0], a["times_reproduced"], train)
    save(figure, figures, "dose_response")


def _draw_times(panel: Axes, times: np.ndarray, train: Arrays) -> None:
    seen = train["copies"] > 0
    copies, kappa = train["copies"][seen], train["kappa_1"][seen]
    drawn = panel.scatter(kappa, times, c=np.log2(copies), s=6, cmap="viridis", lw=0)
    panel.set_xlabel("κ$_1$ of the training image")
    panel.set_ylabel("samples that copy it")
    bar = panel.figure.colorbar(drawn, ax=panel, label="copies")
    doses = np.unique(copies)
    bar.set_ticks(np.log2(doses), labels=[str(dose) for dose in doses])


def draw_learning(a: Arrays, figures: Path) -> None:
    """Along the training steps: mean κ_1 by number of copies; AUC, share of copies and of reproduced images.

    The bands are 95 % intervals of the means over the images, by the normal approximation.
    """
    figure, axes = grid(2, 1, height=4.8, sharex=True)
    upper, lower = axes[:, 0]
    doses = np.unique(a["copies"])
    shades = colormaps[SEQUENTIAL](np.linspace(0.9, 0.1, len(doses)))
    for dose, shade in zip(doses, shades, strict=True):
        colour = HELDOUT if dose == 0 else shade
        label = {0: "held out", 1: "single"}.get(int(dose), f"{dose} copies")
        kappa = a["kappa_1"][:, a["copies"] == dose]
        mean, error = kappa.mean(axis=1), kappa.std(axis=1) / np.sqrt(max(kappa.shape[1] - 1, 1))
        upper.plot(a["step"], mean, "o--" if dose == 0 else "o-", ms=2.5, color=colour, label=label)
        upper.fill_between(a["step"], mean - 1.96 * error, mean + 1.96 * error, color=colour, alpha=0.2, lw=0)
    upper.set_ylabel(f"mean κ$_1$, σ = {a['sigma']:g}")
    with_intervals(lower, a["step"], a["auc"].T, 0, 1, label=f"AUC, {a['headline']} copies against held out")
    shares = {"reproduced": "of these images reproduced", "copy_fraction": "of the samples copies"}
    for nth, (name, label) in enumerate(shares.items(), start=1):
        lower.plot(a["step"], a[name], marker=MARKERS[nth], ms=3, lw=1, color=COLOURS[nth], label=label)
    lower.set_ylim(-0.02, 1.04)
    lower.set_xscale("log")
    lower.set_xlabel("training step")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.legend(*lower.get_legend_handles_labels(), loc="outside lower center")
    save(figure, figures, "learning")
