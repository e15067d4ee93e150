"""Measures every topic and prints one page: ``python -m benchmarks.run [--only TOPIC …] [--write PATH] [--setup]``.

What is written to PATH comes from a commit: a changed tree is refused before anything is measured.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import machine
from benchmarks.table import Row, markdown
from benchmarks.timing import ROOT
from benchmarks.topic import RUNS, read
from experiments.core.revision import require_clean, revision

OUTPUT = ROOT / "outputs" / "benchmarks.md"
TOPICS = {
    "many_points": "Flux of many points against the bare network",
    "matrix_products": "The bare network against the machine's matrix products",
    "exact_operator": "The exact p-Laplacian: time and memory",
    "detector_memory": "Memory of the detectors, d = 16,384",
    "compilations": "What is compiled again when only data change",
    "against_pytorch": "Flux against eager PyTorch",
    "images_pytorch": "The networks of the image experiments against PyTorch",
    "part_1": "The numbers of part 1, from process start",
    "experiment": "The whole experiment",
    "scale": "Audits of very many images",
    "setup": "Set-up",
}
NEEDS_TORCH = ("against_pytorch", "images_pytorch", "part_1")
ON_REQUEST = ("scale", "setup")  # by --only; the latter by --setup, too


def main() -> int:
    """Exit code 0; 1 when a topic could not be measured, 2 for a page that may not be written."""
    arguments = _arguments()
    try:
        code = revision() if arguments.write is None or arguments.allow_dirty else require_clean()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    measured_on = f"{machine.describe()} {machine.code_line(code)}"
    chosen = arguments.only or [t for t in TOPICS if t not in ON_REQUEST or (t == "setup" and arguments.setup)]
    sections, failed = [], []
    for topic in chosen:
        if topic in NEEDS_TORCH and find_spec("torch") is None:
            print(f"{topic}: left out, as torch is not installed (make bench installs it)", file=sys.stderr)
            failed.append(topic)
            continue
        print(f"measuring: {TOPICS[topic]} …", file=sys.stderr)
        rows = measure(topic, arguments.runs)
        if rows is None:
            failed.append(topic)
        else:
            sections.append((TOPICS[topic], rows))
    page = markdown(sections, measured_on)
    print(page)
    for path in filter(None, (OUTPUT, arguments.write)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    return 1 if failed else 0


def measure(topic: str, runs: int) -> Sequence[Row] | None:
    """The rows of a topic, measured in a process of its own; None when it failed, which it tells on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{topic}", "--runs", str(runs), "--out", str(out)]
        return None if subprocess.run(command, cwd=ROOT, check=False).returncode else read(out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(TOPICS), help="these topics alone")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"runs behind each median (default {RUNS})")
    parser.add_argument("--write", type=Path, help="write the page here as well, say docs/tables.md")
    parser.add_argument("--allow-dirty", action="store_true", help="a trial: write it from uncommitted code, too")
    parser.add_argument("--setup", action="store_true", help="measure make setup in a fresh clone, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
