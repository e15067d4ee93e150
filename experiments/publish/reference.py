"""The lists of docs/settings.md and docs/commands.md: ``python -m experiments.publish.reference``.

They come from the programs themselves and stand in a document between ``<!-- reference NAME -->`` and ``<!-- end -->``.
"""

import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from experiments.core.catalogue import CONF, experiments
from experiments.core.files import write_text
from experiments.publish import settings
from plap_jax.audit.options import merge_parser, parser
from plap_jax.console import plain_console

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "docs" / "settings.md", ROOT / "docs" / "commands.md")
BLOCK = re.compile(r"<!-- reference (?P<name>\S+) -->\n.*?<!-- end -->", re.DOTALL)
TARGET = re.compile(r"^(?P<name>[a-z-]+):.*## (?P<does>.*)$", re.MULTILINE)


def audit_help() -> str:
    """``plap-audit --help``, as wide as a page of the site shows without scrolling."""
    return _help(parser())


def merge_help() -> str:
    """``plap-audit merge --help``, likewise."""
    return _help(merge_parser())


def _help(made: ArgumentParser) -> str:
    with mock.patch.dict("os.environ", {"COLUMNS": "82", "NO_COLOR": "1"}):
        return f"```text\n{made.format_help().rstrip()}\n```\n"


def experiment_list() -> str:
    """Every experiment with the comment at the top of its file."""
    lines = ["| `+exp=` | what |", "|---|---|"]
    for name in experiments():
        lines.append(f"| `{name}` | {settings.about(CONF / 'exp' / f'{name}.yaml')} |")
    return "\n".join(lines) + "\n"


def make_targets() -> str:
    """Every target of the Makefile with what it says of itself."""
    lines = ["| target | what |", "|---|---|"]
    for match in TARGET.finditer((ROOT / "Makefile").read_text(encoding="utf-8")):
        lines.append(f"| `make {match['name']}` | {match['does'].replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


LISTS: dict[str, Callable[[], str]] = {
    "settings/shared": settings.shared,
    "settings/experiments": settings.own,
    "settings/groups": settings.groups,
    "plap-audit": audit_help,
    "plap-audit-merge": merge_help,
    "experiments": experiment_list,
    "make": make_targets,
}


def filled(text: str) -> str:
    """``text`` with every list made anew."""
    return BLOCK.sub(lambda m: f"<!-- reference {m['name']} -->\n{LISTS[m['name']]()}<!-- end -->", text)


def main() -> int:
    """Rewrites both documents."""
    plain_console()
    for document in DOCUMENTS:
        write_text(document, filled(document.read_text(encoding="utf-8")))
        print(f"→ {document}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
