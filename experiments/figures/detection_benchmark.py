"""Figures of the detection benchmark, from its arrays: ranking, ROC curves, cost, and copies."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.figures.style import COLOURS, PAGE, grid, save

# Drawn in colour; the others in grey. The first are ours.
HIGHLIGHTS = {
    "flux_p1": COLOURS[1],
    "flux_contrast": COLOURS[6],
    "flux_gap_p1": COLOURS[5],
    "score_norm": COLOURS[0],
    "denoising_loss": COLOURS[4],
    "flipd": COLOURS[2],
    "noise_gap_norm": COLOURS[3],
}
FAMILY = {"p-laplacian": COLOURS[1], "other": COLOURS[0], "candidate": COLOURS[6], "oracle": "#777777"}
PROMPTS = ("known", "unknown")
REST = "#BBBBBB"
# AUCs are drawn on a logit axis, which spreads those near 1; what lies beyond these ends is drawn at them.
LOWEST, HIGHEST = 0.2, 0.9995
AUC_TICKS = (0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
APART = 1.12  # factor between highlights of equal cost, which would hide each other
Arrays = dict[str, np.ndarray]


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
    figure, axes = _panels(len(scales), 0.145 * sum(counts) + 1.1, height_ratios=counts)
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
            panel.set_yticks(range(len(names)), [_with_cost(a, chosen, name) for name in names], fontsize=6)
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
    scales = np.unique(a["guidance"])
    figure, axes = _panels(len(scales), 4.4, sharex=True, sharey=True)
    for row, prompt in enumerate(PROMPTS):
        for panel, scale in zip(axes[row], scales, strict=True):
            cell = f"{task}/{prompt}/g{scale:g}"
            if f"{cell}/tpr" in scores:
                curves = zip(scores[f"{cell}/names"].tolist(), scores[f"{cell}/tpr"], strict=True)
                for name, curve in sorted(curves, key=lambda item: item[0] in HIGHLIGHTS):
                    _line(panel, scores[f"{cell}/fpr"][1:], curve[1:], name)
            panel.axvline(0.01, color="grey", lw=0.5, ls=":")
            panel.set_xscale("log")
            _titles(panel, row, prompt, scale, first=panel is axes[row, 0], ylabel="TPR")
    figure.supxlabel("false positive rate", fontsize=8)
    _legend(figure, axes)
    save(figure, figures, f"roc_{task}")


def draw_cost(a: Arrays, task: str, figures: Path) -> None:
    """AUC against network evaluations per image, with 95 % intervals."""
    scales = np.unique(a["guidance"])
    figure, axes = _panels(len(scales), 4.4, sharex=True, sharey=True)
    for row, prompt in enumerate(PROMPTS):
        for panel, scale in zip(axes[row], scales, strict=True):
            chosen = _cell(a, task, prompt, "all") & (a["guidance"] == scale) & (a["nfe"] > 0)
            for i in sorted(np.flatnonzero(chosen), key=lambda i: str(a["detector"][i]) in HIGHLIGHTS):
                name = str(a["detector"][i])
                colour = HIGHLIGHTS.get(name, REST)
                place = list(HIGHLIGHTS).index(name) - 2 if name in HIGHLIGHTS else 0
                x = a["nfe"][i] * APART**place
                panel.plot([x, x], _within(a["auc_low"][i], a["auc_high"][i]), color=colour, lw=0.8)
                panel.plot(x, _within(a["auc"][i]), "o", ms=3.5, color=colour, label=name)
            panel.set_xscale("log")
            _logit(panel, "y")
            _titles(panel, row, prompt, scale, first=panel is axes[row, 0], ylabel="AUC")
    figure.supxlabel("network evaluations per image", fontsize=8)
    _legend(figure, axes)
    save(figure, figures, f"cost_{task}")


def draw_copies(a: Arrays, task: str, figures: Path) -> None:
    """AUC against how often training saw the image behind the caption, with 95 % bands."""
    scales = np.unique(a["guidance"])
    figure, axes = _panels(len(scales), 4.4, sharex=True, sharey=True)
    doses = sorted({int(k) for k in a["copies"] if k.isdigit()})
    for row, prompt in enumerate(PROMPTS):
        for panel, scale in zip(axes[row], scales, strict=True):
            for name in sorted(set(a["detector"].tolist()), key=lambda n: n in HIGHLIGHTS):
                mine = (a["task"] == task) & (a["prompt"] == prompt) & (a["guidance"] == scale)
                mine &= (a["detector"] == name) & np.char.isdigit(a["copies"]) & (a["nfe"] > 0)
                if mine.any():
                    x = a["copies"][mine].astype(int)
                    _line(panel, x, _within(*a["auc"][mine]), name, "o-", ms=2.5)
                    if name in HIGHLIGHTS:
                        ends = (_within(*a[f"auc_{end}"][mine]) for end in ("low", "high"))
                        panel.fill_between(x, *ends, color=HIGHLIGHTS[name], alpha=0.1, lw=0)
            panel.set_xscale("log", base=2)
            _logit(panel, "y")
            panel.set_xticks(doses, [str(dose) for dose in doses])
            _titles(panel, row, prompt, scale, first=panel is axes[row, 0], ylabel="AUC")
    figure.supxlabel("copies of the image behind the caption", fontsize=8)
    _legend(figure, axes)
    save(figure, figures, f"copies_{task}")


def _panels(columns: int, height: float, **options) -> tuple[Figure, np.ndarray]:
    return grid(len(PROMPTS), columns, width=PAGE, height=height, **options)


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


def _line(panel: Axes, x: np.ndarray, y: np.ndarray, name: str, style: str = "-", **options) -> None:
    strong = name in HIGHLIGHTS
    colour, width = (HIGHLIGHTS[name], 1.2) if strong else (REST, 0.6)
    panel.plot(x, y, style, color=colour, lw=width, label=name, **options)


def _titles(panel: Axes, row: int, prompt: str, scale: float, *, first: bool, ylabel: str) -> None:
    if row == 0:
        panel.set_title(f"guidance {scale:g}")
    if first:
        panel.set_ylabel(f"{ylabel}, prompt {prompt}")


def _legend(figure: Figure, axes: np.ndarray) -> None:
    """One entry for each highlighted detector, and one for the others."""
    found = {}
    for panel in axes.flat:
        found |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    shown = {name: found[name] for name in HIGHLIGHTS if name in found}
    rest = next((handle for name, handle in found.items() if name not in HIGHLIGHTS), None)
    handles, labels = [*shown.values()], [*shown]
    if rest is not None:
        handles, labels = [*handles, rest], [*labels, "others"]
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
