"""What is read of a diffusers folder before PyTorch is needed: its pieces, its schedule, and the versions installed."""

import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError

import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax.diffusion import DiscreteVP, RectifiedFlow
from plap_jax.pretrained import extra, load_diffusers
from plap_jax.pretrained.folder import read_folder
from plap_jax.pretrained.schedules import SCHEDULERS, read_scheduler
from tests.helpers.places import ROOT

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def write(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def pixels(tmp_path):
    """A DDPM pipeline without anything in its weights."""
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    write(tmp_path / "model_index.json", {"_class_name": "DDPMPipeline"} | index)
    write(tmp_path / "scheduler/scheduler_config.json", SCHEDULER)
    write(tmp_path / "unet/config.json", {"sample_size": 8})
    write(tmp_path / "unet" / WEIGHTS)
    return tmp_path


@pytest.fixture
def latents(tmp_path):
    """Stable Diffusion's pieces without anything in the weights."""
    classes = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": ["some_package", "SomeClass"],
    }
    write(tmp_path / "model_index.json", {"_class_name": "StableDiffusionPipeline"} | classes)
    write(tmp_path / "scheduler/scheduler_config.json", SCHEDULER | {"beta_schedule": "scaled_linear"})
    for name in ("unet", "vae", "text_encoder"):
        write(tmp_path / name / "config.json", {})
        write(tmp_path / name / ("model.safetensors" if name == "text_encoder" else WEIGHTS))
    write(tmp_path / "tokenizer/vocab.json", {})
    write(tmp_path / "tokenizer/merges.txt")
    return tmp_path


def refused(match, call, *args, **kwargs):
    """In one line."""
    with pytest.raises(ValueError, match=match) as raised:
        call(*args, **kwargs)
    assert "\n" not in str(raised.value)


class TestFolder:
    def test_pixels(self, pixels):
        folder = read_folder(pixels)
        assert folder.pipeline.kind == "pixels" and not folder.tokenizers and folder.scheduler == SCHEDULER
        (unet,) = folder.models.values()
        assert (unet.class_name, unet.config, unet.weights.safe) == ("UNet2DModel", {"sample_size": 8}, True)
        names = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}"]
        assert [name for name, _ in folder.files] == names and not folder.notes

    def test_latents(self, latents):
        folder = read_folder(str(latents))
        assert folder.pipeline.kind == "latents" and folder.tokenizers == {"tokenizer": latents / "tokenizer"}
        assert set(folder.models) == {"unet", "vae", "text_encoder"}

    def test_a_tokenizer_in_one_file(self, latents):
        (latents / "tokenizer/vocab.json").rename(latents / "tokenizer/tokenizer.json")
        assert read_folder(latents).tokenizers["tokenizer"]

    def test_no_folder(self, tmp_path):
        refused("folder='.*nowhere': must be a folder on this machine", read_folder, tmp_path / "nowhere")
        refused("folder=.*: model_index.json is missing", read_folder, tmp_path)

    @pytest.mark.parametrize("suffix", ["ckpt", "pt"])
    def test_a_single_file_of_pickle(self, tmp_path, suffix):
        write(tmp_path / f"model.{suffix}")
        line = "must be a folder of diffusers, or a single safetensors file; pickle is code, which runs"
        refused(line, read_folder, tmp_path / f"model.{suffix}", base=tmp_path)

    def test_a_single_file_needs_configs(self, tmp_path):
        write(tmp_path / "model.safetensors")
        line = "is a single file of weights: needs base=, a diffusers folder of the same arch"
        refused(line, read_folder, tmp_path / "model.safetensors")

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("{", "model_index.json cannot be read: .*"),
            ("[]", "model_index.json must hold an object"),
            ('{"_class_name": "SanaPipeline"}', "model_index.json: _class_name='SanaPipeline': must be one of DDIM"),
            (
                '{"_class_name": "FluxPipeline", "transformer": ["diffusers", "SomeTransformer2DModel"]}',
                "model_index.json: transformer='SomeTransformer2DModel': must be FluxTransformer2DModel$",
            ),
            (
                '{"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DModel"]}',
                "model_index.json: unet='UNet2DModel': must be UNet2DConditionModel$",
            ),
            ('{"_class_name": ["a"]}', r"model_index.json: _class_name=\['a'\]: must be one of"),
            ('{"_class_name": "DDPMPipeline"}', "model_index.json: unet=None: must be UNet2DModel"),
            (
                '{"_class_name": "DDPMPipeline", "unet": ["my_code", "MyUNet"]}',
                "model_index.json: unet='MyUNet': must be UNet2DModel",
            ),
        ],
    )
    def test_an_index_that_is_not_supported(self, pixels, content, match):
        write(pixels / "model_index.json", content)
        refused(match, read_folder, pixels)

    @pytest.mark.parametrize("piece", ["unet", "vae", "text_encoder"])
    def test_a_piece_without_config_or_weights(self, latents, piece):
        weights = next((latents / piece).glob("*.safetensors"))
        weights.unlink()
        refused(f"^{piece}: no weights, {weights.name} is missing$", read_folder, latents)
        (latents / piece / "config.json").unlink()
        refused(f"^{piece}: config.json is missing$", read_folder, latents)
        shutil.rmtree(latents / piece)
        refused(f"^{piece}: config.json is missing$", read_folder, latents)

    def test_no_text_encoder(self, latents):
        index = json.loads((latents / "model_index.json").read_text()) | {"text_encoder": [None, None]}
        write(latents / "model_index.json", index)
        refused("^model_index.json: text_encoder=None: must be CLIPTextModel$", read_folder, latents)

    def test_no_tokenizer(self, latents):
        (latents / "tokenizer/merges.txt").unlink()
        refused("^tokenizer=.*must hold vocab.json and merges.txt, or tokenizer.json", read_folder, latents)

    def test_no_scheduler(self, pixels):
        shutil.rmtree(pixels / "scheduler")
        refused("^scheduler: scheduler_config.json is missing$", read_folder, pixels)

    @pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"])
    def test_pickle_is_refused_with_the_reason(self, pixels, name):
        (pixels / "unet" / WEIGHTS).rename(pixels / "unet" / name)
        refused(f"^unet: no safetensors, only {name}; pickle is code.*allow_pickle=True", read_folder, pixels)

    def test_pickle_that_is_allowed(self, pixels):
        (pixels / "unet" / WEIGHTS).rename(pixels / "unet/diffusion_pytorch_model.bin")
        assert not read_folder(pixels, allow_pickle=True).models["unet"].weights.safe

    def test_safetensors_come_first(self, pixels):
        write(pixels / "unet/diffusion_pytorch_model.bin")
        assert read_folder(pixels, allow_pickle=True).models["unet"].weights.safe


class TestSchedule:
    def test_linear_and_scaled_linear(self):
        config = SCHEDULER | {"num_train_timesteps": 7}
        assert read_scheduler(config) == (DiscreteVP.linear(7, 1e-4, 0.02), "eps")
        scaled, _ = read_scheduler(config | {"beta_schedule": "scaled_linear"})
        np.testing.assert_allclose(np.sqrt(scaled.betas), np.linspace(1e-2, 0.02**0.5, 7), rtol=1e-12)

    def test_squared_cosine(self, x64):
        schedule, _ = read_scheduler(SCHEDULER | {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 40})
        times = (np.arange(41) / 40 + 0.008) / 1.008 * np.pi / 2
        ratio = np.cos(times[1:-1]) / np.cos(times[0])  # before the last step, where the cap is
        np.testing.assert_allclose(schedule.alpha(jnp.arange(39)), ratio, rtol=1e-10)
        assert schedule.betas[-1] == 0.999

    def test_no_signal_at_the_last_step(self, x64):
        """The step is left out; the others are rescaled so that it would have had none."""
        plain, _ = read_scheduler(SCHEDULER | {"num_train_timesteps": 50})
        ours, _ = read_scheduler(SCHEDULER | {"num_train_timesteps": 50, "rescale_betas_zero_snr": True})
        a = np.asarray(plain.alpha(jnp.arange(50)))
        assert ours.t_max == 48
        np.testing.assert_allclose(ours.alpha(jnp.arange(49)), ((a - a[-1]) * a[0] / (a[0] - a[-1]))[:-1], rtol=1e-9)
        refused(
            "num_train_timesteps=1: ",
            read_scheduler,
            SCHEDULER | {"num_train_timesteps": 1} | {"rescale_betas_zero_snr": True},
        )

    @pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
    def test_spacing_of_timesteps_changes_no_level(self, spacing):
        assert read_scheduler(SCHEDULER | {"timestep_spacing": spacing}) == read_scheduler(SCHEDULER)

    def test_a_table_comes_before_everything(self):
        schedule, _ = read_scheduler({"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]})
        assert schedule.betas == (0.1, 0.2)

    @pytest.mark.parametrize(("name", "ours"), [("epsilon", "eps"), ("sample", "x0"), ("v_prediction", "v")])
    def test_prediction_types(self, name, ours):
        assert read_scheduler(SCHEDULER | {"prediction_type": name})[1] == ours

    def test_flow_matching(self):
        """A shift moves the steps of generation, and no noise level."""
        config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
        assert read_scheduler(config) == (RectifiedFlow(), "flow")

    def test_old_folders_predict_noise(self):
        assert read_scheduler({k: v for k, v in SCHEDULER.items() if k != "prediction_type"})[1] == "eps"

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            (
                {"_class_name": "ScoreSdeVeScheduler"},
                f"_class_name='ScoreSdeVe.*: must be one of {SCHEDULERS[0]}",
            ),
            ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction': must be one of epsilon"),
            ({"prediction_type": None}, "prediction_type=None: must be one of epsilon"),
            ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid': must be one of linear, scaled_linear"),
            ({"beta_start": None}, "beta_start=None: must be a number"),
            ({"beta_end": 2.0}, r"betas=.*every beta must lie in \(0, 1\)"),
            ({"num_train_timesteps": 10.5}, "num_train_timesteps=10.5: must be a whole number"),
            ({"num_train_timesteps": 0}, "n_steps=0: must be >= 1"),
            ({"timestep_type": "continuous"}, "timestep_type='continuous': must be 'discrete'"),
        ],
    )
    def test_what_is_not_supported(self, changes, match):
        refused(match, read_scheduler, SCHEDULER | changes)


class TestExtra:
    def test_pins_are_those_of_the_project(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        pins = dict(line.split("==") for line in project["optional-dependencies"]["torchax"])
        constraints = dict(
            line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
        )
        assert pins == extra.TESTED
        assert pins.items() <= constraints.items()

    def test_nothing_of_pytorch_is_imported_before_a_folder_is_loaded(self):
        code = "import sys, plap_jax.pretrained; print(*({'torch', 'torchax', 'diffusers'} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"

    def test_not_installed(self, pixels, monkeypatch):
        def version(package):
            if package == missing:
                raise PackageNotFoundError(package)
            return extra.TESTED[package]

        monkeypatch.setattr(extra, "version", version)
        torchax = "torchax is not installed: bridge='torchax' needs pip install '.\\[torchax\\]' in the repository"
        folders = "diffusers is not installed: a diffusers folder needs pip install '.\\[torch\\]' in the repository"
        missing = "torchax"
        refused(f"^{torchax}$", load_diffusers, pixels, bridge="torchax")
        missing = "diffusers"
        refused(f"^{folders}$", load_diffusers, pixels)

    def test_versions_that_were_not_tested(self, pixels, monkeypatch):
        """Exact ones for derivatives; for values alone those that are old enough."""
        monkeypatch.setattr(extra, "version", (extra.TESTED | {"torch": "2.14.1+cpu", "diffusers": "0.29.2"}).get)
        line = r"^torch=2.14.1\+cpu: only 2.13.0 was tested, install it by pip install"
        refused(line, load_diffusers, pixels, bridge="torchax")
        refused("^diffusers=0.29.2: must be 0.30 or newer, install pip install", load_diffusers, pixels)

    def test_oldest_versions_are_those_of_the_project(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        oldest = dict(line.split(",")[0].split(">=") for line in project["optional-dependencies"]["torch"])
        assert extra.FOLDERS.items() <= oldest.items()

    def test_a_build_of_the_version(self, monkeypatch):
        monkeypatch.setattr(extra, "version", (extra.TESTED | {"torch": "2.13.0+cpu"}).get)
        extra.require_extra()

    def test_installed_but_broken(self, pixels, monkeypatch):
        def broken(name):
            raise ImportError("libgomp.so.1: cannot open\nmore")

        monkeypatch.setattr(extra, "version", extra.TESTED.get)
        monkeypatch.setattr(extra, "import_module", broken)
        for bridge in ("callback", "torchax"):
            line = "cannot be imported, install .*: libgomp.so.1: cannot open$"
            refused(line, load_diffusers, pixels, bridge=bridge)

    def test_arguments_are_checked_first(self, pixels):
        refused("^dtype='int8': must be one of float32, float16, bfloat16$", load_diffusers, pixels, dtype="int8")
        refused("^bridge='none': must be one of callback, torchax$", load_diffusers, pixels, bridge="none")
        refused("^prompts=.*must be empty: this model has no prompts", load_diffusers, pixels, prompts=["a"])
