"""What a user installs: the library needs what it imports, and the files beside the code say the same of it."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest

import plap_jax
from tests.helpers.places import ROOT, parsed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Packages whose name is not that of their module.
NAMES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "annotated_types": "annotated-types",
    "hydra": "hydra-core",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
# Folders and files that need an extra; they are imported when it is asked for.
NEED = {
    "plap_jax/audit/parquet.py": "cluster",
    "plap_jax/audit/parts.py": "cluster",
    "plap_jax/audit/on_ray.py": "ray",
    "plap_jax/audit/": "audit",
    "plap_jax/pretrained/bridge.py": "torchax",
    "plap_jax/pretrained/traced.py": "torchax",
    "plap_jax/pretrained/callback.py": "torch",
    "plap_jax/pretrained/pytorch/": "torch",
}


def packages(requirements):
    """Names of the packages, those of the project's own extras among them."""
    found = set()
    for requirement in requirements:
        own = re.fullmatch(r"plap-jax\[(.*)\]", requirement)
        found |= (
            packages(r for extra in own[1].split(",") for r in EXTRAS[extra])
            if own
            else {re.match(r"[\w.-]+", requirement)[0]}
        )
    return found


def imported(path):
    """Packages that a file imports, apart from the standard library and the project itself."""
    modules = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.partition(".")[0])
    return {NAMES.get(name, name) for name in modules - {"plap_jax"} - set(sys.stdlib_module_names)}


def test_the_library_needs_what_it_imports_and_nothing_else():
    needed = {}
    for path in sorted((ROOT / "plap_jax").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        extra = next((extra for start, extra in NEED.items() if name.startswith(start)), None)
        needed.setdefault(extra, set()).update(imported(path))
    library = packages(PROJECT["dependencies"])
    assert needed.pop(None) == library
    for extra, found in needed.items():
        assert found <= library | packages(EXTRAS[extra]), extra


def test_experiments_and_tests_need_what_their_extras_bring():
    library = packages(PROJECT["dependencies"])
    browser = ROOT / "experiments" / "publish" / "browser.py"  # loaded where it can be
    assert imported(browser) <= packages(EXTRAS["dev"])
    for folder, extra in (("experiments", "experiments"), ("tests", "dev")):
        found = set().union(*(imported(path) for path in (ROOT / folder).rglob("*.py") if path != browser))
        allowed = library | packages(EXTRAS[extra]) | packages(EXTRAS["torchax"]) | packages(EXTRAS["torch"])
        assert found - {"experiments", "benchmarks", "tests"} <= allowed


def test_jax_has_no_upper_bound():
    for name in ("jax", "flax"):
        (requirement,) = (r for r in PROJECT["dependencies"] if re.match(rf"{name}\b", r))
        assert "<" not in requirement and "==" not in requirement
    assert {"cuda13", "cuda12", "tpu"} <= set(EXTRAS)


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert f"version: {plap_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert (ROOT / "CHANGELOG.md").read_text().partition("\n## ")[2].startswith(plap_jax.__version__)
    assert (ROOT / "plap_jax" / "py.typed").is_file()


def test_pins_name_no_index():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("-")]


def test_every_name_of_the_root_is_there():
    missing = [name for name in plap_jax.__all__ if not hasattr(plap_jax, name)]
    assert not missing and len(set(plap_jax.__all__)) == len(plap_jax.__all__)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["JAX=cuda"], "JAX=cuda: must be cuda13, cuda12 or tpu"),
        (["PYTHON=no-python", "VENV=no-venv"], "PYTHON=no-python: must be Python 3.11 to 3.13"),
    ],
)
def test_make_refuses(words, line):
    found = subprocess.run(["make", "setup", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and line in found.stderr


def test_make_sets_up_for_another_python_and_an_accelerator():
    words = ["make", "--dry-run", "setup", f"PYTHON={sys.executable}", "VENV=no-venv", "JAX=cuda13", "EXTRAS=hf,bench"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    version = "{}.{}".format(*sys.version_info)
    assert f"{sys.executable} -m venv --clear no-venv" in found
    assert '--editable ".[dev]"' in found and '--editable ".[cuda13,hf,bench]"' in found
    assert f"touch no-venv/.installed-dev-{version}" in found
