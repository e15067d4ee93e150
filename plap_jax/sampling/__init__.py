"""Sampling from diffusion models: DDIM, probability-flow ODE, reverse SDE, guidance, and log-likelihoods."""

from plap_jax.sampling.batches import NonFiniteSampleError, Sampler, initial_point, sample, starting_points
from plap_jax.sampling.ddim import DDIM, Spacing, Trajectory
from plap_jax.sampling.flow import ProbabilityFlow
from plap_jax.sampling.guidance import NO_CONDITION, Guided, guided
from plap_jax.sampling.likelihood import log_likelihood, log_likelihood_estimate
from plap_jax.sampling.sde import ReverseSDE

__all__ = [
    "DDIM",
    "NO_CONDITION",
    "Guided",
    "NonFiniteSampleError",
    "ProbabilityFlow",
    "ReverseSDE",
    "Sampler",
    "Spacing",
    "Trajectory",
    "guided",
    "initial_point",
    "log_likelihood",
    "log_likelihood_estimate",
    "sample",
    "starting_points",
]
