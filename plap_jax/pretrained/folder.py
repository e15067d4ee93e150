"""Inspect a diffusers folder: all pieces present, of supported classes, with weights as safetensors.

Reads JSON and file names only; needs neither weights nor PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plap_jax.pretrained.kinds import ALONE, PIPELINES, Pipeline
from plap_jax.pretrained.weights import PICKLES, WHY_NOT, Weights, find_weights, pieces_inside, read_object
from plap_jax.typing import require, shown

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
EMA = "_ema"  # unet_ema/ beside unet/, as trainers write it
_TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",), ("spiece.model",))


@dataclass(frozen=True)
class Model:
    """One network of a folder, its weights not read yet.

    Attributes:
        name: "unet", "vae", "text_encoder" …
        path: its folder.
        class_name: of diffusers or transformers.
        config: its ``config.json``.
        weights: its files with weights.
        single: they stand in one file with those of other pieces, by the names of the first authors' code.
    """

    name: str
    path: Path
    class_name: str
    config: Mapping[str, Any]
    weights: Weights
    single: bool = False


@dataclass(frozen=True)
class Folder:
    """The pieces of a pipeline.

    Attributes:
        pipeline: what kinds of pieces it has.
        index: content of ``model_index.json``, {} where there is none.
        models: by name.
        scheduler: content of ``scheduler_config.json``.
        tokenizers: their folders, by name.
        files: (as named in a report, path) of all files that are read.
        notes: what a reader of a report has to know of the folder, in words.
    """

    pipeline: Pipeline
    index: Mapping[str, Any]
    models: Mapping[str, Model]
    scheduler: Mapping[str, Any]
    tokenizers: Mapping[str, Path]
    files: tuple[tuple[str, Path], ...]
    notes: tuple[str, ...]


def read_folder(
    folder: str | Path,
    *,
    base: str | Path | None = None,
    variant: str | None = None,
    ema: bool = False,
    allow_pickle: bool = False,
) -> Folder:
    """Find the pieces of a pipeline, in a folder and in that of its base, and check that each is there.

    Args:
        folder: as written by ``save_pretrained`` of a diffusers pipeline; or flat, with config and weights of the only
            network at its root; or a trainer's ``checkpoint-500`` with ``unet/``, which needs a base; or a single
            safetensors file, which needs a base too.
        base: a folder with the pieces that ``folder`` lacks; of a single file with the configs of all.
        variant: "fp16" for files such as ``diffusion_pytorch_model.fp16.safetensors``; a piece that has none of it is
            taken as it is.
        ema: take ``unet_ema/`` (``transformer_ema/``) in place of ``unet/``.
        allow_pickle: accept pickled weights if there are no safetensors.

    Raises:
        ValueError: no such folder, a pipeline or a class that is not supported, a piece without config or weights,
            or pickled weights that were not allowed.
    """
    single = _single_file(folder, base)
    places = [] if single else [_place("folder", folder)]
    places += [] if base is None else [_place("base", base)]
    index, pipeline = _pipeline(places, folder)
    inside = pieces_inside(single, pipeline) if single else frozenset()
    found: dict[str, Model] = {}
    for name, classes in pipeline.models.items():
        if name in pipeline.optional and index.get(name, [None, None])[1] is None:
            continue
        if name in inside:
            class_name = _class_of(index, name, classes)
            config = read_object(places[0] / name / "config.json", name)
            found[name] = Model(name, places[0] / name, class_name, config, Weights((single,), True, None), single=True)
        else:
            found[name] = _model(places, index, name, classes, ema and name == pipeline.network, variant, allow_pickle)
    require(
        not variant or any(model.weights.variant == variant for model in found.values()),
        "variant",
        variant,
        f"must be of some file, and no piece has {shown(variant)} in the name of its weights",
    )
    tokenizers = {
        name: _tokenizer(places, index, name, classes)
        for name, classes in pipeline.tokenizers.items()
        if name not in pipeline.optional or index.get(name, [None, None])[1] is not None
    }
    scheduler = _scheduler(places)
    files = tuple(_files(places, found, tokenizers, scheduler))
    notes = (*_beside(places, pipeline, found), *_links(places, files))
    return Folder(pipeline, index, found, read_object(scheduler, "scheduler"), tokenizers, files, notes)


def _single_file(folder: str | Path, base: str | Path | None) -> Path | None:
    path = Path(folder).expanduser()
    if not (path.suffix in (*PICKLES, ".safetensors") and path.is_file()):
        return None
    safe = path.suffix == ".safetensors"
    allowed = "must be a folder of diffusers, or a single safetensors file; " + WHY_NOT.partition(": save")[0]
    require(safe, "folder", str(folder), allowed)
    allowed = "is a single file of weights: needs base=, a diffusers folder of the same architecture (configs suffice)"
    require(base is not None, "folder", str(folder), allowed)
    return path


def _place(key: str, folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    require(path.is_dir(), key, str(folder), "must be a folder on this machine; nothing is downloaded")
    return path


def _pipeline(places: list[Path], folder: str | Path) -> tuple[Mapping[str, Any], Pipeline]:
    """The first index of the places, and what kind of pipeline it names; of a flat folder by the class of its network.

    Raises:
        ValueError: no index and no network, or a pipeline that is not supported.
    """
    what = f"folder={str(folder)!r}"
    for place in places:
        if (place / INDEX).is_file():
            index = read_object(place / INDEX, what)
            name = index.get("_class_name")
            known = isinstance(name, str) and name in PIPELINES
            require(known, f"{INDEX}: _class_name", name, f"must be one of {', '.join(PIPELINES)}")
            return index, PIPELINES[name]
    alone = _class_at(places[0])
    if alone in ALONE:
        return {}, PIPELINES[ALONE[alone]]
    hint = ""
    if alone is not None or any((places[0] / f"{name}{end}").is_dir() for name in _NETWORKS for end in ("", EMA)):
        hint = "; a network alone needs base=, the folder of the pipeline it was trained from"
    elif inside := sorted(path.name for path in places[0].glob("checkpoint-*") if path.is_dir()):
        hint = f"; give one of its checkpoints, such as {inside[-1]}, with base=, the folder it was trained from"
    raise ValueError(f"{what}: {INDEX} is missing{hint}")


_NETWORKS = ("unet", "transformer")


def _class_at(place: Path) -> str | None:
    """The class of a network that lies at the root of a folder, None where none does."""
    if not (place / "config.json").is_file():
        return None
    name = read_object(place / "config.json", "config.json").get("_class_name")
    return name if isinstance(name, str) else None


def _model(
    places: list[Path],
    index: Mapping[str, Any],
    name: str,
    classes: tuple[str, ...],
    ema: bool,
    variant: str | None,
    allow_pickle: bool,
) -> Model:
    """The first place that has the piece; a folder may also be the piece itself."""
    class_name = _class_of(index, name, classes)
    for place in places:
        wanted = place / f"{name}{EMA * ema}"
        if not wanted.is_dir() and not ema and _class_at(place) in classes:
            wanted = place
        if wanted.is_dir():
            config = read_object(wanted / "config.json", name)
            own = config.get("_class_name", class_name)
            require(own in classes, f"{name}: _class_name", own, f"must be {' or '.join(classes)}")
            return Model(name, wanted, own, config, find_weights(wanted, name, variant, allow_pickle))
    if ema:
        raise ValueError(f"ema=True: there is no {name}{EMA}/ in {places[0].name}")
    raise ValueError(f"{name}: config.json is missing")


def _class_of(index: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    """The class that the index names, or the first one where there is no index."""
    if not index:
        return allowed[0]
    entry = index.get(name)
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    require(found in allowed, f"{INDEX}: {name}", found, f"must be {' or '.join(allowed)}")
    return found


def _tokenizer(places: list[Path], index: Mapping[str, Any], name: str, classes: tuple[str, ...]) -> Path:
    _class_of(index, name, classes)
    path = next((place / name for place in places if (place / name).is_dir()), places[0] / name)
    complete = any(all((path / file).is_file() for file in files) for files in _TOKENIZER_FILES)
    require(complete, name, str(path), "must hold vocab.json and merges.txt, or tokenizer.json")
    return path


def _scheduler(places: list[Path]) -> Path:
    """The first in a folder of its own, or at the root."""
    candidates = [path for place in places for path in (place / "scheduler" / SCHEDULER, place / SCHEDULER)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _files(
    places: list[Path], models: Mapping[str, Model], tokenizers: Mapping[str, Path], scheduler: Path
) -> Iterator[tuple[str, Path]]:
    """All files that are read, as a report names them: relative to their place."""
    indices = [place / INDEX for place in places if (place / INDEX).is_file()]
    read = [*indices[:1], scheduler]
    for model in models.values():
        read += [model.path / "config.json", *model.weights.files]
    for path in tokenizers.values():
        read += sorted(file for file in path.iterdir() if file.is_file())
    for file in dict.fromkeys(read):
        place = next((place for place in places if file.is_relative_to(place)), file.parent)
        if place not in places:  # a single file
            yield file.name, file
            continue
        of_base = "" if place == places[0] else f"{place.name}/"
        yield f"{of_base}{file.relative_to(place).as_posix()}", file


def _beside(places: list[Path], pipeline: Pipeline, models: Mapping[str, Model]) -> Iterator[str]:
    """What lies there and is not taken, or is taken from elsewhere than usual."""
    network = models[pipeline.network]
    if network.single:
        inside = [name for name, model in models.items() if model.single]
        yield f"{', '.join(inside)} of {network.weights.files[0].name}, all else of {places[0].name}"
        return
    if network.path.name == f"{pipeline.network}{EMA}":
        yield f"{network.name}: averaged weights, of {network.path.name}/"
    elif (network.path.parent / f"{pipeline.network}{EMA}").is_dir():
        yield f"{network.name}: not the averaged weights of {pipeline.network}{EMA}/, which ema=True takes"
    for model in models.values():
        if model.weights.variant:
            yield f"{model.name}: variant {model.weights.variant}"
    if len(places) > 1:
        own = [name for name, model in models.items() if model.path.is_relative_to(places[0])]
        require(bool(own), "folder", str(places[0]), "must hold a piece, and all come from base: give that alone")
        yield f"{', '.join(own)} of {places[0].name}, all else of its base {places[1].name}"


def _links(places: list[Path], files: tuple[tuple[str, Path], ...]) -> Iterator[str]:
    roots = [place.resolve() for place in places]
    inside = [(name, file) for name, file in files if any(file.is_relative_to(place) for place in places)]
    outside = [name for name, file in inside if not any(file.resolve().is_relative_to(root) for root in roots)]
    if outside:
        yield f"{len(outside)} file(s) are links to outside of the folder, the first is {shown(outside[0])}"
