"""Texts → what a network is told of them, by the ``encode_prompt`` of diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch

from plap_jax.pretrained.pytorch.loading import quiet

Row = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Encoding:
    """How one kind of pipeline reads texts.

    Attributes:
        pipeline: the class of diffusers.
        given: of texts, in the order in which ``methods`` take them.
        nothing: of no text, as in the pass without condition of classifier-free guidance.
        lengths: tokenizer → tokens that are taken of a text.
    """

    pipeline: str
    given: Callable[[Any, list[str]], Row]
    nothing: Callable[[Any], Row]
    lengths: Callable[[Any], Mapping[str, int]]


def _device(pipe: Any) -> torch.device:
    """Where texts are read; the network may have been left without its weights."""
    return next(pipe.text_encoder.parameters()).device


def _clip(pipe: Any, texts: list[str]) -> Row:
    return (pipe.encode_prompt(texts, _device(pipe), 1, False)[0],)


def _two_clips(pipe: Any, texts: list[str]) -> Row:
    text, _, pooled, _ = pipe.encode_prompt(texts, device=_device(pipe), do_classifier_free_guidance=False)
    return text, pooled


def _no_text_of_two_clips(pipe: Any) -> Row:
    """Zeros, or the empty text, as the pipeline's config says (``force_zeros_for_empty_prompt``)."""
    _, text, _, pooled = pipe.encode_prompt([""], device=_device(pipe), do_classifier_free_guidance=True)
    return text, pooled


def _three(pipe: Any, texts: list[str]) -> Row:
    text, _, pooled, _ = pipe.encode_prompt(texts, None, None, device=_device(pipe), do_classifier_free_guidance=False)
    return text, pooled


def _clip_and_t5(pipe: Any, texts: list[str]) -> Row:
    text, pooled, _ = pipe.encode_prompt(texts, None, device=_device(pipe))
    return text, pooled


def _masked_t5(pipe: Any, texts: list[str]) -> Row:
    text, mask, _, _ = pipe.encode_prompt(texts, False, device=_device(pipe), max_sequence_length=_t5_tokens(pipe))
    return text, mask.to(text.dtype)


def _t5_tokens(pipe: Any) -> int:
    return 120 if type(pipe).__name__ == "PixArtAlphaPipeline" else 300


def _clip_length(pipe: Any) -> dict[str, int]:
    names = [name for name in ("tokenizer", "tokenizer_2") if getattr(pipe, name, None) is not None]
    return {name: int(getattr(pipe, name).model_max_length) for name in names}


def _with_t5(name: str, tokens: int) -> Callable[[Any], dict[str, int]]:
    def lengths(pipe: Any) -> dict[str, int]:
        clips = {key: length for key, length in _clip_length(pipe).items() if key != name}
        return clips | ({name: tokens} if getattr(pipe, name, None) is not None else {})

    return lengths


ENCODINGS: dict[str, Encoding] = {
    one.pipeline: one
    for one in (
        Encoding("StableDiffusionPipeline", _clip, lambda pipe: _clip(pipe, [""]), _clip_length),
        Encoding("StableDiffusionXLPipeline", _two_clips, _no_text_of_two_clips, _clip_length),
        Encoding("StableDiffusion3Pipeline", _three, lambda pipe: _three(pipe, [""]), _with_t5("tokenizer_3", 256)),
        Encoding("FluxPipeline", _clip_and_t5, lambda pipe: _clip_and_t5(pipe, [""]), _with_t5("tokenizer_2", 512)),
        *(
            Encoding(
                name, _masked_t5, lambda pipe: _masked_t5(pipe, [""]), lambda pipe: {"tokenizer": _t5_tokens(pipe)}
            )
            for name in ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
        ),
    )
}


class Texts:
    """Texts → rows for the network, and how many tokens of a text are taken.

    Args:
        encoding: of the kind of pipeline.
        modules: piece → module, tokenizer or scheduler; what the pipeline has and is not here is None.
        settings: further arguments of the pipeline's class.
        constants: what the network is told beside the text, the same for all.
    """

    def __init__(
        self,
        encoding: Encoding,
        modules: Mapping[str, Any],
        settings: Mapping[str, Any],
        constants: Sequence[np.ndarray] = (),
    ) -> None:
        kind = getattr(diffusers, encoding.pipeline)
        expected, _ = kind._get_signature_keys(kind)
        with quiet():
            self.pipe = kind(**{name: modules.get(name) for name in expected}, **settings)
        self._encoding, self._constants = encoding, tuple(constants)

    def rows(self, texts: Sequence[str]) -> tuple[np.ndarray, ...]:
        """Of n texts: arrays with n rows, in the order in which the network takes them."""
        return self._told(lambda: self._encoding.given(self.pipe, list(texts)), len(texts))

    def nothing(self) -> tuple[np.ndarray, ...]:
        """Of no text: one row."""
        return self._told(lambda: self._encoding.nothing(self.pipe), 1)

    def cut(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """(tokens that are taken, how many texts have more) for every length that some text exceeds."""
        found: dict[int, set[int]] = {}
        for name, length in self._encoding.lengths(self.pipe).items():
            with quiet():
                tokens = getattr(self.pipe, name)(list(texts), verbose=False)["input_ids"]
            found.setdefault(length, set()).update(i for i, row in enumerate(tokens) if len(row) > length)
        return [(length, len(which)) for length, which in sorted(found.items()) if which]

    def _told(self, encode: Callable[[], Row], n: int) -> tuple[np.ndarray, ...]:
        with torch.inference_mode(), quiet():
            found = [tensor.float().cpu().numpy() for tensor in encode()]
        return (*found, *(np.broadcast_to(one, (n, *np.shape(one))).astype(np.float32) for one in self._constants))
