"""The order of layers: a module imports only from layers below its own, or from inside its own package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.places import ROOT, parsed

LAYERS = {
    "typing": 0,
    "difficulty": 1,
    "directions": 1,
    "mixtures": 1,
    "diffusion": 1,
    "networks": 1,
    "neighbours": 1,
    "metrics": 1,
    "calibration": 1,
    "console": 1,
    "envelope": 1,
    "bootstrap": 2,
    "balls": 2,
    "parallel": 1,
    "memory": 1,
    "checkpoints": 1,
    "operators": 2,
    "training": 2,
    "data": 2,
    "labels": 2,
    "_flux": 3,
    "_volume": 3,
    "bounds": 3,
    "sampling": 3,
    "audit": 6,
    "adaptive": 4,
    "adjustment": 2,
    "curvature_map": 5,
    "evidence": 5,
    "mitigation": 5,
    "detectors": 4,
    "pretrained": 4,
    "trajectories": 4,
}
NOT_FOR_THE_LIBRARY = {"hydra", "omegaconf", "wandb", "matplotlib", "experiments", "benchmarks", "tests"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> tuple[str, ...]:
    """`plap_jax/data/mixtures.py` -> ("plap_jax", "data", "mixtures")"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_names(tree: ast.AST, module: tuple[str, ...], is_package: bool) -> Iterator[tuple[str, ...]]:
    """Every name that is imported, in full: `from ..a import b` in x.y.z gives ("x", "a", "b")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = module if is_package else module[:-1]
            base = inside[: len(inside) - node.level + 1] if node.level else ()
            source = base + tuple((node.module or "").split(".") if node.module else ())
            yield from (source + (alias.name,) for alias in node.names)


def layer_faults(tree: ast.AST, module: tuple[str, ...], is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module of plap_jax; empty when all is well."""
    name = ".".join(module)
    own = module[1]
    if own not in LAYERS:
        return [f"{name}: give {own!r} a layer in {Path(__file__).name}"]
    faults = []
    for imported in imported_names(tree, module, is_package):
        if imported[0] in NOT_FOR_THE_LIBRARY:
            faults.append(f"{name} imports {imported[0]}")
        elif imported[0] == "plap_jax":
            other = imported[1] if len(imported) > 1 else None
            if other not in LAYERS:
                faults.append(f"{name} imports {'.'.join(imported)}, which is no module of a layer below")
            elif other != own and LAYERS[other] >= LAYERS[own]:
                faults.append(f"{name} (layer {LAYERS[own]}) imports {other} (layer {LAYERS[other]})")
    return faults


def modules_importing(package: str, files: list[Path]) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in files
        for imported in imported_names(parsed(path), dotted(path), path.name == "__init__.py")
        if imported[0] == package
    }


def imports_within_functions(tree: ast.AST) -> list[int]:
    return [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def test_the_library_imports_only_downwards():
    library = [path for path in python_files("plap_jax") if path != ROOT / "plap_jax" / "__init__.py"]
    assert library, "no module found: the test would hold nothing"
    faults = [
        fault for path in library for fault in layer_faults(parsed(path), dotted(path), path.name == "__init__.py")
    ]
    assert not faults, "\n".join(faults)


def test_the_documented_table_is_this_one():
    rows = re.findall(r"^\| (\d) \| (`.+`) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)} == LAYERS


@pytest.mark.parametrize("package", sorted(NOT_FOR_THE_LIBRARY))
def test_the_library_needs_nothing_of_the_experiments(package):
    assert not modules_importing(package, python_files("plap_jax"))


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from plap_jax._flux import flux", "operators"),
        ("import plap_jax.metrics", "neighbours"),
        ("from .data import mixtures", "training"),
        ("from plap_jax import flux", "operators"),
        ("from plap_jax import p_laplacian", "_flux"),
        ("import plap_jax", "_flux"),
        ("import wandb.sdk", "metrics"),
        ("def f():\n    from matplotlib import pyplot", "metrics"),
        ("", "a_new_module"),
    ],
)
def test_the_rule_catches(source, module):
    assert layer_faults(ast.parse(source), ("plap_jax", module))


@pytest.mark.parametrize(
    ("source", "module", "is_package"),
    [
        ("import jax\nfrom plap_jax.typing import Array", ("plap_jax", "_flux"), False),
        ("from .typing import Array\nfrom . import operators", ("plap_jax", "_flux"), False),
        ("from plap_jax.data.faces import load", ("plap_jax", "data", "digits"), False),
        ("from .mixtures import triangle\nfrom ..mixtures import sample", ("plap_jax", "data"), True),
    ],
)
def test_the_rule_allows(source, module, is_package):
    assert not layer_faults(ast.parse(source), module, is_package)


# One package per experiment; what is not one: rooms that several of them share.
ROOMS = {"core", "shared", "publish", "figures"}


def experiment_faults(tree: ast.AST, module: tuple[str, ...], is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module of experiments; empty when all is well."""
    room, name = (module[1] if len(module) > 1 else ""), ".".join(module)
    faults = []
    for imported in imported_names(tree, module, is_package):
        if imported[0] in ("benchmarks", "tests"):
            faults.append(f"{name} imports {imported[0]}")
        if imported[0] != "experiments" or len(imported) < 2 or imported[1] == room:
            continue
        allowed = {"core": set(), "shared": {"core"}, "publish": ROOMS, "figures": {"core"}, "run": ROOMS}
        if imported[1] not in allowed.get(room, {"core", "shared"}):
            faults.append(f"{name} imports {'.'.join(imported)}")
    return faults


def test_no_experiment_imports_another():
    faults = [
        fault
        for path in python_files("experiments")
        for fault in experiment_faults(parsed(path), dotted(path), path.name == "__init__.py")
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from experiments.audit.scores import Scorer", "image_memorization"),
        ("from experiments import audit", "image_memorization"),
        ("from experiments.shared import planting", "core"),
        ("from experiments.figures import style", "shared"),
        ("from benchmarks.timing import ratios", "estimator_study"),
    ],
)
def test_the_rule_of_experiments_catches(source, module):
    assert experiment_faults(ast.parse(source), ("experiments", module))


def test_experiments_are_named_as_their_configs():
    packages = {path.parent.name for path in python_files("experiments") if path.name == "__init__.py"}
    own = {
        path.stem: found.group(1)
        for path in (ROOT / "conf" / "exp").glob("*.yaml")
        if (found := re.search(r"^experiment: experiments\.(\w+)$", path.read_text(), re.MULTILINE))
    }
    assert len(own) >= 8 and all(name == package for name, package in own.items())
    assert packages - ROOMS - {"experiments"} == set(own)


def test_every_class_name_stands_once():
    """Beside ``Config``, which every experiment has, as it has ``run``."""
    places = [
        (node.name, str(path.relative_to(ROOT)))
        for path in python_files("plap_jax", "experiments")
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef) and node.name != "Config"
    ]
    names = [name for name, _ in places]
    assert not [place for place in places if names.count(place[0]) > 1]


def test_only_tracking_imports_wandb():
    assert modules_importing("wandb", python_files("experiments")) <= {"experiments/core/tracking.py"}


def test_only_figures_import_matplotlib():
    importing = modules_importing("matplotlib", python_files("experiments"))
    assert all(name.startswith("experiments/figures") for name in importing), importing


def test_only_run_is_a_hydra_main():
    entries = {
        str(path.relative_to(ROOT))
        for path in python_files("experiments")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "hydra.main"
    }
    assert entries <= {"experiments/run.py"}


def test_imports_stand_at_the_top():
    assert imports_within_functions(ast.parse("def f():\n    if True:\n        import os")) == [3]
    faults = {
        str(path.relative_to(ROOT)): lines
        for path in python_files("plap_jax", "experiments", "benchmarks", "tests")
        if (lines := imports_within_functions(parsed(path)))
    }
    assert not faults
