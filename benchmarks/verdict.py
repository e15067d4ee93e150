"""Calibration and verdict of many images, beside what the model and near-duplicates take.

``python -m benchmarks.verdict [--images N]``: seconds and memory for N images, half of them the reference, whose
evidence and difficulty are drawn at random; prints JSON. Goal: 60 s and 2 GiB for 100,000.
"""

import argparse
import json
import resource
import time

import numpy as np

from plap_jax.audit.calibrated import CALIBRATED, calibrate
from plap_jax.audit.fitness import fitness
from plap_jax.audit.stream import Scored
from plap_jax.audit.verdict import judge
from plap_jax.difficulty import NAMES
from plap_jax.evidence import N_DIRECTIONS, NOISE_LEVELS


def drawn(n: int, seed: int, memorized: int) -> Scored:
    """Images whose evidence depends on their difficulty; the first ones stand out."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, len(NAMES)))
    levels = len(NOISE_LEVELS)
    evidence = (
        z @ np.random.default_rng(0).normal(size=(z.shape[1], 2 * levels)) + rng.normal(size=(n, 2 * levels))
    ) / 20
    evidence[:memorized] += 0.4
    columns = {"kappa": evidence[:, :levels], "contrast": evidence[:, levels:], "difficulty": z}
    columns |= {"kappa_stderr": np.full((n, levels), 0.01), "thumbnail": rng.normal(size=(n, 4)).astype(np.float32)}
    columns |= {name: np.full(n, N_DIRECTIONS) for name in ("n_units", "nfe")}
    columns |= {"index": np.arange(n), "digest": rng.integers(0, 2**63, n, np.uint64)}
    return Scored(columns, [str(i) for i in range(n)])


def measured(n: int) -> dict[str, float]:
    """Seconds by part, and the most memory of the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    audited, reference = drawn(n // 2, 1, n // 20), drawn(n - n // 2, 2, 0)
    start = time.perf_counter()
    audited, reference, found = calibrate(audited, reference, list(NOISE_LEVELS), duplicate_distance=0)
    calibrated = time.perf_counter()
    verdict = judge(CALIBRATED, audited, reference, 0.05)
    rows = verdict.envelope
    judged = time.perf_counter()
    fit = fitness(found, n // 2)
    end = time.perf_counter()
    power, false = verdict.flagged[: n // 20].mean(), verdict.flagged[n // 20 :].sum() / max(1, verdict.flagged.sum())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": n,
        "seconds_calibration": calibrated - start,
        "seconds_verdict_and_envelope": judged - calibrated,
        "seconds_fitness": end - judged,
        "seconds": end - start,
        "gib": most / 2**20,
        "gib_before": before / 2**20,
        "power": float(power),
        "false_share": float(false),
        "thresholds": len(rows),
        "fitness_p": fit.p_value,
    }


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    print(json.dumps(measured(parser.parse_args().images), indent=2))


if __name__ == "__main__":
    main()
