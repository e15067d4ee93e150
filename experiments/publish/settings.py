"""Every key of the configs in tables: defaults and notes from ``conf/``, types and ranges from the schemas."""

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from experiments.core.catalogue import CONF, experiments
from experiments.core.schema import HYDRA_KEYS, PLAIN, BaseConfig, RunConfig, Scale, Section, Target, parameters_of
from experiments.publish.meanings import meanings

GROUPS = ("data", "model", "diffusion", "train", "sampler", "detector", "mitigation", "captioned", "tracking")
IN_LISTS = {"method": "mitigation"}  # group of a choice that stands in a list
OF_THE_EXPERIMENT = ("name", "experiment", "objective", "headline", "figures", "scales")
SHARED_NOTES = ("config.yaml", "trains/default.yaml", "flux/default.yaml")
LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<rest>.*)")
CHOICES = re.compile(r"\S+ \| ")  # notes that only name what the schema names
KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
LONGEST = 70  # characters of a default
ABSENT = object()


@dataclass(frozen=True)
class Key:
    """A key: what may stand there, what it means, and its value at each scale (none for what is within a list)."""

    key: str
    allowed: str
    note: str
    values: tuple[Any, ...] = ()

    @property
    def default(self) -> str:
        """The value, or those of smoke, cpu and full where they differ."""
        shown = [_in_yaml(value) for value in self.values]
        return " / ".join(shown) if len(set(shown)) > 1 else "".join(shown[:1])


def shared() -> str:
    """The keys that every experiment has, and those of all that train."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _table(_shared_rows())


def own() -> str:
    """A section for each experiment with the keys that it adds, and the shared ones that it sets to another value."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        common = {row.key: row.default for row in _shared_rows()}
        parts: list[str] = []
        first: dict[str, tuple[str, dict[str, str]]] = {}  # module → the first experiment of it
        for name in experiments():
            rows, module = _rows_of(name)
            is_known = module in first
            of, before = first.setdefault(module, (name, {row.key: row.default for row in rows}))
            base = before if is_known else common
            rest = [row for row in rows if base.get(row.key) != row.default]
            told = f" The keys of `{of}`; other values:" if is_known else ""
            parts.append(f"### {name}\n\n{about(CONF / 'exp' / f'{name}.yaml')}{told}\n\n{_table(rest)}")
    return "\n".join(parts)


def groups() -> str:
    """A section for each group of the config with its choices and their keys."""
    return "\n".join(_group(group) for group in GROUPS)


def allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a field takes, in words: ``number ≥ 1, or null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return allowed(arguments[0], (*metadata, *arguments[1:]))
    if origin in (Union, UnionType):
        return ", or ".join(dict.fromkeys(allowed(a, metadata if a is not NoneType else ()) for a in arguments))
    if origin is Literal:
        return _either(f"`{a}`" for a in arguments)
    if origin in (list, Sequence, tuple):
        return f"list: {allowed(next(a for a in arguments if a is not Ellipsis))}"
    if origin is dict:
        return f"sections by name: {allowed(arguments[1])}"
    if annotation is Target:
        return "a choice of its group"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    bounds = " and ".join(f"{SIGNS[type(m)][0]} {getattr(m, SIGNS[type(m)][1]):,}" for m in _flat(metadata))
    return f"{KINDS.get(annotation, 'value')} {bounds}".strip()


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _flat(item.metadata)
        elif type(item) in SIGNS:
            yield item


def _either(words: Iterator[str]) -> str:
    *some, last = words
    return f"{', '.join(some)} or {last}" if some else last


def _shared_rows() -> list[Key]:
    """Of the composition without an experiment; what an experiment must bring is left out."""
    config = compose("config")
    raw = {key: config[key] for key in config if key not in ("name", *OF_THE_EXPERIMENT)}
    values = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    choices = compose("config", return_hydra_config=True).hydra.runtime.choices
    rows = list(_walk(BaseConfig, [values], "", _notes(SHARED_NOTES), choices))
    rows += list(_walk(RunConfig, [values], "", _notes(SHARED_NOTES), choices, skip=set(BaseConfig.model_fields)))
    return [row for row in rows if row.key.partition(".")[0] not in OF_THE_EXPERIMENT]


def _rows_of(name: str) -> tuple[list[Key], str]:
    """Rows of an experiment, and its module."""
    words = ([f"+exp={name}", f"scale={scale}"] for scale in get_args(Scale))
    composed = [compose("config", word, return_hydra_config=True) for word in words]
    choices = composed[0].hydra.runtime.choices
    values = [
        OmegaConf.to_container(OmegaConf.masked_copy(c, [k for k in c if k != "hydra"]), resolve=True) for c in composed
    ]
    module = values[0]["experiment"]
    files = [
        *SHARED_NOTES,
        *(f"captioned/{c}.yaml" for k, c in choices.items() if k == "captioned"),
        f"exp/{name}.yaml",
    ]
    model = importlib.import_module(module).Config
    rows = _walk(model, values, "", _notes(files), choices, skip={"scale", *OF_THE_EXPERIMENT})
    return list(rows), module


def _walk(
    model: type[BaseModel],
    values: Sequence[Any],
    path: str,
    notes: Mapping[str, str],
    choices: Mapping[str, Any],
    skip: set[str] = frozenset(),
) -> Iterator[Key]:
    """Rows below ``path``; ``values`` are the section's at each scale."""
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        key = f"{path}{name}"
        inner = tuple(_at(value, name) for value in values)
        note = field.description or notes.get(key, "")
        section = _section(field.annotation)
        if _is_target(field.annotation):
            yield from _target(key, inner, note, allowed(field.annotation, field.metadata), choices)
        elif section is not None and "detector" in section.model_fields:  # by name, one file of conf/detector each
            names = tuple(", ".join(value) if isinstance(value, Mapping) else None for value in inner)
            yield Key(key, "names of the group `detector`", note, names)
        elif section is None or (inner and all(value in (None, ABSENT) for value in inner)):
            yield Key(key, allowed(field.annotation, field.metadata), note, inner)
        elif get_origin(field.annotation) is None:
            yield from _walk(section, inner, f"{key}.", notes, choices)
        else:
            yield Key(key, allowed(field.annotation, field.metadata), note, inner)
            yield from _walk(section, [], f"{key}[].", notes, choices)


def _at(value: Any, name: str) -> Any:
    return value.get(name, ABSENT) if isinstance(value, Mapping) else ABSENT


def _section(annotation: Any) -> type[Section] | None:
    """The section that stands there, by itself or in a list or by name."""
    found = [annotation, *get_args(annotation)]
    found += [inner for part in get_args(annotation) for inner in get_args(part)]
    return next((a for a in found if inspect.isclass(a) and issubclass(a, Section)), None)


def _is_target(annotation: Any) -> bool:
    return annotation is Target or Target in get_args(annotation)


def _target(key: str, values: Sequence[Any], note: str, kind: str, choices: Mapping[str, Any]) -> Iterator[Key]:
    """The choice of a group, and what is set otherwise than in its file."""
    last = key.rpartition(".")[2]
    found = next((k for k in choices if (k.partition("@")[2] or k) == key), IN_LISTS.get(last, last))
    group, choice = found.partition("@")[0], choices.get(found)
    shown = f"[`{group}`](#{group})" if group in GROUPS else f"`{group}`"
    kind = f"a choice of {shown}" + (", or null" if "null" in kind else "")
    yield Key(key, kind, note, (choice,) * len(values))
    if choice is None:
        return
    plain = OmegaConf.to_container(_own_part(group, choice), resolve=False)
    arguments, told = _arguments(plain), meanings(plain)
    for name in arguments | dict.fromkeys(n for v in values if isinstance(v, Mapping) for n in v):
        inner = tuple(_at(value, name) for value in values)
        if name not in HYDRA_KEYS and any(value != plain.get(name, ABSENT) for value in inner):
            yield Key(f"{key}.{name}", arguments.get(name, "value"), told.get(name, ""), inner)


def _own_part(group: str, choice: str) -> Any:
    """What the file of a choice says, with the file that it builds on."""
    text = OmegaConf.load(CONF / group / f"{choice}.yaml")
    base = OmegaConf.create()
    for name in text.pop("defaults", []):
        if isinstance(name, str) and (CONF / group / f"{name}.yaml").exists():
            base = _own_part(group, name)
    return OmegaConf.merge(base, text.get(group, text))


def _arguments(spec: Mapping[str, Any]) -> dict[str, str]:
    """Argument → what it takes, by the signature of ``_target_``."""
    parameters = parameters_of(pkgutil.resolve_name(spec["_target_"]))
    return {p.name: allowed(p.annotation) if _is_told(p.annotation) else "value" for p in parameters}


def _is_told(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType, list, Annotated, Sequence, tuple):
        return any(_is_told(a) for a in get_args(annotation))
    return origin is Literal or annotation in PLAIN


def _group(group: str) -> str:
    parts = [f"### {group}\n"]
    for path in sorted((CONF / group).glob("*.yaml")):
        told = about(path)
        parts.append(f"**`{path.stem}`**{f': {told}' if told else ''}\n")
        content = _own_part(group, path.stem)
        spec = OmegaConf.to_container(content, resolve=False)
        spec = spec.get(path.stem, spec)  # a detector stands under its name
        notes = {key.rpartition(".")[2]: note for key, note in _notes([f"{group}/{path.name}"]).items()}
        rows = _rows_in(spec.get("detector", spec), notes)
        tried = "values that are tried on the validation half"
        rows += [Key(f"grid.{key}", "list", tried, (value,)) for key, value in spec.get("grid", {}).items()]
        if rows:
            parts.append(_table(rows))
    return "\n".join(parts)


def _rows_in(spec: Mapping[str, Any], notes: Mapping[str, str]) -> list[Key]:
    if "_target_" not in spec:
        return []
    takes, told = _arguments(spec), meanings(spec)
    return [
        Key(key, takes.get(key, "value"), notes.get(key) or told.get(key, ""), (value,))
        for key, value in spec.items()
        if key not in HYDRA_KEYS
    ]


def about(path: Path) -> str:
    """The comment at the top of a file."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    top = []
    for line in lines:
        if not line.startswith("#"):
            break
        top.append(line.lstrip("# "))
    return " ".join(top)


def _notes(files: Sequence[str]) -> dict[str, str]:
    """Key → the comment on its line, of files of ``conf/``; the later file's where both have one."""
    found: dict[str, str] = {}
    for name in files:
        stack: list[tuple[int, str]] = [(-1, "flux.")] if name.startswith("flux/") else [(-1, "")]
        for line in (CONF / name).read_text(encoding="utf-8").splitlines():
            if match := LINE.fullmatch(line):
                indent = len(match["indent"])
                while stack[-1][0] >= indent:
                    stack.pop()
                key = stack[-1][1] + match["key"]
                stack.append((indent, f"{key}."))
                note = match["rest"].rpartition("  # ")[2] if "  # " in match["rest"] else ""
                if note and not CHOICES.match(note):
                    found[key] = note
    return found


def _table(rows: Sequence[Key]) -> str:
    lines = ["| key | default | takes | what it means |", "|---|---|---|---|"]
    for row in rows:
        cells = (f"`{row.key}`", row.default, row.allowed, row.note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _in_yaml(value: Any) -> str:
    if value is ABSENT:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = re.sub(r'[{}"]', "", text) if isinstance(value, Mapping) else text
    if len(text) > LONGEST:
        return "in its file"
    return f"`{text}`" if text else "–"
