"""Fingerprints of arrays, to identify a data set."""

from __future__ import annotations

import hashlib

import numpy as np

from plap_jax.typing import ArrayLike


def fingerprint(*arrays: ArrayLike) -> str:
    """SHA-256 of the arrays in their order, over dtypes, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
