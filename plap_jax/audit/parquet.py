"""Images in Parquet files, as data sets of Hugging Face have them: a column of bytes, beside columns of texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from plap_jax.audit.archives import FIELDS
from plap_jax.audit.images import EncodedImages, states_of
from plap_jax.data.decoding import Resize
from plap_jax.data.images import UnusableImage
from plap_jax.typing import require, shown

BYTES = "bytes"  # within a column of images; "path" says where they lay
FIRST = ("image", "img", "picture", "jpg", "png")  # columns that are taken before any other of bytes
Column = tuple[str, bool]  # its name, and whether the bytes are a field of it


class ParquetSource(EncodedImages):
    """The images of Parquet files, row by row; one group of rows is in memory at a time.

    Args:
        key: of the config, for messages.
        paths: of the files.
        shape, resize, crop: as of ``EncodedImages``.

    Raises:
        ValueError: no Parquet file, or no column of images; as ``EncodedImages``.
    """

    skipped: Sequence[tuple[str, str]] = ()
    in_order = True

    def __init__(self, key: str, paths: Sequence[Path], shape: tuple[int, ...], resize: Resize, crop: int | None):
        super().__init__(key, str(paths[0]), shape, resize, crop)
        self._paths, self.names, self._places = list(paths), [], []
        self._columns, self._texts = [], []
        for number, path in enumerate(self._paths):
            try:
                with pq.ParquetFile(path) as file:
                    schema, groups = file.schema_arrow, [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{key}={path}: is no Parquet file: {shown(error)}") from error
            self._columns.append(_column_of_images(key, path, schema))
            self._texts.append(next((name for name in FIELDS if name in schema.names), None))
            row = 0
            for group, about in enumerate(groups):
                self._places += [(number, group, i) for i in range(about.num_rows)]
                self.names += [f"{path.name}/{row + i}" for i in range(about.num_rows)]
                row += about.num_rows
        require(bool(self.names), key, str(paths[0]), "must hold a row")
        self._held: tuple[tuple[int, int], pa.Array] | None = None

    def read(self, index: int) -> np.ndarray:
        """Forward is fast; a group of rows is read at a time."""
        number, group, row = self._places[index]
        if self._held is None or self._held[0] != (number, group):
            self._held = None
            self._held = ((number, group), self._group(number, group))
        content = self._held[1][row].as_py()
        if content is None:
            raise UnusableImage("holds no bytes of an image")
        return self.decoded(BytesIO(content))

    @cached_property
    def captions(self) -> list[str | None] | None:
        """What stands in a column of texts; None where no file has one."""
        if not any(self._texts):
            return None
        found = []
        for path, name in zip(self._paths, self._texts, strict=True):
            with pq.ParquetFile(path) as file:
                texts = [None] * file.metadata.num_rows if name is None else file.read([name])[name].to_pylist()
            found += [_text(one) for one in texts]
        return found

    def identity(self, indices: Sequence[int]) -> Any:
        """The files, their sizes and the times of their last change, and which rows."""
        numbers = sorted({self._places[index][0] for index in indices})
        files = states_of(self._paths[number] for number in numbers)
        return [files, list(self._how), list(indices)]

    def _group(self, number: int, group: int) -> pa.Array:
        """The bytes of all its images."""
        name, nested = self._columns[number]
        try:
            with pq.ParquetFile(self._paths[number]) as file:
                column = file.read_row_group(group, [f"{name}.{BYTES}" if nested else name])[name]
        except (pa.ArrowException, OSError) as error:
            raise UnusableImage(f"cannot be read: {shown(error)}") from error
        values = pa.concat_arrays(column.chunks)
        return pc.struct_field(values, BYTES) if nested else values


def _column_of_images(key: str, path: Path, schema: pa.Schema) -> Column:
    """The column that holds encoded images.

    Raises:
        ValueError: none does, or several.
    """
    found: dict[str, bool] = {}
    for one in schema:
        fields = {field.name: field.type for field in one.type} if pa.types.is_struct(one.type) else {}
        if _holds_bytes(one.type) or _holds_bytes(fields.get(BYTES)):
            found[one.name] = BYTES in fields
    chosen = next((name for name in FIRST if name in found), next(iter(found)) if len(found) == 1 else None)
    told = ", ".join(found) or f"none, of {', '.join(schema.names)}"
    require(
        chosen is not None, key, str(path), f"must hold one column with bytes of images, or one named image; {told}"
    )
    return chosen, found[chosen]


def _holds_bytes(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _text(value: Any) -> str | None:
    """One caption; of several the first."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else None
