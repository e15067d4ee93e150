"""The model that is audited: a checkpoint of this suite, a function of one's own, or a diffusers folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flax import nnx
from omegaconf import OmegaConf

from experiments.core.report import MANIFEST
from experiments.core.schema import Target
from plap_jax.audit.subject import Subject
from plap_jax.checkpoints import read_about
from plap_jax.diffusion import Diffusion
from plap_jax.pretrained import Pretrained, as_pretrained, load_diffusers, load_function
from plap_jax.training import load_diffusion
from plap_jax.typing import require

CAPTIONS = "network.captions.table.value"  # of a checkpoint, where its network knows captions


def load(model: Target) -> Subject:
    """What ``model=…`` names.

    Raises:
        ValueError: it is no model to audit, cannot be found, or is damaged; named by its key of the config.
    """
    target = model.spec["_target_"]
    allowed = "must be checkpoint, callable or diffusers: a model that is there already"
    require(target.rpartition(".")[0] == __name__, "model", target, allowed)
    try:
        return model.make()
    except ValueError as error:
        line = str(error)
        raise ValueError(line if line.startswith("model.") else f"model: {line}") from error


def checkpoint(path: str | None, shape: list[int] | None = None) -> Subject:
    """A network that an experiment of this suite has trained.

    Architecture, schedule and prediction are read from the run's ``.hydra/config.yaml``, the shape of images from its
    ``manifest.json``; checksums are verified.

    Args:
        path: ``RUN_DIR/checkpoints/NAME``, or ``RUN_DIR`` where it holds one checkpoint.
        shape: of an image, for runs whose manifest does not tell.
    """
    require(path is not None, "model.path", path, "must be RUN_DIR/checkpoints/NAME")
    place = _chosen(Path(path))
    run = place.parent.parent
    file = run / ".hydra" / "config.yaml"
    require(file.is_file(), "model.path", path, "must lie in the directory of a run, which holds .hydra/config.yaml")
    config = OmegaConf.load(file)
    sections = {name: _section(config, name, path) for name in ("model", "diffusion")}
    about = read_about(place)
    captions = about["arrays"].get(CAPTIONS)
    n_conditions = None if captions is None else int(captions.partition("(")[2].partition(",")[0]) - 1
    shape = tuple(shape or _shape(run, place.name, path))
    known = {} if n_conditions is None else {"n_conditions": n_conditions}
    network = sections["model"].make(shape, rngs=nnx.Rngs(0), **known)
    like = Diffusion(network, sections["diffusion"].make(), config.prediction, 1.0, "log_snr")
    found = load_diffusion(place, like)
    words = f"checkpoint {place.name} of {config.name}, {type(network).__name__} for images {shape}"
    return Subject(Pretrained(found, "pixels", shape, shape, n_conditions=n_conditions), words)


def user_function(target: str | None) -> Subject:
    """What the factory ``package.module:factory`` returns, see ``plap_jax.pretrained.UserModel``."""
    require(target is not None, "model.target", target, "must be package.module:factory")
    made = load_function(target)
    return Subject(as_pretrained(made), f"function {target} for images {tuple(made.shape)}")


def diffusers(
    folder: str | None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    variant: str | None = None,
    image_size: int | None = None,
    allow_pickle: bool = False,
) -> Subject:
    """A diffusers folder, see ``plap_jax.pretrained.load_diffusers``."""
    require(folder is not None, "model.folder", folder, "must be a folder of diffusers")
    how: dict[str, Any] = {"dtype": dtype, "variant": variant, "image_size": image_size}
    model = load_diffusers(folder, **how, allow_pickle=allow_pickle)
    space = f"latents {model.shape}" if model.kind == "latents" else "pixels"
    words = f"diffusers folder {Path(folder).name}, images {model.image_shape} scored as {space}, network in {dtype}"
    return Subject(model, words)


def _chosen(path: Path) -> Path:
    """The checkpoint itself, where the directory of a run was named."""
    if not (path / "checkpoints").is_dir():
        return path
    names = sorted(place.name for place in (path / "checkpoints").iterdir() if place.is_dir())
    allowed = f"holds the checkpoints {', '.join(names) or 'none'}: name one as {path}/checkpoints/NAME"
    require(len(names) == 1, "model.path", str(path), allowed)
    return path / "checkpoints" / names[0]


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
