"""All shards' numbers in one, image by image in the order of the sources: one part is in memory beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from plap_jax.audit.images import Pictures
from plap_jax.audit.shards import EVIDENCE
from plap_jax.audit.sharing import Shard
from plap_jax.audit.stream import INDEX, THUMBNAIL, Scored, require_one
from plap_jax.data.rows import FileRows, RowFile


class Joined:
    """What the parts of all shards hold, put in place as they are read.

    The columns of all sides lie in one array each, one side after the other, so that a verdict over all of them copies
    none. Thumbnails, most of what a part holds, lie in a file beside the parts.

    Args:
        sides: by name the images of all shards.
        folder: where that file may lie.
    """

    def __init__(self, sides: Mapping[str, Pictures], folder: Path):
        self._sources, self._folder = {name: pictures.source for name, pictures in sides.items()}, folder
        sizes = [len(source.names) for source in self._sources.values()]
        self._starts = dict(zip(self._sources, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        self._there = np.zeros(sum(sizes), bool)
        self._skipped = {name: list(source.skipped) for name, source in self._sources.items()}
        self._columns: dict[str, np.ndarray] = {}
        self._of_side: dict[str, dict[str, None]] = {name: {} for name in sides}
        self._file: RowFile | None = None

    def take(self, shard: Shard, sides: Mapping[str, Scored]) -> list[str]:
        """The numbers of one shard.

        Returns:
            A line for each kind of images that are missing, doubled or foreign; nothing is taken then.
        """
        found, lines = {}, []
        for name, source in self._sources.items():
            side, rows = sides.get(name, Scored({}, [])), shard.rows(source)
            names = [source.names[row] for row in rows.tolist()]
            if side.names != names:
                told = wrong_names(f"{EVIDENCE}/{shard.file}", name, names, side)
                lines += told
                places = dict(zip(names, rows.tolist(), strict=True))
                rows = np.array([places[one] for one in side.names], int) if not told else rows
            found[name] = (self._starts[name] + rows, side)
        if not lines:
            for name, (rows, side) in found.items():
                self._put(name, rows, side)
        return lines

    def _put(self, name: str, rows: np.ndarray, side: Scored) -> None:
        self._skipped[name] += side.skipped
        if not len(side):
            return
        self._there[rows] = True
        for key, values in side.columns.items():
            self._of_side[name][key] = None
            if key == THUMBNAIL:
                self._file = RowFile(self._folder) if self._file is None else self._file
                values = self._file.append(values).places
            if key not in self._columns:
                self._columns[key] = np.zeros((len(self._there), *values.shape[1:]), values.dtype)
            self._columns[key][rows] = values

    def sides(self) -> list[Scored]:
        """Each in the order of its source; to be asked once.

        Raises:
            ValueError: a side has no image that could be read.
        """
        ends = [*list(self._starts.values())[1:], len(self._there)]
        there = {name: self._there[start:end] for (name, start), end in zip(self._starts.items(), ends, strict=True)}
        for name, rows in there.items():
            self._skipped[name].sort()
            require_one(name, len(rows), bool(rows.any()), self._skipped[name])
        if not self._there.all():
            for key in self._columns:
                self._columns[key] = self._columns[key][self._there]
        found, start = [], 0
        for name, rows in there.items():
            end, names = start + int(rows.sum()), self._sources[name].names
            columns = {key: self._columns[key][start:end] for key in self._of_side[name]}
            if THUMBNAIL in columns:
                columns[THUMBNAIL] = FileRows(self._file, columns[THUMBNAIL])
            index = np.flatnonzero(rows)
            kept = names if rows.all() else [names[i] for i in index.tolist()]
            found.append(Scored(columns | {INDEX: index}, kept, self._skipped[name]))
            start = end
        return found


def wrong_names(where: str, side: str, expected: list[str], found: Scored) -> list[str]:
    """Images of a part that are missing, doubled or foreign; the first of each kind is named."""
    told = [*found.names, *(one for one, _ in found.skipped)]
    there, wanted = set(told), set(expected)
    kinds = {"missing": wanted - there, "foreign": there - wanted}
    lines = [
        f"{kind}: {where}: {len(names)} of the {side}, the first is {min(names)!r}"
        for kind, names in kinds.items()
        if names
    ]
    doubled = len(told) - len(there)
    return lines + ([f"doubled: {where}: {doubled} of the {side}"] if doubled else [])
