"""The reverse SDE: its noise washes out errors that the probability flow would keep."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax

from plap_jax.diffusion import Diffusion
from plap_jax.sampling.clock import ends, level, require_continuous, require_tolerances
from plap_jax.sampling.flow import final_state
from plap_jax.typing import Array, PRNGKey, at_least_float32, require_point

EVALUATIONS_PER_STEP = 2  # the two stages of ShARK
# In units of the log-SNR, whose range is about 20: resolution of the Brownian path, smallest step, first step.
_GRAIN, _SMALLEST, _FIRST = 2**-14, 2**-13, 0.1


@jax.tree_util.register_static
@dataclass(frozen=True)
class ReverseSDE:
    """Stochastic sampler: solves the reverse SDE with adaptive steps.

    dx = (f x − g² s) dt + g dW̄, f = d ln α/dt, g² = dσ²/dt − 2fσ², from t_max to t_min (Song et al. 2021, eq. 6).

    Solved in the log-SNR (see ``clock``), where the noise is additive, by ShARK of strong order 1.5 (Foster et al.
    2023, arXiv 2210.17543) with adaptive steps along one Brownian path; then denoised.

    Args:
        rtol, atol: error allowed per step, relative and in the units of the data, > 0; below 1e-3 the steps reach the
            resolution of the Brownian path, which counts as failure.
        max_steps: after that many steps, rejected ones included, the sample is NaN.
        denoise: end with x̂₀ at t_min; otherwise the sample keeps the noise σ(t_min).

    Raises:
        ValueError: rtol or atol not > 0, max_steps < 1.
    """

    rtol: float = 1e-2
    atol: float = 1e-2
    max_steps: int = 4096
    denoise: bool = True

    def __post_init__(self) -> None:
        require_tolerances(self.rtol, self.atol, self.max_steps)

    def __call__(self, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any = None) -> Array:
        """One sample; arguments as for ``DDIM``, the key draws the Brownian path.

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
        return _generate(self, diffusion, key, at_least_float32(start), condition)

    def between(
        self, diffusion: Diffusion, key: PRNGKey, x: Array, span: tuple[Array, Array], condition: Any = None
    ) -> tuple[Array, Array]:
        """x at the second log-SNR of ``span`` from x at the first, and evaluations; the key draws the Brownian path.

        NaN when the solver failed. To be called with a continuous schedule.
        """
        return _between(self, diffusion, key, x, span, condition)

    def finish(self, diffusion: Diffusion, x: Array, condition: Any = None) -> tuple[Array, Array]:
        """The sample from x at t_min, and evaluations."""
        if not self.denoise:
            return x, jnp.asarray(0)
        return diffusion.denoise(x, diffusion.schedule.t_min, condition), jnp.asarray(1)


@partial(jax.jit, static_argnums=0)
def _generate(
    sampler: ReverseSDE, diffusion: Diffusion, key: PRNGKey, start: Array, condition: Any
) -> tuple[Array, Array]:
    x, spent = sampler.between(diffusion, key, start, ends(diffusion.schedule, start.dtype), condition)
    sample, last = sampler.finish(diffusion, x, condition)
    return sample, spent + last


def _between(
    sampler: ReverseSDE,
    diffusion: Diffusion,
    key: PRNGKey,
    start: Array,
    span: tuple[Array, Array],
    condition: Any,
) -> tuple[Array, Array]:
    def drift(log_snr: Array, x: Array, args: tuple) -> Array:
        diffusion, condition = args
        t, growth, sigma = level(diffusion.schedule, log_snr)
        return (growth * x + sigma**2 * diffusion.score(x, t, condition)).astype(x.dtype)

    def spread(log_snr: Array, x: Array, args: tuple) -> lineax.AbstractLinearOperator:
        sigma = level(args[0].schedule, log_snr)[2]
        return lineax.DiagonalLinearOperator(jnp.full(x.shape, sigma, x.dtype))

    first, last = span
    shape = jax.ShapeDtypeStruct(start.shape, start.dtype)
    path = diffrax.VirtualBrownianTree(first, last, _GRAIN, shape, key, levy_area=diffrax.SpaceTimeLevyArea)
    controller = diffrax.PIDController(
        rtol=sampler.rtol, atol=sampler.atol, pcoeff=0.1, icoeff=0.3, dtmin=_SMALLEST, force_dtmin=False
    )
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(spread, path)),
        diffrax.ShARK(),
        first,
        last,
        dt0=_FIRST,
        y0=start,
        args=(diffusion, condition),
        stepsize_controller=controller,
        max_steps=sampler.max_steps,
        throw=False,
    )
    return final_state(solution), EVALUATIONS_PER_STEP * solution.stats["num_steps"]
