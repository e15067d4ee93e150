"""What an audit promises of its flags, simulated: ``python -m benchmarks.false_discoveries [--repetitions N]``.

Scores of audited and reference images are drawn, memorized images score higher, and all go through conformal p-values,
Benjamini–Hochberg at 5 % and the envelope of false discoveries, as in an audit. The table has the share of false
discoveries beside what theory allows, q m₀/m, the power, and how often the envelope held at all thresholds.
"""

import argparse
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from plap_jax.adjustment import adjust
from plap_jax.calibration import benjamini_hochberg, conformal_p_values
from plap_jax.envelope import Envelope, false_discovery_envelope

FDR, CONFIDENCE = 0.05, 0.95
SHIFT = 6  # how much higher memorized images score, in standard deviations of the others
Pool = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores, whether audited, whether memorized
Keep = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


class Setting(NamedTuple):
    """A kind of audit.

    Attributes:
        what: in words.
        draw: the images of one audit, of a generator and this setting.
        n_reference, m: numbers of reference and audited images.
        memorized, in_reference: how many of the audited, and of the reference images, are memorized.
    """

    what: str
    draw: Callable[[np.random.Generator, "Setting"], Pool]
    n_reference: int = 300
    m: int = 200
    memorized: int = 0
    in_reference: int = 0


class Found(NamedTuple):
    """Means over the repetitions, each with its standard error; power is NaN where nothing is memorized."""

    fdr: tuple[float, float]
    allowed: float
    power: tuple[float, float]
    kept: tuple[float, float]


def sides(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Which images are audited, and which are memorized: ``(m + n_ref,)`` each, the audited first."""
    n = setting.m + setting.n_reference
    audited = np.arange(n) < setting.m
    place = np.where(audited, np.arange(n), np.arange(n) - setting.m)
    return audited, place < np.where(audited, setting.memorized, setting.in_reference)


def normal(rng: np.random.Generator, setting: Setting) -> Pool:
    """Normal scores."""
    audited, memorized = sides(setting)
    return rng.normal(size=audited.size) + SHIFT * memorized, audited, memorized


def tied(rng: np.random.Generator, setting: Setting) -> Pool:
    """Scores in steps of half a standard deviation: a dozen different ones."""
    scores, audited, memorized = normal(rng, setting)
    return np.round(2 * scores) / 2, audited, memorized


def adjusted(rng: np.random.Generator, setting: Setting) -> Pool:
    """What difficulty explains is taken out as an audit does, over all images, memorized ones among them."""
    scores, audited, memorized = normal(rng, setting)
    difficulty = rng.normal(size=(scores.size, 5))
    raw = scores + difficulty.sum(axis=1)
    digests = rng.integers(0, 2**63, scores.size, np.uint64)
    return adjust(raw[:, None], difficulty, digests).score, audited, memorized


def twins(keep: Keep, *, across: bool = False) -> Callable[[np.random.Generator, Setting], Pool]:
    """One tenth of all images are in pairs of near-duplicates; such images are simple, and score 3 higher.

    Args:
        keep: which images stay, of a generator, ``audited``, and the number of each image's cluster.
        across: every pair has one image on each side; otherwise sides are chance, as for all that is not memorized.
    """

    def draw(rng: np.random.Generator, setting: Setting) -> Pool:
        scores, audited, memorized = normal(rng, setting)
        others, cluster = np.flatnonzero(~memorized), np.arange(audited.size)
        n_pairs = audited.size // 20
        first, second = rng.choice(others, (2, n_pairs), replace=False)
        if across:
            first, second = others[:n_pairs], others[-n_pairs:]
        cluster[second] = first
        scores[first] += 3
        scores[second] = scores[first]
        stay = keep(rng, audited, cluster)
        return scores[stay], audited[stay], memorized[stay]

    return draw


def all_stay(rng: np.random.Generator, audited: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Nothing is dropped."""
    return np.arange(audited.size)


def only_single(rng: np.random.Generator, audited: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Nothing of any cluster."""
    return np.flatnonzero(np.bincount(cluster, minlength=cluster.size)[cluster] == 1)


def first_of_each(order: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Of each cluster the image that comes first in this order."""
    return order[np.unique(cluster[order], return_index=True)[1]]


def sides_unseen(rng: np.random.Generator, audited: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """One of each cluster, in an order that does not know the sides, as that of hashes of the contents."""
    return first_of_each(rng.permutation(audited.size), cluster)


def audited_first(rng: np.random.Generator, audited: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """One of each cluster, an audited one if there is one: the reference's copy is dropped."""
    return first_of_each(np.argsort(~audited, kind="stable"), cluster)


def settings() -> list[Setting]:
    """All rows of the table."""
    kinds = {"": normal, ", with ties": tied, ", difficulty taken out of all together": adjusted}
    return [
        *(
            Setting(f"{100 * k // 200} % memorized{name}", draw, memorized=k)
            for name, draw in kinds.items()
            for k in (0, 2, 20, 60)
        ),
        *(Setting(f"q (n_ref + 1)/m whole, {k} % memorized", normal, 1999, 100, k) for k in (0, 10, 30)),
        *(Setting(f"{k} memorized in the reference", normal, 300, 220, 20, k) for k in (0, 1, 2, 3)),
        *(Setting(f"{k} memorized in the reference", normal, 2000, 220, 20, k) for k in (0, 1, 2, 3)),
        Setting("near-duplicates: all stay", twins(all_stay), memorized=20),
        Setting("near-duplicates: one stays, sides unseen", twins(sides_unseen), memorized=20),
        Setting("near-duplicates: the reference's dropped", twins(audited_first), memorized=20),
        Setting("… each on both sides: one stays, sides unseen", twins(sides_unseen, across=True), memorized=20),
        Setting("… each on both sides: neither stays", twins(only_single, across=True), memorized=20),
        Setting("… each on both sides: the reference's dropped", twins(audited_first, across=True), memorized=20),
    ]


@cache
def envelope_of(n_reference: int, m: int) -> Envelope:
    """The same for all repetitions."""
    return false_discovery_envelope(n_reference, m, confidence=CONFIDENCE)


def simulate(setting: Setting, repetitions: int, seed: int = 0) -> Found:
    """Audits of this kind, as many as ``repetitions``."""
    rng, shares, allowed, powers, kept = np.random.default_rng(seed), [], [], [], []
    for _ in range(repetitions):
        scores, audited, memorized = setting.draw(rng, setting)
        p = conformal_p_values(scores[audited], scores[~audited])
        null, flagged = ~memorized[audited], benjamini_hochberg(p, FDR)
        shares.append(np.sum(flagged & null) / max(1, np.sum(flagged)))
        allowed.append(FDR * np.mean(null))
        powers.append(np.mean(flagged[~null]) if not null.all() else np.nan)
        kept.append(holds(p, null, int(np.sum(~audited))))
    fdr, power, held = (mean_and_error(np.asarray(values, float)) for values in (shares, powers, kept))
    return Found(fdr, float(np.mean(allowed)), power, held)


def holds(p: np.ndarray, null: np.ndarray, n_reference: int) -> bool:
    """Whether no threshold has more null p-values up to it than the envelope says."""
    at = np.sort(p[null])
    return bool(np.all(np.arange(1, at.size + 1) <= envelope_of(n_reference, p.size).at(at)))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(values.size))


def row(setting: Setting, found: Found) -> list[str | int]:
    """Cells of the table."""
    fdr, power, kept = (f"{mean:.3f} ± {error:.3f}" for mean, error in (found.fdr, found.power, found.kept))
    power = power if setting.memorized else ""
    return [setting.what, setting.n_reference, setting.m, setting.memorized, fdr, f"{found.allowed:.3f}", power, kept]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args().repetitions
    rows = [row(setting, simulate(setting, repetitions)) for setting in settings()]
    print(f"{repetitions} repetitions, FDR {FDR:g}, envelope at {CONFIDENCE:g}; ± is a standard error\n")
    names = ["images", "n_ref", "m", "memorized", "FDR", "q m₀/m", "power", "envelope held"]
    print(tabulate(rows, names, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
