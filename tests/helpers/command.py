"""The experiments' command line, called within the test's process."""

import logging
import sys

from experiments import run
from experiments.publish.collect import SweepWatch
from tests.helpers.places import HELPERS

TINY = ("--config-dir", str(HELPERS / "conf"), "+exp=tiny")


def called(monkeypatch, capsys):
    """``call(*arguments)`` → exit code, stdout, stderr, as of ``python -m experiments.run``; a generator of one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(SweepWatch, "directory", None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # main sets it; undone after the test

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["experiments.run", *map(str, arguments)])
        code = run.main()
        return code, *capsys.readouterr()

    yield call
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level
