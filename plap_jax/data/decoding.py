"""Convert images of any mode, size and orientation, as opened by Pillow, to arrays of one shape."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from plap_jax.data.images import UnusableImage, scaled
from plap_jax.typing import require

Mode = Literal["RGB", "L"]
Size = int | tuple[int, int]
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
    require(crop is None or crop >= size, "crop", crop, f"must not be given, or be at least size={size}")


def as_array(image: Image.Image, *, size: Size, mode: Mode, resize: Resize, crop: int | None = None) -> np.ndarray:
    """Convert an opened image to a float array of one shape in [−1, 1].

    2 · v/255 − 1 of the 8-bit values v, turned upright, cropped to the central square (or rectangle), resized, in RGB
    or grey.

    Grey is 0.299 R + 0.587 G + 0.114 B. Palettes are resolved, transparent pixels shown on white, 16-bit grey divided
    by 257, CMYK converted without its colour profile; colour profiles are ignored in general. Larger images are
    downscaled by Pillow's antialiased bicubic filter; none are upscaled, since smoothness would reveal an image's
    origin.

    Args:
        image: opened by Pillow, not necessarily decoded.
        size: height and width of the result in pixels, one number for squares.
        mode: "RGB" for three channels, "L" for one.
        resize: "center-crop" as above; "refuse" takes only images that have this size.
        crop: shorter side of what is cut out, ≥ that of the result; None for the largest.

    Returns:
        ``(height, width, 3 or 1)`` float32 in [−1, 1].

    Raises:
        UnusableImage: an animation, a number format without a stated range, too small, of another size, or of more than
            67 million pixels, which is checked before decoding.
    """
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImage(f"declares {image.width}×{image.height} pixels, more than {MAX_PIXELS}")
    # A multi-picture JPEG, as cameras write, holds the photograph first, then previews.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UnusableImage(f"an animation of {image.n_frames} frames")
    image = _in_mode(_upright(image), mode)
    height, width = sides(size)
    cut = (width, height) if crop is None else _of_shorter_side(crop, width, height)
    if image.width < cut[0] or image.height < cut[1]:
        raise UnusableImage(f"{image.width}×{image.height}, smaller than {cut[0]}×{cut[1]}")
    if resize == "refuse" and image.size != (width, height):
        raise UnusableImage(f"{image.width}×{image.height}, not {width}×{height}")
    if crop is None:  # the largest of this shape
        wide = image.width * height >= image.height * width
        cut = (image.height * width // height, image.height) if wide else (image.width, image.width * height // width)
    left, top = (image.width - cut[0]) // 2, (image.height - cut[1]) // 2
    part = image.crop((left, top, left + cut[0], top + cut[1]))
    return scaled(part.resize((width, height), Image.Resampling.BICUBIC), 255).reshape(height, width, -1)


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _of_shorter_side(side: int, width: int, height: int) -> tuple[int, int]:
    short = min(width, height)
    return side * width // short, side * height // short


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
