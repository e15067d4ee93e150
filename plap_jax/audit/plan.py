"""What all shards of one audit agree on: a small file, made by whoever comes first, which the others must match."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from plap_jax.audit.asking import Asked, Frame
from plap_jax.audit.files import put
from plap_jax.audit.images import Pictures
from plap_jax.audit.measuring import Question
from plap_jax.audit.scores import described
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.sources import files_of
from plap_jax.audit.store import versions
from plap_jax.audit.subject import Sketch, Takes, same_model
from plap_jax.typing import require, shown

PLAN = "plan.json"
FORMAT = 1
AT_ONCE = 10_000  # names that are hashed together
OWN = ("chunk", "evaluations", "maps")  # settings that each shard may choose: no evidence depends on them


@dataclass(frozen=True)
class Plan:
    """What stands in ``plan.json``.

    Attributes:
        agreed: what every shard must have in common, JSON-able.
        models: of the model, and of a baseline, what compares across machines.
        told: what a merge needs beside, as the first shard told it: places, words, settings.
    """

    agreed: dict[str, Any]
    models: dict[str, Sketch]
    told: dict[str, Any]

    @cached_property
    def id(self) -> str:
        """A hash of what is agreed, which every part holds."""
        return hashlib.sha256(json.dumps(self.agreed, sort_keys=True).encode()).hexdigest()

    @property
    def n_shards(self) -> int:
        """How many there are."""
        return int(self.agreed["shards"])

    @property
    def settings(self) -> AuditSettings:
        """Of the audit."""
        given = self.told["settings"]
        return AuditSettings(**given | {"noise_levels": tuple(given["noise_levels"])})

    def with_maps(self, n: int) -> Plan:
        """The same with another number of directions of curvature maps, on which no verdict depends."""
        return Plan(self.agreed, self.models, self.told | {"settings": self.told["settings"] | {"maps": n}})

    @property
    def frame(self) -> Frame:
        """What the numbers are."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.agreed["frame"].items()}
        return Frame(**values)

    @property
    def takes(self) -> Takes:
        """Which images and prompts the model takes."""
        given = self.agreed["takes"]
        return Takes(**given | {"image_shape": tuple(given["image_shape"])})

    @property
    def key(self) -> jax.Array:
        """The key of all directions."""
        return jax.random.wrap_key_data(np.asarray(self.agreed["key"], np.uint32))


def plan_of(asking: Question, everything: Asked, n_shards: int, *, fdr: float | None, told: Mapping[str, Any]) -> Plan:
    """The plan of an audit whose images are ``everything``; the models are asked a few questions."""
    sides = {"images": everything.audited, "reference": everything.reference}
    agreed = {
        "format": FORMAT,
        "shards": n_shards,
        "settings": _agreed(asking.settings),
        "score": asking.score,
        "frame": asdict(asking.frame),
        "sigma": asking.sigma,
        "fdr": fdr,
        "detector": described(asking.detector),
        "key": _numbers(everything.key),
        "takes": asdict(asking.held.takes),
        **{name: None if side is None else listing(side) for name, side in sides.items()},
        "training": None if everything.training is None else everything.training.key,
        **versions(),
    }
    told = dict(told) | {"settings": asdict(asking.settings), "models": asking.models_in_words()}
    return Plan(_plain(agreed), _plain(asking.sketches), _plain(told))


def listing(pictures: Pictures) -> dict[str, Any]:
    """Which images there are, by their names, and their prompts."""
    names, prompts = pictures.source.names, pictures.prompts
    return {"n": len(names), "names": _hash(names), "prompts": None if prompts is None else _hash(prompts)}


def settled(folder: Path, plan: Plan) -> Plan:
    """The plan of a folder: ``plan``, where it has none; else its own, which ``plan`` must match.

    Raises:
        ValueError: it does not; the first difference is named.
        OSError: it cannot be written.
    """
    content = json.dumps({"agreed": plan.agreed, "models": plan.models, "told": plan.told}, indent=1)
    if put(folder / PLAN, content.encode(), replace=False):
        return plan
    there = read_plan(folder)
    if (name := other_model(there, plan.models)) is not None:
        or_none = ", or with none" if name == "baseline" else ""
        require(False, "out", str(folder), f"holds an audit with another {name}{or_none}; name another folder")
    apart = next(differences(there.agreed, plan.agreed), None)
    require(apart is None, "out", str(folder), f"holds another audit: {apart}; name another folder")
    return there


def read_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        ValueError: there is none, or what is there is none.
    """
    path = folder / PLAN
    allowed = f"must be the folder of an audit in shards, and holds no {PLAN}"
    require(path.is_file(), "out", str(folder), allowed)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan(found["agreed"], found["models"], found["told"])
        known = plan.agreed["format"]
    except (ValueError, KeyError, TypeError) as error:
        told = f"its {PLAN} is damaged; delete it, and the next shard makes it anew: {shown(error)}"
        raise ValueError(f"out={str(folder)!r}: {told}") from error
    require(known == FORMAT, "out", str(folder), f"its {PLAN} is of format {known}, and this version reads {FORMAT}")
    return plan


def check_asked(
    plan: Plan, settings: AuditSettings, *, n_shards: int, fdr: float | None, sigma: float | None, key: jax.Array
) -> None:
    """Refuses a merge that asks for something else than the shards were asked for.

    Raises:
        ValueError: the first difference.
    """
    asked = {"shards": n_shards, "settings": _agreed(settings), "sigma": sigma, "fdr": fdr, "key": _numbers(key)}
    there = {name: plan.agreed[name] for name in asked}
    apart = next(differences(there, _plain(asked)), None)
    require(apart is None, "shards", n_shards, f"the shards were asked for something else: {apart}")


def other_model(plan: Plan, models: Mapping[str, Sketch]) -> str | None:
    """Which of the models is another one than the plan's: "model", "baseline" or None."""
    for name in ("model", "baseline"):
        there, here = plan.models.get(name), models.get(name)
        if (there is None) != (here is None) or (there is not None and not same_model(there, here)):
            return name
    return None


def differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """In words, what differs between two agreements."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*there, *(name for name in here if name not in there)]:
            yield from differences(there.get(name), here.get(name), f"{path}.{name}" if path else name)
    elif there != here and path == "code":
        yield f"it was made by another version of plap_jax (code {there[:8]}…, here {here[:8]}…)"
    elif there != here:
        yield f"{path} is {shown(there)} there, and {shown(here)} here"


def place_of(given: Any) -> str | int | None:
    """Where something lies, to be found from other folders; None for what lies in memory."""
    if isinstance(given, str | os.PathLike) and any(map(Path.exists, files_of(os.path.expanduser(given))[:1])):
        return str(Path(given).expanduser().absolute())
    return given if isinstance(given, str | int) else None


def _agreed(settings: AuditSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in OWN}


def _numbers(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()


def _hash(values: Sequence[str | int]) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(values), AT_ONCE):
        digest.update("".join(f"{value}\n" for value in values[start : start + AT_ONCE]).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
