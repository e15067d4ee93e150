"""What a benchmark ran on, in one paragraph."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.timing import n_cores
from experiments.core.revision import Revision

LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "torch")


def cpu_name(cpuinfo: str) -> str:
    """The model's name from the text of /proc/cpuinfo, or what Python knows."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def describe(libraries: Sequence[str] = LIBRARIES) -> str:
    """CPU, cores, load, operating system and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    name = cpu_name(cpuinfo.read_text() if cpuinfo.exists() else "")
    versions = ", ".join(f"{library} {_version(library)}" for library in libraries)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{name}, {n_cores()} cores (load at the start {load}), {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}. "
        "All cores for everyone; PyTorch takes fewer where that is faster."
    )


def code_line(code: Revision) -> str:
    """Which code was measured, in a sentence."""
    changes = f" with changes in {', '.join(code.changed[:3])}" if code.changed else ""
    return f"Code: commit {(code.commit or 'unknown')[:12]}{changes}."


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
