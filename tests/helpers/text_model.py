"""A text-to-image model without PyTorch: prompts that begin with "m" stand for one image, all others for nothing."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.audit.subject import Subject
from plap_jax.diffusion import Diffusion, DiscreteVP
from plap_jax.pretrained import Pretrained
from plap_jax.pretrained.model import TextEncoder
from plap_jax.pretrained.networks import TextNetwork

SHAPE, VALUE = (4, 4, 3), 0.5  # the image behind a memorized prompt is grey of this value


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Denoiser:
    """x̂₀: the image of the prompt, where it has one, else the noised image drawn towards 0."""

    strength: float

    def __call__(self, x, level, text):
        return jnp.where(text[0, 0, 0] > 0, VALUE, self.strength * x)


def rows(prompts):
    """One token of width 1, whether the prompt has an image: (n, 1, 1)."""
    return np.asarray([[[prompt.startswith("m")]] for prompt in prompts], np.float32)


def subject():
    """To be audited."""
    network = TextNetwork(Denoiser(0.3), jnp.zeros((1, 1, 1)))
    diffusion = Diffusion(network, DiscreteVP.scaled_linear(), "x0")
    text = TextEncoder(rows, lambda: rows([""]))
    return Subject(Pretrained(diffusion, "pixels", SHAPE, SHAPE, text=text), "a model of texts")
