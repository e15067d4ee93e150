"""`import plap_jax` gives the whole library, and loads what is heavy only when it is used."""

import pkgutil
import subprocess
import sys

import pytest

import plap_jax

FUNCTIONS = ("flux", "volume")  # whose modules have their names
SUBMODULES = sorted({module.name for module in pkgutil.iter_modules(plap_jax.__path__)} - {*FUNCTIONS})


def in_a_new_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_every_submodule_is_an_attribute_after_one_import():
    code = f"import plap_jax; print(*(getattr(plap_jax, name).__name__ for name in {SUBMODULES}))"
    assert in_a_new_process(code) == [f"plap_jax.{name}" for name in SUBMODULES]
    assert set(SUBMODULES) <= set(dir(plap_jax)) and set(plap_jax.__all__) <= set(dir(plap_jax))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_name_of_a_function_is_not_its_module(name):
    code = f"import plap_jax, plap_jax.{name}, plap_jax.bounds; print(type(plap_jax.{name}).__name__)"
    assert in_a_new_process(code) == ["function"]


def test_the_import_loads_nothing_heavy():
    code = "import sys, plap_jax; print(*({'sklearn', 'flax', 'orbax', 'optax'} & set(sys.modules)))"
    assert in_a_new_process(code) == []


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="^module 'plap_jax' has no attribute 'fluxes'$"):
        _ = plap_jax.fluxes
