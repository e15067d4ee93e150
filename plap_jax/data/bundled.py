"""Small data sets bundled with other packages; nothing is downloaded."""

from __future__ import annotations

import numpy as np
import skimage.data
from sklearn.datasets import load_digits

from plap_jax.data.images import ImageData, scaled, split_distinct
from plap_jax.typing import require

N_FACES = 100  # the other half of lfw_subset is cut from backgrounds
FACE_SIZE = 25


def digits(
    *, seed: int, n_heldout: int = 400, n_train: int | None = None, duplicate_distance: float = 0.1
) -> ImageData:
    """Handwritten digits: 8×8 grey images, 0 … 16 scaled to [−1, 1], with the digit as label.

    The 1,797 images of `sklearn.datasets.load_digits`: the test part of "Optical Recognition of Handwritten Digits"
    (Alpaydin and Kaynak 1998, UCI, CC BY 4.0). Nearest neighbours are 0.25 apart in the median. One pair, of the digit
    1, is closer than the default of 0.1 (0.083; the next 0.118), so 1,796 remain.

    Args:
        seed: of the split and the order.
        n_heldout: images that are never trained on.
        n_train: images that may be trained on; None for all others.
        duplicate_distance: √(mean (a − b)²) up to which two images count as one, in units of [−1, 1].

    Returns:
        ``ImageData`` of shape (8, 8, 1).

    Raises:
        ValueError: numbers out of range, or more images asked for than there are.
    """
    source = load_digits()
    images = scaled(source.images, 16)[..., None]
    return _split(images, source.target, "digits", seed, n_train, n_heldout, duplicate_distance)


def faces(
    *,
    seed: int,
    n_heldout: int = 30,
    n_train: int | None = None,
    size: int = 24,
    duplicate_distance: float = 0.1,
) -> ImageData:
    """Faces: 24×24 grey images, the upper left of 25×25, 0 … 1 scaled to [−1, 1].

    The 100 faces of `skimage.data.lfw_subset`, drawn from Labeled Faces in the Wild (Huang et al. 2007; photographs
    from the news, for research); its other 100 images are backgrounds and are not used. Nearest neighbours are 0.32
    apart in the median and never nearer than 0.22, so that the default drops none.

    Args:
        seed: of the split and the order.
        n_heldout: images that are never trained on.
        n_train: images that may be trained on; None for all others.
        size: height and width in pixels, 1 to 25; 24 can be halved three times.
        duplicate_distance: √(mean (a − b)²) up to which two images count as one, in units of [−1, 1].

    Returns:
        ``ImageData`` of shape (size, size, 1), without labels.

    Raises:
        ValueError: numbers out of range, or more images asked for than there are.
    """
    require(1 <= size <= FACE_SIZE, "size", size, f"must lie between 1 and {FACE_SIZE}, the size of the originals")
    images = scaled(skimage.data.lfw_subset()[:N_FACES, :size, :size], 1)[..., None]
    return _split(images, None, "faces", seed, n_train, n_heldout, duplicate_distance)


def _split(
    images: np.ndarray,
    labels: np.ndarray | None,
    name: str,
    seed: int,
    n_train: int | None,
    n_heldout: int,
    duplicate_distance: float,
) -> ImageData:
    return split_distinct(
        lambda index: images[index],
        [str(i) for i in range(len(images))],
        seed=seed,
        n_train=n_train,
        n_heldout=n_heldout,
        duplicate_distance=duplicate_distance,
        name=name,
        labels=labels,
    )
