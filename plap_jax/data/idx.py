"""IDX files, the format of MNIST and of the data sets made in its image, gzipped or not; nothing is downloaded."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from plap_jax.data.images import ImageData, scaled, split_distinct
from plap_jax.typing import require

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMS = 32
PARTS = ("train", "t10k")
NAMES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # where Debian's package dataset-fashion-mnist puts it


def idx_images(
    *,
    path: str | None,
    seed: int,
    n_train: int | None,
    n_heldout: int,
    duplicate_distance: float = 0.05,
) -> ImageData:
    """Load grey images and their classes from the four IDX files of MNIST, or of any data set that has its format.

    Both parts, "train" and "t10k", are pooled, and either pool may hold images of both. All files are read whole, as
    bytes; 2 · v/255 − 1 of the bytes v is computed only for images that are used.

    ```python
    data = idx_images(path="~/mnist", seed=0, n_train=5000, n_heldout=1000)
    data.train.shape  # (5000, 28, 28, 1)
    ```

    Args:
        path: folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each gzipped (.gz) or not; "images.idx3" for "images-idx3" is taken, too.
        seed: of the split and the order.
        n_train: images that may be trained on; None for all others, all of which are then compared with one another.
        n_heldout: images that are never trained on.
        duplicate_distance: √(mean (a − b)²) up to which two images count as one, in units of [−1, 1].

    Returns:
        ``ImageData`` of shape (h, w, 1) with the labels as classes; names are part and number, "t10k/17".

    Raises:
        ValueError: a file that is missing, damaged or of other contents, labels that do not belong to the images, too
            few images, or an argument out of range.
    """
    require(path is not None, "path", path, f"must be a folder with {NAMES}, each with or without .gz")
    return _split(path, str(path), seed, n_train, n_heldout, duplicate_distance)


def fashion_mnist(
    *,
    seed: int,
    n_train: int | None,
    n_heldout: int,
    path: str | None = None,
    duplicate_distance: float = 0.08,
) -> ImageData:
    """Clothes: the 70,000 photographs of Fashion-MNIST, 28×28 grey, with ten kinds of clothing as classes.

    Xiao, Rasul and Vollgraf 2017 (arXiv:1708.07747; MIT licence), from Debian's package `dataset-fashion-mnist`.
    Nearest neighbours among 20,000 are 0.26 apart in the median. Up to the default of 0.08 there are 13 pairs: one
    photograph twice, or with a pocket or a logo more. From 0.1 on, pairs show different garments.

    Args:
        seed: of the split and the order.
        n_train: images that may be trained on; None for all others, all of which are then compared with one another.
        n_heldout: images that are never trained on.
        path: folder with the files; None for where the package puts them. See `idx_images`.
        duplicate_distance: √(mean (a − b)²) up to which two images count as one, in units of [−1, 1].

    Returns:
        ``ImageData`` of shape (28, 28, 1).

    Raises:
        ValueError: the package is not installed, or as `idx_images`.
    """
    if path is None:
        allowed = f"must be a folder with {NAMES}; or install them: apt-get install dataset-fashion-mnist"
        require(os.path.isdir(FASHION_MNIST), "path", path, allowed)
        path = FASHION_MNIST
    return _split(path, "fashion_mnist", seed, n_train, n_heldout, duplicate_distance)


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file, read-only.

    Two zero bytes, a byte for the type, a byte for the number of dimensions, their sizes as big-endian 32-bit integers,
    then the values in C order, the highest byte first (Y. LeCun, "The MNIST database"). Gzip is told by content.

    Args:
        path: of the file.

    Raises:
        ValueError: no such file, damaged gzip, not an IDX file, or not as many bytes as its sizes say.
    """
    file = Path(path).expanduser()
    content = _unzipped(file)
    n_dims = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * n_dims
    is_idx = content[:2] == bytes(2) and 1 <= n_dims <= MAX_DIMS and content[2] in DTYPES and len(content) >= start
    _require(is_idx, file, "must be an IDX file: 0, 0, a type from 8 to 14, the number of dimensions and their sizes")
    shape = tuple(np.frombuffer(content, ">u4", n_dims, 4).tolist())
    dtype = np.dtype(DTYPES[content[2]])
    expected = start + dtype.itemsize * math.prod(shape)
    _require(
        len(content) == expected, file, f"must have {expected} bytes for the shape {shape}, and has {len(content)}"
    )
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _unzipped(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"path={str(file.parent)!r}: {file.name} cannot be read: {reason}") from error


def _require(condition: bool, file: Path, allowed: str) -> None:
    require(condition, "path", str(file.parent), f"{file.name} {allowed}")


def _split(
    path: str, name: str, seed: int, n_train: int | None, n_heldout: int, duplicate_distance: float
) -> ImageData:
    parts = [_part(Path(path).expanduser(), part) for part in PARTS]
    sizes = [images.shape[1:] for images, _ in parts]
    require(sizes[0] == sizes[1], "path", path, f"must hold images of one size, not {sizes[0]} and {sizes[1]}")
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return split_distinct(
        lambda index: scaled(images[index], 255)[..., None],
        [f"{part}/{i}" for part, (own, _) in zip(PARTS, parts, strict=True) for i in range(len(own))],
        seed=seed,
        n_train=n_train,
        n_heldout=n_heldout,
        duplicate_distance=duplicate_distance,
        name=name,
        labels=labels,
    )


def _part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, h, w) and labels (n,) of one part, bytes."""
    files = [_file(folder, f"{part}-images-idx3-ubyte"), _file(folder, f"{part}-labels-idx1-ubyte")]
    images, labels = (read_idx(file) for file in files)
    is_grey = images.dtype == np.uint8 and images.ndim == 3 and min(images.shape[1:]) >= 1
    _require(is_grey, files[0], f"must hold grey images, (n, h, w) bytes, not {images.dtype} of shape {images.shape}")
    allowed = f"must hold labels, one byte for each of {len(images)} images, not {labels.dtype} of shape {labels.shape}"
    _require(labels.dtype == np.uint8 and labels.shape == images.shape[:1], files[1], allowed)
    return images, labels


def _file(folder: Path, name: str) -> Path:
    spellings = (name, name.replace("-idx", ".idx"))
    found = [folder / f"{spelling}{end}" for spelling in spellings for end in ("", ".gz")]
    existing = next((file for file in found if os.path.exists(file)), None)
    require(existing is not None, "path", str(folder), f"must hold {name} or {name}.gz; the four files are {NAMES}")
    return existing
