"""An audit on a Ray cluster: Ray Data hands its shards to a pool of workers, each of which loads the model once."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import ray
import ray.data
from tqdm import tqdm

from plap_jax.audit.auditing import Images, Opened, open_all
from plap_jax.audit.plan import PLAN, read_plan
from plap_jax.audit.shards import EVIDENCE, compute_shard, load_parts, where
from plap_jax.audit.sharing import MOST, Shard
from plap_jax.audit.store import Surroundings
from plap_jax.audit.subject import Model
from plap_jax.typing import require

log = logging.getLogger(__name__)
IMAGES = 4096  # of a shard, about: what a killed worker may lose, but for finished chunks
AT_LEAST = 4  # shards for each worker, so that all of them end at about the same time
SECONDS = 1.0  # between two looks at a shard that another process computes


@dataclass(frozen=True)
class Order:
    """What every worker is told; it is sent by pickle.

    Attributes:
        model, baseline: functions that load them.
        images: of all shards.
        key: the data of a key.
        how: further arguments of ``audit_images``.
        about: further arguments of ``compute_shard``.
        folder, here: of the audit, and from which it was asked for.
        n_shards: how many there are.
    """

    model: Callable[[], Model]
    baseline: Callable[[], Model] | None
    images: Images
    key: np.ndarray
    how: Mapping[str, Any]
    about: Mapping[str, Any]
    folder: Path
    here: Path
    n_shards: int


class Worker:
    """An actor: what it needs of model and images is loaded with its first shard, and kept."""

    def __init__(self, order: Order):
        self._order, self._opened = order, None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes the shards of these numbers, and gives them back."""
        for number in batch["shard"].tolist():
            self._compute(Shard(number, self._order.n_shards))
        return batch

    def _compute(self, shard: Shard) -> None:
        order, it = self._order, self._opened or self._open()
        about = {"baseline": it.baseline, "fdr": it.fdr, **order.about}
        while compute_shard(shard, order.folder, it.held, it.settings, it.asked, **about) is None:
            time.sleep(SECONDS)  # a worker that was killed may still hold its lock

    def _open(self) -> Opened:
        """Once, in the folder from which the audit was asked for, where there is one on this machine."""
        order = self._order
        if order.here.is_dir():
            os.chdir(order.here)
            sys.path.insert(0, str(order.here))
        baseline = None if order.baseline is None else order.baseline()
        key = jax.random.wrap_key_data(order.key)
        self._opened = open_all(
            order.model(), order.images, baseline=baseline, key=key, around=Surroundings(), **order.how
        )
        return self._opened


def audit_on_ray(
    model: Callable[[], Model],
    images: str | os.PathLike,
    *,
    address: str,
    folder: str | os.PathLike,
    key: jax.Array,
    sigma: float | None = None,
    baseline: Callable[[], Model] | None = None,
    progress: bool = False,
    command: Mapping[str, Any] | None = None,
    **how: Any,
) -> None:
    """Measures all shards of an audit on a Ray cluster, as ``audit_shard`` would each; ``merge_shards`` judges them.

    There is a worker for each GPU of the cluster, or for each processor where it has none. One that dies is replaced,
    and its shard goes on from its last finished chunk. How many shards there are follows from the number of images, or
    from the plan that is in the folder already.

    Args:
        model, baseline: functions that load them, which workers can import; each loads both once, and keeps them.
        images: where they lie; all workers reach it, as they do ``folder``.
        address: of the cluster, as ``ray.init`` takes it; "local" starts one on this machine, for this audit alone.
        folder: of all shards.
        key, sigma: as of ``audit_images``.
        progress: show a bar on stderr.
        command: how a command line finds the model again.
        **how: further arguments of ``audit_images``.

    Raises:
        ValueError: as ``audit_shard``.
        ConnectionError: there is no cluster at the address.
        ray.exceptions.RayError: a worker fails for another reason than being killed.

    Example:
        >>> audit_on_ray(load, "photos", address="auto", folder="audit", reference="others", key=jax.random.key(0))
        >>> result = merge_shards("audit")
    """
    load_parts()
    folder = Path(folder).absolute()
    # Here first, so that a mistake is told before anything is started.
    it = open_all(model, images, baseline=baseline, key=key, around=Surroundings(), **how)
    it.tell(sigma, None)
    n_images = sum(len(side.source.names) for side in it.asked.sides.values())
    given = {name: how.get(name) for name in ("reference", "training", "prompts", "reference_prompts")}
    told = where(images, **given) | {"words": it.words, "command": command}
    about = {"sigma": sigma, "detector": None, "told": told}
    del it
    gc.collect()
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        resources = ray.cluster_resources()
        kind = "GPU" if resources.get("GPU", 0) >= 1 else "CPU"
        n_workers = max(1, int(resources.get(kind, 1)))
        n_shards = read_plan(folder).n_shards if (folder / PLAN).is_file() else _shards_for(n_images, n_workers)
        data = np.asarray(jax.random.key_data(key))
        order = Order(model, baseline, images, data, how, about, folder, Path.cwd(), n_shards)
        log.info("  %d shards on %d workers of Ray", n_shards, n_workers)
        _compute_all(order, min(n_workers, n_shards), {f"num_{kind.lower()}s": 1}, progress)
    finally:
        if ours:
            ray.shutdown()


def _shards_for(n_images: int, n_workers: int) -> int:
    wanted = max(-(-n_images // IMAGES), AT_LEAST * n_workers)
    return max(1, min(wanted, n_images, MOST))


def _compute_all(order: Order, n_workers: int, each: Mapping[str, int], progress: bool) -> None:
    """All shards, each a batch of its own."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    numbers = [{"shard": number} for number in range(1, order.n_shards + 1)]
    shards = ray.data.from_items(numbers, override_num_blocks=order.n_shards)
    pool = ray.data.ActorPoolStrategy(size=n_workers)
    done = shards.map_batches(Worker, fn_constructor_args=(order,), batch_size=1, compute=pool, **each)
    with tqdm(total=order.n_shards, unit="shard", disable=not progress) as bar:
        for _ in done.iter_rows():
            bar.update()
    parts = [order.folder / EVIDENCE / Shard(number, order.n_shards).file for number in range(1, order.n_shards + 1)]
    missing = sum(not part.exists() for part in parts)
    allowed = f"must be a folder that all workers reach, and {missing} of {len(parts)} parts are not there"
    require(missing == 0, "out", str(order.folder), allowed)
