"""Prompts as people have them: a text, a list, a table of ours, Hugging Face's metadata.csv, any line ends."""

import jax
import numpy as np
import pytest

from plap_jax.audit import audit_images
from plap_jax.audit.prompts import listed_prompts, read_prompts
from plap_jax.audit.subject import as_subject
from tests.helpers import memorizing_model

NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture(scope="module")
def numbered():
    return as_subject(memorizing_model.prompted(), None)


@pytest.fixture(scope="module")
def read(numbered):
    return lambda given, names=NAMES, skipped=frozenset(): read_prompts("prompts", given, names, skipped, numbered)


@pytest.mark.parametrize(
    "content",
    [
        b"file,prompt\na.png,1\nb.png,2\nc.png,3\n",
        b"\xef\xbb\xbffile_name,text\r\nc.png,3\r\nb.png,2\r\na.png,1\r\n",
        b"file_name,caption\na.png,1\nb.png,2\nc.png,3\n",
        b"file_name;width;text\nb.png;8;2\na.png;8;1\nc.png;8;3\n\n",
        b'prompt\tfile\n1\ta.png\n"2"\tb.png\n3\tc.png\n',
    ],
)
def test_tables_as_people_have_them(tmp_path, read, content):
    (tmp_path / "metadata.csv").write_bytes(content)
    found = read(tmp_path / "metadata.csv")
    assert found.prompts == [1, 2, 3] and not found.without and not found.strangers


def test_what_matches_is_used_and_the_rest_is_counted_and_listed(tmp_path, read, caplog):
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,text\na.png,1\nx.png,4\nc.png,3\nbad.png,5\n")
    found = read(table, skipped={"bad.png"})
    assert found.prompts == [1, 3] and found.without == [1] and found.strangers == ["x.png"]
    table.write_text("file,prompt\n0,1\n2,3\n7,4\n")
    model, key = memorizing_model.prompted(), jax.random.key(0)
    result = audit_images(model, memorizing_model.MEMORIZED[:3], prompts=table, sigma=0.22, target_stderr=0.1, key=key)
    assert result.names == ["0", "2"]
    assert sorted(name for name, _ in result.skipped) == ["1", "7"]
    assert "1 image(s) without a prompt are left out, 1 row(s) match no image" in caplog.text
    alone = audit_images(
        model, memorizing_model.MEMORIZED[[0, 2]], prompts=[1, 3], sigma=0.22, target_stderr=0.1, key=key
    )
    np.testing.assert_allclose(result.score, alone.score, atol=1e-6)


def test_a_list_is_one_for_each(read):
    assert read([3, 1, 2]).prompts == [3, 1, 2] and read(4).prompts == [4, 4, 4] and read(None) is None
    with pytest.raises(ValueError, match="^prompts='2 prompts': must be one prompt, or one for each of the 3 images"):
        read([3, 1])


def test_generated_images_take_the_prompts_of_a_list_in_turn(tmp_path, numbered):
    (tmp_path / "list.csv").write_text("prompt,memorized\n4,1\n0,0\n")
    assert listed_prompts("prompts", str(tmp_path / "list.csv"), 5, numbered) == [4, 0, 4, 0, 4]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "name,title\na.png,1\n",
            "must have columns file or file_name and prompt or text or caption in its first line",
        ),
        ("file,prompt\n", "must hold a row"),
        ("file,prompt\nx,1\n", "names none of the images: the first image is ['a.png'], the first row ['x']"),
        ("file,prompt\na.png,1\na.png,2\n", "names 1 file(s) twice, the first is ['a.png']"),
        ("file,prompt\na.png,1,2\n", "row 2 must hold 2 cells; quote a prompt that holds ','"),
        ("file,prompt\na.png,1\nb.png\n", "row 3 must hold 2 cells"),
        ("", "must have columns file or file_name and prompt or text or caption in its first line, and has []"),
        ('file,prompt\na.png,"1\n', "is no CSV file in UTF-8"),
        (b"file,prompt\na.png,\xff\n", "is no CSV file in UTF-8"),
        (
            "file,prompt\na.png,99\n",
            "prompts='99': a.png has the prompt 99, which must be an integer from 0 to 12",
        ),
        ("file,prompt\na.png,x\n", "prompts='x': a.png has the prompt x, which must be an integer from 0 to 12"),
        (None, "must be a CSV file that is there"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(tmp_path, read, content, line):
    if content is not None:
        (tmp_path / "prompts.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as refused:
        read(tmp_path / "prompts.csv")
    assert line in str(refused.value) and "\n" not in str(refused.value)
