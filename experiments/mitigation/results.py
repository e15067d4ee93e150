"""Strengths chosen on validation captions, and what is told of them on the test captions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import Section
from experiments.mitigation.measuring import MEASURES, Comparison, MeasuredImages, coverage
from experiments.mitigation.strengths import Family, Strength
from plap_jax.metrics import Interval

NONE = "none"


class Goal(Section):
    """What a method is to reach on memorized captions."""

    copies: float = Field(gt=0, lt=1, description="share of copies below which a strength is strong enough")
    agreement_loss: float = Field(ge=0, lt=1, description="of agreement with the caption, at most")
    nfe_ratio: float = Field(ge=1, description="evaluations, at most so many times those of no method")
    copied: float = Field(
        ge=0, le=1, description="share of copies without a method from which there is something to mend"
    )


@dataclass(frozen=True)
class Tried:
    """A method at one strength, on the memorized captions of each half."""

    method: str
    family: Family
    strength: Strength
    validation: MeasuredImages
    test: MeasuredImages


def choose(tried: Sequence[Tried], goal: Goal) -> int:
    """The strength with the best agreement of those below the goal's share of copies; with none, the fewest copies.

    On the validation half alone. Among equals the one with fewer copies, then fewer evaluations, then the first.
    """
    values = [{name: one.validation.mean(name) for name in MEASURES} for one in tried]
    enough = [v["copies"] < goal.copies for v in values]

    def order(i: int) -> tuple:
        v = values[i]
        first = (-v["agreement"], v["copies"]) if enough[i] else (v["copies"], -v["agreement"])
        return (not enough[i], *first, v["nfe"], i)

    return min(range(len(tried)), key=order)


def dominated_by(chosen: Tried, tried: Sequence[Tried]) -> list[str]:
    """Published and naive methods that at some strength copy less and agree more (test half), one of it strictly."""
    mine = chosen.test.mean("copies"), chosen.test.mean("agreement")
    found = []
    for one in tried:
        other = one.test.mean("copies"), one.test.mean("agreement")
        better = other[0] <= mine[0] and other[1] >= mine[1] and other != mine
        if one.family in ("published", "naive") and one.method != chosen.method and better:
            found.append(one.method)
    return sorted(set(found))


@dataclass
class AtScale:
    """All methods at one guidance scale.

    Attributes:
        guidance: g.
        tried: by method, in the order of its strengths.
        others: of each method at the chosen strength, images of captions that are not memorized.
    """

    guidance: float
    tried: dict[str, list[Tried]] = field(default_factory=dict)
    others: dict[str, MeasuredImages] = field(default_factory=dict)


def write(
    scales: Sequence[AtScale],
    network: str,
    goal: Goal,
    heldout: np.ndarray,
    seed: int,
    report: Report,
) -> dict[str, np.ndarray]:
    """Metrics and tables of all scales; the arrays of the figure."""
    arrays: dict[str, np.ndarray] = {"guidance": np.asarray([one.guidance for one in scales])}
    strengths, chosen_rows = [], []
    for scale in scales:
        name = f"g{scale.guidance:g}"
        compare = Comparison(scale.tried[NONE][0].test, seed)
        everything = [one for tried in scale.tried.values() for one in tried]
        for method, tried in scale.tried.items():
            best = choose(tried, goal)
            for i, one in enumerate(tried):
                strengths.append({"guidance": scale.guidance} | _row(one, compare, chosen=i == best))
            found = _chosen(tried[best], compare, heldout)
            found |= _others(scale.others[method], Comparison(scale.others[NONE], seed), baseline=method == NONE)
            plain = scale.tried[NONE][0].test.mean("copies")
            if method != NONE:
                found |= {"goal_met": _meets(found, goal) if plain >= goal.copied else None}
            for measure, value in found.items():
                reason = (
                    f"{plain:.3f} are copies without a method, at least {goal.copied} needed" if value is None else None
                )
                report.metric(f"mitigation/{network}/{name}/{method}/{measure}", value, reason)
            beaten = "" if tried[best].family == "none" else " ".join(dominated_by(tried[best], everything))
            words = {"guidance": scale.guidance, "method": method, "strength": tried[best].strength.label}
            chosen_rows.append(words | _flat(found, method == NONE) | {"dominated_by": beaten})
        arrays |= {f"{name}/{key}": value for key, value in _curves(everything, compare, scale, goal).items()}
    report.table("strengths", strengths)
    report.table("methods", chosen_rows)
    return arrays


def _row(one: Tried, compare: Comparison, *, chosen: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"method": one.method, "strength": one.strength.label, "chosen": int(chosen)}
    for name in MEASURES:
        interval = compare.interval(one.test, name)
        row |= {f"validation_{name}": one.validation.mean(name)}
        row |= {f"test_{name}": interval.value, f"test_{name}_low": interval.low, f"test_{name}_high": interval.high}
    return row


def _chosen(one: Tried, compare: Comparison, heldout: np.ndarray) -> dict[str, Interval | float]:
    found: dict[str, Interval | float] = {name: compare.interval(one.test, name) for name in MEASURES}
    found["coverage"] = coverage(one.test.images, heldout)
    if one.method == NONE:
        return found
    found |= {f"{name}_change": compare.change(one.test, name) for name in MEASURES if name != "nfe"}
    return found | {"nfe_ratio": compare.ratio(one.test, "nfe"), "moved": compare.moved(one.test)}


def _others(one: MeasuredImages, compare: Comparison, *, baseline: bool) -> dict[str, Interval]:
    found = {f"others/{name}": compare.interval(one, name) for name in MEASURES}
    if baseline:
        return found
    found |= {f"others/{name}_change": compare.change(one, name) for name in MEASURES if name != "nfe"}
    return found | {"others/nfe_ratio": compare.ratio(one, "nfe"), "others/moved": compare.moved(one)}


def _meets(found: dict[str, Any], goal: Goal) -> int:
    """1 where copies and evaluations reach their goals, and the change of agreement does by its interval."""
    copies, ratio = found["copies"].value < goal.copies, found["nfe_ratio"].value <= goal.nfe_ratio
    return int(copies and ratio and found["agreement_change"].low >= -goal.agreement_loss)


def _flat(found: dict[str, Any], baseline: bool) -> dict[str, Any]:
    """The columns of a table, empty where nothing is compared."""
    row: dict[str, Any] = {}
    both = ("copies", "copies_by_distance", "agreement", "diversity", "nfe")
    changes = (*(f"{name}_change" for name in both if name != "nfe"), "nfe_ratio", "moved")
    columns = (*both, "coverage", *changes, *(f"others/{name}" for name in (*both, *changes)))
    for name in columns:
        value = found.get(name)
        if isinstance(value, Interval):
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        elif name == "coverage":
            row |= {name: value}
        else:
            row |= {name: None, f"{name}_low": None, f"{name}_high": None}
    return row | {"goal_met": None if baseline else found["goal_met"]}


def _curves(everything: Sequence[Tried], compare: Comparison, scale: AtScale, goal: Goal) -> dict[str, np.ndarray]:
    """What the figure draws: a row for each method and strength."""
    chosen = {name: choose(tried, goal) for name, tried in scale.tried.items()}
    is_chosen = [scale.tried[one.method][chosen[one.method]] is one for one in everything]
    found = {
        "methods": np.asarray([one.method for one in everything]),
        "families": np.asarray([one.family for one in everything]),
        "strengths": np.asarray([one.strength.label for one in everything]),
        "chosen": np.asarray(is_chosen),
    }
    for name in MEASURES:
        intervals = [compare.interval(one.test, name) for one in everything]
        found[name] = np.asarray([(one.value, one.low, one.high) for one in intervals])
        found[f"validation_{name}"] = np.asarray([one.validation.mean(name) for one in everything])
    return found


def sheet(scale: AtScale, goal: Goal, n: int, reference: np.ndarray, nearest: np.ndarray) -> dict[str, np.ndarray]:
    """The contact sheet: n images of test captions by each method at its strength, from the same noise.

    Args:
        scale: of the guidance.
        goal: by which strengths are chosen.
        n: images, taken evenly from the captions in turn.
        reference: the training images.
        nearest: ``(n images of the test half,)``, the training image that each image without a method is nearest to.
    """
    methods = {name: tried[choose(tried, goal)].test for name, tried in scale.tried.items()}
    plain = methods[NONE]
    turn = np.zeros(len(plain.prompts), int)
    for prompt in np.unique(plain.prompts):
        members = plain.prompts == prompt
        turn[members] = np.arange(members.sum())
    rows = np.lexsort((plain.prompts, turn))[:n]
    return {
        "sheet_methods": np.asarray(list(methods)),
        "sheet_images": np.stack([one.images[rows] for one in methods.values()]),
        "sheet_copies": np.stack([one.values["copies"][rows] > 0 for one in methods.values()]),
        "sheet_training": reference[nearest[rows]],
        "sheet_prompts": plain.prompts[rows],
    }
