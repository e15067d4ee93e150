"""Which prompt belongs to which image: none, one for all, one for each, or a CSV of file and prompt."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plap_jax.audit.subject import Takes
from plap_jax.typing import require, shown

# Names of columns: ours, and those of Hugging Face's metadata.csv.
FILES, PROMPTS = ("file", "file_name"), ("prompt", "text", "caption")
CAPTIONS = "captions"  # in place of a prompt: those that lie beside the images
DELIMITERS = (",", ";", "\t")
Prompts = list[str] | list[int] | None


@dataclass(frozen=True)
class Matched:
    """Prompts, and what matches none.

    Attributes:
        prompts: one for each image that has one, in their order.
        without: numbers of the images that have none.
        strangers: files of the table that are no images here.
    """

    prompts: list[str] | list[int]
    without: list[int] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """How many do not match."""
        return (
            f"{len(self.without)} image(s) without a prompt are left out, {len(self.strangers)} row(s) match no image"
        )


def read_prompts(
    key: str,
    given: str | int | Sequence[str] | Sequence[int] | os.PathLike | None,
    names: Sequence[str],
    skipped: set[str],
    takes: Takes,
) -> Matched | None:
    """The prompts of ``names``, texts or numbers as the model takes them; None where none was given.

    Args:
        key: of the argument, for messages.
        given: a text or number for all, one for each of ``names``, or the path of a CSV file with the columns file and
            prompt (file_name and text or caption do as well); other columns are left out of account.
        names: of the images.
        skipped: names that the file may hold, too.
        takes: of the model.

    Raises:
        ValueError: prompts for a model without, a CSV file that cannot be read, names an image twice or none of them,
            or a prompt that the model does not know.
    """
    if given is None:
        return None
    require(takes.takes_prompts, key, given, "must not be given: this model has no prompts")
    given = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(given, str | int | np.integer):
        allowed = f"must be one prompt, or one for each of the {len(names)} images"
        require(len(given) == len(names), key, f"{len(given)} prompts", allowed)
        return Matched([_checked(key, prompt, takes) for prompt in given])
    if not is_file(given):
        return Matched([_checked(key, given, takes)] * len(names))
    rows = _rows(key, given, (FILES, PROMPTS))
    twice = [name for name, times in Counter(name for name, _ in rows).items() if times > 1]
    require(not twice, key, given, f"names {len(twice)} file(s) twice, the first is {shown(twice[:1])}")
    table, known = dict(rows), {*names, *skipped}
    with_one = [name for name in names if name in table]
    first = f"the first image is {shown(list(names[:1]))}, the first row {shown([name for name, _ in rows[:1]])}"
    require(bool(with_one), key, given, f"names none of the images: {first}")
    without = [i for i, name in enumerate(names) if name not in table]
    strangers = [name for name, _ in rows if name not in known]
    return Matched([_checked(key, table[name], takes, name) for name in with_one], without, strangers)


def prompts_beside(key: str, captions: Sequence[str | None] | None, takes: Takes) -> Matched:
    """The captions that lie beside images, in tars and tables; images without one are left out.

    Raises:
        ValueError: there are none, or the model takes none.
    """
    require(takes.takes_prompts, key, CAPTIONS, "must not be given: this model has no prompts")
    found = list(captions or ())
    without = [i for i, text in enumerate(found) if text is None]
    allowed = "must lie beside the images, in a tar as 0001.txt beside 0001.jpg, in a Parquet file in a column text"
    require(len(without) < len(found), key, CAPTIONS, allowed)
    return Matched([_checked(key, text, takes) for text in found if text is not None], without)


def listed_prompts(key: str, path: str, n: int, takes: Takes) -> list[str] | list[int]:
    """The prompts of a CSV file in turn, again from the first where there are fewer than ``n``.

    Raises:
        ValueError: as ``read_prompts``.
    """
    require(takes.takes_prompts, key, path, "must not be given: this model has no prompts")
    rows = _rows(key, path, (PROMPTS,))
    return [_checked(key, rows[i % len(rows)][0], takes) for i in range(n)]


def is_file(prompts: object) -> bool:
    """Whether a CSV file is meant."""
    return isinstance(prompts, str) and prompts.lower().endswith(".csv")


def _rows(key: str, path: str, columns: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The cells of some columns, each by any of its names; commas, semicolons or tabs between them."""
    place = Path(path).expanduser()
    require(place.is_file(), key, path, "must be a CSV file that is there")
    try:
        with place.open(newline="", encoding="utf-8-sig") as handle:
            head = handle.readline()
            handle.seek(0)
            delimiter = max(DELIMITERS, key=head.count)
            rows = list(csv.reader(handle, strict=True, delimiter=delimiter))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{key}={path}: is no CSV file in UTF-8: {shown(error)}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    numbers = [next((header.index(name) for name in names if name in header), None) for names in columns]
    wanted = " and ".join(" or ".join(names) for names in columns)
    require(None not in numbers, key, path, f"must have columns {wanted} in its first line, and has {shown(header)}")
    body = [(i, row) for i, row in enumerate(rows[1:], 2) if row]
    require(bool(body), key, path, "must hold a row")
    broken = next((i for i, row in body if len(row) != len(header)), None)
    allowed = f"row {broken} must hold {len(header)} cells; quote a prompt that holds {delimiter!r}"
    require(broken is None, key, path, allowed)
    return [tuple(row[number] for number in numbers) for _, row in body]


def _checked(key: str, prompt: str | int, takes: Takes, name: str | None = None) -> str | int:
    good = isinstance(prompt, str | int | np.integer) and not isinstance(prompt, bool)
    if takes.takes_text:
        require(good, key, prompt, "must be a text")
        return str(prompt)
    given = "" if name is None else f"{shown(name)} has the prompt {shown(prompt)}, which "
    allowed = f"{given}must be an integer from 0 to {takes.n_conditions - 1}, the prompts of this model"
    require(good, key, prompt, allowed)
    try:
        number = int(prompt)
    except ValueError:
        number = -1
    require(0 <= number < takes.n_conditions, key, prompt, allowed)
    return number
