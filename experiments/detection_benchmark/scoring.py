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
from plap_jax.detectors import Detector, Query
from plap_jax.diffusion import Diffusion
from plap_jax.sampling import NO_CONDITION
from plap_jax.typing import PRNGKey


@dataclass(frozen=True)
class CandidateScores:
    """One detector's statistics of images, higher = more memorized.

    Attributes:
        values: ``(n candidates, n)``, NaN of images that were not scored.
        evaluations: ``(n candidates,)``, of the network per image.
        milliseconds: ``(n candidates,)`` per image.
        candidates: the parameters.
        subset: ``(m,)``, the images that were scored, ascending; None: all.
    """

    values: np.ndarray
    evaluations: np.ndarray
    milliseconds: np.ndarray
    candidates: list[dict[str, Any]]
    subset: np.ndarray | None = None

    @property
    def images(self) -> np.ndarray:
        """``(m,)``, those that were scored."""
        return np.arange(self.values.shape[1]) if self.subset is None else self.subset


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
    subset = drawn(method.subset, len(made.images), seed)
    some = slice(None) if subset is None else subset
    queries = Query(made.images[some], prompts[some] if uses_prompt else None, made.noise[some], made.guidance)
    model, dim = network.network, made.images[0].size
    needs_data = "training data" in method.kind.needs

    def compute() -> dict[str, np.ndarray]:
        key = named_key(seed, "detectors")
        detectors = _detectors(method, study, model, key)
        values, seconds = [], []
        for detector in detectors:
            started = time.perf_counter()
            values.append(detector.scores(model, queries, key=key))
            seconds.append(time.perf_counter() - started)
        started = time.perf_counter()  # the first has compiled, and is timed again
        detectors[0].scores(model, queries, key=key)
        seconds[0] = min(seconds[0], time.perf_counter() - started)
        return {
            "values": np.stack(values),
            "milliseconds": 1e3 * np.asarray(seconds) / len(queries.image),
            "evaluations": np.asarray([detector.nfe(dim) for detector in detectors]),
        }

    depends_on = {
        "network": network.key,
        "images": report.fingerprint(f"scored/g{made.guidance:g}", made.images, made.noise, made.prompts),
        "prompt": prompt if uses_prompt else "unused",
        "guidance": made.guidance,
        "detector": method.detector.spec,
        "grid": method.grid,
        "subset": method.subset,
        "reference": report.fingerprint("reference", study.reference) if needs_data else None,
        "nonmembers": report.fingerprint("nonmembers", study.nonmembers) if method.is_fitted else None,
        "seed": seed,
        "code": code_tag(sys.modules[__name__], plap_jax, *target_modules(method.detector.spec)),
    }
    with report.stage(f"detector/{name}"):
        found = cache.arrays(f"detector/{name}", depends_on, compute)
    values = placed(found["values"], subset, len(made.images))
    return CandidateScores(values, found["evaluations"], found["milliseconds"], method.candidates, subset)


def _detectors(method: Method, study: CaptionedStudy, model: Diffusion, key: PRNGKey) -> list[Detector]:
    """One for each candidate of the parameters."""
    if method.is_fitted:
        return [method.fit(candidate, model, study.nonmembers, key) for candidate in method.candidates]
    return [method.make(candidate, study.reference) for candidate in method.candidates]


def drawn(subset: int | None, n: int, seed: int) -> np.ndarray | None:
    """The images that a detector scores, ascending: the same for all that score as many; None: all of ``n``."""
    if subset is None or subset >= n:
        return None
    return np.sort(np.random.default_rng([seed, subset]).permutation(n)[:subset])


def placed(values: np.ndarray, subset: np.ndarray | None, n: int) -> np.ndarray:
    """``(..., m)`` of the images that were scored → ``(..., n)`` of all, NaN elsewhere."""
    if subset is None:
        return values
    found = np.full((*values.shape[:-1], n), np.nan)
    found[..., subset] = values
    return found
