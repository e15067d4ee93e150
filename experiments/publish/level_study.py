"""How good is the noise level that no label chose? ``python -m experiments.publish.level_study RUN_DIR …``.

From what runs of image_memorization left: the AUC at the level of the rule, and at the level that labels would choose.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from plap_jax.audit.level import largest_spread
from plap_jax.metrics import auc


def cases(directory: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(name, κ₁ and its standard error ``(n levels, n)``, who is to be found ``(n,)``) of audits of a run's images."""
    with (
        np.load(directory / "arrays" / "train_images.npz") as train,
        np.load(directory / "arrays" / "samples.npz") as made,
    ):
        plain = int(np.flatnonzero(train["p"] == 1)[0])
        copies, scores = train["copies"], [train[f"{name}_network"][plain] for name in ("kappa", "stderr")]
        for name, memorized in {
            "most copies, held-out": copies == copies.max(),
            "2 to 8 copies, held-out": (copies >= 2) & (copies <= 8),
            "2 copies, held-out": copies == 2,
            "single, held-out": copies == 1,
        }.items():
            audited = memorized | (copies == 0)
            yield name, *(score[:, audited] for score in scores), memorized[audited]
        generated = [made[f"{name}_network"][plain] for name in ("kappa", "stderr")]
        yield "generated: copies, others", *generated, made["ratio"] < made["max_ratio"]


def study(directories: Sequence[Path]) -> list[dict[str, object]]:
    """A row for each kind of audit: levels chosen, mean AUC there and at the best level, and the largest loss."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for directory in directories:
        with np.load(directory / "arrays" / "train_images.npz") as train:
            sigmas = [float(f"{sigma:.3g}") for sigma in train["sigma"]]
        for name, kappa, stderr, memorized in cases(directory):
            if 2 <= memorized.sum() <= len(memorized) - 2:
                chosen = largest_spread(sigmas, kappa, stderr).sigma
                by_level = auc(kappa[:, memorized], kappa[:, ~memorized])
                found.setdefault(name, []).append((chosen, by_level[sigmas.index(chosen)], by_level.max()))
    return [
        {
            "audited": name,
            "levels chosen": ", ".join(f"{sigma:g}" for sigma in sorted({sigma for sigma, _, _ in runs})),
            "AUC there": float(np.mean([there for _, there, _ in runs])),
            "AUC at the best level": float(np.mean([best for _, _, best in runs])),
            "largest loss": float(np.max([best - there for _, there, best in runs])),
            "runs": len(runs),
        }
        for name, runs in found.items()
    ]


if __name__ == "__main__":
    print(tabulate(study([Path(name) for name in sys.argv[1:]]), headers="keys", tablefmt="github", floatfmt=".3f"))
