"""The examples in docstrings run and return what they show."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import plap_jax
from plap_jax import calibration, detectors, networks, pretrained, sampling, training

NEED_FILES = [plap_jax.audit_images, plap_jax.load_checkpoint, plap_jax.load_diffusers, plap_jax.load_torch]
SHOWN = [
    *(shown for name in plap_jax.__all__ if (shown := getattr(plap_jax, name)) not in NEED_FILES),
    calibration.benjamini_hochberg,
    calibration.conformal_p_values,
    detectors.Detector.scores,
    sampling.sample,
    training.train,
]


def examples(shown):
    return doctest.DocTestParser().get_examples(inspect.getdoc(shown))


@pytest.mark.slow  # each compiles something of its own
@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__qualname__)
def test_an_example_runs(shown):
    names = {"jax": jax, "jnp": jnp, "np": np, "nnx": nnx}
    for module in (calibration, detectors, networks, pretrained, sampling, training, plap_jax):
        public = getattr(module, "__all__", vars(module))
        names |= {name: getattr(module, name) for name in public if not name.startswith("_")}
    found = examples(shown)
    assert found
    for example in found:
        source = example.source if _assigns(example) else f"_ = {example.source}"
        exec(compile(source, "docstring", "exec"), names)
        if example.want:
            assert repr(names["_"]) == example.want.strip()


@pytest.mark.parametrize("shown", NEED_FILES, ids=lambda shown: shown.__qualname__)
def test_an_example_that_needs_files_is_there(shown):
    for example in examples(shown):
        compile(example.source, "docstring", "exec")
    assert examples(shown)


def _assigns(example):
    try:
        compile(example.source, "docstring", "eval")
    except SyntaxError:
        return True
    return False
