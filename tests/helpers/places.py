"""Where things are, for tests in any folder."""

import ast
from functools import cache
from pathlib import Path

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
ROOT = TESTS.parent


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax of a source file, which several rules look through."""
    return ast.parse(path.read_text(encoding="utf-8"))
