"""``python -m benchmarks.gpu_check [--out FILE] [--smoke]``: the parts one after the other, then the page.

Each part is a process of its own: one that fails, crashes or hangs costs its own rows alone, and is a row of the page.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

from benchmarks.gpu_check.names import PARTS
from benchmarks.gpu_check.page import page
from benchmarks.gpu_check.rows import Finding, Missing, from_line, sound
from benchmarks.machine import code_line
from benchmarks.timing import CACHES, ROOT
from experiments.core.revision import require_clean, revision

OUTPUT = ROOT / "outputs" / "gpu_check.md"
DOCS = ROOT / "docs"
SECONDS = 350  # of the six minutes, with a few left for the page
LEAST = 15  # a part takes longer than that to begin


def main() -> int:
    """Exit code 0; 1 where something failed or a comparison did not hold; 2 for a page that may not be written."""
    arguments = _arguments()
    published = arguments.out.resolve().is_relative_to(DOCS) and not arguments.allow_dirty
    try:
        code = require_clean() if published else revision()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    start = monotonic()
    rows: list[Finding] = []
    for name in PARTS:
        left = SECONDS - (monotonic() - start)
        print(f"{name}: {left:.0f} s left …", file=sys.stderr)
        if left > LEAST:
            rows += measure(name, left, arguments.smoke)
        else:
            rows.append(Missing(name, "no time was left", failed=False))
    text = page(rows, code_line(code), monotonic() - start, arguments.smoke)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    return 0 if sound(rows) else 1


def measure(name: str, seconds: float, smoke: bool) -> list[Finding]:
    """The rows of a part, of which it may have written some before it broke or was stopped."""
    # Without preallocation there is memory left for PyTorch; with a cache compiling would take no time.
    environment = {key: value for key, value in os.environ.items() if key not in CACHES}
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if platforms := environment.get("JAX_PLATFORMS"):
        environment["JAX_PLATFORMS"] = f"{platforms},cpu"  # to compare with
    if smoke:
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # most of its time is compiling
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.touch()
        command = [sys.executable, "-m", "benchmarks.gpu_check.part", name, str(file), str(seconds - LEAST)]
        try:
            finished = subprocess.run(
                command + ["--smoke"] * smoke, cwd=ROOT, env=environment, check=False, timeout=seconds
            )
            broke = Missing(name, f"ended with exit code {finished.returncode}", failed=True)
            ended = [broke] if finished.returncode else []
        except subprocess.TimeoutExpired:
            ended = [Missing(f"{name}, the rest", "no time was left", failed=False)]
        return [from_line(line) for line in file.read_text().splitlines()] + ended


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="the page (default outputs/gpu_check.md)")
    parser.add_argument("--smoke", action="store_true", help="a trial in tiny sizes, for any processor")
    parser.add_argument("--allow-dirty", action="store_true", help="a page below docs/ from uncommitted code, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
