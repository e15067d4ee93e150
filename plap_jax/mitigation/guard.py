"""Guard: a generation that looks memorized is noised again and goes on elsewhere. Needs no prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.mitigation.band import Band
from plap_jax.mitigation.base import Draw, Mitigation, Progress, Sampled, cost_of_asking, require_strength
from plap_jax.mitigation.gap import unguided
from plap_jax.mitigation.walk import n_nodes_of, walk_of
from plap_jax.parallel import map_points
from plap_jax.sampling import DDIM, NO_CONDITION, Sampler, guided
from plap_jax.typing import Array, ArrayLike, PRNGKey, concrete, require

AGAIN = 2**20  # folded into the key of a sample for what is drawn after it was noised again
_ROUNDING = 1e-4  # two ratios are equal up to it
SMALL = 8  # a small batch is this part of a full one


class Walker(NamedTuple):
    """One generation at a check: where it is and what was seen of it."""

    x: Array
    node: Array
    check: Array
    attempt: Array
    nfe: Array
    kappa: Array
    caught_at: Array
    caught_kappa: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guard(Mitigation):
    """While an image is generated, κ₁ of what it will become is held against that of generations that are no copies.

    At each check, κ₁(x̂₀) at one small noise level, x̂₀ the denoised prediction at that node. Above the band's limit
    the generation is taken for a copy: x = α_m x̂₀ + σ_m ε at a middle node m with other noise ε, and on from there with
    the guidance ``after``, at most R times, until it stays below the band's inner limits. κ₁ of a memorized image is
    near 1 (Brokman et al., SSVM 2025); the rule is this library's own.

    Needs no prompt, no derivatives, and, beside the band, no training data. A generation that is inside at each
    check is the sampler's own, up to rounding, and to the last bit that of a guard without limits. After R times a
    generation stays as it is and says so.

    A prompt that leads to a copy from any noise leads there again: hence ``after``. What the image shares with the copy
    in the end, its kind, is then what x̂₀ has kept of it at node m.

    Costs K checks of ``n_directions`` evaluations each for every generation, and for each time that one is noised again
    the steps and checks from node m on: one evaluation for each step where ``after`` is 0 or 1, two otherwise with a
    prompt. Solvers pay one more at each check, and their walk has ``nodes`` nodes.

    Args:
        sampler: DDIM, or ProbabilityFlow or ReverseSDE with denoise=True.
        band: with limits; one without (``Band.watching``) measures and never acts.
        restart: ς = σ/α of the middle node, noise to signal, > 0, which says the same on every schedule: m is the last
            node with at least as much, the first node where the schedule has less. Not after the first check.
        growth: ≥ 1, by which ς grows each further time: what a little noise does not lead away from the copy gets more.
        renoisings: R ≥ 0.
        after: guidance from then on, where there is a prompt: None: that of the model; 0: without the prompt; 1: with
            it and no guidance; negative: away from it.
        nodes: of ProbabilityFlow and ReverseSDE, ≥ 2.

    Notes of a sample, K checks: ``renoised``, how often; ``kappa`` ``(K,)`` on its last way; ``outside``, whether it
    is above a limit even there, an inner one where it was noised again; ``caught_at``, the number of the check at which
    it was first outside, −1 for none, and ``caught_kappa`` there, NaN for none.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> watch = Guard(DDIM(50), Band.watching(n_nodes=50))
        >>> seen = generate(model, key, 200, shape=(32, 32, 3), method=watch)
        >>> band = watch.band.fitted(seen.notes["kappa"], level=0.02)  # without those that are copies
        >>> sample(model, key, 64, shape=(32, 32, 3), sampler=Guard(DDIM(50), band))
    """

    sampler: Sampler = field(metadata={"static": True})
    band: Band
    restart: ArrayLike = 1.0
    growth: ArrayLike = 1.2
    renoisings: ArrayLike = 8
    after: float | None = field(default=0.0, metadata={"static": True})
    nodes: int = field(default=25, metadata={"static": True})

    def __post_init__(self) -> None:
        require_strength("restart", self.restart, lambda v: v > 0, "must be a noise-to-signal ratio > 0")
        require_strength("growth", self.growth, lambda v: 1 <= v < math.inf, "must be finite and >= 1")
        if self.after is not None:
            require_strength("after", self.after, math.isfinite, "must be a finite number, or be None")
        if isinstance(self.renoisings, int | float):
            whole = isinstance(self.renoisings, Integral) and self.renoisings >= 0
            require(whole, "renoisings", self.renoisings, "must be an integer >= 0")

    def middle(self, schedule: Schedule, attempt: ArrayLike = 0) -> Array:
        """The node m at which a generation goes on that was noised again ``attempt`` times before, ``()``."""
        wanted = self.restart * jnp.power(self.growth, attempt) * (1 - _ROUNDING)
        return jnp.maximum(jnp.sum(self._ratios(schedule) >= wanted) - 1, 0)

    def _ratios(self, schedule: Schedule) -> Array:
        """σ/α of each node, in units of [−1, 1]."""
        times = walk_of(self.sampler, schedule, jnp.result_type(float), self.nodes).times
        return jnp.exp(-0.5 * schedule.log_snr(times)) / self.band.unit

    def check(self, diffusion: Diffusion, *, prompted: bool) -> None:
        """As of ``Mitigation``; also refuses a band of another walk, and a noise level that the model does not have."""
        super().check(diffusion, prompted=prompted)
        n = n_nodes_of(self.sampler, self.nodes)
        allowed = f"must be a band of {n} nodes, the steps of the sampler, and has {self.band.n_nodes}"
        require(self.band.n_nodes == n, "band", self.band.about or "Band", allowed)
        denoises = isinstance(self.sampler, DDIM) or self.sampler.denoise
        require(denoises, "sampler.denoise", False, "must be true for guard, which looks at denoised images")
        require(prompted or not self.band.given, "conditions", None, "a band with given=True needs prompts")
        self.band.check_schedule(diffusion.schedule)
        with jax.ensure_compile_time_eval():
            first = float(self._ratios(diffusion.schedule)[self.band.checks[0]])
        if concrete(self.restart) is not None:
            allowed = f"must be at least {first:.3g}, the σ/α of the first check"
            require(float(self.restart) >= first * (1 - _ROUNDING), "restart", self.restart, allowed)

    def _sampled(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
        return _all_the_way(self, diffusion, key, start, condition)

    def begin(self, start: Array) -> Walker:
        """Before the first step."""
        n, nothing = len(self.band.checks), jnp.asarray(0, jnp.int32)
        unseen = jnp.asarray(math.nan, start.dtype)
        return Walker(start, nothing, nothing, nothing, nothing, jnp.full(n, unseen), nothing - 1, unseen)

    def loosened(self, diffusion: Diffusion, condition: Any) -> tuple[Diffusion, Any]:
        """The model with the guidance ``after``, and the prompt that it is told then."""
        if self.after is None or condition is None:
            return diffusion, condition
        plain, _ = unguided(diffusion)
        if self.after in (0, 1):
            return plain, condition if self.after == 1 else jnp.full_like(condition, NO_CONDITION)
        return guided(plain, self.after), condition

    def on(
        self, diffusion: Diffusion, key: PRNGKey, condition: Any, at: Walker, *, loose: bool | None = None
    ) -> Walker:
        """To the next check, and to the node after it, or back to the middle.

        ``loose``: whether it was noised again before, where that is known and changes the guidance.
        """
        if loose is None and self.after is not None and condition is not None:
            ways = (partial(self.on, diffusion, key, condition, loose=value) for value in (True, False))
            return jax.lax.cond(at.attempt > 0, *ways, at)
        band, walk = self.band, walk_of(self.sampler, diffusion.schedule, at.x.dtype, self.nodes)
        plain, own_prompt = unguided(diffusion)[0], condition
        middle = self.middle(diffusion.schedule, at.attempt)
        if loose:
            diffusion, condition = self.loosened(diffusion, condition)
        cost = cost_of_asking(diffusion, condition)
        other = jax.random.fold_in(key, AGAIN + at.attempt)
        path = jnp.where(at.attempt == 0, key, other)
        stop = jnp.asarray(band.checks, jnp.int32)[at.check]

        def move(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            x, asked = walk.move(diffusion, path, state[0], i, condition)
            return x, state[1] + jnp.asarray(asked, jnp.int32)

        x, asked = jax.lax.fori_loop(at.node, stop, move, (at.x, jnp.asarray(0, jnp.int32)))
        x, x0 = walk.look(diffusion, path, x, stop, condition)
        kappa = band.kappa(plain, x0, own_prompt).astype(x.dtype)
        outside = kappa > self._limits(at)[at.check]
        again = outside & (at.attempt < self.renoisings)
        noise = jax.random.normal(jax.random.fold_in(other, AGAIN), x.shape, x.dtype)
        renoised = diffusion.noised(x0, walk.times[middle], noise)
        onwards = jnp.where(at.check == len(band.checks) - 1, x0, x)
        unseen = jnp.isnan(at.caught_kappa) & outside
        return Walker(
            x=jnp.where(again, renoised, onwards),
            node=jnp.where(again, middle, stop + walk.look_takes_step).astype(at.node.dtype),
            check=jnp.where(again, 0, at.check + 1),
            attempt=at.attempt + again,
            nfe=at.nfe + cost * (asked + 1) + band.n_directions,
            kappa=jnp.where(again, jnp.nan, at.kappa.at[at.check].set(kappa)),
            caught_at=jnp.where(unseen, at.check, at.caught_at),
            caught_kappa=jnp.where(unseen, kappa, at.caught_kappa),
        )

    def end(self, at: Walker) -> Sampled:
        """What has passed the last check; also of many, with a leading axis."""
        outside = (at.kappa > self._limits(at)).any(axis=-1)
        notes = {"renoised": at.attempt, "outside": outside, "kappa": at.kappa}
        return Sampled(at.x, at.nfe, notes | {"caught_at": at.caught_at, "caught_kappa": at.caught_kappa})

    def _limits(self, at: Walker) -> Array:
        """What κ₁ is held against, ``(…, K)``: the inner limits of those that were caught."""
        limits, inner = (jnp.asarray(values, at.kappa.dtype) for values in (self.band.limits, self.band.inner))
        return jnp.where(jnp.asarray(at.attempt)[..., None] > 0, inner, limits)

    def _many(self, draw: Draw, indices: np.ndarray, columns: tuple, batch_size: int, progress: Progress) -> Sampled:
        """From check to check, those that are at the same one together: no evaluation is spent on one that waits."""
        walkers = map_points(_Begin(draw), indices, batch_size=batch_size)
        last, full = len(self.band.checks), min(batch_size, len(indices))
        while (waiting := np.flatnonzero(walkers.check < last)).size:
            loose = (walkers.attempt[waiting] > 0) & (self.after is not None)
            place = (walkers.check[waiting].astype(int) * self.band.n_nodes + walkers.node[waiting]) * 2 + loose
            for rows in _batches(waiting[place == place.min()], full):
                padded = np.resize(rows, full if len(rows) > _small(full) else _small(full))
                given = jax.tree.map(lambda a, rows=padded: a[rows], (indices, walkers, *columns))
                moved = map_points(_On(draw, bool(place.min() % 2)), *given, batch_size=len(padded))
                for column, new in zip(walkers, moved, strict=True):
                    column[rows] = new[: len(rows)]
            if callable(progress):
                progress(int((walkers.check == last).sum()), len(indices))
        return jax.tree.map(np.asarray, self.end(walkers))


def _small(full: int) -> int:
    return max(1, full // SMALL)


def _batches(rows: np.ndarray, full: int) -> Iterator[np.ndarray]:
    """At most ``full`` rows at a time; a rest in small batches, where these are few."""
    size = full
    while len(rows):
        if len(rows) < full and math.ceil(len(rows) / _small(full)) * _small(full) < full // 2:
            size = _small(full)
        yield rows[:size]
        rows = rows[size:]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Begin:
    draw: Draw

    def __call__(self, index: Array) -> Walker:
        return self.draw.method.begin(self.draw.start(index))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _On:
    draw: Draw
    loose: bool = field(metadata={"static": True})

    def __call__(self, index: Array, at: Walker, condition: Array | None = None) -> Walker:
        draw = self.draw
        return draw.method.on(draw.diffusion, draw.path_key(index), condition, at, loose=self.loose)


@jax.jit
def _all_the_way(guard: Guard, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any) -> Sampled:
    last = len(guard.band.checks)
    on = partial(guard.on, diffusion, key, condition)
    at = jax.lax.while_loop(lambda at: at.check < last, on, guard.begin(start))
    return guard.end(at)
