"""Paths and prompts on the command line: how to quote them, and ~."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.core.words import at_home, expanded, no_override, several_values

PARSER = OverridesParser.create()


@pytest.mark.parametrize(
    "value",
    [
        "/d/Fotos Köln",
        "/d/lr=1e-4",
        "/d/Photos (1)",
        "/d/#1",
        "a cat!",
        "it's",
        'a "b" c',
        "C:\\a b!\\",
        'say \\"x\\" !',
    ],
)
def test_what_hydra_cannot_read_it_reads_as_shown(value):
    line = no_override(f"images={value}", "no viable alternative")
    assert line.startswith(f"images={value}: ") and "\n" not in line
    (word,) = shlex.split(line.partition("for the shell: ")[2])
    assert PARSER.parse_override(word).value() == value


def test_quotes_are_shown_where_they_help():
    assert "'images=\"/d/Photos (1)\"'" in no_override("images=/d/Photos (1)", "")
    for word in ("flux.p", "sigmas=[1,", "a b=3", "x="):
        assert no_override(word, "why") == f"{word}: must be key=value in Hydra's grammar (why)"
    assert several_values("prompts=a, b").startswith("prompts=a, b: must be one value, 'prompts=\"a, b\"'; several")


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["images=~/a", "model.folder=~", 'x="~/a b"', "x=[~/a,b~/c]", "~train", "+exp=audit", "x=a~"]
    expected = ["images=/home/me/a", "model.folder=/home/me", 'x="/home/me/a b"', "x=[/home/me/a,b~/c]", *words[4:]]
    assert at_home(words) == expected
    config = {"a": "~/x", "b": [{"path": "~/y"}], "c": "a ~/b", "d": 1, "e": None, "f": "~user"}
    assert expanded(config) == config | {"a": "/home/me/x", "b": [{"path": "/home/me/y"}]}
