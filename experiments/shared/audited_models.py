"""The model that is audited: a checkpoint of this suite, a function of one's own, or a diffusers folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from flax import nnx
from omegaconf import OmegaConf

from experiments.core.report import MANIFEST
from experiments.core.schema import Target
from plap_jax.audit.models import named_checkpoint, of_folder, of_function
from plap_jax.audit.subject import Subject
from plap_jax.checkpoints import read_about
from plap_jax.diffusion import Diffusion
from plap_jax.pretrained import Pretrained, load_checkpoint
from plap_jax.pretrained.checkpoint import find_checkpoint
from plap_jax.training import load_diffusion
from plap_jax.typing import require

CAPTIONS = "network.captions.table.value"  # of a checkpoint, where its network knows captions


def load(key: str, model: Target) -> Subject:
    """What ``model=…`` names, or ``model@baseline=…``; ``key`` is where it stands in the config.

    Raises:
        ValueError: it is no model to audit, cannot be found, or is damaged; named by its key of the config.
    """
    target = model.spec["_target_"]
    allowed = "must be checkpoint, callable, torch or diffusers: a model that is there already"
    require(target.rpartition(".")[0] == __name__, key, target, allowed)
    try:
        return model.make()
    except ValueError as error:
        line = str(error)
        raise ValueError(key + line.removeprefix("model") if line.startswith("model.") else f"{key}: {line}") from error


def checkpoint(path: str | None, shape: list[int] | None = None) -> Subject:
    """A network that an experiment of this suite has trained; checksums are verified.

    It tells itself what it is. Of an older one, architecture, schedule and prediction are read from the run's
    ``.hydra/config.yaml``, the shape of images from its ``manifest.json``.

    Args:
        path: ``RUN_DIR/checkpoints/NAME``, or ``RUN_DIR`` where it holds one checkpoint.
        shape: of an image, for older checkpoints whose run does not tell.
    """
    require(path is not None, "model.path", path, "must be RUN_DIR/checkpoints/NAME")
    place = find_checkpoint(path)
    config = place.parent.parent / ".hydra" / "config.yaml"
    if "constructors" in read_about(place)["notes"]:
        model = load_checkpoint(place)
    else:
        allowed = "must lie in the directory of a run, which holds .hydra/config.yaml"
        require(config.is_file(), "model.path", path, allowed)
        model = _older(place, path, shape)
    run = f" of {OmegaConf.load(config).name}" if config.is_file() else ""
    return named_checkpoint(model, place.name + run)


def _older(place: Path, path: str, shape: Sequence[int] | None) -> Pretrained:
    """A checkpoint that does not tell how its network is made."""
    run = place.parent.parent
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    sections = {name: _section(config, name, path) for name in ("model", "diffusion")}
    captions = read_about(place)["arrays"].get(CAPTIONS)
    n_conditions = None if captions is None else int(captions.partition("(")[2].partition(",")[0]) - 1
    shape = tuple(shape or _shape(run, place.name, path))
    known = {} if n_conditions is None else {"n_conditions": n_conditions}
    network = sections["model"].make(shape, rngs=nnx.Rngs(0), **known)
    like = Diffusion(network, sections["diffusion"].make(), config.prediction, 1.0, "log_snr")
    return Pretrained(load_diffusion(place, like), "pixels", shape, shape, n_conditions=n_conditions)


def user_function(target: str | None) -> Subject:
    """What the factory ``package.module:factory`` returns: a ``UserModel``, or what ``plap_jax.load_torch`` gives."""
    require(target is not None, "model.target", target, "must be package.module:factory")
    return of_function(target)


def diffusers(
    folder: str | None,
    base: str | None = None,
    lora: str | list[str] | None = None,
    lora_scale: float | list[float] = 1.0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    variant: str | None = None,
    ema: bool = False,
    image_size: int | list[int] | None = None,
    guidance: float | None = None,
    null_class: int | None = None,
    allow_pickle: bool = False,
    bridge: Literal["callback", "torchax"] = "callback",
) -> Subject:
    """A diffusers folder, see ``plap_jax.pretrained.load_diffusers``."""
    require(folder is not None, "model.folder", folder, "must be a folder of diffusers")
    how = {"base": base, "lora": lora, "lora_scale": lora_scale, "dtype": dtype, "variant": variant, "ema": ema}
    more = {"guidance": guidance, "null_class": null_class, "allow_pickle": allow_pickle, "bridge": bridge}
    return of_folder(folder, image_size=image_size, **how, **more)


def _section(config: Mapping, name: str, path: str) -> Target:
    spec = OmegaConf.to_container(config[name], resolve=True) if name in config else None
    allowed = f"must lie in a run that trained networks: its config has no section {name}"
    require(isinstance(spec, dict) and "_target_" in spec, "model.path", path, allowed)
    return Target(spec)


def _shape(run: Path, name: str, path: str) -> Sequence[int]:
    """Of the rows that the network was trained on, as the manifest notes it."""
    file = run / MANIFEST
    noted = json.loads(file.read_text()).get("data_shapes", {}) if file.is_file() else {}
    stages = {stage.removeprefix("train/").replace("/", "_"): shapes for stage, shapes in noted.items()}
    allowed = "must lie in a run whose manifest.json tells the shape of its images; give it as model.shape=[h,w,c]"
    require(name in stages, "model.path", path, allowed)
    shape = stages[name][0][1:]
    allowed = f"must be a model of images (h, w, c), and it is one of points {shape}"
    require(len(shape) == 3, "model.path", path, allowed)
    return shape
