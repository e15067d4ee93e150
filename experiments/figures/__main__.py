"""Draws a run's figures again from its arrays: ``python -m experiments.figures RUN_DIR``."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from experiments.core.errors import UserError
from experiments.core.ledger import claim
from plap_jax.console import plain_console


def main(arguments: Sequence[str]) -> int:
    """Exit code: 2 with one line on stderr where there is nothing to draw."""
    plain_console()
    if len(arguments) != 1:
        print("usage: python -m experiments.figures RUN_DIR", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    config = directory / ".hydra" / "config.yaml"
    module = OmegaConf.load(config).get("figures") if config.is_file() else None
    if module is None:
        print(f"RUN_DIR={directory}: must hold a run whose config names its figures", file=sys.stderr)
        return 2
    try:
        claim(directory, "RUN_DIR", ("figures",))
        importlib.import_module(module).draw(directory)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
