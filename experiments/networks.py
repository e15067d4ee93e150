"""Trained networks, from the cache when they are there."""

import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import plap_jax.checkpoints
import plap_jax.diffusion
import plap_jax.networks
import plap_jax.training
from experiments.cache import Cache, code_tag, target_modules
from experiments.files import replacing
from experiments.report import Report
from experiments.schema import RunConfig
from experiments.tracker import Tracker
from plap_jax.checkpoints import remove, remove_unfinished
from plap_jax.diffusion import Diffusion
from plap_jax.training import load_diffusion, load_snapshots, save_diffusion, train

NETWORK, LOSSES, STEPS, SNAPSHOTS = "network", "losses.npy", "steps", "snapshots"


@dataclass(frozen=True)
class Trained:
    """A trained network where the cache keeps it.

    Attributes:
        network: with averaged weights, paired with its schedule.
        directory: of the cache, holding the snapshots.
    """

    network: Diffusion
    directory: Path

    @property
    def key(self) -> str:
        """Names the network in the cache keys of what is computed from it: a hash of all that it depends on."""
        return self.directory.name

    def snapshots(self) -> Iterator[tuple[int, Diffusion]]:
        """(step, network with the weights averaged up to there), in order."""
        return load_snapshots(self.directory / SNAPSHOTS, self.network)


def named_key(seed: int, name: str) -> jax.Array:
    """A random key for one purpose: the same for the same seed and name, independent between names."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def untrained(config: RunConfig, data: np.ndarray, *, name: str, conditions: np.ndarray | None = None) -> Diffusion:
    """A network of ``config.model`` for points of ``data`` ``(n, *shape)``, paired with ``config.diffusion``.

    The same seed and name give the same initial weights. With ``conditions`` it knows as many captions as there are.
    """
    captions = {} if conditions is None else {"n_conditions": int(conditions.max()) + 1}
    rngs = nnx.Rngs(named_key(config.seed, f"network/{name}/weights"))
    return Diffusion(
        config.model.make(data.shape[1:], rngs=rngs, **captions),
        config.diffusion.make(),
        prediction=config.prediction,
        data_std=float(np.std(data)),
        conditioning="log_snr",
    )


def trained(
    config: RunConfig,
    data: np.ndarray,
    *,
    name: str,
    report: Report,
    cache: Cache,
    tracker: Tracker,
    snapshot_steps: Sequence[int] = (),
    conditions: np.ndarray | None = None,
) -> Trained:
    """The network of ``untrained`` after training on ``data`` as ``config.train`` says.

    Args:
        config: its sections model, diffusion, train and its seed say how.
        data: ``(n, *shape)``, copies included.
        name: names the stage, the checkpoint, the curve, and the network's own randomness.
        snapshot_steps: after these steps a copy of the network is kept.
        conditions: ``(n,)`` integers, the captions; None for a network without.
        report, cache, tracker: of the run. Nothing is trained when the cache holds this network already.
    """
    initial = untrained(config, data, name=name, conditions=conditions)
    train_config = config.train.make()
    sections = {section: getattr(config, section).spec for section in ("model", "diffusion")}
    depends_on = {
        "data": report.fingerprint(f"train/{name}", *(data,) if conditions is None else (data, conditions)),
        "sections": sections,
        "prediction": config.prediction,
        "snapshot_steps": list(snapshot_steps),
        "train": asdict(train_config.recipe) | {"loop": train_config.loop},  # the two loops round differently
        "seed": config.seed,
        "code": code_tag(
            sys.modules[__name__],
            plap_jax.training,
            plap_jax.diffusion,
            plap_jax.networks,
            plap_jax.checkpoints,
            *target_modules(sections),
        ),
    }

    def build(directory: Path) -> None:
        remove_unfinished(directory)
        if not (directory / NETWORK).exists():  # it is written last, so where it is, training is done
            result = train(
                initial,
                jnp.asarray(data),
                key=named_key(config.seed, f"network/{name}/steps"),
                config=train_config,
                checkpoint_dir=directory / STEPS,
                snapshot_dir=directory / SNAPSHOTS if snapshot_steps else None,
                snapshot_steps=snapshot_steps,
                conditions=conditions,
                progress=True,
            )
            with replacing(directory / LOSSES) as handle:
                np.save(handle, np.asarray(result.losses))
            save_diffusion(directory / NETWORK, result.diffusion)
        remove(directory / STEPS)

    with report.stage(f"train/{name}"):
        entry = cache.stage(f"train/{name}", depends_on, build)
        network = load_diffusion(entry / NETWORK, initial)
    tracker.curve(f"train/{name}/loss", np.load(entry / LOSSES))
    report.checkpoint(name.replace("/", "_"), entry / NETWORK)
    return Trained(network, entry)
