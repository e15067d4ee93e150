"""How hard an image is, told by the image alone: κ₁ and score norms are high on simple images, memorized or not."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import fft

from plap_jax.typing import require

BANDS = 8  # radial bands of the cosine spectrum
BLOCK = 4  # side of the blocks whose variance is taken
FLOOR = 1e-6  # below the energy of one grey value out of 256, so that logarithms of constant images are finite
NAMES = (
    "mean",
    "spread",
    "gradient_rows",
    "gradient_columns",
    "gradient_rows_squared",
    "gradient_columns_squared",
    *(f"log_band_{i}" for i in range(BANDS)),
    "log_block_variance_mean",
    "log_block_variance_median",
    "log_png_size",
)


def difficulty(images: np.ndarray) -> np.ndarray:
    """How hard images are: 17 statistics of their pixels, for a regression that takes difficulty out of a score.

    z(x): mean; standard deviation; mean |difference| and mean difference² of neighbouring pixels, down and across; log
    energy in 8 radial bands of the cosine transform (DCT-II); log variance of 4×4 blocks, mean and median over the
    blocks; log bytes as PNG. No model is asked, and each image is described by itself.

    Args:
        images: ``(n, h, w, c)`` in [−1, 1]: pixels, never latents.

    Returns:
        ``(n, 17)`` float64, columns ``NAMES``; finite, also for constant images.

    Raises:
        ValueError: not ``(n, h, w, c)``, or values that are not finite.

    Example:
        >>> z = difficulty(images)
        >>> z[:, NAMES.index("log_png_size")]  # large for busy images
    """
    images = np.asarray(images, np.float32)
    require(images.ndim == 4 and 0 not in images.shape[1:], "images", images.shape, "must be (n, h, w, c)")
    require(bool(np.isfinite(images).all()), "images", images.shape, "must be finite")
    within = tuple(range(1, 4))
    columns = [images.mean(within, np.float64), images.std(within, np.float64)]
    steps = [np.abs(np.diff(images, axis=axis)) for axis in (1, 2)]
    columns += [_mean(step) for step in steps] + [_mean(step**2) for step in steps]
    columns += list(np.log(_band_energies(images) + FLOOR).T)
    variances = np.log(_block_variances(images) + FLOOR)
    columns += [variances.mean(axis=1), np.median(variances, axis=1)]
    columns.append(np.log([_png_size(image) for image in _bytes(images)]))
    return np.stack(columns, axis=1)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over each image; 0 for an image of one row or column, which has no steps along it."""
    return values.mean((1, 2, 3), np.float64) if values.size else np.zeros(len(values))


def _band_energies(images: np.ndarray) -> np.ndarray:
    """Mean energy of the cosine coefficients in bands of equal width of their radius: ``(n, BANDS)``.

    The radius is (k₁/h, k₂/w), at most √2; the constant is left out, and an empty band of a small image has none.
    """
    energy = (fft.dctn(images, axes=(1, 2), norm="ortho") ** 2).mean(axis=3, dtype=np.float64)
    height, width = images.shape[1:3]
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width) / math.sqrt(2)
    band = np.minimum((radius * BANDS).astype(int), BANDS - 1).ravel()
    belongs = (band[:, None] == np.arange(BANDS)) & (radius.ravel() > 0)[:, None]
    flat = energy.reshape(len(images), -1)
    # Row by row rather than as a product of matrices, which rounds by how many images are described together.
    sums = [np.ascontiguousarray(flat[:, chosen]).sum(axis=1) for chosen in belongs.T]
    return np.stack(sums, axis=1) / np.maximum(1, belongs.sum(axis=0))


def _block_variances(images: np.ndarray) -> np.ndarray:
    """Variance in each whole 4×4 block, over its pixels and channels: ``(n, blocks)``; small images are one block."""
    n, height, width, channels = images.shape
    side = (min(BLOCK, height), min(BLOCK, width))
    rows, columns = height // side[0], width // side[1]
    blocks = images[:, : rows * side[0], : columns * side[1]].reshape(n, rows, side[0], columns, side[1], channels)
    return blocks.var(axis=(2, 4, 5), dtype=np.float64).reshape(n, -1)


def _bytes(images: np.ndarray) -> np.ndarray:
    """uint8 as pictures are; channels that make no picture side by side."""
    pixels = np.round(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)
    if images.shape[3] == 3:
        return pixels
    return np.moveaxis(pixels, 3, 2).reshape(*pixels.shape[:2], -1)


def _png_size(picture: np.ndarray) -> int:
    stored = BytesIO()
    Image.fromarray(picture).save(stored, "PNG", compress_level=1)
    return stored.tell()
