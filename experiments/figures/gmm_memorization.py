"""Figures of the mixture experiment, from its arrays alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.patches import Circle

from experiments.figures.style import COLOURS, COLUMN, DIVERGING, PAGE, SEQUENTIAL, grid, save, with_intervals

Arrays = Mapping[str, np.ndarray]
KINDS = ("mode", "midpoint", "centre")
SCORES = ("analytic", "learned")
ESTIMATORS = ("boundary", "volume")
RANKED = {
    "network": "trained with the copies",
    "control": "trained without them",
    "memorizer": "perfect memorizer",
    "mixture": "true mixture",
}
# What a page of figures says below each.
CAPTIONS = {
    "critical_histograms": "200 repeats of κ_1 from 64 directions (boundary) or ball points (volume) at the means, "
    "midpoints and centre of the mixture, analytic and learned score.",
    "critical_scores": "The two scores over the plane, and the seven points.",
    "maps_kappa_*": "κ_p over the plane: analytic, learned, difference.",
    "maps_*": "Δ_p u over the plane: analytic, learned, difference.",
    "planted": "κ_1 of planted, single and held-out points of mixtures, by the network, its control and the "
    "references.",
}


def draw(directory: Path) -> None:
    """Every figure whose arrays the run in ``directory`` left."""
    arrays, figures = directory / "arrays", directory / "figures"
    if (arrays / "critical.npz").exists():
        critical = dict(np.load(arrays / "critical.npz"))
        draw_histograms(critical, figures)
        draw_scores(critical, figures)
    if (arrays / "maps.npz").exists():
        maps = dict(np.load(arrays / "maps.npz"))
        for level in range(len(maps["t"])):
            draw_maps(maps, "kappa", level, figures)
            draw_maps(maps, "laplacian", level, figures)
    samples = [dict(np.load(path)) for path in sorted(arrays.glob("planted_*.npz"))]
    if samples:
        draw_planted(sorted(samples, key=lambda a: a["dim"]), figures)


def draw_histograms(a: Arrays, figures: Path) -> None:
    """The repeats of every estimate by kind of point, with the values by quadrature as dashed lines."""
    figure, axes = grid(2, 2, height=3.6, sharex="col", sharey=True)
    for j, estimator in enumerate(ESTIMATORS):
        bins = np.linspace(*_visible(a["values"][:, j]), 60)
        for i, score in enumerate(SCORES):
            _estimates_at_points(axes[i, j], a, a["values"][i, j], a["reference"][i], bins)
            axes[i, j].set_title(f"{score} score, {estimator}")
        axes[1, j].set_xlabel(f"κ$_{{{a['p']:g}}}$, radius {a['radius']:g}")
    for panel in axes[:, 0]:
        panel.set_ylabel("repeats")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    save(figure, figures, "critical_histograms")


def _estimates_at_points(panel: Axes, a: Arrays, values: np.ndarray, reference: np.ndarray, bins: np.ndarray) -> None:
    for kind, colour in zip(KINDS, COLOURS, strict=False):
        chosen = a["kinds"] == kind
        panel.hist(values[chosen].ravel(), bins, histtype="stepfilled", color=colour, alpha=0.7, label=kind)
        for value in reference[chosen]:
            panel.axvline(value, color=colour, ls="--", lw=0.8)
    beyond = int(((values < bins[0]) | (values > bins[-1])).sum())
    if beyond:
        panel.text(0.02, 0.98, f"{beyond} of {values.size} beyond", transform=panel.transAxes, va="top", fontsize=7)
    panel.set_yscale("log")


def _visible(values: np.ndarray) -> tuple[float, float]:
    """The range of the values; without the outermost 0.2 % on both sides where these would more than triple it.

    The volume's tails are that heavy where its variance is infinite.
    """
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([-1.0, 1.0])
    low, high = np.quantile(values, [0.002, 0.998])
    whole = float(values.min()), float(values.max())
    return whole if whole[1] - whole[0] <= 3 * (high - low) else (float(low), float(high))


def draw_scores(a: Arrays, figures: Path) -> None:
    """Directions of both scores over log q, and the balls at the critical points."""
    figure, axes = grid(2, 1, height=5.6, sharex=True, sharey=True)
    x, y = np.meshgrid(a["grid"], a["grid"])
    levels = np.linspace(a["log_q"].max() - 30, a["log_q"].max(), 16)
    for panel, score, arrows in zip(axes[:, 0], SCORES, a["arrows"], strict=True):
        drawn = panel.contourf(x, y, a["log_q"], levels, cmap=SEQUENTIAL, extend="min")
        length = np.linalg.norm(arrows, axis=-1, keepdims=True)
        unit = arrows / np.where(length > 0, length, 1)
        panel.quiver(x, y, unit[..., 0], unit[..., 1], color="white", scale=36, width=0.003)
        for centre, kind in zip(a["centres"], a["kinds"], strict=True):
            panel.add_patch(Circle(centre, a["radius"], fill=False, ls="-" if kind == "mode" else "--", color="black"))
        panel.set_title(f"{score} score, σ = {a['sigma']:.2f}")
        panel.set_aspect("equal")
    figure.colorbar(drawn, ax=axes[:, 0], label="log q", shrink=0.6)
    save(figure, figures, "critical_scores")


def draw_maps(a: Arrays, quantity: str, level: int, figures: Path) -> None:
    """κ_p or Δ_p u over the plane at one noise level: analytic, learned, learned − analytic; a column per p."""
    values, orders = a[quantity][level], a["p"]
    width = min(PAGE, max(COLUMN, 0.4 + 1.2 * len(orders)))
    figure, axes = grid(3, len(orders), width=width, height=4.4, sharex=True, sharey=True)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    extent = a["extent"][level] * np.array([-1, 1, -1, 1])
    symbol = "κ" if quantity == "kappa" else "Δ"
    for column, p in enumerate(orders):
        analytic, learned = values[0, column], values[1, column]
        norm = _norm(quantity, p, analytic)
        for panel, shown in zip(axes[:, column], (analytic, learned, learned - analytic), strict=True):
            drawn = panel.imshow(shown, DIVERGING, norm=norm, origin="lower", extent=extent, interpolation="none")
        label = f"{symbol}$_{{{p:g}}}$" + " u" * (symbol == "Δ")
        axes[0, column].set_title(f"p = {p:g}")
        place = {"orientation": "horizontal", "shrink": 0.85, "aspect": 14, "pad": 0.02}
        bar = figure.colorbar(drawn, ax=axes[:, column], extend="both", label=label, **place)
        bar.minorticks_off()
        if isinstance(norm, SymLogNorm):
            decade = 10.0 ** np.floor(np.log10(norm.vmax))
            bar.set_ticks([-decade, 0, decade])
    end = int(0.75 * a["extent"][level])
    axes[0, 0].set(xticks=[-end, end], yticks=[-end, end])  # shared by all, and few, as panels are small
    for panel, title in zip(axes[:, 0], ("analytic", "learned", "difference"), strict=True):
        panel.set_ylabel(title)
    figure.suptitle(f"noise level σ = {a['sigma'][level]:.2f}", fontsize=8)
    save(figure, figures, f"maps_{quantity}_t{a['t'][level]:g}")


def _norm(quantity: str, p: float, analytic: np.ndarray) -> Normalize:
    """Symmetric about 0; κ_1 has its own range, Δ_p u spans decades."""
    if quantity == "kappa" and p == 1:
        return Normalize(-1, 1)
    size = np.abs(analytic[np.isfinite(analytic)])
    largest = float(np.quantile(size, 0.99))
    if quantity == "kappa":
        return Normalize(-largest, largest)
    return SymLogNorm(max(float(np.quantile(size, 0.25)), 1e-3 * largest), vmin=-largest, vmax=largest)


def draw_planted(samples: Sequence[Arrays], figures: Path) -> None:
    """Per sample: AUC of planted against held-out test points over the noise level; κ at the chosen level."""
    figure, axes = grid(len(samples), 2, height=1.7 * len(samples) + 0.6)
    for a, (left, right) in zip(samples, axes, strict=True):
        for nth, (score, label) in enumerate(RANKED.items()):
            with_intervals(left, a["sigma"], a[f"auc_{score}"].T, nth, len(RANKED), label=label, ms=2.5, spread=1.08)
        left.axvline(a["sigma"][a["chosen"]], color="grey", ls=":", lw=1)
        left.axhline(0.5, color="grey", lw=0.5)
        left.set_xscale("log")
        left.set_xticks(a["sigma"], [f"{sigma:.2g}" for sigma in a["sigma"]], rotation=90)
        left.minorticks_off()
        left.set_ylim(0, 1.05)
        left.set_ylabel(f"d = {a['dim']}\nAUC, test half")
        _histogram(right, a)
    axes[-1, 0].set_xlabel("noise level σ\n(dotted: the chosen one)")
    axes[-1, 1].set_xlabel("κ at the chosen level,\ntest half")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save(figure, figures, "planted")


def _histogram(panel: Axes, a: Arrays) -> None:
    kappa, copies, test = a["kappa_network"][a["chosen"]], a["copies"], ~a["validation"]
    bins: Any = np.linspace(kappa[test].min(), kappa[test].max(), 25)
    roles = {"planted": copies >= 2, "single": copies == 1, "held out": copies == 0}
    for (label, chosen), colour in zip(roles.items(), (COLOURS[1], COLOURS[4], COLOURS[6]), strict=True):
        panel.hist(kappa[test & chosen], bins, density=True, histtype="step", color=colour, label=label)
    panel.set_ylabel("density")
