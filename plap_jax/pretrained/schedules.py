"""The noise schedule and the prediction of a diffusers scheduler, from its config file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plap_jax.diffusion import DiscreteVP, Prediction
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
PREDICTION_TYPES: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def read_scheduler(config: Mapping[str, Any]) -> tuple[DiscreteVP, Prediction]:
    """The noise schedule of a diffusers scheduler, and what its network predicts.

    α_t² = Π_{i≤t} (1 − β_i) with the β of the config.

    diffusers counts its timesteps from 0, as ``DiscreteVP`` does: timestep t is step t.

    Args:
        config: the content of ``scheduler_config.json``. Without ``prediction_type``, as in old folders, the
            network predicts ε.

    Returns:
        The schedule, and "eps", "x0" or "v".

    Raises:
        ValueError: a scheduler, a schedule or a prediction type that is not supported, or a key that is missing.
    """
    _require_one_of(config, "_class_name", SCHEDULERS)
    if "prediction_type" in config:
        _require_one_of(config, "prediction_type", PREDICTION_TYPES)
    # Both change the table or the meaning of a timestep; neither occurs in supported pipelines.
    allowed = "must be false: a last step without any signal is not supported"
    require(not config.get("rescale_betas_zero_snr"), _key("rescale_betas_zero_snr"), True, allowed)
    time = config.get("timestep_type", "discrete")
    require(time == "discrete", _key("timestep_type"), time, "must be 'discrete'")
    prediction = PREDICTION_TYPES[config.get("prediction_type", "epsilon")]
    return _table(config), prediction


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
