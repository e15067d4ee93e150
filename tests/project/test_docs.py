"""What the documents say must hold: snippets run, commands compose, links lead somewhere."""

import re
import shlex
import sys

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from plap_jax.calibration import benjamini_hochberg
from plap_jax.pretrained import as_pretrained
from tests.helpers.places import ROOT

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_readme_is_short():
    assert len(README.splitlines()) <= 120


def run_blocks(document):
    """Names after all its blocks of Python, one after the other."""
    names = {"__name__": "__main__"}
    snippets = blocks(document.read_text(), "python")
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(document), "exec"), names)
    return names


@pytest.mark.slow
def test_readme_snippet_runs_and_shows_what_it_says(capsys):
    names = run_blocks(ROOT / "README.md")
    at_mode, between = (float(line.split()[0]) for line in capsys.readouterr().out.splitlines())
    assert at_mode > 0.9 > between
    assert names["laplacian"].shape == ()


@pytest.mark.slow
def test_your_own_score_runs():
    assert run_blocks(ROOT / "docs" / "start" / "score.md")["kappa"].shape == (100,)


def test_your_own_model_is_one():
    model = as_pretrained(run_blocks(ROOT / "docs" / "start" / "audit.md")["factory"]())
    assert model.diffusion.eps(np.ones((8, 8, 1), np.float32), 0.5).shape == (8, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("document", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=lambda path: path.stem)
def test_tutorials_print_what_they_say(document, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # an audit looks for factories in the current folder
    run_blocks(document)
    said = [line.strip() for block in blocks(document.read_text(), "python") for line in re.findall("# → (.*)", block)]
    assert capsys.readouterr().out.splitlines() == said


COMMANDS = [
    shlex.split(line, comments=True)
    for document in DOCUMENTS
    for block in blocks(document.read_text(), "sh")
    for line in block.splitlines()
    if "experiments.run" in line and not line.startswith("make")
]


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_compose(words):
    overrides = [word for word in words[words.index("experiments.run") + 1 :] if not word.startswith("-")]
    sweep = {word for word in overrides if re.search(r"=[^\[]*,", word)}
    assert not sweep or "-m" in words
    single = [re.sub(r",.*", "", word) if word in sweep else word for word in overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", single, return_hydra_config=True)
    assert config.seed is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    headings = {
        path: {slug(line) for line in path.read_text().splitlines() if line.startswith("#")} for path in DOCUMENTS
    }
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), target
        assert not anchor or anchor in headings[there], target


def slug(heading):
    text = re.sub(r"[^\w\s-]", "", heading.lstrip("# ").lower())
    return text.replace(" ", "-")


def test_the_reference_that_a_flag_needs():
    """The table of docs/choose.md against a first flag by Benjamini and Hochberg: all of m₁ at the smallest p-value."""
    table = re.findall(r"^\| ([\d.]+) % \| ([\d,]+) \|$", (ROOT / "docs" / "choose.md").read_text(), re.MULTILINE)
    assert len(table) == 5
    for share, told in table:
        m, n_reference = 1000, int(told.replace(",", ""))
        planted = np.arange(m) < m * float(share) / 100

        def flagged(n, planted=planted):
            return benjamini_hochberg(np.where(planted, 1 / (n + 1), 1.0), 0.05)

        assert flagged(n_reference).sum() == planted.sum()
        assert not flagged(n_reference - 1).any()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_folded_reads_as_markdown_here_and_on_a_forge(document):
    """A blank line on both sides of what is inside, a summary, and a mark for the site to read it as Markdown."""
    text = document.read_text()
    folded = re.findall(r"<details markdown>\n<summary>[^\n]+</summary>\n\n.*?\n\n</details>\n", text, re.DOTALL)
    assert len(folded) == text.count("<details") == text.count("</details>")
