"""The pages on settings and command lines say what the programs say."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from experiments.core.catalogue import experiments
from experiments.core.schema import Flux
from experiments.publish.meanings import meanings
from experiments.publish.reference import BLOCK, DOCUMENTS, LISTS, filled
from experiments.publish.settings import GROUPS, allowed


def words(text):
    """Cells and lines without the layout, in which versions of argparse differ."""
    return text.split()


@pytest.mark.parametrize(
    "document",
    # every experiment is composed at every scale for its settings
    [pytest.param(path, marks=pytest.mark.slow if path.stem == "settings" else ()) for path in DOCUMENTS],
    ids=lambda path: path.name,
)
def test_pages_are_up_to_date(document):
    text = document.read_text()
    assert words(filled(text)) == words(text), "python -m experiments.publish.reference"


def test_every_list_stands_in_a_page():
    found = [match["name"] for document in DOCUMENTS for match in BLOCK.finditer(document.read_text())]
    assert sorted(found) == sorted(LISTS)


def test_every_experiment_group_and_key_is_told():
    text = DOCUMENTS[0].read_text()
    assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == [*experiments(), *GROUPS]
    for key in (
        *(f"flux.{name}" for name in Flux.model_fields),
        "planted.samples[].dim",
        "train.n_steps",
        "data.n_train",
    ):
        assert f"| `{key}` |" in text
    assert "`300` / `12000` / `120000`" in text  # of smoke, cpu and full


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Annotated[float, Field(ge=1)], "number ≥ 1"),
        (Annotated[float, Field(gt=0, lt=1)], "number > 0 and < 1"),
        (Annotated[int, Field(gt=0)] | None, "whole number > 0, or null"),
        (list[Annotated[int, Field(le=4096)]], "list: whole number ≤ 4,096"),
        (Literal["iid", "quasi", "orthogonal"], "`iid`, `quasi` or `orthogonal`"),
        (dict[str, Flux], "sections by name: section"),
        (bool, "true or false"),
    ],
)
def test_what_a_field_takes(annotation, said):
    assert allowed(annotation) == said


class Base:
    """What is built on.

    Args:
        n, m: numbers of this, at
            least one. And more.
        kind: one of ``a`` and ``b``, as in e.g. a table: for example.
    """

    def __init__(self, n, m, kind):
        pass


class Built(Base):
    """Nothing but another word for one.

    Attributes:
        m: another number.

    Raises:
        kind: is not an argument here.
    """


def test_what_an_argument_means_is_the_first_sentence_of_its_docstring():
    found = meanings({"_target_": f"{__name__}.Built"})
    assert found == {"n": "numbers of this, at least one", "m": "another number"} | {"kind": found["kind"]}
    assert found["kind"] == "one of `a` and `b`, as in e.g. a table: for example"
    assert meanings({"_target_": "plap_jax.training.TrainConfig"})["n_steps"] == "optimizer steps, ≥ 1"


def test_no_key_is_without_a_meaning():
    rows = [line.split(" | ") for line in DOCUMENTS[0].read_text().splitlines() if line.startswith("| `")]
    without = [row[0] for row in rows if row[-1].strip(" |") == ""]
    assert len(rows) > 800 and not without
