"""The model that is audited, and what tells it from another."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.data import fingerprint
from plap_jax.diffusion import Diffusion
from plap_jax.parallel import map_points
from plap_jax.pretrained import Pretrained, UserModel, as_pretrained
from plap_jax.typing import Array, require

PROBES = 3
PROJECTED = 2**16  # numbers of an array at a time
# How far the sketches of one model may lie apart on two machines, as a share of an array's root mean square: tables are
# computed to a few units in the last place, and answers by kernels of different order and precision.
ROUNDED = {"arrays": 1e-5, "answers": 1e-3}
Model = Pretrained | UserModel | Diffusion
Sketch = dict[str, list]


@dataclass(frozen=True)
class Takes:
    """Which images and prompts a model takes, which may be known without it.

    Attributes:
        image_shape: ``(H, W, C)``.
        takes_text: whether a prompt is a text.
        n_conditions: prompts that are known by number; None: there are none, or they are texts.
    """

    image_shape: tuple[int, ...]
    takes_text: bool
    n_conditions: int | None

    @property
    def takes_prompts(self) -> bool:
        """Whether there are prompts at all."""
        return self.takes_text or self.n_conditions is not None


@dataclass(frozen=True)
class Subject:
    """The model that is audited.

    Attributes:
        model: takes one image, or its latent, at a time.
        words: what it is, for the report.
    """

    model: Pretrained
    words: str

    @property
    def takes_text(self) -> bool:
        """Whether a prompt is a text."""
        return self.model.text is not None

    @property
    def takes_prompts(self) -> bool:
        """Whether there are prompts at all."""
        return self.takes_text or self.model.n_conditions is not None

    @property
    def sources(self) -> dict[str, str]:
        """File → SHA-256 of what the model was read from."""
        return dict(self.model.sources)

    @property
    def n_conditions(self) -> int | None:
        """Prompts that are known by number; None: there are none, or they are texts."""
        return self.model.n_conditions

    @property
    def takes(self) -> Takes:
        """What it takes, without the model itself."""
        return Takes(tuple(self.model.image_shape), self.takes_text, self.n_conditions)

    @cached_property
    def key(self) -> str:
        """A hash of what the model is called, ``arrays`` and ``answers``.

        The arrays alone do not tell other code, nor a few answers a change far away from the questions.
        """
        return hashlib.sha256(f"{self.words}{self.content}".encode()).hexdigest()

    @cached_property
    def content(self) -> str:
        """``key``, whatever the model is called: SHA-256."""
        digest = hashlib.sha256(json.dumps(self.contents).encode())
        for array in [*self.arrays, *self.answers]:
            digest.update(fingerprint(array).encode())
        return digest.hexdigest()

    @property
    def contents(self) -> list[str]:
        """SHA-256 of the files that the model was read from: PyTorch's weights are no arrays of JAX."""
        return sorted(set(self.sources.values()))

    @cached_property
    def sketch(self) -> Sketch:
        """A few numbers of each of ``arrays`` and ``answers``, and ``contents``: what compares across machines."""
        numbers = {name: [sketch_of(array) for array in getattr(self, name)] for name in ROUNDED}
        return numbers | {"contents": self.contents}

    @property
    def arrays(self) -> list[np.ndarray]:
        """The arrays that the model computes with."""
        model = self._told
        first = model.diffusion.eps_at(jnp.asarray(model.diffusion.schedule.t_max), self._first_prompt)
        return [np.asarray(array) for array in jax.make_jaxpr(first)(jnp.zeros(model.shape)).consts]

    @cached_property
    def answers(self) -> list[np.ndarray]:
        """What the model says of a few fixed questions, and the ends of its schedule; float32."""
        model, rng = self._told, np.random.default_rng(0)
        points = rng.normal(size=(PROBES, *model.shape)).astype(np.float32)
        schedule = model.diffusion.schedule
        found = []
        for share in (0.1, 0.5, 0.9):
            t = schedule.t_min + share * (schedule.t_max - schedule.t_min)
            t = round(t) if schedule.discrete else t
            blind = () if model.without == "refused" else (None,)
            for condition in (*blind, 0) if self.takes_prompts else (None,):
                told = None if condition is None else jnp.asarray(condition)
                found.append(map_points(model.diffusion.eps_at(t, told), points))
        found.append(model.encode(rng.uniform(-1, 1, (1, *model.image_shape))))
        ends = (schedule.t_min, schedule.t_max)
        found.append([[float(f(t)) for f in (schedule.alpha, schedule.sigma)] for t in ends])
        return [np.ascontiguousarray(answer, np.float32) for answer in found]

    @property
    def _told(self) -> Pretrained:
        """The model, which knows a prompt where it takes texts."""
        return self.model.with_prompts(["a photograph"], tell=False) if self.takes_text else self.model

    @property
    def _first_prompt(self) -> Array | None:
        return jnp.asarray(0) if self.takes_prompts else None


def sketch_of(array: np.ndarray) -> list[float]:
    """The root mean square of an array and four random projections, divided by √n: rounding hardly moves them."""
    flat, axes = np.ravel(array), _axes()
    sums = np.zeros(1 + len(axes))
    for start in range(0, flat.size, PROJECTED):
        part = np.asarray(flat[start : start + PROJECTED], np.float64)
        sums += [part @ part, *(axes[:, : part.size] @ part)]
    n = max(1, flat.size)
    return [float(np.sqrt(sums[0] / n)), *(sums[1:] / n**0.5).tolist()]


@cache
def _axes() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, PROJECTED))


def same_model(one: Sketch, other: Sketch) -> bool:
    """Whether two sketches are of one model, up to what machines round differently."""
    if one["contents"] != other["contents"]:
        return False
    for name, share in ROUNDED.items():
        a, b = (np.asarray(sketch[name], np.float64).reshape(-1, 5) for sketch in (one, other))
        if a.shape != b.shape or not np.all(np.isclose(a, b, rtol=0, atol=share * a[:, :1] + 1e-12, equal_nan=True)):
            return False
    return True


class Held:
    """A model that is loaded when it is asked for, and can be let go, so that two need not be in memory at once.

    Args:
        model: a model, which is never let go; or a function without arguments that loads one.
        shape: as for ``as_subject``.
    """

    def __init__(self, model: Model | Subject | Callable[[], Model | Subject], shape: Sequence[int] | None = None):
        self._load = model if callable(model) and not isinstance(model, Model | Subject) else None
        self._shape = shape
        self._subject = None if self._load else as_subject(model, shape)

    @property
    def subject(self) -> Subject:
        """The model; loaded again where it was let go."""
        if self._subject is None:
            self._subject = as_subject(self._load(), self._shape)
        return self._subject

    @cached_property
    def takes(self) -> Takes:
        """Which images and prompts it takes, without loading it again."""
        return self.subject.takes

    @cached_property
    def words(self) -> str:
        """What it is, without loading it again."""
        return self.subject.words

    @cached_property
    def sources(self) -> dict[str, str]:
        """As of ``Subject``, without loading it again."""
        return self.subject.sources

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """As of ``Pretrained``, without loading it again."""
        return self.subject.model.notes

    def in_words(self, name: str) -> dict[str, str]:
        """What it is, for a report, in which it is called ``name``: the model, its files, what has to be known of them.

        The hashes are those of whole files, as ``sha256sum`` prints them.
        """
        files = "; ".join(f"{file} {digest}" for file, digest in self.sources.items())
        more = {f"notes on the {name}": "; ".join(self.notes), f"files of the {name}, with their SHA-256": files}
        return {name: self.words} | {key: text for key, text in more.items() if text}

    def release(self) -> None:
        """Forgets a model that can be loaded again, and what was compiled with its weights."""
        if self._load is not None and self._subject is not None:
            _ = self.words, self.sources, self.notes
            self._subject = None
            jax.clear_caches()
            gc.collect()


def as_subject(model: Model | Subject, shape: Sequence[int] | None) -> Subject:
    """``model`` as it is audited.

    Args:
        model: of images.
        shape: of one image ``(h, w, c)``, for a ``Diffusion`` whose network does not tell, as those of
            ``plap_jax.networks`` do.

    Raises:
        ValueError: something else than a model, or a shape that is needed and not known.
    """
    if isinstance(model, Subject):
        return model
    kinds = "must be a Pretrained, a UserModel, a Diffusion, or a function that returns one of them"
    require(isinstance(model, Model), "model", type(model).__name__, kinds)
    if isinstance(model, UserModel):
        return Subject(as_pretrained(model), f"a function for images {tuple(model.shape)}")
    if isinstance(model, Pretrained):
        space = f"latents {model.shape}" if model.kind == "latents" else "pixels"
        return Subject(model, f"images {model.image_shape} scored as {space}")
    shape = getattr(model.network, "shape", shape)
    allowed = "must be given for a Diffusion with a folder of files: (h, w, c)"
    require(shape is not None and len(shape) == 3, "shape", shape, allowed)
    shape = tuple(int(n) for n in shape)
    words = f"{type(model.network).__name__} for images {shape}"
    known = getattr(model.network, "arguments", {}).get("n_conditions")
    return Subject(Pretrained(model, "pixels", shape, shape, n_conditions=known), words)
