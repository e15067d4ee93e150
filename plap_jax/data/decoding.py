"""Convert images of any mode, size and orientation, as opened by Pillow, to arrays of one shape."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from plap_jax.data.images import UnusableImage, scaled
from plap_jax.typing import require

Mode = Literal["RGB", "L"]
Resize = Literal["center-crop", "refuse"]
# Number formats without a stated range: white is undefined.
WITHOUT_RANGE = ("I", "F")
# A tiny file can declare any size; decoding it would fill the memory.
MAX_PIXELS = 2**26


def check_shape(size: int, mode: str, resize: str, crop: int | None = None) -> None:
    """Refuse arguments that `as_array` could not satisfy for any image.

    Raises:
        ValueError: naming the argument.
    """
    require(size >= 1, "size", size, "must be >= 1")
    require(mode in ("RGB", "L"), "mode", mode, "must be RGB (three channels) or L (grey)")
    require(resize in ("center-crop", "refuse"), "resize", resize, "must be center-crop or refuse")
    require(crop is None or crop >= size, "crop", crop, f"must be null or at least size={size}")


def as_array(image: Image.Image, *, size: int, mode: Mode, resize: Resize, crop: int | None = None) -> np.ndarray:
    """Convert an opened image to a square float array in [−1, 1].

    2 · v/255 − 1 of the 8-bit values v, turned upright, cropped to the central square, resized, in RGB or grey.

    Grey is 0.299 R + 0.587 G + 0.114 B. Palettes are resolved, transparent pixels shown on white, 16-bit grey divided
    by 257, CMYK converted without its colour profile; colour profiles are ignored in general. Larger images are
    downscaled by Pillow's antialiased bicubic filter; none are upscaled, since smoothness would reveal an image's
    origin.

    Args:
        image: opened by Pillow, not necessarily decoded.
        size: height and width of the result in pixels.
        mode: "RGB" for three channels, "L" for one.
        resize: "center-crop" as above; "refuse" takes only images that are size × size.
        crop: side of the central square, ≥ size; None for the largest.

    Returns:
        ``(size, size, 3 or 1)`` float32 in [−1, 1].

    Raises:
        UnusableImage: an animation, a number format without a stated range, too small, not size × size, or of more than
            67 million pixels, which is checked before decoding.
    """
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImage(f"declares {image.width}×{image.height} pixels, more than {MAX_PIXELS}")
    # A multi-picture JPEG, as cameras write, holds the photograph first, then previews.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UnusableImage(f"an animation of {image.n_frames} frames")
    image = _in_mode(_upright(image), mode)
    least = size if crop is None else crop
    if min(image.size) < least:
        raise UnusableImage(f"{image.width}×{image.height}, smaller than {least}×{least}")
    if resize == "refuse" and image.size != (size, size):
        raise UnusableImage(f"{image.width}×{image.height}, not {size}×{size}")
    side = min(image.size) if crop is None else crop
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return scaled(square.resize((size, size), Image.Resampling.BICUBIC), 255).reshape(size, size, -1)


def _upright(image: Image.Image) -> Image.Image:
    """Rotated as its EXIF block says; unchanged if that block is damaged."""
    image.load()  # raises for damaged pixel data
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF readers raise all kinds of errors on malformed bytes
        return image


def _in_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """8 bits per channel, grey or RGB, nothing transparent."""
    if image.mode in WITHOUT_RANGE:
        raise UnusableImage(f"of mode {image.mode}, whose range of values is not known")
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image, np.float32) / 257).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
