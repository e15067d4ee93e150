"""Conversions between all kinds of prediction at x_t = α x₀ + σ ε; no other module of the library converts them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax.numpy as jnp

from plap_jax.typing import Array, ArrayLike, require

Prediction = Literal["eps", "x0", "v", "flow", "edm", "score"]
PREDICTIONS = get_args(Prediction)


def convert(
    value: Array,
    x_t: Array,
    alpha: ArrayLike,
    sigma: ArrayLike,
    source: Prediction,
    target: Prediction,
    data_std: ArrayLike | None = None,
) -> Array:
    """Convert one kind of prediction at x_t into another: noise, clean point, v, flow, EDM's F, or score.

    x_t = α x₀ + σ ε, v = α ε − σ x₀, flow = ε − x₀, F = (σ x₀/σ_d − α σ_d ε)/√(α²σ_d² + σ²), score = −ε/σ.

    No schedule is assumed. From v, ε = (σ x_t + α v)/(α²+σ²) and x₀ = (α x_t − σ v)/(α²+σ²); from the flow,
    ε = (x_t + α u)/(α+σ) and x₀ = (x_t − σ u)/(α+σ); from F, x₀ = c_skip x_t + c_out F with
    c_skip = α σ_d²/(α²σ_d² + σ²) and c_out = σ σ_d/√(α²σ_d² + σ²) (Karras et al. 2022, table 1, where α = 1).

    Args:
        value: the ``source`` quantity, ``(*shape)``.
        x_t: the noised point, ``(*shape)``.
        alpha, sigma: > 0; scalars, or of a shape that broadcasts against ``x_t``.
        source, target: of "eps", "x0", "v", "flow", "edm" (F), "score".
        data_std: σ_d > 0, in the units of the data; needed for "edm" alone.

    Returns:
        The ``target`` quantity, ``(*shape)``. ε and F have no unit, x₀, v and flow that of x_t, the score 1/unit.

    Raises:
        ValueError: an unknown source or target, or "edm" without data_std.
    """
    for name, kind in (("source", source), ("target", target)):
        require(kind in PREDICTIONS, name, kind, f"must be one of {', '.join(PREDICTIONS)}")
        _require_data_std(kind, data_std)
    if source == target:
        return value
    if source == "score":
        value, source = -sigma * value, "eps"
    final = "eps" if target == "score" else target
    if source != final:
        # One formula per pair: going through a third quantity, x₀ ↔ v would divide by α or σ and cancel digits.
        a, b = _in_data_and_noise(source, alpha, sigma, data_std)
        c, d = _in_data_and_noise(final, alpha, sigma, data_std)
        value = ((c * b - d * a) * x_t + (alpha * d - sigma * c) * value) / (alpha * b - sigma * a)
    return -value / sigma if target == "score" else value


def training_target(
    x0: Array,
    noise: Array,
    alpha: ArrayLike,
    sigma: ArrayLike,
    prediction: Prediction,
    data_std: ArrayLike | None = None,
) -> Array:
    """What a network with this ``prediction`` is trained to predict: ε, x₀, v, flow, F or score, as in ``convert``.

    Args:
        x0: the clean point, ``(*shape)``.
        noise: ε, ``(*shape)``, standard normal.
        alpha, sigma: as in ``convert``; α may be 0 here.
        prediction: of "eps", "x0", "v", "flow", "edm", "score".
        data_std: as in ``convert``.

    Raises:
        ValueError: an unknown prediction, or "edm" without data_std.
    """
    require(prediction in PREDICTIONS, "prediction", prediction, f"must be one of {', '.join(PREDICTIONS)}")
    _require_data_std(prediction, data_std)
    if prediction == "eps":
        return noise
    if prediction == "x0":
        return x0
    if prediction == "score":
        return -noise / sigma
    a, b = _in_data_and_noise(prediction, alpha, sigma, data_std)
    return a * x0 + b * noise


def _require_data_std(prediction: Prediction, data_std: ArrayLike | None) -> None:
    """Refuse EDM's F without the spread of the data.

    Raises:
        ValueError: "edm" without data_std.
    """
    allowed = "must be the σ_data of the network's training where the prediction is 'edm'"
    require(prediction != "edm" or data_std is not None, "data_std", data_std, allowed)


def _in_data_and_noise(kind: Prediction, alpha: Any, sigma: Any, data_std: Any) -> tuple[Any, Any]:
    """(a, b) of a quantity a x₀ + b ε; with x_t = α x₀ + σ ε that gives every conversion by elimination."""
    if kind == "eps":
        return 0, 1
    if kind == "x0":
        return 1, 0
    if kind == "v":
        return -sigma, alpha
    if kind == "flow":
        return -1, 1
    size = jnp.sqrt((alpha * data_std) ** 2 + sigma**2)
    return sigma / (data_std * size), -alpha * data_std / size
