"""The folder that ``plap-audit`` leaves: whole files, and none of anyone else's replaced."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from plap_jax.audit.result import AuditResult
from plap_jax.audit.table import write_rows
from plap_jax.typing import require

FOLDER = "plap-audit"
REPORT, TABLE, SKIPPED, MAPS = "report.html", "audit.csv", "skipped.csv", "maps.npz"
ALL = "audit.parquet"  # of more images than MOST_ROWS, of which the CSV file has some, those with the highest scores
MOST_ROWS, SOME_ROWS = 1_000_000, 100_000  # spreadsheets open no more than a million
NAMES = (REPORT, TABLE, SKIPPED, MAPS, ALL)
PARTS = "parts"  # finished chunks, so that the same command goes on after a kill
# The checksums of what was written, as `sha256sum -c` reads them: a file of these names with another content is
# someone else's, or was changed by hand, and is not replaced.
WRITTEN = "plap-audit.sha256"


def refuse_foreign(folder: Path) -> None:
    """Refuses a folder in which a file would be replaced that was not written here.

    Raises:
        ValueError: naming the file.
    """
    require(folder.is_dir() or not folder.exists(), "out", str(folder), "must be a folder")
    written = _written(folder)
    for name in NAMES:
        path = folder / name
        ours = not (path.exists() or path.is_symlink()) or (path.is_file() and _line(path) in written)
        allowed = f"holds {name}, which plap-audit did not write, or which was changed since; move it, or name another"
        require(ours, "out", str(folder), f"{allowed} folder")


def write_output(folder: Path, result: AuditResult) -> None:
    """``report.html``, ``audit.csv``; ``skipped.csv`` and ``maps.npz`` where there are any; each whole or not at all.

    Of more than a million images ``audit.csv`` has the 100,000 with the highest scores, and ``audit.parquet`` all.

    Raises:
        ValueError: as ``refuse_foreign``.
        ImportError: pyarrow is not installed, and there are more than a million images.
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_foreign(folder)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as temporary:
        new = Path(temporary)
        many = len(result.names) > MOST_ROWS
        result.save_report(new / REPORT, table=ALL if many else TABLE)
        result.save_csv(new / TABLE, max_rows=SOME_ROWS if many else None)
        if many:
            result.save_parquet(new / ALL)
        if skipped := result.skipped_rows():
            write_rows(new / SKIPPED, skipped)
        if result.maps is not None:
            result.save_maps(new / MAPS)
        made = [name for name in NAMES if (new / name).exists()]
        lines = [_line(new / name) for name in made]
        _note(folder, [*_written(folder), *lines])  # first, so that a kill in between leaves nothing that is refused
        for name in NAMES:
            (new / name).replace(folder / name) if name in made else (folder / name).unlink(missing_ok=True)
    _note(folder, lines)


def _line(path: Path) -> str:
    with path.open("rb") as stream:
        return f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {path.name}"


def _written(folder: Path) -> list[str]:
    path = folder / WRITTEN
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _note(folder: Path, lines: list[str]) -> None:
    temporary = folder / f"{WRITTEN}.tmp"
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    temporary.replace(folder / WRITTEN)
