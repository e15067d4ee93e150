"""The guard of a run: its band, from a file, or fitted to the model's own generations without the copies among them."""

import logging
from typing import Any

import numpy as np

from experiments.core.checksums import sha256_json
from experiments.generate.making import Maker, prefixed
from plap_jax.data.duplicates import groups
from plap_jax.diffusion import Diffusion
from plap_jax.mitigation import Band, Guard, fewest_images, load_band
from plap_jax.mitigation.walk import n_nodes_of
from plap_jax.sampling import Sampler
from plap_jax.typing import require

log = logging.getLogger(__name__)
RELEASE = 0.05  # or the level, where that is larger


def fitted_guard(config: Any, maker: Maker, sampler: Sampler) -> Guard:
    """The guard with its band.

    Raises:
        ValueError: a band of something else, too few generations for its level, or settings that do not fit.
    """
    given, model = config.band, maker.subject.model
    about = sha256_json({"model": maker.key, "sampler": _own(config.sampler.spec), "guidance": config.guidance})
    prompted = config.prompts is not None
    if given.file is not None:
        with prefixed("band.file", only=False):
            band = load_band(given.file)
        allowed = "must be of this model, sampler and guidance: a band of other generations says nothing of these"
        require(band.about == about, "band.file", given.file, allowed)
        guard = _guard(config, sampler, band)
        _check(guard, model.diffusion, prompted)
        return guard
    needed = fewest_images(given.level)
    release = max(RELEASE, given.level) if given.release is None else given.release
    require(release >= given.level, "band.release", release, f"must be at least band.level, {given.level}")
    require(given.n >= needed, "band.n", given.n, f"must be at least {needed}, which band.level={given.level} needs")
    nodes = config.mitigation.spec.get("nodes", 25)
    watched = ("n_checks", "first", "sigma", "n_directions")
    how = {name: getattr(given, name) for name in watched} | {"seed": config.seed, "unit": model.unit}
    how["given"] = model.without == "refused" if given.given is None else given.given
    with prefixed("band"):
        opened = Band.watching(n_nodes=n_nodes_of(sampler, nodes), **how)
        opened.check_schedule(model.diffusion.schedule)
    watch = _guard(config, sampler, opened)
    _check(watch, model.diffusion, prompted)
    seen = maker.make("band", given.n, watch, given.prompts if given.prompts is not None else config.prompts)
    kept = ~_copies(config, maker, seen.arrays["images"])
    log.info("  band: %d of %d generations are no copies", kept.sum(), len(kept))
    maker.report.metric("band/generations", len(kept))
    maker.report.metric("band/no_copies", int(kept.sum()))
    with prefixed("band"):
        band = watch.band.fitted(seen.notes["kappa"][kept], level=given.level, release=release, about=about)
    for check, limit, inner in zip(band.checks, band.limits, band.inner, strict=True):
        maker.report.metric(f"band/limit_at_{check}", float(limit))
        maker.report.metric(f"band/inner_at_{check}", float(inner))
    return _guard(config, sampler, band)


def _own(spec: dict[str, Any]) -> dict[str, Any]:
    """A sampler's settings without ``clip`` where there is none: bands of before there was one stay valid."""
    return {name: value for name, value in spec.items() if (name, value) != ("clip", None)}


def _guard(config: Any, sampler: Sampler, band: Band) -> Guard:
    with prefixed("mitigation"):
        return config.mitigation.make(sampler, band)


def _check(guard: Guard, diffusion: Diffusion, prompted: bool) -> None:
    with prefixed("mitigation", only=False):
        guard.check(diffusion, prompted=prompted)


def _copies(config: Any, maker: Maker, images: np.ndarray) -> np.ndarray:
    """Which generations are copies: of training images where these are given, and of each other."""
    given = config.band
    first = groups(images, given.duplicate_distance)
    copies = np.bincount(first, minlength=len(images))[first] > 1
    if given.training is None:
        log.warning("  band.training=null: copies that were generated once stay in the band, and raise its limits")
        return copies
    found = maker.copies(images)
    return copies | found.by_ratio | found.by_distance
