"""Folders of other shapes: flat ones, variants and averaged weights per piece, a trainer's checkpoints, LoRA files."""

import hashlib
import json
import struct

import pytest

from plap_jax.pretrained import load_diffusers
from plap_jax.pretrained.folder import read_folder
from plap_jax.pretrained.lora import asked_loras, refuse_forgotten
from plap_jax.pretrained.weights import check_numbers, find_weights, sha256
from tests.plap_jax.pretrained.test_folder import SCHEDULER, WEIGHTS, latents, pixels, refused, write

__all__ = ["latents", "pixels"]  # fixtures
FP16 = WEIGHTS.replace(".", ".fp16.")


def tensors(path, **dtypes):
    """A safetensors file with the headers of weights, all of one number."""
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "F8_E4M3": 1, "U8": 1}
    entries, start = {}, 0
    for name, dtype in dtypes.items():
        end = start + sizes[dtype]
        entries[name.replace("__", ".")] = {"dtype": dtype, "shape": [1], "data_offsets": [start, end]}
        start = end
    text = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(start))
    return path


class TestFlat:
    @pytest.fixture
    def flat(self, pixels):
        """As google/ddpm-cifar10-32: all at the root."""
        for file in ("unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"):
            (pixels / file).rename(pixels / file.split("/")[1])
        for folder in ("unet", "scheduler"):
            (pixels / folder).rmdir()
        write(pixels / "config.json", {"_class_name": "UNet2DModel", "sample_size": 8})
        return pixels

    @pytest.mark.parametrize("with_index", [True, False])
    def test_weights_at_the_root(self, flat, with_index):
        if not with_index:
            (flat / "model_index.json").unlink()
        folder = read_folder(flat)
        assert folder.models["unet"].path == flat and folder.scheduler == SCHEDULER
        assert {"config.json", WEIGHTS, "scheduler_config.json"} <= {name for name, _ in folder.files}

    def test_no_scheduler(self, flat):
        (flat / "scheduler_config.json").unlink()
        refused("^scheduler: scheduler_config.json is missing$", read_folder, flat)

    def test_a_network_of_another_class(self, flat):
        write(flat / "config.json", {"_class_name": "UNet1DModel"})
        refused("^unet: config.json is missing$", read_folder, flat)
        (flat / "model_index.json").unlink()
        refused("model_index.json is missing; a network alone needs base=", read_folder, flat)


class TestVariants:
    def test_of_one_piece_alone(self, latents):
        write(latents / "unet" / FP16)
        folder = read_folder(latents, variant="fp16")
        found = {name: model.weights.variant for name, model in folder.models.items()}
        assert found == {"unet": "fp16", "vae": None, "text_encoder": None}
        assert folder.notes == ("unet: variant fp16",) and f"unet/{FP16}" in dict(folder.files)

    def test_that_no_piece_has(self, latents):
        refused("^variant='fp16': must be of some file, and no piece has fp16 in", read_folder, latents, variant="fp16")

    def test_the_only_one_there_is_taken_and_told(self, pixels):
        (pixels / "unet" / WEIGHTS).rename(pixels / "unet" / FP16)
        assert read_folder(pixels).notes == ("unet: variant fp16",)
        write(pixels / "unet" / WEIGHTS.replace(".", ".non_ema."))
        refused("^unet: no weights, .*; there is .*fp16.*, see the argument variant$", read_folder, pixels)
        assert read_folder(pixels, variant="fp16").models["unet"].weights.variant == "fp16"

    def test_of_a_text_encoder(self, latents):
        (latents / "text_encoder/model.safetensors").rename(latents / "text_encoder/model.fp16.safetensors")
        assert read_folder(latents).models["text_encoder"].weights.variant == "fp16"

    def test_several_files(self, pixels):
        (pixels / "unet" / WEIGHTS).unlink()
        parts = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        index = pixels / "unet" / f"{WEIGHTS}.index.json"
        write(index, {"weight_map": {"a": parts[0], "b": parts[1], "c": parts[0]}})
        write(pixels / "unet" / parts[0])
        refused(rf"^unet: {WEIGHTS}.index.json=.*\['{parts[1]}'\] is missing$", read_folder, pixels)
        write(pixels / "unet" / parts[1])
        assert [file.name for file in read_folder(pixels).models["unet"].weights.files] == [index.name, *parts]
        write(index, {"weight_map": {"a": "../elsewhere.safetensors"}})
        refused("must name files of its own folder$", read_folder, pixels)


class TestCheckpoints:
    @pytest.fixture
    def checkpoint(self, latents):
        """A trainer's, beside the folder it was trained from; with averaged weights."""
        place = latents / "out" / "checkpoint-500"
        for name in ("unet", "unet_ema"):
            write(place / name / "config.json", {"_class_name": "UNet2DConditionModel"})
            write(place / name / WEIGHTS)
        write(place / "optimizer.bin")
        return place

    def test_needs_a_base(self, checkpoint):
        refused(r"model_index.json is missing; a network alone needs base=, the folder", read_folder, checkpoint)
        refused("give one of its checkpoints, such as checkpoint-500, with base=", read_folder, checkpoint.parent)

    def test_with_its_base(self, checkpoint, latents):
        folder = read_folder(checkpoint, base=latents)
        assert folder.models["unet"].path == checkpoint / "unet" and folder.models["vae"].path == latents / "vae"
        assert folder.notes == (
            "unet: not the averaged weights of unet_ema/, which ema=True takes",
            f"unet of checkpoint-500, all else of its base {latents.name}",
        )
        assert f"unet/{WEIGHTS}" in dict(folder.files) and f"{latents.name}/vae/{WEIGHTS}" in dict(folder.files)

    def test_averaged_weights(self, checkpoint, latents):
        folder = read_folder(checkpoint, base=latents, ema=True)
        assert folder.models["unet"].path == checkpoint / "unet_ema"
        assert folder.notes[0] == "unet: averaged weights, of unet_ema/"
        refused("^ema=True: there is no unet_ema/ in ", read_folder, latents, ema=True)

    def test_a_network_alone(self, checkpoint, latents):
        assert read_folder(checkpoint / "unet", base=latents).models["unet"].path == checkpoint / "unet"

    def test_a_checkpoint_that_holds_nothing(self, latents, tmp_path):
        empty = tmp_path / "empty"
        empty.mkdir()
        refused(
            "^folder='.*empty': must hold a piece, and all come from base: give that alone$",
            read_folder,
            empty,
            base=latents,
        )

    def test_of_another_class(self, checkpoint, latents):
        write(checkpoint / "unet/config.json", {"_class_name": "UNet2DModel"})
        refused(
            "^unet: _class_name='UNet2DModel': must be UNet2DConditionModel$", read_folder, checkpoint, base=latents
        )


class TestLinks:
    def test_to_outside_are_told(self, pixels, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "weights"
        (pixels / "unet" / WEIGHTS).rename(elsewhere)
        (pixels / "unet" / WEIGHTS).symlink_to(elsewhere)
        assert read_folder(pixels).notes == (
            f"1 file(s) are links to outside of the folder, the first is unet/{WEIGHTS}",
        )

    def test_within_are_not(self, pixels):
        (pixels / "unet" / WEIGHTS).rename(pixels / "blob")
        (pixels / "unet" / WEIGHTS).symlink_to("../blob")
        assert not read_folder(pixels).notes


class TestNumbers:
    @pytest.mark.parametrize("dtype", ["F8_E4M3", "U8"])
    def test_of_eight_bits(self, pixels, dtype):
        tensors(pixels / "unet" / WEIGHTS, a="F32", b=dtype)
        weights = find_weights(pixels / "unet", "unet", None, False)
        refused(
            f"^unet: weight b is {dtype}, which is not supported: load the original", check_numbers, "unet", weights, {}
        )

    def test_quantized(self, pixels):
        weights = find_weights(pixels / "unet", "unet", None, False)
        config = {"quantization_config": {"load_in_4bit": True}}
        refused("^unet: quantized weights .* are not supported", check_numbers, "unet", weights, config)

    def test_a_wrapper_left_its_name(self, pixels):
        weights = find_weights(pixels / "unet", "unet", None, False)
        tensors(pixels / "unet" / WEIGHTS, module__a="F16", module__b="BF16")
        assert check_numbers("unet", weights, {}) == "module."
        tensors(pixels / "unet" / WEIGHTS, module__a="F16", b="I64")
        assert check_numbers("unet", weights, {}) == ""
        (pixels / "unet" / WEIGHTS).write_bytes(b"no safetensors")
        refused(f"^unet: cannot be loaded: {WEIGHTS} is no safetensors file$", check_numbers, "unet", weights, {})

    def test_hashes(self, tmp_path):
        (tmp_path / "a").write_bytes(b"weights")
        assert sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()
        (tmp_path / "a").write_bytes(b"other weights")
        assert sha256(tmp_path / "a") == hashlib.sha256(b"other weights").hexdigest()


class TestSingleFile:
    def test_what_is_inside(self, latents, tmp_path):
        """The network always; others by their names, and from the base where they are not."""
        file = tensors(tmp_path / "all.safetensors", model__diffusion_model__a="F16", first_stage_model__b="F16")
        for name in ("unet", "vae"):
            (latents / name / WEIGHTS).unlink()
        folder = read_folder(file, base=latents)
        assert {name: model.single for name, model in folder.models.items()} == {
            "unet": True,
            "vae": True,
            "text_encoder": False,
        }
        assert folder.models["vae"].weights.files == (file,) and folder.scheduler
        names = [name for name, _ in folder.files]
        assert names.count("all.safetensors") == 1 and "text_encoder/model.safetensors" in names
        assert folder.notes == (f"unet, vae of all.safetensors, all else of {latents.name}",)
        tensors(file, model__diffusion_model__a="F16")
        refused(f"^vae: no weights, {WEIGHTS} is missing$", read_folder, file, base=latents)


class TestLora:
    NAME = "pytorch_lora_weights.safetensors"

    @pytest.mark.parametrize("name", [NAME, "pytorch_lora_weights.bin", "unet/my-LoRA.safetensors"])
    def test_in_a_folder_is_not_ignored(self, pixels, name):
        write(pixels / name)
        refused(rf"^lora=None: .* holds the LoRA {name}; give lora=.* or lora=none", load_diffusers, pixels)
        refuse_forgotten([pixels], "none")

    def test_of_another_name_is_known_by_its_weights(self, pixels):
        tensors(pixels / "style.safetensors", lora_unet_down__lora_down__weight="F32")
        refused("^lora=None: .* holds the LoRA style.safetensors", load_diffusers, pixels)
        tensors(pixels / "style.safetensors", down="F32")
        refuse_forgotten([pixels], None)

    def test_in_place_of_a_folder(self, pixels, tmp_path):
        file = tensors(tmp_path / "some.safetensors", unet__a__lora_A__weight="F32")
        refused("^folder=some.safetensors: is a LoRA: give the folder of its base, and lora=", load_diffusers, file)
        checkpoint = tmp_path / "checkpoint-5"
        tensors(checkpoint / self.NAME, unet__a__lora_A__weight="F32")
        refused(f"^lora=None: checkpoint-5 holds the LoRA {self.NAME}", load_diffusers, checkpoint, base=pixels)

    def test_several_with_their_scales(self, tmp_path):
        one, two = tmp_path / "one.safetensors", tmp_path / "two" / self.NAME
        for file in (one, two):
            tensors(file, unet__a__lora_A__weight="F32")
        found = asked_loras(f"{one},{two.parent}", 0.5)
        assert [(lora.path, lora.scale) for lora in found] == [(one, 0.5), (two, 0.5)]
        assert [lora.scale for lora in asked_loras([one, two], [1, 2])] == [1.0, 2.0]
        assert asked_loras(None, 1) == asked_loras("none", 1) == ()
        refused("^lora_scale=.*must be one number, or one for each of the 2 files$", asked_loras, [one, two], [1.0])
        refused("^lora_scale=nan: ", asked_loras, one, float("nan"))

    def test_what_is_none(self, tmp_path):
        refused(
            "^lora='nowhere.safetensors': must be a .safetensors file on this", asked_loras, "nowhere.safetensors", 1
        )
        write(tmp_path / "a.bin")
        refused("^lora='.*a.bin': must be safetensors; pickle is code", asked_loras, tmp_path / "a.bin", 1)
        tensors(tmp_path / "a.safetensors", conv_in__weight="F32")
        refused(
            "^lora='a.safetensors': must be a LoRA, and none of its weights", asked_loras, tmp_path / "a.safetensors", 1
        )
        tensors(tmp_path / "b.safetensors", lora_a="F8_E4M3")
        refused("^lora='b.safetensors': must hold float32", asked_loras, tmp_path / "b.safetensors", 1)
