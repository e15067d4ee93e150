"""Sampling from diffusion models: DDIM, probability-flow ODE, reverse SDE, guidance, and log-likelihoods."""

from plap_jax.sampling.batches import NonFiniteSampleError, Sampler, initial_point, sample
from plap_jax.sampling.ddim import DDIM, Spacing, Trajectory
from plap_jax.sampling.flow import ProbabilityFlow
from plap_jax.sampling.guidance import Guided, guided
from plap_jax.sampling.likelihood import log_likelihood, log_likelihood_estimate
from plap_jax.sampling.sde import ReverseSDE

__all__ = [
    "DDIM",
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
]
