"""One look for all figures: sizes, colours that colour-blind readers can tell apart, files equal byte for byte."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.files import replacing

COLUMN, PAGE = 3.4, 7.0  # widths in inches of one and of two columns of print
# Okabe & Ito (2008), without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
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
        "savefig.dpi": 200,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
    }
)


def grid(rows: int, columns: int, *, width: float = PAGE, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure ``width`` × ``height`` inches without pyplot's global state, and its axes (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, directory: Path, name: str) -> None:
    """``directory/name.png`` and ``.pdf``; the same data give the same bytes."""
    for kind, metadata in METADATA.items():
        with replacing(directory / f"{name}.{kind}") as handle:
            figure.savefig(handle, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once: the second file has the same layout, in half the time
