"""The probability-flow ODE, whose solutions are distributed like the noised data at every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.sampling.clock import ends, level, require_continuous, require_tolerances
from plap_jax.typing import Array, ArrayLike, PRNGKey, at_least_float32, require_point

# Field evaluations per step of Tsit5; its seventh is reused as the first of the next step.
EVALUATIONS_PER_STEP = 6


@jax.tree_util.register_static
@dataclass(frozen=True)
class ProbabilityFlow:
    """Deterministic sampler: solves the probability-flow ODE with adaptive steps.

    dx/dt = f x − ½ g² s, f = d ln α/dt, g² = dσ²/dt − 2fσ², from t_max to t_min (Song et al. 2021, eq. 13).

    Solved in the log-SNR (see ``clock``) by Tsit5, then denoised.

    Args:
        rtol, atol: error allowed per step, relative and in the units of the data, > 0.
        max_steps: after that many steps, rejected ones included, the sample is NaN.
        denoise: end with x̂₀ at t_min; otherwise the sample keeps the noise σ(t_min).

    Raises:
        ValueError: rtol or atol not > 0, max_steps < 1.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    max_steps: int = 4096
    denoise: bool = True

    def __post_init__(self) -> None:
        require_tolerances(self.rtol, self.atol, self.max_steps)

    def __call__(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> Array:
        """One sample; arguments and returns as for ``DDIM``, the key is unused.

        Returns:
            x₀ ``(*shape)``, float32 at least; NaN when the solver failed.

        Raises:
            ValueError: an invalid start, or a discrete schedule.
        """
        return self.counted(diffusion, key, start, condition)[0]

    def counted(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> tuple[Array, Array]:
        """One sample, and how often the model was asked for it, ``()``."""
        require_point(start)
        require_continuous(diffusion.schedule)
        return _generate(self, diffusion, at_least_float32(start), condition)

    def between(
        self, diffusion: Diffusion, key: PRNGKey, x: Array, span: tuple[Array, Array], condition: Any = None
    ) -> tuple[Array, Array]:
        """x at the second log-SNR of ``span`` from x at the first, and evaluations; the key is unused.

        NaN when the solver failed. To be called with a continuous schedule.
        """

        def field(log_snr: Array, x: Array, args: tuple) -> Array:
            return flow_at(log_snr, *args)(x)

        tolerances = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps}
        moved, spent = solve(field, x, span, (diffusion, condition), **tolerances)
        return moved, spent + 1  # the slope at the start

    def finish(self, diffusion: Diffusion, x: Array, condition: Any = None) -> tuple[Array, Array]:
        """The sample from x at t_min, and evaluations."""
        if not self.denoise:
            return x, jnp.asarray(0)
        return diffusion.denoise(x, diffusion.schedule.t_min, condition), jnp.asarray(1)


def flow_at(log_snr: Array, diffusion: Diffusion, condition: Any) -> Callable[[Array], Array]:
    """The probability flow at one log-SNR: x ↦ dx/dℓ = a x + ½ σ² s, a = d ln α/dℓ, ``(*shape) -> (*shape)``."""
    t, growth, sigma = level(diffusion.schedule, log_snr)
    return lambda x: (growth * x + sigma**2 / 2 * diffusion.score(x, t, condition)).astype(x.dtype)


def solve(
    field: Callable[[Array, Any, Any], Any],
    start: Any,
    span: tuple[Array, Array],
    args: Any,
    *,
    rtol: ArrayLike,
    atol: ArrayLike,
    max_steps: int,
) -> tuple[Any, Array]:
    """Solve dy/dℓ = field(ℓ, y, args), y(span[0]) = start, for y(span[1]), by Tsit5 with adaptive steps.

    Args:
        field: the right-hand side, a module-level function; what varies is in ``args``.
        start: pytree of arrays.
        span: first and last ℓ, in any order.
        args: pytree passed to the field.
        rtol, atol: error allowed per step, relative and in the units of ``start``.
        max_steps: limit of the steps, rejected ones included.

    Returns:
        The solution, all NaN if the solver failed, and the number of field evaluations ``()``.
    """
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        *span,
        dt0=None,
        y0=start,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    return final_state(solution), EVALUATIONS_PER_STEP * solution.stats["num_steps"]


def final_state(solution: diffrax.Solution) -> Any:
    """The last state, or NaN if the solver failed."""
    reached = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda y: jnp.where(reached, y[0], jnp.nan), solution.ys)


@partial(jax.jit, static_argnums=0)
def _generate(sampler: ProbabilityFlow, diffusion: Diffusion, start: Array, condition: Any) -> tuple[Array, Array]:
    x, spent = sampler.between(diffusion, None, start, ends(diffusion.schedule, start.dtype), condition)
    sample, last = sampler.finish(diffusion, x, condition)
    return sample, spent + last
