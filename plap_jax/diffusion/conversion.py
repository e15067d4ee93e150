"""Conversions between ε, x₀, v and score at x_t = α x₀ + σ ε; no other module of the library converts them."""

from __future__ import annotations

from typing import Literal, get_args

from plap_jax.typing import Array, ArrayLike, require

Prediction = Literal["eps", "x0", "v", "score"]
PREDICTIONS = get_args(Prediction)

# One formula per pair: going through a third quantity, x₀ ↔ v would divide by α or σ and cancel digits.
# a = α, s = σ, n = α² + σ².
_FORMULAS = {
    ("eps", "x0"): lambda eps, x, a, s, n: (x - s * eps) / a,
    ("eps", "v"): lambda eps, x, a, s, n: (n * eps - s * x) / a,
    ("x0", "eps"): lambda x0, x, a, s, n: (x - a * x0) / s,
    ("x0", "v"): lambda x0, x, a, s, n: (a * x - n * x0) / s,
    ("v", "eps"): lambda v, x, a, s, n: (s * x + a * v) / n,
    ("v", "x0"): lambda v, x, a, s, n: (a * x - s * v) / n,
}


def convert(
    value: Array, x_t: Array, alpha: ArrayLike, sigma: ArrayLike, source: Prediction, target: Prediction
) -> Array:
    """Convert one kind of prediction at x_t into another: noise, clean point, v, or score.

    x_t = α x₀ + σ ε, v = α ε − σ x₀, score = −ε/σ.

    α² + σ² need not be 1: ε = (σ x_t + α v)/(α²+σ²), x₀ = (α x_t − σ v)/(α²+σ²).

    Args:
        value: the ``source`` quantity, ``(*shape)``.
        x_t: the noised point, ``(*shape)``.
        alpha, sigma: > 0; scalars, or of a shape that broadcasts against ``x_t``.
        source, target: of "eps", "x0", "v", "score".

    Returns:
        The ``target`` quantity, ``(*shape)``. ε has no unit, x₀ and v that of x_t, the score 1/unit.

    Raises:
        ValueError: an unknown source or target.
    """
    for name, kind in (("source", source), ("target", target)):
        require(kind in PREDICTIONS, name, kind, f"must be one of {', '.join(PREDICTIONS)}")
    if source == target:
        return value
    if source == "score":
        value, source = -sigma * value, "eps"
    final = "eps" if target == "score" else target
    if source != final:
        value = _FORMULAS[source, final](value, x_t, alpha, sigma, alpha**2 + sigma**2)
    return -value / sigma if target == "score" else value


def training_target(x0: Array, noise: Array, alpha: ArrayLike, sigma: ArrayLike, prediction: Prediction) -> Array:
    """What a network with this ``prediction`` is trained to predict.

    ε, x₀, v = α ε − σ x₀, or the score −ε/σ.

    Args:
        x0: the clean point, ``(*shape)``.
        noise: ε, ``(*shape)``, standard normal.
        alpha, sigma: as in ``convert``; α may be 0 here.
        prediction: of "eps", "x0", "v", "score".

    Raises:
        ValueError: an unknown prediction.
    """
    require(prediction in PREDICTIONS, "prediction", prediction, f"must be one of {', '.join(PREDICTIONS)}")
    if prediction == "eps":
        return noise
    if prediction == "x0":
        return x0
    return alpha * noise - sigma * x0 if prediction == "v" else -noise / sigma
