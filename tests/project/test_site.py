"""The site builds strictly, names whatever is public, and is dark where the reader has it dark."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

import plap_jax
from tests.helpers.browser import chromium, running
from tests.helpers.places import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built by this Python or the one of ``make docs``."""
    own = ROOT / ".venv-docs" / "bin" / "python"
    has = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))
    python = sys.executable if has else own
    if not has and not own.exists():
        pytest.skip("what builds the site is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [python, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with running() as started:
        yield started


def test_every_public_name_has_an_entry(site):
    html = (site / "api" / "plap_jax.html").read_text()
    shown = set(re.findall(r'id="plap_jax\.(\w+)"', html))
    assert set(plap_jax.__all__) <= shown


def test_dark_where_the_reader_has_it_dark(site, browser):
    grounds = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto((site / "index.html").as_uri())
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
        context.close()
    assert grounds[0] > 600 > 200 > grounds[1]
