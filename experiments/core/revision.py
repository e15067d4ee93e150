"""Which code a result comes from: the commit, and what has been changed since.

``python -m experiments.core.revision`` ends with exit code 2 and one line where something has.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Revision:
    """State of a working tree.

    Attributes:
        commit: in full; None outside a repository, or where git is not installed.
        changed: what differs from it, files that git neither tracks nor ignores included; None where there is no
            commit.
    """

    commit: str | None
    changed: tuple[str, ...] | None

    @property
    def dirty(self) -> bool | None:
        """Whether anything differs from the commit; None where there is none."""
        return None if self.changed is None else bool(self.changed)


def revision(folder: Path = ROOT) -> Revision:
    """Of the repository that holds ``folder``, by default the suite's own."""
    try:
        commit, status = (
            subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return Revision(None, None)
    return Revision(commit.strip(), tuple(line[3:] for line in status.splitlines()))


def require_clean(folder: Path = ROOT) -> Revision:
    """The revision behind what is about to be published; outside a repository it is only said that none is noted.

    Raises:
        ValueError: something was changed since the commit.
    """
    found = revision(folder)
    if found.commit is None:
        print("no git repository here: no commit stands behind what is written", file=sys.stderr)
    if found.changed:
        shown = ", ".join(found.changed[:3]) + ", …" * (len(found.changed) > 3)
        raise ValueError(f"working tree={shown}: must be as committed; what is published comes from a commit")
    return found


def same_code(commit: str | None, paths: Sequence[Path | str], folder: Path = ROOT) -> bool:
    """Whether nothing below ``paths`` differs between ``commit`` and the commit that is checked out."""
    try:
        command = ["git", "-C", folder, "diff", "--quiet", str(commit), "HEAD", "--", *paths]
        return commit is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    """Exit code: 0 where what is made now may be published."""
    try:
        require_clean()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
