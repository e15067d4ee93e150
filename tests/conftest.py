"""What all tests share: double precision on request, repositories, few hypothesis examples, one run per experiment."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import jax
import pytest
from absl import logging as absl_logging

from tests.helpers.shared import Shared

# absl, which Orbax imports, logs to what was stderr at its import: pytest's capture file. Hydra closes the handlers of
# earlier configurations, and absl's then closes its stream too, unless that is the real stderr.
absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)

MANY_AREAS = 15_000  # about a quarter of what Linux allows

# Each new shape is a compilation, so examples are few; what varies is data, not shapes. The same examples
# every time: a failure is a change in the code. A fixture such as `x64` may serve all examples of a test.
hypothesis.settings.register_profile(
    "few",
    deadline=None,
    max_examples=20,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("few")

# With its older emitters XLA compiles in less than half the time. Of flags that it does not know it dies, and so later
# versions, which may have no other emitters, are given none.
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
QUICK_FLAGS = OLDER_EMITTERS if jax.__version_info__ < (0, 11) else ""


def pytest_addoption(parser):
    parser.addoption(
        "--compile-fast",
        action="store_true",
        help="XLA compiles quickly rather than well: most tests compile longer than they compute",
    )


def pytest_configure(config):
    """What XLA compiles is kept in pytest's cache, for all workers.

    Its size is not limited: with a limit JAX looks at every file whenever it adds one. Nor is it locked: what is read
    while it is written is compiled again. With ``--compile-fast`` also what tests start compiles quickly.
    """
    if config.getoption("--compile-fast"):
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        given = os.environ.get("XLA_FLAGS", "")
        if QUICK_FLAGS not in given:  # workers inherit them; and an empty XLA_FLAGS is taken for the name of a file
            os.environ["XLA_FLAGS"] = f"{given} {QUICK_FLAGS}".strip()
    jax.config.update("jax_traceback_in_locations_limit", 0)  # only a debugger of XLA's reads them
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_collection_finish(session):
    """Python looks for garbage less often, and never in what was imported: an eighth of the time went there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_runtest_teardown(item, nextitem):
    """Between modules compiled code is dropped once there is much of it: Linux allows a process 65,530 mapped areas."""
    if nextitem is not None and nextitem.path == item.path:
        return
    try:
        areas = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # only Linux tells, and only Linux has this limit
        return
    if areas > MANY_AREAS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def compiled_well(pytestconfig):
    """Optimized code within the test, also with ``--compile-fast``."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", pytestconfig.getoption("--compile-fast"))


@pytest.fixture
def x64():
    """Double precision within the test: closed forms are held to 1e-6 and better."""
    with jax.enable_x64(True):
        yield


def git(folder: Path, *arguments: str) -> None:
    """A git command in ``folder``, as nobody in particular."""
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def committed_tree(tmp_path: Path) -> Path:
    """A repository of one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "code.py").write_text("x = 1\n")
    (folder / ".gitignore").write_text("ignored.txt\n")
    git(folder, "init")
    git(folder, "add", "--all")
    git(folder, "commit", "--message", "First")
    return folder


@pytest.fixture
def changed_tree(committed_tree: Path) -> Path:
    """The same with a file changed since."""
    (committed_tree / "code.py").write_text("x = 2\n")
    return committed_tree


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items):
    """Whatever asks for the fixture ``browser`` has the marker of this name."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Runs of experiments, networks and compiled code, shared by all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    return Shared(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)
