"""Tests on Fashion-MNIST, which Debian's package dataset-fashion-mnist brings."""

from pathlib import Path

import pytest

from plap_jax.data.idx import FASHION_MNIST

needs_fashion_mnist = pytest.mark.skipif(
    not Path(FASHION_MNIST).is_dir(),
    reason="no Fashion-MNIST on this machine: apt-get install dataset-fashion-mnist",
)
