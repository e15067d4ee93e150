"""Which files of a directory this suite wrote: it removes and replaces those alone.

A directory that a run or a sweep writes to holds ``LEDGER``, a text file that names every result before it is written
there, a path per line. What stands there under the name of a result without being listed belongs to somebody else.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experiments.core.errors import UserError

LEDGER = ".plap_jax_files"
METRICS, MANIFEST, ERROR, PAGE, VALID = "metrics.json", "manifest.json", "error.txt", "report.html", "valid.json"
HYDRA, MULTIRUN, LOG, LOCK = ".hydra", "multirun.yaml", "run.log", ".lock"
RESULTS = ("arrays", "tables", "figures", "checkpoints", "sweep", METRICS, MANIFEST, ERROR, PAGE, VALID)
NAMES = (*RESULTS, HYDRA, MULTIRUN, LOG, LOCK)
TEMPORARY = re.compile(r"\.\d+\.tmp(?=/|$)")  # see files.replacing: what a killed process leaves of a listed file
HEAD = "# Written by plap-jax in this directory; its next run here replaces these files and no others.\n"


def note(path: Path) -> None:
    """Lists ``path``, which is about to be written, where it is a result in a directory with a ledger.

    Raises:
        UserError: a file that nobody listed is there.
    """
    root = next((parent for parent in path.parents if (parent / LEDGER).is_file()), None)
    if root is None or (name := path.relative_to(root).as_posix()).split("/")[0] not in NAMES:
        return
    if name not in _listed(root):
        if os.path.lexists(path):
            raise UserError(f"{path}: was not written by this suite, and is not replaced; move it")
        with (root / LEDGER).open("a", encoding="utf-8") as ledger:
            ledger.write(f"{name}\n")


def refuse_foreign(directory: Path, key: str, names: Sequence[str] = NAMES) -> None:
    """Refuses a directory that holds files of somebody else under the names of results.

    Args:
        directory: where a run or a sweep is about to write; it may not exist yet.
        key: the config's key for it, for the message.
        names: those about to be written.

    Raises:
        UserError: with the first such files.
    """
    listed = _listed(directory)
    present = (name for name in _present(directory, names) if not _is_lock(directory / name))
    foreign = [name for name in present if TEMPORARY.sub("", name) not in listed]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(
            f"{key}={directory}: holds {', '.join(foreign[:3])}{more}, not listed in {LEDGER} as written by this "
            "suite; must be another directory, or move them"
        )


def open_ledger(directory: Path) -> None:
    """From here on ``note`` lists what is written below ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LEDGER).open("a", encoding="utf-8") as ledger:
        if ledger.tell() == 0:
            ledger.write(HEAD)


def claim(directory: Path, key: str, names: Sequence[str]) -> None:
    """``refuse_foreign`` and ``open_ledger`` at once."""
    refuse_foreign(directory, key, names)
    open_ledger(directory)


def has_results(directory: Path) -> bool:
    """Whether an earlier run left more here than its error."""
    return any(name != ERROR for name in _present(directory, RESULTS))


def remove_results(directory: Path) -> None:
    """Removes the listed results, so that no run leaves another's beside its own.

    What was expensive is in the cache; ``.hydra`` is written over, and the log goes on.
    """
    listed = _listed(directory)
    folders = set()
    for name in _present(directory, RESULTS):
        if TEMPORARY.sub("", name) in listed:
            path = directory / name
            path.unlink()
            folders.update(parent for parent in path.parents if directory in parent.parents)
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def _is_lock(path: Path) -> bool:
    """Whether this is a lock of ours: an empty file."""
    return path.name == LOCK and path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _listed(directory: Path) -> set[str]:
    """The names in the ledger; a last line that was cut off is none."""
    try:
        lines = (directory / LEDGER).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return set()
    return {line.rstrip("\n") for line in lines if line.endswith("\n")}


def _present(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """Files and links at or below ``names``; links are not followed."""
    for path in (directory / name for name in names):
        if path.is_dir() and not path.is_symlink():
            for folder, folders, files in os.walk(path):
                links = [name for name in folders if Path(folder, name).is_symlink()]
                yield from (Path(folder, name).relative_to(directory).as_posix() for name in (*files, *links))
        elif os.path.lexists(path):
            yield path.relative_to(directory).as_posix()
