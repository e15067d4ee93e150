"""Pictures that tutorials draw: ``python -m experiments.publish.tutorial_pictures``, a part of ``make figures``.

A tutorial that shows ``../images/NAME`` saves ``NAME`` in one of its blocks. All its blocks are run in a folder that is
thrown away, and what it shows goes to docs/images.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from experiments.core.revision import require_clean
from plap_jax.console import plain_console

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS, IMAGES = ROOT / "docs" / "tutorials", ROOT / "docs" / "images"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHOWN = re.compile(r"\]\(\.\./images/([\w.]+)\)")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0; 2 with one line for arguments, or a changed tree."""
    plain_console()
    if arguments:
        print("usage: python -m experiments.publish.tutorial_pictures", file=sys.stderr)
        return 2
    try:
        require_clean()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for document in sorted(TUTORIALS.glob("*.md")):
        for path in draw(document, IMAGES):
            print(f"→ {path}")
    return 0


def draw(document: Path, images: Path) -> list[Path]:
    """Runs the blocks of a tutorial that shows pictures of its own, and puts these into ``images``."""
    text = document.read_text(encoding="utf-8")
    names = SHOWN.findall(text)
    if not names:
        return []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        known = {"__name__": "__main__"}
        for block in BLOCK.findall(text):
            exec(compile(block, str(document), "exec"), known)
        return [Path(shutil.copyfile(name, images / name)) for name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
