"""The examples of docs/audit.md run and say what the page says."""

import re

import jax.numpy as jnp
import numpy as np

from plap_jax.pretrained import as_pretrained
from tests.helpers.places import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "audit.md").read_text(), re.DOTALL)
(MODEL,) = (example for example in EXAMPLES if "def factory" in example)
(EQUINOX,) = (example for example in EXAMPLES if "import equinox" in example)
(FROM_PYTHON,) = (example for example in EXAMPLES if "from my_model import" in example)


def test_the_example_from_python_finds_what_lies_close_to_the_mode(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(FROM_PYTHON, "docs/audit.md", "exec"), names)
    result = names["result"]
    assert result.flagged.tolist() == [True] * 4 + [False] * 8
    assert result.score.shape == result.stderr.shape == result.p_value.shape == result.nfe.shape == (12,)
    assert "4 of 12 images flagged" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} >= {"audit.csv", "report.html"}


def test_the_equinox_module_is_a_model_of_images_in_its_own_units():
    names = {}
    exec(compile(EQUINOX, "docs/audit.md", "exec"), names)
    model = as_pretrained(names["equinox_factory"]())
    x = np.full((1, 8, 8, 1), -1, np.float32)
    np.testing.assert_array_equal(model.encode(x), 0 * x)
    assert model.diffusion.eps(jnp.asarray(x[0]), 0.5).shape == (8, 8, 1)
