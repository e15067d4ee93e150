"""Figures of the detection benchmark, from its arrays: ranking, ROC curves, cost, and copies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.figures.style import COLOURS, MARKERS, PAGE, grid, save, with_intervals

# Drawn in colour; the others in grey. The first are ours.
HIGHLIGHTS = {
    "flux_p1": COLOURS[1],
    "flux_gap_p1": COLOURS[5],
    "score_norm": COLOURS[0],
    "denoising_loss": COLOURS[4],
    "flipd": COLOURS[2],
    "noise_gap_norm": COLOURS[3],
}
FAMILY = {"p-laplacian": COLOURS[1], "other": COLOURS[0], "oracle": "#777777"}
PROMPTS = ("known", "unknown")
REST = "#BBBBBB"
# AUCs are drawn on a logit axis, which spreads those near 1; what lies beyond these ends is drawn at them.
LOWEST, HIGHEST = 0.2, 0.9995
AUC_TICKS = (0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
Arrays = dict[str, np.ndarray]
# What a page of figures says below each.
CAPTIONS = {
    "ranking_*": "AUC of every detector, at every guidance scale, test captions.",
    "roc_*": "ROC of the best detectors of each family.",
    "cost_*": "AUC against network evaluations per image.",
    "copies_*": "AUC against the number of copies in the training set.",
}


def draw(directory: Path) -> None:
    """All figures of the run in ``directory``; what a run could not measure is left out."""
    with np.load(directory / "arrays" / "summary.npz") as stored:
        summary = dict(stored)
    with np.load(directory / "arrays" / "scores.npz") as stored:
        scores = dict(stored)
    if not summary:
        return
    figures = directory / "figures"
    for task in ("image", "prompt"):
        draw_ranking(summary, task, figures)
        draw_roc(summary, scores, task, figures)
        draw_cost(summary, task, figures)
        draw_copies(summary, task, figures)


def draw_ranking(a: Arrays, task: str, figures: Path) -> None:
    """AUC of every detector with its 95 % interval, best first, per guidance scale; evaluations beside the name."""
    scales = np.unique(a["guidance"])
    cells = {p: _cell(a, task, p, "all") for p in PROMPTS}
    counts = [max(len(np.unique(a["detector"][chosen])), 1) for chosen in cells.values()]
    figure, axes = grid(2, len(scales), width=PAGE, height=0.145 * sum(counts) + 1.1, height_ratios=counts)
    for row, (prompt, chosen) in enumerate(cells.items()):
        names = _by_mean_auc(a, chosen)
        for panel, scale in zip(axes[row], scales, strict=True):
            for y, name in enumerate(names):
                for i in np.flatnonzero(chosen & (a["guidance"] == scale) & (a["detector"] == name)):
                    colour = FAMILY[str(a["family"][i])]
                    panel.plot(_within(a["auc_low"][i], a["auc_high"][i]), [y, y], color=colour, lw=1)
                    panel.plot(_within(a["auc"][i]), [y], "o", ms=3, color=colour)
            panel.set_ylim(len(names) - 0.4, -0.6)
            panel.axvline(0.5, color="grey", lw=0.5)
            _logit(panel, "x")
            panel.tick_params(axis="x", labelrotation=60)
            panel.set_xlim(LOWEST, HIGHEST + 1e-4)
            panel.set_yticks(range(len(names)), [_with_cost(a, chosen, name) for name in names])
            panel.tick_params(labelleft=panel is axes[row, 0])
            panel.grid(axis="x", lw=0.3)
            if row == 0:
                panel.set_title(f"guidance {scale:g}")
        axes[row, 0].set_ylabel(f"prompt {prompt}")
    figure.supxlabel(f"AUC by {task}, test half, 95 % intervals over captions", fontsize=8)
    handles = [Axes.plot(axes[0, 0], [], [], "o", ms=3, color=colour, label=name)[0] for name, colour in FAMILY.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(FAMILY))
    save(figure, figures, f"ranking_{task}")


def draw_roc(a: Arrays, scores: Arrays, task: str, figures: Path) -> None:
    """ROC curves of the test half, false positives on a logarithmic axis."""
    figure, panels = _panels(a)
    for panel, prompt, scale in panels:
        cell = f"{task}/{prompt}/g{scale:g}"
        if f"{cell}/tpr" in scores:
            curves = zip(scores[f"{cell}/names"].tolist(), scores[f"{cell}/tpr"], strict=True)
            for name, curve in sorted(curves, key=lambda item: item[0] in HIGHLIGHTS):
                colour, width = (HIGHLIGHTS[name], 1.2) if name in HIGHLIGHTS else (REST, 0.6)
                panel.plot(scores[f"{cell}/fpr"][1:], curve[1:], color=colour, lw=width, label=name)
        panel.axvline(0.01, color="grey", lw=0.5, ls=":")
        panel.set_xscale("log")
    _finish(figure, panels, "false positive rate", "TPR")
    save(figure, figures, f"roc_{task}")


def draw_cost(a: Arrays, task: str, figures: Path) -> None:
    """AUC against network evaluations per image, with 95 % intervals."""
    figure, panels = _panels(a)
    for panel, prompt, scale in panels:
        chosen = _cell(a, task, prompt, "all") & (a["guidance"] == scale) & (a["nfe"] > 0)
        for i in sorted(np.flatnonzero(chosen), key=lambda i: str(a["detector"][i]) in HIGHLIGHTS):
            _with_intervals(panel, a["nfe"][i : i + 1], a, slice(i, i + 1), str(a["detector"][i]), ms=3.5)
        panel.set_xscale("log")
        _logit(panel, "y")
    _finish(figure, panels, "network evaluations per image", "AUC")
    save(figure, figures, f"cost_{task}")


def draw_copies(a: Arrays, task: str, figures: Path) -> None:
    """AUC against how often training saw the image behind the caption; 95 % intervals of the highlighted ones."""
    figure, panels = _panels(a)
    doses = sorted({int(k) for k in a["copies"] if k.isdigit()})
    for panel, prompt, scale in panels:
        cell = (a["task"] == task) & (a["prompt"] == prompt) & (a["guidance"] == scale)
        cell &= np.char.isdigit(a["copies"]) & (a["nfe"] > 0)
        for name in sorted(set(a["detector"][cell].tolist()), key=lambda n: n in HIGHLIGHTS):
            mine = cell & (a["detector"] == name)
            x = a["copies"][mine].astype(int)
            if name in HIGHLIGHTS:
                _with_intervals(panel, x, a, mine, name, ms=2.5, lw=0.8, spread=1.05)
            else:
                panel.plot(x, _within(*a["auc"][mine]), color=REST, lw=0.6, label=name)
        panel.set_xscale("log", base=2)
        _logit(panel, "y")
        panel.set_xticks(doses, [str(dose) for dose in doses])
    _finish(figure, panels, "copies of the image behind the caption", "AUC")
    save(figure, figures, f"copies_{task}")


def _with_intervals(panel: Axes, x: np.ndarray, a: Arrays, chosen: Any, name: str, **options) -> None:
    """AUCs with their intervals; highlighted detectors stand beside each other, as many cost the same."""
    names = list(HIGHLIGHTS)
    nth = names.index(name) if name in names else len(names) // 2
    look = {"color": HIGHLIGHTS.get(name, REST), "marker": MARKERS[nth] if name in names else "."}
    estimate = [_within(*a[key][chosen]) for key in ("auc", "auc_low", "auc_high")]
    with_intervals(panel, x, estimate, nth, len(names), label=name, **look, **options)


def _panels(a: Arrays) -> tuple[Figure, list[tuple[Axes, str, float]]]:
    """A row for each guidance scale, a column for each knowledge of the prompt."""
    scales = np.unique(a["guidance"])
    figure, axes = grid(len(scales), len(PROMPTS), height=1.35 * len(scales) + 1.1, sharex=True, sharey=True)
    return figure, [
        (axes[i, j], prompt, float(scale)) for i, scale in enumerate(scales) for j, prompt in enumerate(PROMPTS)
    ]


def _finish(figure: Figure, panels: Sequence[tuple[Axes, str, float]], xlabel: str, ylabel: str) -> None:
    """Titles, names of the axes, and one legend: each highlighted detector, and the others together."""
    found = {}
    for panel, prompt, scale in panels:
        if scale == panels[0][2]:
            panel.set_title(f"prompt {prompt}")
        if prompt == PROMPTS[0]:
            panel.set_ylabel(f"guidance {scale:g}\n{ylabel}")
        found |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.supxlabel(xlabel, fontsize=8)
    shown = {name: found[name] for name in HIGHLIGHTS if name in found}
    rest = [handle for name, handle in found.items() if name not in HIGHLIGHTS]
    shown |= {"others": rest[0]} if rest else {}
    compact = {"handlelength": 1.2, "columnspacing": 0.9, "handletextpad": 0.4}
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3, **compact)


def _within(*values: float) -> np.ndarray:
    return np.clip(values, LOWEST, HIGHEST)


def _logit(panel: Axes, axis: str) -> None:
    """One axis of AUCs."""
    spread = {
        "x": (panel.set_xscale, panel.set_xticks, panel.xaxis),
        "y": (panel.set_yscale, panel.set_yticks, panel.yaxis),
    }
    set_scale, set_ticks, ticks = spread[axis]
    set_scale("logit")
    set_ticks(AUC_TICKS, [f"{tick:g}" for tick in AUC_TICKS])
    ticks.set_minor_formatter(NullFormatter())
    ticks.set_minor_locator(NullLocator())


def _cell(a: Arrays, task: str, prompt: str, copies: str) -> np.ndarray:
    return (a["task"] == task) & (a["prompt"] == prompt) & (a["copies"] == copies)


def _by_mean_auc(a: Arrays, chosen: np.ndarray) -> list[str]:
    names = np.unique(a["detector"][chosen])
    return sorted(names.tolist(), key=lambda name: -a["auc"][chosen & (a["detector"] == name)].mean())


def _with_cost(a: Arrays, chosen: np.ndarray, name: str) -> str:
    costs = a["nfe"][chosen & (a["detector"] == name)]
    return f"{name}  {costs.min()}" if costs.min() == costs.max() else f"{name}  {costs.min()}–{costs.max()}"
