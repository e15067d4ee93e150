"""Words of the command line that are no Hydra grammar: ``~``, and what has to be quoted."""

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

HOME = re.compile(r"""(?<=[=,"'\[])~(?=/|$)""")
KEY = re.compile(r"[+~]{0,2}[\w./@-]+")


def at_home(words: Sequence[str]) -> list[str]:
    """``key=~/path`` with the home directory in place of ``~``, which Hydra's grammar has no place for."""
    home = os.path.expanduser("~")
    return [HOME.sub(lambda _: home, word) for word in words]


def expanded(value: Any) -> Any:
    """A config with the home directory in place of ``~`` at the beginning of any text, as in ``~/images``."""
    if isinstance(value, dict):
        return {key: expanded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expanded(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def no_override(word: str, reason: str) -> str:
    """What to answer to a word that Hydra cannot read: how to quote it, where quotes would help."""
    key, _, value = word.partition("=")
    if value and KEY.fullmatch(key) and value[0] not in "\"'[{":
        return f"{word}: the value must be quoted, for Hydra and again for the shell: {quoted(key, value)}"
    return f"{word}: must be key=value in Hydra's grammar ({reason})"


def several_values(word: str) -> str:
    """What to answer to a value with a comma outside a sweep."""
    key, _, value = word.partition("=")
    return f"{word}: must be one value, {quoted(key, value)}; several are a sweep, -m, or a list, {key}=[…]"


def quoted(key: str, value: str) -> str:
    """``'key="value"'`` as it is typed. Hydra takes backslashes as they are, but for those before a quote."""
    inner = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + '\\"' * (m[2] == '"'), value)
    return shlex.quote(f'{key}="{inner}"')
