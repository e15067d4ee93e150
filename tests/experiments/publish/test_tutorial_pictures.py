"""Pictures of tutorials come from their own blocks."""

import pytest

from experiments.publish.tutorial_pictures import IMAGES, SHOWN, TUTORIALS, draw, main

PAGE = """
```python
from pathlib import Path

shown = b"a picture"
```

```python
Path("one.png").write_bytes(shown)
Path("two.png").write_bytes(b"not shown")
```

![What is seen](../images/one.png)
"""


def test_what_a_tutorial_shows_is_drawn_by_its_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "page.md").write_text(PAGE)
    assert draw(tmp_path / "page.md", tmp_path / "images") == [tmp_path / "images" / "one.png"]
    assert [path.read_bytes() for path in (tmp_path / "images").iterdir()] == [b"a picture"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "page.md"]


def test_a_page_without_pictures_of_its_own_is_not_run(tmp_path):
    (tmp_path / "page.md").write_text("```python\nraise SystemExit\n```\n![Of a run](../../figures/a/b.png)\n")
    assert draw(tmp_path / "page.md", tmp_path) == []


def test_a_picture_that_no_block_draws_is_a_mistake_of_the_page(tmp_path):
    (tmp_path / "page.md").write_text("![Gone](../images/gone.png)\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        draw(tmp_path / "page.md", tmp_path)


def test_every_picture_there_is_shown_by_a_tutorial():
    shown = {name for page in TUTORIALS.glob("*.md") for name in SHOWN.findall(page.read_text())}
    assert {path.name for path in IMAGES.iterdir()} == shown


def test_arguments_are_refused(capsys):
    assert main(["copies"]) == 2 and capsys.readouterr().err.startswith("usage: ")
