"""Validation and test half without near-duplicates of each other.

Shared captions lead to the same image in both halves, and so do copies of an image whose own caption is in the other. A
choice made on one of them would know the other.
"""

from dataclasses import fields, replace

import numpy as np

from experiments.shared.captions import CaptionedImages
from plap_jax.data.duplicates import groups
from plap_jax.labels import Copies


def apart(made: CaptionedImages, validation: np.ndarray, distance: float) -> CaptionedImages:
    """Without the images of the test half that have a near-duplicate in the validation half; labels are not looked at.

    Args:
        made: generated images.
        validation: ``(n captions,)`` booleans.
        distance: √(mean (a − b)²) up to which two images count as one, ≥ 0; see ``plap_jax.data.duplicates.groups``.
    """
    is_validation = validation[made.prompts]
    group = groups(made.images, distance)
    kept = is_validation | ~np.isin(group, group[is_validation])
    return replace(
        made, images=made.images[kept], noise=made.noise[kept], prompts=made.prompts[kept], copies=_some(made, kept)
    )


def _some(made: CaptionedImages, kept: np.ndarray) -> Copies:
    arrays = {field.name: getattr(made.copies, field.name) for field in fields(Copies)}
    return Copies(**{name: value[kept] if isinstance(value, np.ndarray) else value for name, value in arrays.items()})
