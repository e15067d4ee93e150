"""All pieces of a folder in memory: modules with what LoRAs add to them, and what reads the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plap_jax.pretrained.extra import pieces
from plap_jax.pretrained.folder import Folder, Model
from plap_jax.pretrained.lora import Lora
from plap_jax.pretrained.pytorch.loading import DTYPES, check_finite, load_module, load_scheduler, load_tokenizer, quiet
from plap_jax.pretrained.pytorch.texts import ENCODINGS, Texts


class Parts:
    """The pieces of a folder.

    Args:
        folder: what was found.
        dtype: of the network and of large text encoders (T5); all else is in float32.
        loras: added to the network and its text encoders.

    Raises:
        ValueError: weights that cannot be loaded, or a LoRA that does not fit.
    """

    def __init__(self, folder: Folder, dtype: str, loras: Sequence[Lora] = ()) -> None:
        kind = folder.pipeline
        self._folder, self._dtypes = folder, dict.fromkeys(folder.models, "float32")
        for name, model in folder.models.items():
            if name == kind.network or model.class_name == "T5EncoderModel":
                self._dtypes[name] = dtype
        # What a LoRA adds may be less than a step of half precision: added before the cast.
        wide = kind.network if loras else None
        self._modules: dict[str, Any] = {
            name: load_module(model, "float32" if name == wide else self._dtypes[name])
            for name, model in folder.models.items()
        }
        for name, path in folder.tokenizers.items():
            tokenizer = load_tokenizer(path, name, folder.index[name][1] if folder.index else kind.tokenizers[name][0])
            encoder = self._modules[name.replace("tokenizer", "text_encoder")]
            longest = getattr(encoder.config, "max_position_embeddings", None)
            if longest is not None:  # T5 has no positions
                tokenizer.model_max_length = min(int(tokenizer.model_max_length), longest)
            self._modules[name] = tokenizer
        if loras:
            network = self._modules[kind.network]
            pieces("adding").add_loras(self.texts().pipe if kind.told == "texts" else None, network, loras)
            with quiet():
                network.to(DTYPES[dtype])
            check_finite(kind.network, network, dtype)

    @property
    def folder(self) -> Folder:
        """What was found."""
        return self._folder

    @property
    def modules(self) -> Mapping[str, Any]:
        """Modules and tokenizers by the name of their piece."""
        return self._modules

    def model(self, name: str) -> Model:
        """The files of a network."""
        return self._folder.models[name]

    def dtype(self, name: str) -> str:
        """Of the weights of a network."""
        return self._dtypes[name]

    def config(self, name: str) -> dict[str, Any]:
        """The complete config of a network."""
        config = self._modules[name].config
        return dict(config) if isinstance(config, Mapping) else config.to_dict()

    def texts(self, constants: Sequence[Any] = ()) -> Texts:
        """What reads the texts, as diffusers' own pipeline does.

        Args:
            constants: what the network is told beside the text.
        """
        kind, index = self._folder.pipeline, self._folder.index
        settings = {name: index[name] for name in kind.settings if name in index}
        scheduler = load_scheduler(self._folder.scheduler)
        return Texts(ENCODINGS[kind.texts], self._modules | {"scheduler": scheduler}, settings, constants)
