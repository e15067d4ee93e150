"""Audits in shards: images per second, what the bare network takes of the time, growth, and merges.

A network is trained for some seconds on pictures like photographs, and audits others: all in one process on one core,
then in two processes on a core each. The merge of ten million images reads evidence that is drawn at random
(``benchmarks.simulated_shards``), so that it needs no network. All of it takes about an hour, and 40 GB of disk.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks import simulated_shards
from benchmarks.simulated_shards import pictures
from benchmarks.table import Row
from benchmarks.timing import Finished, run_process
from benchmarks.topic import publish
from experiments.shared.random_networks import evaluate
from plap_jax.audit import AuditSettings
from plap_jax.audit.gathering import Gatherer
from plap_jax.audit.parts import read_part
from plap_jax.audit.subject import as_subject
from plap_jax.diffusion import Diffusion, VPLinear
from plap_jax.networks import ResidualMLP, UNet
from plap_jax.pretrained import load_checkpoint
from plap_jax.training import TrainConfig, save_diffusion, train

SIDE, N_TRAIN, N_STEPS = 28, 4096, 300
NETWORK = {"width": 512, "depth": 4, "embed_dim": 64}  # of which a core audits 100,000 images in some ten minutes
LEAST, FEW, MANY = 100, 10_000, 100_000  # the least take hardly longer than to start and to compile
SIZE = {"width": 32, "multipliers": (1, 2), "patch": 2}  # of the U-Net, 0.42 million weights
OF_UNET, N_STEPS_UNET = 2000, 20
REFERENCE = 0.05  # of the images, beside them
MERGED, MERGED_REFERENCE, IMAGES_EACH = 10_000_000, 200_000, 10_000
SECONDS = 5.0  # of bare evaluations
SHARE, GROWTH, MERGE_S, MERGE_MIB = 0.85, 0.1, 300, 8 * 1024


def prepare(folder: Path, sizes: Sequence[int], n_steps: int, network: nnx.Module | None = None) -> None:
    """A trained network (None: of ``NETWORK``), and images and a reference for each size."""
    shown = pictures(N_TRAIN, 1, SIDE).reshape(-1, SIDE, SIDE, 1)
    network = network or ResidualMLP((SIDE, SIDE, 1), **NETWORK, rngs=nnx.Rngs(0))
    untrained = Diffusion(network, VPLinear(), conditioning="log_snr")
    config = TrainConfig(n_steps=n_steps, batch_size=128, chunk_steps=n_steps)
    save_diffusion(folder / "network", train(untrained, shown, key=jax.random.key(0), config=config).diffusion)
    for n in sizes:
        for name, count, seed in (("images", n, 2), ("reference", round(REFERENCE * n), 3)):
            pixels = np.clip(127.5 * (pictures(count, seed, SIDE) + 1), 0, 255).astype(np.uint8)
            np.save(folder / f"{name}-{n}.npy", pixels.reshape(-1, SIDE, SIDE))


def side_by_side(commands: Sequence[Sequence[str]]) -> list[Finished]:
    """Each in a process on a core of its own, at the same time."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def started(k: int) -> Finished:
        if k < len(cores):
            os.sched_setaffinity(0, {cores[k]})  # of this thread, and so of the process that it starts
        return run_process([sys.executable, "-m", *commands[k]])

    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(started, range(len(commands))))


def audited(folder: Path, n: int, n_shards: int) -> tuple[list[Finished], list[float]]:
    """All shards of n images, a process each; and how many evaluations of the network each has made."""
    out = folder / f"{n}-{n_shards}"
    options = ["--model", f"{folder}/network", "--images", f"{folder}/images-{n}.npy", "--maps", "0"]
    options += ["--reference", f"{folder}/reference-{n}.npy", "--out", str(out)]
    shards = range(1, n_shards + 1)
    done = side_by_side([["plap_jax.audit", *options, "--shard", f"{k}/{n_shards}"] for k in shards])
    parts = [read_part(out / "evidence" / f"part-{k:05d}.parquet").sides.values() for k in shards]
    return done, [float(sum(side.columns["spent"].sum() for side in sides)) for sides in parts]


def bare_rate(folder: Path, seconds: float) -> float:
    """Evaluations of the network per second, in batches of the shape that an audit has, and nothing beside them."""
    model = load_checkpoint(folder / "network")
    asked = Gatherer(as_subject(model, None), AuditSettings(), jax.random.key(0), one_shape=True)
    n = asked.cost * asked.batch
    points = jax.device_put(pictures(n, 4, SIDE).reshape(-1, *model.shape))
    scores = [model.diffusion.score_at(t) for t in asked.times.values()]
    jax.block_until_ready(evaluate(scores[0], points))
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        jax.block_until_ready([evaluate(score, points) for score in scores])
        done += n * len(scores)
    return done / spent


def of_network(folder: Path, sizes: Sequence[int], n_steps: int, seconds: float) -> list[Row]:
    """What an audit through a network takes; three sizes, ascending, of which the least is for the start."""
    prepare(folder, sizes, n_steps)
    least, few, many = sizes
    rows, walls, told = [], [], f"{many:,} images"
    for n_shards in (1, 2):
        alone = ["benchmarks.scale", "--bare", str(folder), str(seconds)]
        rates = [float(one.output) for one in side_by_side([alone] * n_shards)]
        done, spent = audited(folder, many, n_shards)
        walls.append(max(one.seconds for one in done))
        shares = [nfe / rate / one.seconds for nfe, rate, one in zip(spent, rates, done, strict=True)]
        what = f"{told}, {n_shards} process{'es' * (n_shards - 1)}"
        speed = many * (1 + REFERENCE) / walls[-1]
        rows += [
            Row(f"{what}: images of both sides", [speed], "/s", note=f"{walls[-1]:.0f} s from start to end"),
            Row(f"{what}: bare evaluations / time", [float(np.mean(shares))], "×", at_least=SHARE),
            Row(f"{what}: memory of each", [max(one.peak_mib for one in done)], "MiB"),
        ]
    rows.append(Row(f"{told}: speed of 2 processes / 1", [walls[0] / walls[1]], "×"))
    start, shorter = (audited(folder, n, 1)[0][0].seconds for n in (least, few))
    whole = {"at_most": 1 + GROWTH, "at_least": 1 - GROWTH}
    rows.append(Row(f"time of {told} / {many / few:g} × {few:,}", [walls[0] / shorter / (many / few)], "×", **whole))
    growth = (walls[0] - start) / (shorter - start) / ((many - least) / (few - least))
    goal = whole | {"note": f"the start takes {start:.1f} s"}
    rows.append(Row(f"time beyond the start, {told} / {many / few:g} × {few:,}", [growth], "×", **goal))
    return [*rows, *merged(f"{told}: merge", folder / f"{many}-2")]


def of_unet(folder: Path, n: int, n_steps: int, seconds: float, **size: Any) -> Row:
    """What is left of the time of few images beside a dearer network, as the experiments have it."""
    prepare(folder, (n,), n_steps, UNet((SIDE, SIDE, 1), **size, rngs=nnx.Rngs(0)))
    (rate,) = side_by_side([["benchmarks.scale", "--bare", str(folder), str(seconds)]])
    (done,), (nfe,) = audited(folder, n, 1)
    share = nfe / float(rate.output) / done.seconds
    return Row(f"{n:,} images through a U-Net: bare evaluations / time", [share], "×", at_least=SHARE)


def merged(what: str, out: Path, seconds: float | None = None, mib: float | None = None) -> list[Row]:
    """What a merge takes."""
    done = run_process([sys.executable, "-m", "plap_jax.audit", "merge", str(out)])
    memory = Row(f"{what}, memory", [done.peak_mib], "MiB", at_most=mib)
    return [Row(what, [done.seconds], "s", at_most=seconds), memory]


def of_very_many(folder: Path, n: int, n_reference: int) -> list[Row]:
    """The merge of simulated evidence."""
    simulated_shards.write(folder, n, n_reference, -(-n // IMAGES_EACH))
    return merged(f"{n:,} images, simulated: merge", folder / "audit", MERGE_S, MERGE_MIB)


def measure(runs: int) -> list[Row]:
    """All of it, once."""
    with tempfile.TemporaryDirectory() as folder:
        rows = of_network(Path(folder), (LEAST, FEW, MANY), N_STEPS, SECONDS)
        rows.append(of_unet(Path(folder) / "unet", OF_UNET, N_STEPS_UNET, SECONDS, **SIZE))
        return rows + of_very_many(Path(folder) / "simulated", MERGED, MERGED_REFERENCE)


def main() -> None:
    """The topic, or the bare network alone."""
    if sys.argv[1:2] == ["--bare"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--bare", nargs=2, metavar=("FOLDER", "SECONDS"))
        folder, seconds = parser.parse_args().bare
        print(bare_rate(Path(folder), float(seconds)))
    else:
        publish(measure)


if __name__ == "__main__":
    main()
