"""``plap-audit``: the audit from a terminal. Paths are taken literally; a mistake is one line and exit code 2.

There is no positional argument, but for the sub-command ``merge``.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from plap_jax.audit.auditing import audit_images
from plap_jax.audit.merging import merge_shards
from plap_jax.audit.models import load_model
from plap_jax.audit.options import MERGE, OF_MODEL, SETTINGS, SHARED, Mistake, merge_parser, parser
from plap_jax.audit.output import ALL, MAPS, PARTS, REPORT, SKIPPED, TABLE, refuse_foreign, write_output
from plap_jax.audit.plan import place_of, read_plan
from plap_jax.audit.prompts import is_file
from plap_jax.audit.result import AuditResult, load_writer
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.shards import EVIDENCE, audit_shard, load_ray
from plap_jax.audit.store import FolderStore
from plap_jax.audit.stream import NOT_FINITE
from plap_jax.audit.subject import Subject
from plap_jax.console import plain_console, raised_in, require_device
from plap_jax.typing import require

NAMED = 5  # of the highest scores
# The value within "name=value: what is allowed", as the library writes it: quoted, in brackets, cut off, or a word.
_VALUE = re.compile(r"('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\([^)]*\)|.{77}\.\.\.|[^\s:]+): ")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 2 with one line on stderr for a mistake; 1 with the traceback of a bug; 130 when interrupted."""
    plain_console()
    asked = argparse.Namespace()
    try:
        with _told():
            words = list(sys.argv[1:] if argv is None else argv)
            if words[:1] == [MERGE]:
                merge_parser().parse_args(words[1:], asked)
                _merge(asked)
            else:
                parser().parse_args(words, asked)
                _audit(asked)
        return 0
    except KeyboardInterrupt:
        parts = Path(asked.out) / PARTS if hasattr(asked, "out") else None
        some = parts is not None and parts.is_dir() and any(parts.iterdir())
        kept = f"; the same command goes on with what is kept in {parts}" if some else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    except Exception as error:
        line = _one_line(error, asked)
        if line is None:
            traceback.print_exception(error)
            return 1
        print(line, file=sys.stderr)
        return 2


@contextmanager
def _told() -> Iterator[None]:
    """What the library tells is printed as it is, whatever handlers others have; stderr is for bars and mistakes."""
    logger, handler = logging.getLogger("plap_jax"), logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _audit(asked: argparse.Namespace) -> None:
    """From options to files, and the result in words."""
    _find_home(asked)
    require(0 <= asked.seed < 2**31, "seed", asked.seed, "must lie in 0 ... 2^31 - 1")
    out = Path(asked.out)
    require(asked.ray is None or asked.shard is None, "ray", asked.ray, "computes all shards: give no --shard")
    if asked.shard is None:
        refuse_foreign(out)
        load_writer()  # Jinja may be missing, which is better known now than after hours
    require_device()
    given = ("reference", "prompts", "reference_prompts", "training", "fdr", "sigma")
    how = {name: getattr(asked, name) for name in given}
    how |= {"key": jax.random.key(asked.seed), "progress": True}
    how |= {"settings": AuditSettings(**{name: getattr(asked, name) for name in SETTINGS})}
    models = {name: getattr(asked, name) for name in ("model", "baseline", *OF_MODEL, *SHARED)}
    model, how["baseline"] = _models(models)
    if asked.ray is not None:
        placed = _placed(models)
        load_ray().audit_on_ray(model, asked.images, address=asked.ray, folder=out, command=placed, **how)
        return _judge(out, placed, how["settings"].maps)
    if asked.shard is not None:
        audit_shard(model, asked.images, shard=asked.shard, folder=out, command=_placed(models), **how)
        return _tell_shards(out)
    result = audit_images(model, asked.images, resume_dir=out / PARTS, **how)
    write_output(out, result)
    return _tell(out, result)


def _merge(asked: argparse.Namespace) -> None:
    """From parts to files."""
    _find_home(asked)
    out = Path(asked.out)
    plan = read_plan(out)
    refuse_foreign(out)
    load_writer()
    require_device()
    models = dict(plan.told.get("command") or {})
    models |= {name: getattr(asked, name) for name in ("model", "baseline") if getattr(asked, name) is not None}
    moved = {name: getattr(asked, name) for name in ("images", "reference", "training", "prompts", "reference_prompts")}
    _judge(out, models, plan.settings.maps if asked.maps is None else asked.maps, **moved)


def _judge(out: Path, models: dict[str, Any], maps: int, **moved: Any) -> None:
    """All parts together; the models are for curvature maps alone."""
    model, baseline = _models(models) if models.get("model") is not None and maps else (None, None)
    how = {"model": model, "baseline": baseline, "maps": maps, "store": FolderStore(out / PARTS)}
    result = merge_shards(out, **moved, **how, progress=True)
    write_output(out, result)
    _tell(out, result)


def _find_home(asked: argparse.Namespace) -> None:
    for name in ("images", "reference", "training", "out"):
        setattr(asked, name, _at_home(getattr(asked, name)))
    for name in ("prompts", "reference_prompts"):
        if is_file(getattr(asked, name)):
            setattr(asked, name, _at_home(getattr(asked, name)))


def _models(given: dict[str, Any]) -> tuple[Callable[[], Subject], Callable[[], Subject] | None]:
    """What loads the model, and a baseline."""
    of_model, shared = ({name: given.get(name) for name in names} for names in (OF_MODEL, SHARED))
    if shared["image_size"] is not None:
        sides = shared["image_size"]
        shared["image_size"] = sides[0] if len(sides) == 1 else tuple(sides)
    baseline = None if given.get("baseline") is None else partial(_baseline, given["baseline"], shared)
    return partial(_model, "--model", given["model"], **of_model, **shared), baseline


def _placed(models: dict[str, Any]) -> dict[str, Any]:
    """The same options, to be found from other folders."""
    return {name: place_of(value) if isinstance(value, str) else value for name, value in models.items()}


def _at_home(path: str | None) -> str | None:
    """``~`` expanded; a name that begins with it and is no one's home is meant literally."""
    if path is None:
        return None
    expanded = os.path.expanduser(path)
    return os.path.abspath(expanded) if expanded.startswith("~") else expanded


def _baseline(given: str, shared: dict[str, Any]) -> Subject:
    """A folder is loaded as the model is; others have no such options."""
    how = shared if Path(_at_home(given)).is_dir() else {}
    return _model("--baseline", given, **how)


def _model(option: str, given: str, **how: Any) -> Subject:
    """The model; a factory is looked for in the current folder first, as Python does."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return load_model(given, **how)
    except ValueError as error:
        if not _is_answer(error):
            raise
        line = str(error).removeprefix(f"{given}: ")
        name, _, rest = line.partition("=")
        line = _allowed(rest, given) if name in ("model", "target", "path", "folder") else line
        raise Mistake(f"{option} {given}: {line}") from error


def _tell(out: Path, result: AuditResult) -> None:
    for line in result.lines:
        print(line)
    print(_highest(result))
    skipped = result.skipped_rows()
    if skipped:
        print(f"skipped: {len(skipped)}, {out / SKIPPED} says why")
        if broken := sum(row["reason"] == NOT_FINITE for row in skipped):
            print(f"of these {broken} because {NOT_FINITE}: a fault of the model, or of its schedule and units")
    if result.maps is not None:
        print(f"{out / MAPS} holds the curvature maps of {len(result.maps.rows)} flagged images")
    table = out / ALL
    print(f"{out / REPORT} shows them all, {table if table.exists() else out / TABLE} is the table")


def _highest(result: AuditResult) -> str:
    """Names and scores of flagged images, or of any where none is flagged."""
    order = np.argsort(-result.score, kind="stable")
    n_flagged = 0 if result.flagged is None else int(result.flagged.sum())
    first = order[result.flagged[order]] if n_flagged else order
    named = ", ".join(f"{' '.join(result.names[i].split())} ({result.score[i]:.2f})" for i in first[:NAMED])
    more = f" and {n_flagged - NAMED} more" * (n_flagged > NAMED)
    return f"{'flagged, ' * bool(n_flagged)}the highest: {named}{more}"


def _tell_shards(out: Path) -> None:
    n, there = read_plan(out).n_shards, len(list((out / EVIDENCE).glob("part-*.parquet")))
    print(f"{there} of {n} parts are there" + f"; plap-audit {MERGE} {out} judges them" * (there >= n))


def _one_line(error: Exception, asked: argparse.Namespace) -> str | None:
    """What is wrong, by the option's name; None where it is a bug."""
    if isinstance(error, Mistake | ImportError) and _is_answer(error):
        return str(error)
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror or error}"
    if not (isinstance(error, ValueError) and _is_answer(error)):
        return None
    name, _, rest = str(error).partition("=")
    if name == "resume_dir":
        return f"--out {asked.out}: {rest}"
    if not hasattr(asked, name):
        return str(error)
    if name == "out" and not hasattr(asked, "seed"):
        return f"{MERGE} {asked.out}: {_allowed(rest, asked.out)}"
    given = getattr(asked, name)
    if given is None and not hasattr(asked, "seed"):
        return str(error)  # it stands in the plan
    value = " ".join(f"{one:g}" for one in given) if isinstance(given, list | tuple) else given
    return f"--{name.replace('_', '-')} {value}: {_allowed(rest, given).replace('pixel_range=', '--pixel-range=')}"


def _allowed(line: str, given: Any) -> str:
    """What stands behind the value in "value: what is allowed"."""
    for said in (f"{given!r}: ", f"{given}: "):
        if line.startswith(said):
            return line.removeprefix(said)
    found = _VALUE.match(line)
    return line[found.end() :] if found else line


def _is_answer(error: Exception) -> bool:
    """Whether this library refused: a ValueError of NumPy is a bug."""
    return raised_in(error).split(".")[0] == "plap_jax"
