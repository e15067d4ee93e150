"""Every detector at every candidate of its parameters, on the images of one guidance scale."""

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

import plap_jax
from experiments.core.cache import Cache, code_tag, target_modules
from experiments.core.report import Report
from experiments.shared.captions import CaptionedImages, CaptionedStudy
from experiments.shared.methods import Method, Prompt
from experiments.shared.networks import Trained, named_key
from plap_jax.detectors import Query
from plap_jax.sampling import NO_CONDITION


@dataclass(frozen=True)
class CandidateScores:
    """One detector's statistics of images, higher = more memorized.

    Attributes:
        values: ``(n candidates, n)``.
        evaluations: ``(n candidates,)``, of the network per image.
        milliseconds: ``(n candidates,)`` per image.
        candidates: the parameters.
    """

    values: np.ndarray
    evaluations: np.ndarray
    milliseconds: np.ndarray
    candidates: list[dict[str, Any]]


def score(
    method: Method,
    study: CaptionedStudy,
    made: CaptionedImages,
    *,
    name: str,
    network: Trained,
    prompt: Prompt,
    seed: int,
    report: Report,
    cache: Cache,
) -> CandidateScores:
    """``method`` asks ``network`` about the images ``made``, with their prompts or without; one randomness for all."""
    uses_prompt = method.kind.takes_prompt or "prompt" in method.kind.needs
    prompts = made.prompts if prompt == "known" else np.full_like(made.prompts, NO_CONDITION)
    queries = Query(made.images, prompts if uses_prompt else None, made.noise, made.guidance)
    detectors = [method.make(candidate, study.reference) for candidate in method.candidates]
    model, dim = network.network, made.images[0].size

    def compute() -> dict[str, np.ndarray]:
        key = named_key(seed, "detectors")
        values, seconds = [], []
        for detector in detectors:
            started = time.perf_counter()
            values.append(detector.scores(model, queries, key=key))
            seconds.append(time.perf_counter() - started)
        started = time.perf_counter()  # the first has compiled, and is timed again
        detectors[0].scores(model, queries, key=key)
        seconds[0] = min(seconds[0], time.perf_counter() - started)
        return {"values": np.stack(values), "milliseconds": 1e3 * np.asarray(seconds) / len(made.images)}

    depends_on = {
        "network": network.key,
        "images": report.fingerprint(f"scored/g{made.guidance:g}", made.images, made.noise, made.prompts),
        "prompt": prompt if uses_prompt else "unused",
        "guidance": made.guidance,
        "detector": method.detector.spec,
        "grid": method.grid,
        "reference": report.fingerprint("reference", study.reference) if "training data" in method.kind.needs else None,
        "seed": seed,
        "code": code_tag(sys.modules[__name__], plap_jax, *target_modules(method.detector.spec)),
    }
    with report.stage(f"detector/{name}"):
        found = cache.arrays(f"detector/{name}", depends_on, compute)
    evaluations = np.asarray([detector.nfe(dim) for detector in detectors])
    return CandidateScores(found["values"], evaluations, found["milliseconds"], method.candidates)
