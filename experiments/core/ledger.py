"""Which files of a directory this suite wrote: it removes and replaces those alone.

A directory that a run or a sweep writes to holds ``LEDGER``, a text file with a line per result: the SHA-256 of what
was written, two spaces, the path. A file of that name with another content belongs to somebody else, or was changed by
hand, and stays. Of two kinds of files the content is not known:

- of a file that is being written ``BEGUN`` stands for the checksum. This claims what a killed process leaves beside it
  under a temporary name, and nothing under its own, which it takes only when its checksum is there;
- the log grows. It is only ever appended to, and is ours where it begins with ``LOG_HEAD``.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experiments.core.checksums import sha256_file
from experiments.core.errors import UserError

LEDGER = ".plap_jax_files"
METRICS, MANIFEST, ERROR, PAGE, VALID = "metrics.json", "manifest.json", "error.txt", "report.html", "valid.json"
HYDRA, MULTIRUN, LOG, LOCK = ".hydra", "multirun.yaml", "run.log", ".lock"
RESULTS = ("arrays", "tables", "figures", "checkpoints", "sweep", METRICS, MANIFEST, ERROR, PAGE, VALID)
NAMES = (*RESULTS, HYDRA, MULTIRUN, LOG, LOCK)
BEGUN = "-"
TEMPORARY = re.compile(r"\.\d+\.tmp(?=/|$)")  # see files.replacing: what a killed process leaves of a listed file
HEAD = "# Written by plap-jax in this directory; its next run here replaces these files and no others.\n"
LOG_HEAD = "# Log of the runs of plap-jax in this directory.\n"
Listed = dict[str, set[str]]


def note(path: Path, written: Path | None = None) -> None:
    """Lists ``path`` where it is a result in a directory with a ledger.

    Args:
        path: what is to be written; ``require_ours`` comes first.
        written: the finished file that is about to take this name; None before it is begun.
    """
    if (place := _place(path)) is not None:
        root, name = place
        checksum = BEGUN if written is None else sha256_file(written)
        if checksum not in _listed(root).get(name, ()):
            with (root / LEDGER).open("a", encoding="utf-8") as ledger:
                ledger.write(f"{checksum}  {name}\n")


def require_ours(path: Path) -> None:
    """Nothing of somebody else's is at or below ``path``, a result in a directory with a ledger.

    Raises:
        UserError: naming the first such file.
    """
    if (place := _place(path)) is not None and (foreign := _foreign(place[0], [place[1]])):
        raise UserError(
            f"{place[0] / foreign[0]}: was not written by this suite, or was changed since, and is not replaced; "
            "move it"
        )


def refuse_foreign(directory: Path, key: str, names: Sequence[str] = NAMES) -> None:
    """Refuses a directory that holds files of somebody else under the names of results.

    Args:
        directory: where a run or a sweep is about to write; it may not exist yet.
        key: the config's key for it, for the message.
        names: those about to be written.

    Raises:
        UserError: with the first such files.
    """
    if foreign := _foreign(directory, names):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(
            f"{key}={directory}: holds {', '.join(foreign[:3])}{more}, not listed in {LEDGER} as written by this "
            "suite, or changed since; must be another directory, or move them"
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
    """Removes the listed results and strikes them out, so that no run leaves another's beside its own.

    What was expensive is in the cache; ``.hydra`` is written over, and the log goes on.
    """
    folders = set()
    for name, is_ours in _judged(directory, RESULTS).items():
        if is_ours:
            path = directory / name
            path.unlink(missing_ok=True)
            folders.update(parent for parent in path.parents if directory in parent.parents)
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    _strike_out_missing(directory)


def _strike_out_missing(directory: Path) -> None:
    """What is not there any more is not ours when it comes back."""
    listed = _listed(directory)
    lines = (f"{sum_}  {name}\n" for name in listed if os.path.lexists(directory / name) for sum_ in listed[name])
    temporary = directory / f"{LEDGER}.{os.getpid()}.tmp"
    temporary.write_text(HEAD + "".join(lines), encoding="utf-8")
    temporary.replace(directory / LEDGER)


def _place(path: Path) -> tuple[Path, str] | None:
    """The directory with a ledger that ``path`` is a result of, and its name there."""
    root = next((parent for parent in path.parents if (parent / LEDGER).is_file()), None)
    name = "" if root is None else path.relative_to(root).as_posix()
    return (root, name) if root is not None and name.split("/")[0] in NAMES else None


def _foreign(directory: Path, names: Iterable[str]) -> list[str]:
    return [name for name, is_ours in _judged(directory, names).items() if not is_ours]


def _judged(directory: Path, names: Iterable[str]) -> dict[str, bool]:
    """Whether they are ours, for all files at or below ``names``.

    Checksums are compared with what the ledger says afterwards: another process that collects the same sweep lists its
    files before it puts them there. What was not listed before is foreign, however long it would take to read.
    """
    present = list(_present(directory, names))
    named = _listed(directory)
    checksums = {name: _checksum(directory / name) for name in present if name in named}
    listed = _listed(directory)
    return {name: _is_ours(directory, name, checksums.get(name), listed) for name in present}


def _is_ours(directory: Path, name: str, checksum: str | None, listed: Listed) -> bool:
    path, whole = directory / name, TEMPORARY.sub("", name)
    if path.is_symlink() or not path.is_file():
        return not os.path.lexists(path)  # gone: it was another process's temporary file
    if name == LOCK:
        return path.stat().st_size == 0
    if name == LOG:
        with path.open("rb") as log:
            return name in listed and log.read(len(LOG_HEAD)) == LOG_HEAD.encode()
    return whole in listed and (name != whole or checksum in listed[whole])


def _checksum(path: Path) -> str | None:
    """None for what is no file: a link, a pipe."""
    return sha256_file(path) if path.is_file() and not path.is_symlink() else None


def _listed(directory: Path) -> Listed:
    """Name → checksums of what was written under it; a last line that was cut off is none."""
    listed: Listed = {}
    try:
        lines = (directory / LEDGER).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return listed
    for line in lines:
        checksum, _, name = line.partition("  ")
        if line.endswith("\n"):
            listed.setdefault(name.rstrip("\n"), set()).add(checksum)
    return listed


def _present(directory: Path, names: Iterable[str]) -> Iterator[str]:
    """Files and links at or below ``names``; links are not followed."""
    for path in (directory / name for name in names):
        if path.is_dir() and not path.is_symlink():
            for folder, folders, files in os.walk(path):
                links = [name for name in folders if Path(folder, name).is_symlink()]
                yield from (Path(folder, name).relative_to(directory).as_posix() for name in (*files, *links))
        elif os.path.lexists(path):
            yield path.relative_to(directory).as_posix()
