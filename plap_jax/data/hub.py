"""Image data sets of the Hugging Face library `datasets`, from the hub or from disk."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from PIL import Image

from plap_jax.data.decoding import as_array, check_shape
from plap_jax.data.images import ImageData, UnusableImage, split_distinct
from plap_jax.typing import require, shown

# Files that `save_to_disk` writes, for several splits and for one.
SAVED = ("dataset_dict.json", "state.json")


def huggingface(
    *,
    path: str | None,
    seed: int,
    size: int,
    n_heldout: int,
    n_train: int | None,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    image_key: str = "image",
    label_key: str | None = None,
    mode: Literal["RGB", "L"] = "RGB",
    resize: Literal["center-crop", "refuse"] = "center-crop",
    crop: int | None = None,
    duplicate_distance: float = 0.05,
) -> ImageData:
    """Load an image data set with the library `datasets`, converted by `decoding.as_array`.

    Both pools come from one split, so they differ in nothing but their use. Images are decoded one by one in random
    order until there are enough, so memory holds only those that are used.

    Args:
        path: name on the hub ("ylecun/mnist"), a folder written by ``save_to_disk``, or any folder or loader that
            ``datasets.load_dataset`` takes, such as a folder of images.
        seed: of the split and the order.
        size: height and width in pixels.
        n_heldout: images that are never trained on.
        n_train: images that may be trained on; None for all others, all of which are then decoded.
        split: of the data set; ignored for a folder saved as a single split.
        subset: configuration of the data set, if it has several.
        revision: commit, tag or branch on the hub, for reproducible results.
        image_key: column of the images, of the feature type ``Image``.
        label_key: column of integer labels; None for none.
        mode: "RGB" for three channels, "L" for grey.
        resize: "center-crop" crops the central square and downscales it; "refuse" skips images that are not
            size × size.
        crop: side of the central square; None for the largest.
        duplicate_distance: √(mean (a − b)²) up to which two images count as one, in units of [−1, 1].

    Returns:
        ``ImageData`` of shape (size, size, 3 or 1); names are row numbers.

    Raises:
        ValueError: `datasets` is not installed, the data set cannot be loaded (no connection, no such name), columns
            that it lacks, too few images, or an argument out of range.
    """
    check_shape(size, mode, resize, crop)
    require(path is not None, "path", path, "must be a data set's name on the hub, or a folder")
    source = _loaded(_library(path), path, subset, split, revision)
    _check_columns(source, image_key, label_key)
    images = source.select_columns([image_key])

    def read(index: int) -> np.ndarray:
        try:
            image = images[index][image_key]
        except Exception as error:  # error types vary with decoder and storage
            raise UnusableImage(f"cannot be decoded: {shown(error)}") from error
        if not isinstance(image, Image.Image):
            raise UnusableImage("missing")
        return as_array(image, size=size, mode=mode, resize=resize, crop=crop)

    return split_distinct(
        read,
        [str(i) for i in range(len(images))],
        seed=seed,
        n_train=n_train,
        n_heldout=n_heldout,
        duplicate_distance=duplicate_distance,
        name=path,
        labels=None if label_key is None else source.select_columns([label_key]).with_format("numpy")[:][label_key],
    )


def _library(path: str) -> ModuleType:
    """The library `datasets`, which is large and needed only here."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(f"path={path!r}: needs the package datasets: pip install '.[hf]' in the repository") from error


def _loaded(library: ModuleType, path: str, subset: str | None, split: str, revision: str | None) -> Any:
    """One split, nothing decoded."""
    is_saved = any((Path(path) / file).is_file() for file in SAVED)
    try:
        if is_saved:
            source = library.load_from_disk(path)
        else:
            source = library.load_dataset(path, subset, split=split, revision=revision)
    except Exception as error:  # of many packages: the hub's client, its transport, file formats
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"path={path!r}, split={split!r}: cannot be loaded: {line}") from error
    if not isinstance(source, dict):
        return source
    require(split in source, "split", split, f"must be one of {', '.join(source)}")
    return source[split]


def _check_columns(source: Any, image_key: str, label_key: str | None) -> None:
    kinds = {name: type(feature).__name__ for name, feature in source.features.items()}
    found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    require(kinds.get(image_key) == "Image", "image_key", image_key, f"must be a column of images; there are {found}")
    if label_key is not None:
        require(label_key in kinds, "label_key", label_key, f"must be a column; there are {found}")
        dtype = str(getattr(source.features[label_key], "dtype", None))
        require(
            "int" in dtype, "label_key", label_key, f"must be a column of integers, not of {kinds[label_key]} {dtype}"
        )
