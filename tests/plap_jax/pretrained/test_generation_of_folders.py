"""``+exp=generate`` on diffusers folders of every kind: tiny pipelines with random weights."""

import csv

import numpy as np
import pytest

from tests.helpers import experiment_run

pipelines = pytest.importorskip("tests.helpers.tiny_pipelines", reason="needs PyTorch: make test-torch")
pytestmark = pytest.mark.torch
STEPS = 8
QUICK = (f"sampler.n_steps={STEPS}", "n=3", "band.n=16", "band.level=0.1")
PROMPT = ("prompts=a cat", "guidance=2.0")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``folders(kind)`` → where such a pipeline lies."""
    base = tmp_path_factory.mktemp("folders")
    savers = {"pixels": pipelines.tiny.save_pixels, "latents": pipelines.tiny.save_latents}

    def folder(kind):
        if not (base / kind).exists():
            savers[kind](base / kind) if kind in savers else getattr(pipelines, kind)().save_pretrained(base / kind)
        return base / kind

    return folder


def generated(folder, directory, *words):
    """The run's report and the rows of its table, of images that lie there."""
    settings = ("model=diffusers", f"model.folder={folder}", f"out={directory / 'out'}", *QUICK)
    report = experiment_run.here("generate", directory, *settings, *words)
    with (directory / "out" / "generated.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["file"] for row in rows] == [path.name for path in sorted((directory / "out").glob("*.png"))]
    return report, rows


def test_a_pipeline_of_pixels_is_guarded_without_prompts(folders, tmp_path):
    report, rows = generated(folders("pixels"), tmp_path / "run", "mitigation=guard")
    assert report.metrics["band/generations"] == 16 and len(rows) == 3
    assert all(-1 <= float(row["kappa_0"]) <= 1 for row in rows)
    with np.load(tmp_path / "run" / "arrays" / "generated.npz") as arrays:
        assert arrays["images"].shape == (3, 8, 8, 1) and "points" not in arrays


def test_latents_are_guarded_and_decoded(folders, tmp_path):
    """A band that catches nearly everything: noised again in the latents, and on without the prompt."""
    words = ("mitigation=guard", "band.given=true", "band.level=0.9", "mitigation.renoisings=1", *PROMPT)
    _, rows = generated(folders("latents"), tmp_path / "run", *words)
    again = [row for row in rows if int(row["renoised"])]
    assert again and all(int(row["nfe"]) > 2 * STEPS for row in again)
    with np.load(tmp_path / "run" / "arrays" / "generated.npz") as arrays:
        assert arrays["points"].shape[-1] == 4 and arrays["images"].shape[-1] == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "pixart"])
def test_every_kind_of_text_pipeline_is_guarded(folders, tmp_path, kind):
    report, rows = generated(folders(kind), tmp_path / "run", "mitigation=guard", *PROMPT)
    assert len(rows) == 3 and np.isfinite(report.metrics["generate/nfe"])


@pytest.mark.slow
def test_a_transformer_of_classes_is_guarded(folders, tmp_path):
    _, rows = generated(folders("dit"), tmp_path / "run", "mitigation=guard", "prompts=1", "guidance=2.0")
    assert [row["prompt"] for row in rows] == ["1"] * 3


@pytest.mark.parametrize("method", ["late_guidance", "prompt_embedding"])
def test_a_pipeline_without_prompts_has_nothing_for_methods_that_need_them(folders, tmp_path, method):
    with pytest.raises(ValueError, match=r"^mitigation=.* needs prompts, and this model takes none$"):
        generated(folders("pixels"), tmp_path / "run", f"mitigation={method}")


@pytest.mark.parametrize("method", ["late_guidance", "random_tokens"])
def test_methods_for_prompts_without_derivatives(folders, tmp_path, method):
    _, rows = generated(folders("latents"), tmp_path / "run", f"mitigation={method}", *PROMPT)
    assert {row["prompt"] for row in rows} == {"a cat"} and {int(row["nfe"]) for row in rows} == {2 * STEPS}


def test_a_method_with_derivatives_names_the_bridge_that_has_them(folders, tmp_path):
    with pytest.raises(ValueError, match="bridge='torchax'"):
        generated(folders("latents"), tmp_path / "run", "mitigation=prompt_embedding", *PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt_embedding", "sharp_noise"])
def test_methods_with_derivatives(folders, tmp_path, method):
    pytest.importorskip("torchax")
    _, rows = generated(folders("latents"), tmp_path / "run", "model.bridge=torchax", f"mitigation={method}", *PROMPT)
    assert all(int(row["nfe"]) > 2 * STEPS for row in rows)
