"""What a user installs, from an empty environment: the wheel, its files, and the command that it brings."""

import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.helpers.own_model import OWN_MODEL
from tests.helpers.places import ROOT

pytestmark = pytest.mark.slow


def pip(*words):
    """Of this Python; a machine that reaches no index cannot tell."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode and ("No matching distribution" in found.stderr or "onnection" in found.stderr):
        pytest.skip(f"needs a package index: {found.stderr.splitlines()[-1]}")
    assert found.returncode == 0, found.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves folders where it builds."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "plap_jax", place / "source" / "plap_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    pip("wheel", "--no-deps", "--wheel-dir", str(place), str(place / "source"))
    (found,) = place.glob("plap_jax-*.whl")
    return found


def test_the_wheel_holds_all_that_is_no_code(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "plap_jax").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    names = {path.relative_to(ROOT).as_posix() for path in files}
    assert {"plap_jax/py.typed", "plap_jax/audit/page.css", "plap_jax/audit/page.html.jinja"} <= names <= held
    assert not [name for name in held if name.startswith(("tests", "experiments", "benchmarks", "conf"))]


def test_from_an_empty_environment_to_a_report(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pins = ["--constraint", str(ROOT / "constraints.txt")] if sys.version_info[:2] == (3, 11) else []
    (tmp_path / "my model.d").mkdir()
    here = tmp_path / "my model.d"
    (here / "my_model.py").write_text(OWN_MODEL)
    np.save(here / "images.npy", np.random.default_rng(0).uniform(-1, 1, (6, 4, 4, 1)))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python.replace("bin/python", "bin/plap-audit"), "--model=my_model:factory", "--images=images.npy"]
    how = {"cwd": here, "env": env, "capture_output": True, "text": True, "check": False}
    pip("--python", python, "install", *pins, str(wheel))
    without = subprocess.run(command, **how)
    assert without.returncode == 2 and without.stderr.count("\n") == 1
    assert without.stderr.startswith("a report needs jinja2: pip install '.[audit]'")
    pip("--python", python, "install", *pins, f"{wheel}[audit]")
    found = subprocess.run([*command, "--sigma=0.2"], **how)
    assert found.returncode == 0, found.stderr
    assert (here / "plap-audit" / "report.html").read_text().count("<img") >= 6
    assert len((here / "plap-audit" / "audit.csv").read_text().splitlines()) == 7
