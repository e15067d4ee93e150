"""Evidence of one shard as a Parquet file, sealed: any byte that changes is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from plap_jax.audit.files import put
from plap_jax.audit.stream import INDEX, Scored

SET, FILE = "set", "file"
HEADER, SEAL = b"plap_jax", b"plap_jax.seal"
# Stands in the file's own metadata, behind all data; JSON writes control characters otherwise, so no name holds it.
MARK, UNSEALED = b"\x01seal:", b"0" * 64


class DamagedPart(ValueError):
    """A file that is not, byte for byte, a part that was written here; the message is the reason."""


@dataclass(frozen=True)
class ShardPart:
    """What one shard has measured.

    Attributes:
        header: of which plan, shard, model and code it is, JSON-able.
        sides: by name the audited images and the reference, without their places in the source.
    """

    header: dict[str, Any]
    sides: dict[str, Scored]


def write_part(path: Path, part: ShardPart) -> None:
    """One file: rows are images, and what could not be read stands in the header.

    Raises:
        OSError: it cannot be written.
    """
    table = _table(part.sides)
    header = part.header | {"skipped": {name: side.skipped for name, side in part.sides.items()}}
    stored = BytesIO()
    # Numbers hardly repeat: to look for those that do takes longer than all else.
    with pq.ParquetWriter(stored, table.schema, compression="zstd", use_dictionary=[SET]) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({HEADER: json.dumps(header).encode(), SEAL: MARK + UNSEALED})
    put(path, _sealed(stored.getvalue()))


def read_part(path: Path) -> ShardPart:
    """The part of a file.

    Raises:
        DamagedPart: it is gone, truncated, or not what was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedPart(f"cannot be read: {error.strerror}") from error
    if (start := content.rfind(MARK)) < 0 or _seal(content, start) != content[start:][: len(MARK + UNSEALED)]:
        raise DamagedPart("is damaged: its checksum is another one")
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            header, table = json.loads(file.metadata.metadata[HEADER]), file.read()
        skipped = header.pop("skipped")
        sides = {name: _side(table, name, [tuple(row) for row in rows]) for name, rows in skipped.items()}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedPart(f"is no part of an audit: {' '.join(str(error).split())}") from error
    return ShardPart(header, sides)


def _sealed(content: bytes) -> bytes:
    """With the checksum of all other bytes in its place."""
    start = content.rindex(MARK)
    seal = _seal(content, start)
    return content[:start] + seal + content[start + len(seal) :]


def _seal(content: bytes, start: int) -> bytes:
    """The mark, and the checksum of all other bytes."""
    seen, digest = memoryview(content), hashlib.sha256()
    for some in (seen[:start], MARK + UNSEALED, seen[start + len(MARK + UNSEALED) :]):
        digest.update(some)
    return MARK + digest.hexdigest().encode()


def _table(sides: Mapping[str, Scored]) -> pa.Table:
    """A row for each image of all sides; what only one of them has is empty for the others."""
    columns = {
        SET: pa.array([name for name, side in sides.items() for _ in range(len(side))], pa.string()),
        FILE: pa.array([name for side in sides.values() for name in side.names], pa.string()),
    }
    full = [side for side in sides.values() if len(side)]
    for name in dict.fromkeys(name for side in full for name in side.columns if name != INDEX):
        like = next(side.columns[name] for side in full if name in side.columns)
        rows = [side.columns.get(name, np.zeros((len(side), *like.shape[1:]), like.dtype)) for side in full]
        absent = np.concatenate([np.full(len(side), name not in side.columns) for side in full])
        values = np.concatenate(rows)
        flat = pa.array(values.ravel(), mask=absent if values.ndim == 1 and absent.any() else None)
        columns[name] = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(columns)


def _side(table: pa.Table, name: str, skipped: list[tuple[str, str]]) -> Scored:
    rows = table.filter(pc.equal(table[SET], name))
    if not len(rows):
        return Scored({}, [], skipped)
    columns = {}
    for column in rows.column_names[2:]:
        values = pa.concat_arrays(rows[column].chunks)
        if values.null_count:
            continue  # of the other side alone
        many = pa.types.is_fixed_size_list(values.type)
        flat = (values.flatten() if many else values).to_numpy(zero_copy_only=False)
        columns[column] = flat.reshape(len(rows), -1) if many else flat
    return Scored(columns, rows[FILE].to_pylist(), skipped)
