"""One look for all figures: sizes, colours that colour-blind readers can tell apart, files equal byte for byte."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.core.files import replacing

COLUMN, PAGE = 3.3, 7.0  # widths in inches of one and of two columns of print
SMALLEST = 7  # points at that width; indices and exponents within are smaller
# Okabe & Ito (2008), without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # the same order: what has a colour has a shape too
SEQUENTIAL, DIVERGING, HEAT = "viridis", "RdBu_r", "inferno"
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}

mpl.rcParams.update(
    {
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 8,
        "figure.dpi": 100,
        "font.size": 8,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "pdf.fonttype": 42,
        "savefig.dpi": 300,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
    }
)


def grid(rows: int, columns: int, *, width: float = COLUMN, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure ``width`` × ``height`` inches without pyplot's global state, and its axes (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, directory: Path, name: str) -> None:
    """``directory/name.png`` and ``.pdf``; the same data give the same bytes.

    Raises:
        ValueError: the figure is wider than a page, or some text is too small to read in print.
    """
    small = {text.get_text() for text in figure.findobj(Text) if _is_shown(text) and text.get_fontsize() < SMALLEST}
    if small or figure.get_figwidth() > PAGE:
        raise ValueError(f"figure {name}: must be {PAGE} in wide at most and its text {SMALLEST} pt at least: {small}")
    for kind, metadata in METADATA.items():
        with replacing(directory / f"{name}.{kind}") as handle:
            figure.savefig(handle, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once: the second file has the same layout, in half the time


def _is_shown(text: Text) -> bool:
    return text.get_visible() and bool(text.get_text().strip())


def with_intervals(
    panel: Axes,
    x: np.ndarray,
    estimate: Iterable[np.ndarray],
    nth: int,
    n_lines: int,
    *,
    label: str,
    spread: float = 1.12,
    line: str = "-",
    **options: Any,
) -> None:
    """A line through ``estimate`` = (value, low, high) with its intervals as bars, for a logarithmic x-axis.

    The ``nth`` of ``n_lines`` lines of a panel has its own colour and shape, and stands beside the others: neighbours
    are a factor of ``spread`` apart.
    """
    value, low, high = (np.asarray(v, float) for v in estimate)
    place = np.asarray(x, float) * spread ** (nth - (n_lines - 1) / 2)
    style = {"color": COLOURS[nth], "marker": MARKERS[nth], "ms": 3, "lw": 1} | options
    panel.plot(place, value, linestyle=line, label=label, **style)
    panel.vlines(place, low, high, color=style["color"], lw=0.9)


def show_image(panel: Axes, image: np.ndarray) -> None:
    """``(h, w, 3)`` without axes, pixel for pixel."""
    panel.imshow(image, interpolation="nearest")
    panel.set_axis_off()


def mosaic(images: np.ndarray, frames: Sequence[str], columns: int) -> np.ndarray:
    """Images ``(n, h, w, 1 or 3)`` in [−1, 1], row by row, each in a frame of its colour: ``(H, W, 3)`` in [0, 1]."""
    n, h, w, _ = images.shape
    width = max(1, h // 12)
    rows = -(-n // columns)
    sheet = np.ones((rows * (h + 3 * width), columns * (w + 3 * width), 3))
    for i, (image, frame) in enumerate(zip(images, frames, strict=True)):
        top, left = (i // columns) * (h + 3 * width), (i % columns) * (w + 3 * width)
        sheet[top : top + h + 2 * width, left : left + w + 2 * width] = to_rgb(frame)
        inside = slice(top + width, top + width + h), slice(left + width, left + width + w)
        sheet[inside] = np.clip((image + 1) / 2, 0, 1)
    return sheet
