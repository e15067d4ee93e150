"""Copy ratio: distance to the nearest training image over that to the second nearest. An oracle: sees training data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.detectors.base import Detector, Need, Query, norm
from plap_jax.diffusion import Diffusion
from plap_jax.labels import find_copies
from plap_jax.memory import evaluations_at_once
from plap_jax.typing import Array, ArrayLike, PRNGKey, at_least_float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class CopyRatio(Detector):
    """Whether an image is a copy of a training image, from the training data itself: an oracle.

    −d₁/d₂ ∈ [−1, 0], distances to the nearest and second nearest training image (Yoon et al. 2023).

    An upper reference for generated images, not a competitor: if labels come from the same ratio it equals the label.
    It does not use the network, the key or the prompt.

    Args:
        reference: the training images without duplicates, ``(m, *shape)``, m ≥ 2, in the units of the queries.
    """

    reference: ArrayLike
    needs: ClassVar[frozenset[Need]] = frozenset({"image", "training data"})

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """−d₁/d₂ of one image; for many use ``scores``."""
        image, reference = at_least_float32(query.image), jnp.asarray(self.reference)
        at_once = min(len(reference), evaluations_at_once(image.size))
        distances = jax.lax.map(lambda one: norm(one.astype(image.dtype) - image), reference, batch_size=at_once)
        first, second = -jax.lax.top_k(-distances, 2)[0]
        # Negated: a copy has a low ratio.
        return -first / second

    def scores(
        self,
        model: Diffusion | None,
        queries: Query,
        *,
        key: PRNGKey | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | bool = False,
    ) -> np.ndarray:
        """−d₁/d₂ of n images, ``(n,)`` float64, on the host; ``batch_size`` is not used.

        Raises:
            ValueError: no images, images of another shape than the reference, or a reference that holds fewer than two
                images or one of them twice.
        """
        queries, n = self._checked(queries)
        # Negated, as above.
        found = -find_copies(np.asarray(queries.image), np.asarray(self.reference)).ratio
        if callable(progress):
            progress(n, n)
        return self._finite(found)

    def nfe(self, dim: int) -> int:
        """None."""
        return 0
