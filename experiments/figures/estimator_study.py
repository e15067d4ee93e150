"""The figures of the estimator study, from the run's arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.columns import Columns, distinct, read, where
from experiments.figures.estimator_errors import LOOK, draw_bounds, draw_convergence, draw_coverage, draw_orders
from experiments.figures.style import COLOURS, MARKERS, grid, save

# What a page of figures says below each.
CAPTIONS = {
    "convergence": "Relative error at one point off the modes against evaluations, p = 1: flux, volume, operator.",
    "orders": "Relative error of the flux at the same point for every order p.",
    "bounds": "The error that 5 % of estimates exceed, and its bound (dashed), one point of each kind, p = 1.",
    "coverage": "Coverage of nominal 95 % intervals against independent units, one point of each kind, p = 1.",
    "gains": "How many times fewer evaluations than plain directions at equal error, 16 directions, by kind of point.",
    "radius": "Ball average for Δ_p u at the point: bias, spread (lines), total error (points) against the radius.",
    "score_error": "The error of κ_p that a learned score brings along its training, and its bound.",
    "breakdown": "The volume estimator about a mode, where its variance is finite and where it is infinite.",
    "cost": "Time and memory of the exact operator against dimension.",
}


def draw(directory: Path) -> None:
    """Nine figures, each from the arrays of its part."""
    figures, arrays = directory / "figures", directory / "arrays"
    convergence = read(arrays / "convergence.npz")
    draw_convergence(convergence, figures)
    draw_orders(convergence, figures)
    draw_bounds(convergence, figures)
    draw_coverage(convergence, figures)
    for name, part in {
        "gains": draw_gains,
        "radius": draw_radius,
        "score_error": draw_score_error,
        "breakdown": draw_breakdown,
        "cost": draw_cost,
    }.items():
        part(read(arrays / f"{name}.npz"), figures)


def draw_gains(a: Columns, figures: Path) -> None:
    """Evaluations saved over plain directions at equal error, p = 1, with the fewest directions.

    Where plain directions have no error there is nothing to save: such groups are left out.
    """
    of = where(a, n=int(a["n"].min()))
    of = {name: column[of["points"] > 0] for name, column in of.items()}
    groups = distinct(np.char.add(np.char.add(of["score"], ": "), of["kind"]))
    methods = [method for method in distinct(of["method"]) if method != "iid"]
    figure, axes = grid(1, 1, height=0.35 * len(groups) + 1.3)
    panel = axes[0, 0]
    for i, method in enumerate(methods):
        line = where(of, method=method)
        label, colour, marker = LOOK[method]
        y = np.arange(len(groups)) + (i - (len(methods) - 1) / 2) * 0.11
        panel.hlines(y, line["gain_low"], line["gain_high"], color=colour, lw=0.9)
        panel.plot(line["gain"], y, marker, ms=3, color=colour, label=label)
    panel.axvline(1, color="grey", lw=0.8)
    panel.set_yticks(range(len(groups)), [group.replace(", d =", " d =").replace(": ", "\n") for group in groups])
    panel.invert_yaxis()
    panel.set(xscale="log", xlabel="evaluations of iid / evaluations at equal error")
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, figures, "gains")


def draw_radius(a: Columns, figures: Path) -> None:
    """Bias and spread of the ball average as an estimate of Δ_p u at the point, against the radius."""
    orders = distinct(a["p"])
    figure, axes = grid(2, 2, height=3.6, sharex=True)
    for panel, p in zip(axes.ravel(), orders, strict=False):
        of = where(a, p=p)
        scale = np.abs(of["exact"])
        panel.plot(of["radius"], of["spread"] / scale, color=COLOURS[0], label="spread", lw=0.9)
        panel.plot(of["radius"], of["rmse"] / scale, color=COLOURS[0], marker=MARKERS[0], ms=3, lw=0)
        bias = of["bias"] / scale
        panel.plot(of["radius"], bias, color=COLOURS[2], marker="^", ms=3, label="bias")
        panel.plot(of["radius"], of["radius"] ** 2, ":", color="grey", label="r²")
        panel.set(xscale="log", yscale="log", ylim=(1e-5, 1e2))
        panel.set_title(f"p = {p:g}")
    for panel in axes[:, 0]:
        panel.set_ylabel("relative error")
    for panel in axes[-1]:
        panel.set_xlabel("radius")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    save(figure, figures, "radius")


def draw_score_error(a: Columns, figures: Path) -> None:
    """Error of κ_p that the learned score brings, and its bound, along the training."""
    orders, kinds = distinct(a["p"]), distinct(a["kind"])
    figure, axes = grid(2, 2, height=3.6, sharex=True)
    for panel, p in zip(axes.ravel(), orders, strict=False):
        for i, kind in enumerate(kinds):
            line = where(a, p=p, kind=kind)
            panel.plot(line["step"], line["error"], marker=MARKERS[i], ms=3, color=COLOURS[i], label=kind)
            panel.plot(line["step"], line["bound"], "--", color=COLOURS[i], lw=0.9)
        panel.set(xscale="log", yscale="log")
        panel.set_title(f"p = {p:g}")
    for panel in axes[:, 0]:
        panel.set_ylabel("|error of κ$_p$|")
    for panel in axes[-1]:
        panel.set_xlabel("training step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, title="bound dashed")
    save(figure, figures, "score_error")


def draw_breakdown(a: Columns, figures: Path) -> None:
    """The volume estimator about the mode of N(0, I): error and coverage against ball points."""
    cases = list(dict.fromkeys(zip(a["d"].tolist(), a["p"].tolist(), strict=True)))
    figure, axes = grid(1, 2, height=2.2)
    for i, (d, p) in enumerate(cases):
        line = where(a, d=d, p=p)
        infinite = line["variance"][0] == "infinite"
        look = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 3, "ls": "--" if infinite else "-"}
        axes[0, 0].plot(
            line["n"], line["rmse"], label=f"d = {d}, p = {p:g}" + (" (infinite)" if infinite else ""), **look
        )
        axes[0, 1].plot(line["n"], line["coverage"], **look)
        axes[0, 1].vlines(line["n"], line["coverage_low"], line["coverage_high"], color=COLOURS[i], lw=0.9)
    x = np.array([a["n"].min(), a["n"].max()], float)
    axes[0, 0].plot(x, a["rmse"].max() * (x / x[0]) ** -0.5, ":", color="grey", label="slope −½")
    axes[0, 0].set(xscale="log", yscale="log", xlabel="ball points", ylabel="error of κ$_p$")
    axes[0, 1].axhline(0.95, color="grey", lw=0.8)
    axes[0, 1].set(xscale="log", xlabel="ball points", ylabel="coverage", ylim=(0.3, 1.02))
    figure.legend(loc="outside upper center", ncols=2, title="variance finite unless said")
    save(figure, figures, "breakdown")


def draw_cost(a: Columns, figures: Path) -> None:
    """Time and memory of the exact operator against dimension, beside jacfwd and as many evaluations."""
    figure, axes = grid(1, 2, height=2.4)
    dims, lines = distinct(a["d"]), dict[str, Columns]()
    for method in distinct(a["method"]):
        of = where(a, method=method)
        whole = of["chunk"] == of["d"]
        lines[f"{method}"] = {name: column[whole] for name, column in of.items()}
        if method == "p_laplacian":
            lines["p_laplacian, 64 at once"] = where(of, chunk=64)
    for i, (label, line) in enumerate(lines.items()):
        _cost_line(axes[0], line, label, i)
    for panel in axes[0]:
        panel.set_xticks(dims, [str(dim) for dim in dims])
        panel.minorticks_off()
    axes[0, 0].set_ylabel("time (ms)")
    axes[0, 1].set_ylabel("memory (MiB)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save(figure, figures, "cost")


def _cost_line(panels: Sequence[Axes], line: Columns, label: str, nth: int) -> None:
    for panel, values in zip(panels, (line["ms"], line["temp_bytes"] / 2**20), strict=True):
        panel.plot(
            line["d"], values, marker=MARKERS[nth % len(MARKERS)], ms=3, color=COLOURS[nth % len(COLOURS)], label=label
        )
        panel.set(xscale="log", yscale="log", xlabel="d")
