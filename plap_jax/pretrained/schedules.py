"""The noise schedule and the prediction of a diffusers scheduler, from its config file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from plap_jax.diffusion import DiscreteVP, Prediction, RectifiedFlow, Schedule
from plap_jax.typing import require

# They share one β table for training and differ only in how they generate.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
PREDICTION_TYPES: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def read_scheduler(config: Mapping[str, Any]) -> tuple[Schedule, Prediction]:
    """The noise schedule of a diffusers scheduler, and what its network predicts.

    α_t² = Π_{i≤t} (1 − β_i) with the β of the config; of flow matching α = 1 − t, σ = t, and ε − x₀ is predicted.

    diffusers counts its timesteps from 0, as ``DiscreteVP`` does: timestep t is step t. With
    ``rescale_betas_zero_snr`` the last step has no signal at all, α = 0, and is left out of the table. How a scheduler
    spaces timesteps when it generates (``timestep_spacing``) changes no noise level.

    Args:
        config: the content of ``scheduler_config.json``. Without ``prediction_type``, as in old folders, the
            network predicts ε.

    Returns:
        The schedule, and "eps", "x0", "v" or "flow". A shift of flow matching moves the steps of generation only.

    Raises:
        ValueError: a scheduler, a schedule or a prediction type that is not supported, or a key that is missing.
    """
    _require_one_of(config, "_class_name", (*SCHEDULERS, *FLOWS))
    if config["_class_name"] in FLOWS:
        return RectifiedFlow(), "flow"
    if "prediction_type" in config:
        _require_one_of(config, "prediction_type", PREDICTION_TYPES)
    time = config.get("timestep_type", "discrete")  # changes the meaning of a timestep
    require(time == "discrete", _key("timestep_type"), time, "must be 'discrete'")
    prediction = PREDICTION_TYPES[config.get("prediction_type", "epsilon")]
    table = _table(config)
    return _without_last_signal(table) if config.get("rescale_betas_zero_snr") else table, prediction


def _without_last_signal(table: DiscreteVP) -> DiscreteVP:
    """The table of zero terminal SNR, but for its last step, which has no signal and hence no σ/α.

    a_t ← (a_t − a_T) a_1/(a_1 − a_T) of a_t = α_t (Lin et al. 2024, algorithm 1).
    """
    alpha = np.sqrt(np.cumprod(1 - np.asarray(table.betas)))
    require(len(alpha) > 1, _key("num_train_timesteps"), len(alpha), "must be >= 2 with rescale_betas_zero_snr")
    signal = ((alpha[:-1] - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
    return DiscreteVP(1 - signal / np.concatenate([[1.0], signal[:-1]]))


def _table(config: Mapping[str, Any]) -> DiscreteVP:
    if config.get("trained_betas") is not None:
        return DiscreteVP(config["trained_betas"])
    _require_one_of(config, "beta_schedule", BETA_SCHEDULES)
    steps = _number(config, "num_train_timesteps")
    require(steps == int(steps), _key("num_train_timesteps"), steps, "must be a whole number")
    if config["beta_schedule"] == "squaredcos_cap_v2":
        return DiscreteVP.squared_cosine(int(steps))
    make = DiscreteVP.linear if config["beta_schedule"] == "linear" else DiscreteVP.scaled_linear
    return make(int(steps), _number(config, "beta_start"), _number(config, "beta_end"))


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    require(good, _key(name), value, "must be a number")
    return value


def _require_one_of(config: Mapping[str, Any], name: str, allowed: Any) -> None:
    value = config.get(name)
    require(isinstance(value, str) and value in allowed, _key(name), value, f"must be one of {', '.join(allowed)}")


def _key(name: str) -> str:
    return f"scheduler_config.json: {name}"
