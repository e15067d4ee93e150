"""Quantile regression: the loss against what images as hard as this one have (Tang et al., ICML 2024)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.linear_model import QuantileRegressor

from plap_jax.adjustment import CLIP
from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.detectors.denoising_loss import DenoisingLoss
from plap_jax.difficulty import NAMES, difficulty
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, ArrayLike, PRNGKey, require


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class QuantileRegression(Detector):
    """The denoising loss against the low quantile that non-members as hard as the image have.

    q̂(z(x₀)) − loss(x₀), q̂ = b + w·(z − centre)/scale the max_fpr-quantile of non-members' ``DenoisingLoss``.

    Tang et al. (ICML 2024, arXiv 2312.05140). Positive: a smaller loss than all but a share max_fpr of the images that
    look like it. z are the 17 statistics of ``plap_jax.difficulty``, from the pixels alone, and q̂ is linear in them,
    fitted by ``fit`` to images that are known not to be members. They predict by networks that see the image, several
    of them on resamples that then vote, and take the error of SecMI for the loss; here it is a regression with a
    penalty, which tens to hundreds of images can bear. Images must be pixels, not latents; a vector counts as one row.

    The share is kept on average over images of the law of the non-members, and only there.

    Args:
        sigma: noise level, > 0, within the schedule: that of ``fit``.
        coefficients, centre, scale: ``(17,)`` w; and centre and scale > 0 of the statistics.
        intercept: b.
        n_samples: draws of the loss, that of ``fit``.

    Example:
        >>> detector = QuantileRegression.fit(model, Query(image=held_out), 0.16, key=key)
        >>> detector.scores(model, Query(image=images), key=key)  # the same key, hence the same noise
    """

    sigma: float
    coefficients: ArrayLike
    centre: ArrayLike
    scale: ArrayLike
    intercept: ArrayLike
    n_samples: int = field(default=16, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    @classmethod
    def fit(
        cls,
        model: Diffusion,
        queries: Query,
        sigma: float,
        *,
        key: PRNGKey,
        n_samples: int = 16,
        max_fpr: float = 0.05,
        penalty: float = 0.01,
        batch_size: int | None = None,
    ) -> QuantileRegression:
        """The detector with a predictor of the loss of these images.

        Args:
            model: as for ``scores``.
            queries: images that are known not to be members, n ≥ 1/max_fpr; with prompts if those to be scored have.
            sigma, n_samples: of the loss.
            key: randomness; that of ``scores`` later.
            max_fpr: the quantile of the loss, in (0, 1): the share of non-members that score above 0.
            penalty: ≥ 0, L1 on standardized coefficients, against the pinball loss of standardized losses.
            batch_size: as for ``scores``.

        Raises:
            ValueError: as ``scores``; max_fpr or penalty out of range, too few images.
        """
        require(0 < max_fpr < 1, "max_fpr", max_fpr, "must lie in (0, 1)")
        require(0 <= penalty < np.inf, "penalty", penalty, "must be finite and >= 0")
        z, least = _statistics(queries.image), int(np.ceil(1 / max_fpr))
        require(len(z) >= least, "queries", len(z), f"must be at least {least} images for max_fpr={max_fpr}")
        loss = -DenoisingLoss(sigma, n_samples).scores(model, queries, key=key, batch_size=batch_size)
        centre, scale = np.median(z, axis=0), _spread(z)
        middle, spread = np.median(loss), _spread(loss)
        regressor = QuantileRegressor(quantile=max_fpr, alpha=penalty, solver="highs")
        regressor.fit(_standardized(z, centre, scale), (loss.astype(np.float64) - middle) / spread)
        return cls(sigma, spread * regressor.coef_, centre, scale, middle + spread * regressor.intercept_, n_samples)

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The difference, no unit. Statistics of the image are taken on the host: for many images use ``scores``."""
        minus_loss = self._loss.statistic(model, query, key)
        # Whether JAX is in double precision, the thread of a call to the host may not know.
        shape = jax.ShapeDtypeStruct((len(NAMES),), jnp.float32)
        z = jax.pure_callback(_of_batch(query.image.ndim), shape, query.image, vmap_method="expand_dims")
        return minus_loss + self._predicted(z, jnp).astype(minus_loss.dtype)

    def scores(
        self,
        model: Diffusion,
        queries: Query,
        *,
        key: PRNGKey,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | bool = False,
    ) -> np.ndarray:
        """As ``Detector.scores``; the statistics of the images are taken on the host, once."""
        self._checked(queries)
        predicted = self._predicted(_statistics(queries.image), np)
        found = self._loss.scores(model, queries, key=key, batch_size=batch_size, progress=progress)
        return self._finite((found + predicted).astype(found.dtype))

    def nfe(self, dim: int) -> int:
        """Those of the loss."""
        return self._loss.nfe(dim)

    @property
    def _loss(self) -> DenoisingLoss:
        return DenoisingLoss(self.sigma, self.n_samples)

    def _predicted(self, z: Any, numpy: Any) -> Any:
        """q̂ from statistics ``(..., 17)``, in NumPy or JAX."""
        w, centre, scale = (numpy.asarray(a) for a in (self.coefficients, self.centre, self.scale))
        return _standardized(z, centre, scale) @ w + self.intercept


def _statistics(images: ArrayLike) -> np.ndarray:
    """``(n, 17)`` of ``(n, h, w, c)``; grey pictures may lack the channel, and a vector counts as one row of pixels."""
    images = np.asarray(images).astype(np.float32)
    require(images.ndim in (2, 3, 4), "queries.image", images.shape, "must be (n, h, w, c), (n, h, w) or (n, d)")
    if images.ndim == 2:
        images = images[:, None]
    return difficulty(images if images.ndim == 4 else images[..., None])


def _of_batch(n_axes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Statistics of images with any leading axes."""

    def found(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        leading, shape = images.shape[: images.ndim - n_axes], images.shape[images.ndim - n_axes :]
        z = _statistics(images.reshape(-1, *shape))
        return z.reshape(*leading, len(NAMES)).astype(np.float32)

    return found


def _spread(values: np.ndarray) -> np.ndarray:
    """The median absolute deviation; 1 where it vanishes, for what does not vary."""
    spread = stats.median_abs_deviation(values, axis=0, scale="normal")
    return np.where(spread > 0, spread, 1.0)


def _standardized(z: Any, centre: Any, scale: Any) -> Any:
    return ((z - centre) / scale).clip(-CLIP, CLIP)
