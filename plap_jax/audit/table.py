"""Tables as files: a row for each image, block by block."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plap_jax.adjustment import blocks
from plap_jax.audit.stream import NEAR

if TYPE_CHECKING:
    from plap_jax.audit.result import AuditResult

Column = list | np.ndarray  # as long as the rows are many; masked where a row has none


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file in UTF-8 of at least one row; names that are no UTF-8 with backslashes."""
    rows = iter(rows)
    first = next(rows)
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.DictWriter(stream, list(first), lineterminator="\n")
        writer.writeheader()
        writer.writerows(chain([first], rows))


def ranked_rows(result: AuditResult, most: int | None = None) -> Iterator[dict[str, Any]]:
    """A row for each image, the highest score first; numbers, texts and None."""
    order = result.verdict.order[:most]
    for some in blocks(len(order)):
        columns = columns_of(result, order[some], some.start + 1)
        values = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
        for row in zip(*values, strict=True):
            yield dict(zip(columns, row, strict=True))


def write_parquet(path: Path, result: AuditResult) -> None:
    """The same rows as a Parquet file.

    Raises:
        ImportError: pyarrow is not installed.
    """
    pa, pq = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    order, writer = result.verdict.order, None
    for some in blocks(len(order)):
        columns = columns_of(result, order[some], some.start + 1)
        arrays = {name: _arrow(pa, column) for name, column in columns.items()}
        table = pa.table(arrays)
        writer = pq.ParquetWriter(path, table.schema, compression="zstd") if writer is None else writer
        writer.write_table(table)
    writer.close()


def _arrow(pa: Any, column: Column) -> Any:
    if isinstance(column, list):
        # As in a CSV file; a column of texts, also where this block has none.
        texts = [None if one is None else one.encode("utf-8", "backslashreplace").decode() for one in column]
        return pa.array(texts, pa.string())
    return pa.array(np.ma.getdata(column), mask=np.ma.getmaskarray(column))


def columns_of(result: AuditResult, rows: np.ndarray, first_rank: int) -> dict[str, Column]:
    """All that a table tells of some images, which follow each other in rank."""
    columns, verdict, found = result.audited.columns, result.verdict, result.calibration
    made: dict[str, Column] = {"rank": first_rank + np.arange(len(rows)), "file": [result.names[i] for i in rows]}
    for name in [name for name in columns if f"{name}/stderr" in columns]:
        made |= {name: _float(columns[name][rows]), f"{name}_stderr": _float(columns[f"{name}/stderr"][rows])}
    made |= {"low": _float(verdict.low[rows]), "high": _float(verdict.high[rows]), "nfe": columns["nfe"][rows]}
    if verdict.flagged is not None:
        made |= {"p_value": _finite(verdict.p_value[rows]), "q_value": _finite(verdict.q_value[rows])}
        made |= {"flagged": verdict.flagged[rows].astype(int)}
    made["z"] = _finite(verdict.z[rows])
    if found is not None:
        made |= {"same_as": [result.same_as[i] for i in rows]}
        made |= {"measured": _float(result.measured[rows]), "expected": _float(result.expected[rows])}
        for name, values in {"kappa": found.kappa, "contrast": found.contrast}.items():
            for column, level in enumerate(found.levels.tolist()):
                made[f"{name}_{level:g}"] = _float(values[rows, column])
    if result.training is not None:
        made |= {"nearest": [result.training.names[i] for i in columns["nearest"][rows]]}
        made |= {"copy_ratio": _float(columns["ratio"][rows]), "distance": _float(columns["distance"][rows])}
        made |= {NEAR: columns[NEAR][rows].astype(int)} if NEAR in columns else {}
    return made


def _float(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64)


def _finite(values: np.ndarray) -> np.ma.MaskedArray:
    """Without NaN and infinity, which tables leave empty."""
    return np.ma.masked_invalid(_float(values))
