"""Draws a run's figures again from its arrays: ``python -m experiments.figures RUN_DIR``."""

import importlib
import sys
from pathlib import Path

from omegaconf import OmegaConf


def main(directory: Path) -> int:
    """Exit code 2 with one line where ``directory`` holds no run, or a run without figures."""
    path = directory / ".hydra" / "config.yaml"
    module = OmegaConf.load(path).get("figures") if path.is_file() else None
    if module is None:
        print(f"RUN_DIR={directory}: must hold a run whose config names its figures", file=sys.stderr)
        return 2
    importlib.import_module(module).draw(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
