"""The command line, within this process."""

import pytest

from tests.helpers.command import called


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """``command(*arguments)`` → exit code, stdout, stderr, launched in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    yield from called(monkeypatch, capsys)
