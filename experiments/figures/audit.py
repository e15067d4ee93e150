"""Figures of an audit, from its arrays alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.figures.style import COLOURS, COLUMN, HEAT, PAGE, grid, mosaic, save, show_image

Arrays = Mapping[str, np.ndarray]
FLAGGED, PLAIN, REFERENCE = COLOURS[1], "#CCCCCC", COLOURS[6]
COLUMNS, PAIRS = 5, 3  # pictures, or pairs of them, in a row of the contact sheet
SHOWN = 10  # flagged images with their maps, and as many others
QUANTILE = 0.99  # of the maps' values, at the top of the colours
# What a page of figures says below each.
CAPTIONS = {
    "flagged": "Flagged images with the highest scores; which pixels their κ_1 comes from (bright; without a baseline "
    "mostly flat ground); and the highest scores that are not flagged.",
    "contact_sheet": "The highest scores, each with its nearest training image to the right where that is known; "
    "frames: flagged.",
    "histogram": "Audited images and the reference; from the line on images are flagged.",
    "difficulty": "κ_1 against what images as hard have.",
    "threshold": "How many flagged images are false at most, at every threshold at once, with 95 % confidence.",
}


def draw(directory: Path) -> None:
    """Contact sheet, histogram, and how difficulty was taken out."""
    if not (directory / "arrays" / "audit.npz").exists():
        return  # of one shard, which is not judged
    arrays, figures = dict(np.load(directory / "arrays" / "audit.npz")), directory / "figures"
    if arrays["sheet"].shape[-1] in (1, 3):
        draw_contact_sheet(arrays, figures)
        if "curvature_map" in arrays:
            draw_flagged(arrays, figures)
    draw_histogram(arrays, figures)
    if "expected" in arrays:
        draw_difficulty(arrays, figures)
    if "envelope" in arrays and len(arrays["envelope"]):
        draw_envelope(arrays, figures)


def draw_contact_sheet(a: Arrays, figures: Path) -> None:
    """The highest scores, row by row, each with its nearest training image to the right where that is known."""
    index, pairs = a["sheet_index"], "sheet_nearest" in a
    columns = min(PAIRS if pairs else COLUMNS, len(index))
    rows = -(-len(index) // columns)
    figure, axes = grid(rows, columns, height=COLUMN * rows / columns / (1.85 if pairs else 0.88) + 0.5)
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, k in zip(axes.flat, range(len(index)), strict=False):
        i = index[k]
        shown = [a["sheet"][k], a["sheet_nearest"][k]] if pairs else [a["sheet"][k]]
        frames = [FLAGGED if a["flagged"][i] else PLAIN, PLAIN][: len(shown)]
        show_image(panel, mosaic(np.stack(shown), frames, columns=len(shown)))
        panel.set_title(f"{a['score'][i]:.3f}±{a['stderr'][i]:.3f}", fontsize=7, pad=2)
    beside = "; right: the nearest training image" if pairs else ""
    said = f"{a['score_name']}, high to low: {len(index)} of {len(a['score'])}\nframes: flagged{beside}"
    figure.suptitle(said, fontsize=8)
    save(figure, figures, "contact_sheet")


def draw_flagged(a: Arrays, figures: Path) -> None:
    """The highest flagged images, their curvature maps on one scale, and the highest that are not flagged."""
    place = {int(i): k for k, i in enumerate(a["curvature_map_index"])}
    sheet = a["sheet_index"].tolist()
    flagged = [k for k, i in enumerate(sheet) if i in place][:SHOWN]
    others = [k for k, i in enumerate(sheet) if not a["flagged"][i]][:SHOWN]
    maps = [a["curvature_map"][place[sheet[k]]] for k in flagged]
    top = max([1e-6, *(float(np.quantile(one, QUANTILE)) for one in maps)])
    figure, axes = grid(3, SHOWN, width=PAGE, height=2.7)
    for panel in axes.flat:
        panel.set_axis_off()
    for row, chosen in ((0, flagged), (2, others)):
        for panel, k in zip(axes[row], chosen, strict=False):
            frame = FLAGGED if row == 0 else PLAIN
            show_image(panel, mosaic(a["sheet"][k : k + 1], [frame], columns=1))
            panel.set_title(f"{a['score'][sheet[k]]:.2f}", fontsize=7, pad=2)
    for panel, one in zip(axes[1], maps, strict=False):
        panel.imshow(one, cmap=HEAT, vmin=0, vmax=top, interpolation="nearest")
    for panel, said in zip(axes[:, 0], ("flagged", "where", "not flagged"), strict=True):
        how = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 8}
        panel.text(-0.1, 0.5, said, transform=panel.transAxes, **how)
    n, many = int(a["flagged"].sum()), len(a["score"])
    figure.suptitle(f"{n} of {many} images flagged; above each its {a['score_name']}", fontsize=8)
    save(figure, figures, "flagged")


def draw_histogram(a: Arrays, figures: Path) -> None:
    """Audited images against the reference; the line: from here on flagged."""
    figure, axes = grid(1, 1, width=COLUMN, height=2.4)
    panel, everyone = axes[0, 0], np.concatenate([a["score"], a["reference"]])
    bins = np.linspace(everyone.min(), everyone.max() + 1e-9, 40)
    sets = {"audited": (a["score"], COLOURS[0]), "reference": (a["reference"], REFERENCE)}
    for label, (values, colour) in sets.items():
        if len(values):
            how = {"density": True, "histtype": "stepfilled", "alpha": 0.4, "color": colour}
            panel.hist(values, bins, label=f"{label} ({len(values)})", **how)
    if np.isfinite(a["threshold"]):
        panel.axvline(a["threshold"], color=FLAGGED, linestyle="--", label=f"flagged ({a['flagged'].sum()})")
    panel.set_xlabel(str(a["score_name"]))
    panel.set_ylabel("density")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=3, columnspacing=1)
    save(figure, figures, "histogram")


def draw_difficulty(a: Arrays, figures: Path) -> None:
    """κ_1 against what images as hard as each have; flagged ones stand above the line."""
    figure, axes = grid(1, 1, width=COLUMN, height=2.6)
    panel, flagged = axes[0, 0], a["flagged"].astype(bool)
    for label, rows, colour in (("not flagged", ~flagged, COLOURS[0]), ("flagged", flagged, FLAGGED)):
        if rows.any():
            panel.plot(a["expected"][rows], a["measured"][rows], ".", color=colour, label=f"{label} ({rows.sum()})")
    ends = [a["expected"].min(), a["expected"].max()]
    panel.plot(ends, ends, color="#888888", linewidth=0.8)
    panel.set_xlabel("expected: κ$_1$ of images as hard")
    panel.set_ylabel("measured κ$_1$, mean over levels")
    panel.legend()
    save(figure, figures, "difficulty")


def draw_envelope(a: Arrays, figures: Path) -> None:
    """How many flagged images are false at most, at every threshold at once."""
    figure, axes = grid(1, 1, width=COLUMN, height=2.4)
    panel = axes[0, 0]
    _, flagged, false, _ = a["envelope"].T
    panel.plot(flagged, flagged - false, drawstyle="steps-post", label="not false, at least")
    panel.plot(flagged, false, drawstyle="steps-post", color=REFERENCE, label="false, at most")
    panel.set_xlabel("images flagged")
    panel.set_ylabel("images (95 %, all at once)")
    panel.legend()
    save(figure, figures, "threshold")
