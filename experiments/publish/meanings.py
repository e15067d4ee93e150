"""What the arguments of a class or function mean, by its docstring."""

import inspect
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

ARGUMENTS = re.compile(r"^(?:Args|Attributes):\n(?P<body>(?:(?: .*)?\n?)*)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", re.MULTILINE)


def meanings(spec: Mapping[str, Any]) -> dict[str, str]:
    """Argument → the first sentence about it in the docstring of ``_target_``, or of what it is built on."""
    target, found = pkgutil.resolve_name(spec["_target_"]), {}
    for one in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        text = inspect.cleandoc(one.__doc__ or "")
        for match in ARGUMENTS.finditer(text):
            for names, told in ENTRY.findall(match["body"]):
                sentence = re.split(r"\.\s(?=[A-Z])", " ".join(told.split()))[0].rstrip(".")
                found |= dict.fromkeys(names.split(", "), sentence.replace("``", "`"))
    return found
