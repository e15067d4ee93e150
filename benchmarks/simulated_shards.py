"""Shards of an audit whose evidence is drawn at random: ``python -m benchmarks.simulated_shards FOLDER --images N``.

What stands there is what shards leave, plan and sealed parts, so that a merge can be measured without any model. The
thumbnails are like those of photographs (their spectrum falls as 1/f²); of a thousand images two are variants of
pictures that occur often, and two are nearly blank, which makes a crowd. One image of a hundred is memorized.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from scipy import fft

from benchmarks.verdict import drawn
from plap_jax import UserModel, VPLinear
from plap_jax.audit.auditing import open_all
from plap_jax.audit.measuring import Question, question
from plap_jax.audit.parts import ShardPart, write_part
from plap_jax.audit.plan import Plan, plan_of, settled
from plap_jax.audit.shards import EVIDENCE, header_of, where
from plap_jax.audit.sharing import Shard
from plap_jax.audit.store import Surroundings
from plap_jax.audit.stream import INDEX, THUMBNAIL, Scored

SHAPE, SIDE = (28, 28, 1), 16
POPULAR, VARIANTS, BLANK, MEMORIZED = 1000, 0.002, 0.002, 0.01
FLOATS = ("kappa", "kappa_stderr", "contrast")  # float32 in a part


def write(folder: Path, n_images: int, n_reference: int, n_shards: int) -> None:
    """Images (files of nothing but zeros, which take no room on most disks), plan and parts."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"images": n_images, "reference": n_reference}
    paths = {name: folder / f"{name}.npy" for name in sizes}
    for name, n in sizes.items():
        np.lib.format.open_memmap(paths[name], "w+", np.uint8, (n, *SHAPE)).flush()
    schedule = VPLinear()
    model = UserModel(lambda x, t, condition: x * schedule.sigma(t), schedule, shape=SHAPE)
    it = open_all(
        model, paths["images"], reference=paths["reference"], key=jax.random.key(0), around=Surroundings(), maps=0
    )
    told = where(paths["images"], paths["reference"], None, None, None) | {"words": it.words, "command": None}
    asking, _ = question(
        it.held, it.settings, replace(it.asked, in_part=True), baseline=None, sigma=None, detector=None
    )
    out = folder / "audit"
    plan = settled(out, plan_of(asking, it.asked, n_shards, fdr=it.fdr, told=told))
    for number in range(1, n_shards + 1):
        _write_part(out, Shard(number, n_shards), plan, asking)


def _write_part(out: Path, shard: Shard, plan: Plan, asking: Question) -> None:
    sides = {}
    for i, (name, pictures) in enumerate(asking.asked.sides.items()):
        source = pictures.source
        rows = shard.rows(source)
        memorized = round(MEMORIZED * len(rows)) if name == "images" else 0
        columns = drawn(len(rows), 2 * shard.number + i, memorized).columns
        columns |= {key: columns[key].astype(np.float32) for key in FLOATS}
        columns[THUMBNAIL] = thumbnails(len(rows), 2 * shard.number + i)
        columns["spent"] = columns["nfe"].astype(float)
        columns[INDEX] = rows
        sides[name] = Scored(columns, [source.names[row] for row in rows.tolist()])
    write_part(out / EVIDENCE / shard.file, ShardPart(header_of(shard, plan, asking), sides))


def thumbnails(n: int, seed: int) -> np.ndarray:
    """``(n, 256)`` float32 in [−1, 1]."""
    rng = np.random.default_rng(seed)
    found, kind = _drawn(n, rng, SIDE), rng.random(n)
    variants, blank = kind < VARIANTS, kind > 1 - BLANK
    known = _drawn(POPULAR, np.random.default_rng(0), SIDE)
    found[variants] = known[rng.integers(0, POPULAR, int(variants.sum()))]
    found[blank] = rng.uniform(0.9, 1, (int(blank.sum()), 1))
    near = variants | blank
    found[near] += rng.normal(0, 0.01, (int(near.sum()), found.shape[1])).astype(np.float32)
    return found.clip(-1, 1)


def pictures(n: int, seed: int, side: int) -> np.ndarray:
    """``(n, side²)`` float32 in [−1, 1], with the spectrum of photographs and none of their shapes."""
    return _drawn(n, np.random.default_rng(seed), side).clip(-1, 1)


def _drawn(n: int, rng: np.random.Generator, side: int) -> np.ndarray:
    k = np.arange(side)
    radius = np.hypot(k[:, None], k)
    radius[0, 0] = 0.75  # brightness varies with a standard deviation of 0.3 or so
    spectrum = rng.standard_normal((n, side, side), np.float32) * (0.225 * side / radius).astype(np.float32)
    return fft.idctn(spectrum, axes=(1, 2), norm="ortho").reshape(n, -1)


def main() -> None:
    """Writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--reference", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=10)
    given = parser.parse_args()
    write(given.folder, given.images, given.reference, given.shards)


if __name__ == "__main__":
    main()
