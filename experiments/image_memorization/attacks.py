"""Question 1 asked of published membership attacks: which images are in the training set once, and which not at all?"""

import sys

import numpy as np

import plap_jax
from experiments.core.cache import Cache, code_tag, target_modules
from experiments.core.report import Report
from experiments.core.schema import RunConfig
from experiments.image_memorization.study import Study
from experiments.shared.measuring import measure
from experiments.shared.methods import Method
from experiments.shared.networks import MAIN, named_key
from plap_jax.data import Planted
from plap_jax.detectors import Query
from plap_jax.metrics import auc


def run(config: RunConfig, study: Study, *, report: Report, cache: Cache) -> None:
    """Metrics ``attacks/NAME/{auc,evaluations}`` and what was chosen on the validation half; arrays ``attacks``."""
    if not config.attacks:
        return
    images = study.images
    chosen = single_and_heldout(images)
    validation, single = images.validation[chosen], images.is_single[chosen]
    scores = {
        name: _scores(config, method, study, images.points[chosen], name=name, report=report, cache=cache)
        for name, method in config.attacks.items()
    }
    for name, values in scores.items():
        method = config.attacks[name]
        half = values[:, validation]
        found = auc(half[:, single[validation]], half[:, ~single[validation]])
        best = int(np.argmax(found))
        for parameter, value in method.candidates[best].items():
            report.metric(f"attacks/{name}/{parameter}", value)
        report.metric(f"attacks/{name}/validation_auc", float(found[best]))
        made = method.make(method.candidates[best], study.reference)
        report.metric(f"attacks/{name}/evaluations", made.nfe(images.points[0].size))
        test = values[best, ~validation]
        measure(report, f"attacks/{name}/auc", auc, test[single[~validation]], test[~single[~validation]], config.seed)
    report.arrays("attacks", image=chosen, single=single, validation=validation, **scores)


def single_and_heldout(images: Planted) -> np.ndarray:
    """Numbers of all single images and of as many held-out ones: attacks cost up to a hundred evaluations an image."""
    single, heldout = np.flatnonzero(images.is_single), np.flatnonzero(images.is_heldout)
    return np.concatenate([single, heldout[: len(single)]])


def _scores(
    config: RunConfig, method: Method, study: Study, images: np.ndarray, *, name: str, report: Report, cache: Cache
) -> np.ndarray:
    """``(n candidates, n)``, higher = more likely in the training set; in the same noise for all images."""
    detectors = [method.make(candidate, study.reference) for candidate in method.candidates]

    def compute() -> dict[str, np.ndarray]:
        key, query = named_key(config.seed, "attacks"), Query(images)
        network = study.networks[MAIN].network
        return {"values": np.stack([detector.scores(network, query, key=key) for detector in detectors])}

    depends_on = {
        "network": study.networks[MAIN].key,
        "images": report.fingerprint(f"scored/attacks/{name}", images),
        "detector": method.detector.spec,
        "grid": method.grid,
        "seed": config.seed,
        "code": code_tag(sys.modules[__name__], plap_jax, *target_modules(method.detector.spec)),
    }
    with report.stage(f"attack/{name}"):
        return cache.arrays(f"attack/{name}", depends_on, compute)["values"]
