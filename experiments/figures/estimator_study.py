"""The figures of the estimator study, from the run's arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.style import COLOURS, MARKERS, PAGE, grid, save, with_intervals

Columns = Mapping[str, np.ndarray]
# Method → colour and shape, in the order of the legend.
LOOK = {
    "iid": ("iid", COLOURS[6], "o"),
    "iid, control": ("iid, control", COLOURS[0], "s"),
    "antithetic": ("antithetic", COLOURS[1], "^"),
    "orthogonal": ("orthogonal", COLOURS[2], "D"),
    "both": ("antithetic-orthogonal", COLOURS[3], "v"),
    "quasi": ("quasi", COLOURS[4], "P"),
    "quasi, control": ("quasi, control", COLOURS[5], "X"),
    "exact divergence": ("exact divergence", COLOURS[0], "o"),
    "finite differences": ("finite differences", COLOURS[1], "^"),
    "hutchinson": ("Hutchinson", COLOURS[0], "o"),
    "hutch++": ("Hutch++", COLOURS[1], "^"),
    "xtrace": ("XTrace", COLOURS[2], "D"),
}
FAMILIES = {"boundary": "κ$_1$, flux", "volume": "κ$_1$, volume", "pointwise": "Δ$_1 u$ at the point"}
OFF_MODES = ("away", "held out")
# What a page of figures says below each.
CAPTIONS = {
    "convergence": "Relative error at one point off the modes against evaluations, p = 1: flux, volume, operator.",
    "orders": "Relative error of the flux at the same point for every order p, without and with the control variate.",
    "bounds": "The error that 5 % of estimates exceed, and its bound (dashed), one point of each kind, p = 1.",
    "coverage": "Coverage of nominal 95 % intervals against independent units, one point of each kind, p = 1.",
    "gains": "How many times fewer evaluations than plain directions at equal error, 16 directions, by kind of point.",
    "radius": "Ball average for Δ_p u at the point: bias, spread (lines), total error (points) against the radius.",
    "score_error": "The error of κ_p that a learned score brings along its training, and its bound.",
    "breakdown": "The volume estimator about a mode, where its variance is finite and where it is infinite.",
    "cost": "Time and memory of the exact operator against dimension.",
}


def draw(directory: Path) -> None:
    """Eight figures, each from the arrays of its part."""
    figures, arrays = directory / "figures", directory / "arrays"
    convergence = _read(arrays / "convergence.npz")
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
        part(_read(arrays / f"{name}.npz"), figures)


def _read(path: Path) -> Columns:
    with np.load(path) as stored:
        return dict(stored)


def _where(a: Columns, **equal: object) -> Columns:
    """The rows in which these columns have these values (or one of them)."""
    n = len(next(iter(a.values())))
    of = np.full(n, True)
    for name, value in equal.items():
        of &= np.isin(a[name], value if isinstance(value, tuple) else (value,))
    return {name: column[of] for name, column in a.items()}


def _distinct(column: np.ndarray) -> list:
    return list(dict.fromkeys(column.tolist()))


def draw_convergence(a: Columns, figures: Path) -> None:
    """Relative error at points off the modes, p = 1, against evaluations: rows are families, columns are scores."""
    scores = _distinct(a["score"])
    figure, axes = grid(len(FAMILIES), len(scores), width=PAGE, height=5.2, sharex=True, sharey="row")
    for column, score in enumerate(scores):
        axes[0, column].set_title(score.replace(", ", "\n"), fontsize=7)
        for row, family in enumerate(FAMILIES):
            panel, of = axes[row, column], _where(a, score=score, family=family, p=1.0, kind=OFF_MODES)
            methods = _distinct(of["method"])
            for i, method in enumerate(methods):
                _relative(panel, _where(of, method=method), i, len(methods), method)
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
    """κ_p for every order: plain directions and with control, relative error; columns are scores."""
    scores, orders = _distinct(a["score"]), _distinct(a["p"])
    figure, axes = grid(1, len(scores), width=PAGE, height=2.2, sharex=True, sharey=True)
    for panel, score in zip(axes[0], scores, strict=True):
        for i, p in enumerate(orders):
            for method, line in (("iid", "-"), ("iid, control", "--")):
                of = _where(a, score=score, family="boundary", method=method, p=p, kind=OFF_MODES)
                errors = [of[name] / np.abs(of["truth"]) for name in ("rmse", "rmse_low", "rmse_high")]
                label = f"p = {p:g}" + ("" if method == "iid" else ", control")
                look = {"color": COLOURS[i], "marker": MARKERS[i], "spread": 1.0, "line": line}
                with_intervals(panel, of["evaluations"], errors, i, len(orders), label=label, **look)
        panel.set(xscale="log", yscale="log", xlabel="evaluations")
        panel.set_title(score.replace(", ", "\n"), fontsize=7)
    axes[0, 0].set_ylabel("relative error of κ$_p$")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, figures, "orders")


def draw_bounds(a: Columns, figures: Path) -> None:
    """What the error exceeds in 5 % of cases, and the bound that promises it, plain directions, p = 1."""
    of = _where(a, family="boundary", method="iid", p=1.0)
    scores, kinds, handles = _distinct(of["score"]), _distinct(of["kind"]), {}
    figure, axes = grid(1, len(scores), width=PAGE, height=2.2, sharex=True, sharey=True)
    for panel, score in zip(axes[0], scores, strict=True):
        for i, kind in enumerate(kinds):
            line = _where(of, score=score, kind=kind)
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
    of = _where(a, family="boundary", p=1.0)
    kinds = [kind for kind in ("midpoint", "away", "planted", "held out") if kind in of["kind"]]
    figure, axes = grid(1, len(kinds), width=PAGE, height=2.3, sharey=True)
    for panel, kind in zip(axes[0], kinds, strict=True):
        mine = _where(of, kind=kind)
        methods = _distinct(mine["method"])
        for i, method in enumerate(methods):
            line = _where(mine, method=method)
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


def draw_gains(a: Columns, figures: Path) -> None:
    """Evaluations saved over plain directions at equal error, p = 1, with the fewest directions.

    Where plain directions have no error there is nothing to save: such groups are left out.
    """
    of = _where(a, n=int(a["n"].min()))
    of = {name: column[of["points"] > 0] for name, column in of.items()}
    groups = _distinct(np.char.add(np.char.add(of["score"], ": "), of["kind"]))
    methods = [method for method in _distinct(of["method"]) if method != "iid"]
    figure, axes = grid(1, 1, height=0.35 * len(groups) + 1.3)
    panel = axes[0, 0]
    for i, method in enumerate(methods):
        line = _where(of, method=method)
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
    orders = _distinct(a["p"])
    figure, axes = grid(2, 2, height=3.6, sharex=True)
    for panel, p in zip(axes.ravel(), orders, strict=False):
        for i, (method, line) in enumerate((("iid", "-"), ("iid, control", "--"))):
            of = _where(a, p=p, method=method)
            scale = np.abs(of["exact"])
            panel.plot(of["radius"], of["spread"] / scale, line, color=COLOURS[i], label=f"spread, {method}", lw=0.9)
            panel.plot(of["radius"], of["rmse"] / scale, line, color=COLOURS[i], marker=MARKERS[i], ms=3, lw=0)
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
    orders, kinds = _distinct(a["p"]), _distinct(a["kind"])
    figure, axes = grid(2, 2, height=3.6, sharex=True)
    for panel, p in zip(axes.ravel(), orders, strict=False):
        for i, kind in enumerate(kinds):
            line = _where(a, p=p, kind=kind)
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
        line = _where(a, d=d, p=p)
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
    dims, lines = _distinct(a["d"]), dict[str, Columns]()
    for method in _distinct(a["method"]):
        of = _where(a, method=method)
        whole = of["chunk"] == of["d"]
        lines[f"{method}"] = {name: column[whole] for name, column in of.items()}
        if method == "p_laplacian":
            lines["p_laplacian, 64 at once"] = _where(of, chunk=64)
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
