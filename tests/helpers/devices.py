"""A process whose CPU is several devices, for what several accelerators would do."""

import os
import subprocess
import sys

from tests.helpers.places import ROOT


def with_devices(n: int) -> dict[str, str]:
    """The environment of a process whose CPU is n devices."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={n}"
    return os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}


def on_devices(n: int, program: str) -> str:
    """What a program prints, which must end well."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=with_devices(n), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
