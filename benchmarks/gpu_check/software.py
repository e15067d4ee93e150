"""Which card, which versions, and whether PyTorch can take part."""

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

import jax

from benchmarks.gpu_check.rows import Machine

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


class NotHereError(Exception):
    """Something that this machine does not have or does not tell."""


class TorchDevice(NamedTuple):
    """PyTorch's name of the device that JAX computes on, or None; and what to tell of it."""

    name: str | None
    told: str


def torch_device(backend: str) -> TorchDevice:
    """Where PyTorch runs beside JAX on ``backend``, "gpu", "cpu" or "tpu": on the same kind of device or not at all."""
    if find_spec("torch") is None:
        return TorchDevice(None, "not installed")
    if backend == "cpu":
        return TorchDevice("cpu", "eager, on the CPU as well")
    if backend == "gpu" and import_module("torch").cuda.is_available():
        return TorchDevice("cuda", "eager, on the same card")
    return TorchDevice(None, "installed, but it does not see this device")


def describe() -> Machine:
    """The machine that this process runs on."""
    device, backend = jax.devices()[0], jax.default_backend()
    versions = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    software = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {versions}"
    return Machine(device.device_kind, backend, len(jax.devices()), software, torch_device(backend).told)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
