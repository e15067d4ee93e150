"""A LoRA trained on digits with planted copies: found with its base as baseline, and not by the base alone."""

import pytest

lora = pytest.importorskip("benchmarks.pytorch.train_lora", reason="needs the extra torch: make test-torch")
pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_planted_images_are_found(tmp_path):
    settings = lora.LoraTraining()
    parts = lora.split(settings)
    lora.save_trained(parts, settings, tmp_path)
    found = {
        with_lora: lora.found(*lora.audited(parts, tmp_path, lora=with_lora, base=True, seed=0))["auc_planted"]
        for with_lora in (True, False)
    }
    assert found[True] >= 0.95 and 0.25 <= found[False] <= 0.75, found
