"""The extras ``torch`` and ``torchax``: which versions they need, and errors that say what to install."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

EXTRA = "pip install '.[torchax]' in the repository"
TORCH = "pip install '.[torch]' in the repository"
OLDEST = "2.4"  # of PyTorch, for calls by callback; as in pyproject.toml
# What reads diffusers folders by callback, with the oldest versions; as in pyproject.toml.
FOLDERS = {"torch": OLDEST, "diffusers": "0.30", "transformers": "4.44", "accelerate": "0.31", "safetensors": "0.4"}
# As in pyproject.toml, which a test checks. torchax depends on torch internals and supports only matching versions.
TESTED = {
    "torch": "2.13.0",
    "torchax": "0.0.14.dev20261026",
    "diffusers": "0.42.1",
    "transformers": "5.24.0",
    "accelerate": "1.15.0",
    "safetensors": "0.8.0",
}


def require_extra() -> None:
    """Require the packages of the extra ``torchax``, in the tested versions.

    Raises:
        ValueError: naming the package, the version found, and what to install.
    """
    for package, tested in TESTED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ValueError(f"{package} is not installed: bridge='torchax' needs {EXTRA}") from None
        if found.partition("+")[0] != tested:  # 2.13.0+cpu is a build of 2.13.0
            raise ValueError(f"{package}={found}: only {tested} was tested, install it by {EXTRA}")


def callback() -> ModuleType:
    """``plap_jax.pretrained.callback``, for which any PyTorch from ``OLDEST`` on will do.

    Raises:
        ValueError: PyTorch is missing, too old, or cannot be imported.
    """
    needed = f"{TORCH}, or PyTorch {OLDEST} or newer"
    try:
        found = version("torch")
    except PackageNotFoundError:
        raise ValueError(f"torch is not installed: a model of PyTorch needs {needed}") from None
    if _numbers(found) < _numbers(OLDEST):
        raise ValueError(f"torch={found}: is too old, install {needed}")
    try:
        return import_module("plap_jax.pretrained.callback")
    except ImportError as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"PyTorch cannot be imported, install {needed}: {line}") from error


def _numbers(found: str) -> tuple[int, ...]:
    return tuple(int(part) for part in found.partition("+")[0].split(".")[:2])


def bridge() -> ModuleType:
    """``plap_jax.pretrained.bridge``, the module that imports PyTorch.

    Raises:
        ValueError: as ``require_extra``, or packages that cannot be imported.
    """
    return _exact("bridge")


def traced() -> ModuleType:
    """``plap_jax.pretrained.traced``; as ``bridge``."""
    return _exact("traced")


def _exact(name: str) -> ModuleType:
    require_extra()
    try:
        return import_module(f"plap_jax.pretrained.{name}")
    except ImportError as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"the packages of the extra torchax cannot be imported, install {EXTRA}: {line}") from error


def pieces(name: str) -> ModuleType:
    """A module of ``plap_jax.pretrained.pytorch``, which reads diffusers folders, in any versions from ``FOLDERS`` on.

    Raises:
        ValueError: naming the package that is missing, too old, or cannot be imported.
    """
    for package, oldest in FOLDERS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ValueError(f"{package} is not installed: a diffusers folder needs {TORCH}") from None
        if _numbers(found) < _numbers(oldest):
            raise ValueError(f"{package}={found}: must be {oldest} or newer, install {TORCH}")
    try:
        return import_module(f"plap_jax.pretrained.pytorch.{name}")
    except ImportError as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"the packages of the extra torch cannot be imported, install {TORCH}: {line}") from error
