"""`import plap_jax` gives the whole library, and loads what is heavy only when it is used."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import plap_jax

PACKAGES = sorted(f"plap_jax.{m.name}" for m in pkgutil.iter_modules(plap_jax.__path__) if m.ispkg)
SUBMODULES = sorted(m.name for m in pkgutil.iter_modules(plap_jax.__path__) if not m.name.startswith("_"))


def in_a_new_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
def test_every_submodule_is_an_attribute_after_one_import():
    code = f"import plap_jax; print(*(getattr(plap_jax, name).__name__ for name in {SUBMODULES}))"
    assert in_a_new_process(code) == [f"plap_jax.{name}" for name in SUBMODULES]
    assert set(SUBMODULES) <= set(dir(plap_jax)) and set(plap_jax.__all__) <= set(dir(plap_jax))


def test_no_submodule_is_hidden_by_a_name_of_its_package():
    """``import plap_jax.bounds as m`` must give the module, in every package of the library."""
    packages = [plap_jax, *(importlib.import_module(name) for name in PACKAGES)]
    hidden = [
        f"{package.__name__}.{module.name}"
        for package in packages
        for module in pkgutil.iter_modules(package.__path__)
        if module.name in vars(package) and not isinstance(vars(package)[module.name], ModuleType)
    ]
    assert len(packages) > 5 and not hidden


def test_the_import_loads_nothing_heavy():
    code = "import sys, plap_jax; print(*({'sklearn', 'flax', 'orbax', 'optax'} & set(sys.modules)))"
    assert in_a_new_process(code) == []


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="^module 'plap_jax' has no attribute 'fluxes'$"):
        _ = plap_jax.fluxes
