"""The study's figures of error against evaluations: convergence, orders, bounds, coverage."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.columns import Columns, distinct, where
from experiments.figures.style import COLOURS, MARKERS, PAGE, grid, save, with_intervals

# Method → colour and shape, in the order of the legend.
LOOK = {
    "iid": ("iid", COLOURS[6], "o"),
    "antithetic": ("antithetic", COLOURS[1], "^"),
    "orthogonal": ("orthogonal", COLOURS[2], "D"),
    "quasi": ("quasi", COLOURS[4], "P"),
    "exact divergence": ("exact divergence", COLOURS[0], "o"),
    "finite differences": ("finite differences", COLOURS[1], "^"),
    "hutchinson": ("Hutchinson", COLOURS[0], "o"),
}
FAMILIES = {"boundary": "κ$_1$, flux", "volume": "κ$_1$, volume", "pointwise": "Δ$_1 u$ at the point"}
OFF_MODES = ("away", "held out")


def draw_convergence(a: Columns, figures: Path) -> None:
    """Relative error at points off the modes, p = 1, against evaluations: rows are families, columns are scores."""
    scores = distinct(a["score"])
    figure, axes = grid(len(FAMILIES), len(scores), width=PAGE, height=5.2, sharex=True, sharey="row")
    for column, score in enumerate(scores):
        axes[0, column].set_title(score.replace(", ", "\n"), fontsize=7)
        for row, family in enumerate(FAMILIES):
            panel, of = axes[row, column], where(a, score=score, family=family, p=1.0, kind=OFF_MODES)
            methods = distinct(of["method"])
            for i, method in enumerate(methods):
                _relative(panel, where(of, method=method), i, len(methods), method)
            _guide(panel, of)
    for row, label in enumerate(FAMILIES.values()):
        axes[row, 0].set_ylabel(f"relative error\n{label}")
        handles = {label: h for p in axes[row] for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
        axes[row, -1].legend(handles.values(), handles, loc="center left", bbox_to_anchor=(1, 0.5))
    for panel in axes[-1]:
        panel.set_xlabel("evaluations")
    save(figure, figures, "convergence")


def _relative(panel: Axes, line: Columns, nth: int, n_lines: int, method: str) -> None:
    label, colour, marker = LOOK[method]
    order = np.argsort(line["evaluations"])
    errors = [line[name][order] / np.abs(line["truth"][order]) for name in ("rmse", "rmse_low", "rmse_high")]
    kept = errors[0] > 0
    with_intervals(
        panel,
        line["evaluations"][order][kept],
        [e[kept] for e in errors],
        nth,
        n_lines,
        label=label,
        spread=1.0,
        color=colour,
        marker=marker,
    )
    panel.set_xscale("log")
    panel.set_yscale("log")


def _guide(panel: Axes, of: Columns) -> None:
    """The slope −½ of Monte Carlo, through the first plain estimate."""
    if not len(of["rmse"]):
        panel.text(0.5, 0.5, "too dear\nor not applicable", transform=panel.transAxes, ha="center", fontsize=7)
        return
    first = np.argmin(of["evaluations"])
    x = np.array([of["evaluations"].min(), of["evaluations"].max()], float)
    start = of["rmse"][first] / abs(of["truth"][first])
    panel.plot(x, start * (x / x[0]) ** -0.5, ":", color="grey", lw=0.8)


def draw_orders(a: Columns, figures: Path) -> None:
    """κ_p for every order: relative error of independent directions; columns are scores."""
    scores, orders = distinct(a["score"]), distinct(a["p"])
    figure, axes = grid(1, len(scores), width=PAGE, height=2.2, sharex=True, sharey=True)
    for panel, score in zip(axes[0], scores, strict=True):
        for i, p in enumerate(orders):
            of = where(a, score=score, family="boundary", method="iid", p=p, kind=OFF_MODES)
            errors = [of[name] / np.abs(of["truth"]) for name in ("rmse", "rmse_low", "rmse_high")]
            look = {"color": COLOURS[i], "marker": MARKERS[i], "spread": 1.0}
            with_intervals(panel, of["evaluations"], errors, i, len(orders), label=f"p = {p:g}", **look)
        panel.set(xscale="log", yscale="log", xlabel="evaluations")
        panel.set_title(score.replace(", ", "\n"), fontsize=7)
    axes[0, 0].set_ylabel("relative error of κ$_p$")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, figures, "orders")


def draw_bounds(a: Columns, figures: Path) -> None:
    """What the error exceeds in 5 % of cases, and the bound that promises it, plain directions, p = 1."""
    of = where(a, family="boundary", method="iid", p=1.0)
    scores, kinds, handles = distinct(of["score"]), distinct(of["kind"]), {}
    figure, axes = grid(1, len(scores), width=PAGE, height=2.2, sharex=True, sharey=True)
    for panel, score in zip(axes[0], scores, strict=True):
        for i, kind in enumerate(kinds):
            line = where(of, score=score, kind=kind)
            (handles[kind],) = panel.plot(
                line["evaluations"], line["quantile"], marker=MARKERS[i], ms=3, color=COLOURS[i]
            )
            panel.plot(line["evaluations"], line["bound"], "--", color=COLOURS[i], lw=0.9)
        panel.set(xscale="log", yscale="log", xlabel="evaluations", ylim=(1e-4, 3))
        panel.set_title(score.replace(", ", "\n"), fontsize=7)
    axes[0, 0].set_ylabel("95 % quantile of\n|error| (bound dashed)")
    figure.legend(handles.values(), handles, loc="outside right center")
    save(figure, figures, "bounds")


def draw_coverage(a: Columns, figures: Path) -> None:
    """Coverage of nominal 95 % against the number of units, p = 1; columns are kinds of points."""
    of = where(a, family="boundary", p=1.0)
    kinds = [kind for kind in ("midpoint", "away", "planted", "held out") if kind in of["kind"]]
    figure, axes = grid(1, len(kinds), width=PAGE, height=2.3, sharey=True)
    for panel, kind in zip(axes[0], kinds, strict=True):
        mine = where(of, kind=kind)
        methods = distinct(mine["method"])
        for i, method in enumerate(methods):
            line = where(mine, method=method)
            label, colour, marker = LOOK[method]
            units = line["n_units"] * 1.1 ** (i - (len(methods) - 1) / 2)  # side by side
            panel.vlines(units, line["coverage_low"], line["coverage_high"], color=colour, lw=0.5)
            panel.plot(units, line["coverage"], marker, ms=2.5, color=colour, label=label)
        panel.axhline(0.95, color="grey", lw=0.8)
        panel.set(xscale="log", xlabel="independent units", ylim=(0.6, 1.01))
        panel.set_title(kind)
    axes[0, 0].set_ylabel("coverage")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, figures, "coverage")
