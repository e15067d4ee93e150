"""Which prompt belongs to which image: none, one for all, or a CSV of file and prompt."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plap_jax.audit.subject import Subject
from plap_jax.typing import require, shown

HEADER = ["file", "prompt"]
Prompts = list[str] | list[int] | None


def read_prompts(
    key: str,
    given: str | int | Sequence[str] | Sequence[int] | os.PathLike | None,
    names: list[str],
    known: set[str],
    subject: Subject,
) -> Prompts:
    """A prompt for each of ``names``, a text or a number as the model takes it; None where none was given.

    Args:
        key: of the config, for messages.
        given: a text or number for all, one for each of ``names``, or the path of a CSV file of file and prompt.
        names: of the images.
        known: these, and the names of what was skipped, which the CSV may hold too.
        subject: the model.

    Raises:
        ValueError: prompts for a model without, a CSV that misses an image, names one that is not there or one twice,
            or a prompt that the model does not know.
    """
    if given is None:
        return None
    require(subject.takes_prompts, key, given, "must be null: this model has no prompts")
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if not isinstance(given, str | int | np.integer):
        allowed = f"must be one prompt, or one for each of the {len(names)} images"
        require(len(given) == len(names), key, f"{len(given)} prompts", allowed)
        return [_checked(key, prompt, subject) for prompt in given]
    if not is_file(given):
        return [_checked(key, given, subject)] * len(names)
    rows = _rows(key, given)
    twice = [name for name, times in Counter(name for name, _ in rows).items() if times > 1]
    require(not twice, key, given, f"names {len(twice)} file(s) twice, the first is {shown(twice[:1])}")
    strangers = [name for name, _ in rows if name not in known]
    require(not strangers, key, given, f"names {len(strangers)} file(s) that are not there, as {shown(strangers[:1])}")
    table = dict(rows)
    missing = [name for name in names if name not in table]
    require(not missing, key, given, f"has no prompt for {len(missing)} image(s), the first is {shown(missing[:1])}")
    return [_checked(key, table[name], subject) for name in names]


def is_file(prompts: object) -> bool:
    """Whether a CSV file is meant."""
    return isinstance(prompts, str) and prompts.lower().endswith(".csv")


def _rows(key: str, path: str) -> list[tuple[str, str]]:
    require(Path(path).is_file(), key, path, "must be a CSV file that is there")
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.reader(handle, strict=True))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{key}={path}: is no CSV file in UTF-8: {shown(error)}") from error
    allowed = f"must begin with the line {','.join(HEADER)}, and begins with {shown(rows[:1])}"
    require(rows[:1] == [HEADER], key, path, allowed)
    rows = [row for row in rows[1:] if row]
    broken = next((i for i, row in enumerate(rows, 2) if len(row) != len(HEADER)), None)
    require(broken is None, key, path, f"row {broken} must hold a file and a prompt; quote a prompt that holds a comma")
    return [(name, prompt) for name, prompt in rows]


def _checked(key: str, prompt: str | int, subject: Subject) -> str | int:
    if subject.takes_text:
        return str(prompt)
    allowed = f"must be an integer from 0 to {subject.model.n_conditions - 1}, the prompts of this model"
    try:
        number = int(prompt)
    except ValueError:
        number = -1
    require(0 <= number < subject.model.n_conditions, key, prompt, allowed)
    return number
