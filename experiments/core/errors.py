"""What becomes one line and exit code 2, and what is a bug and keeps its traceback."""

import re
import sys
from collections.abc import Sequence

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
)

from experiments.core.catalogue import choose_an_experiment
from experiments.core.words import no_override, several_values
from plap_jax.console import raised_in

OURS = ("plap_jax", "experiments")
CONFIG = ("hydra", "omegaconf")
SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'$", re.MULTILINE)


class UserError(Exception):
    """A mistake in what was asked for; its message is one line that names key, value and what is allowed."""


class JobFailed(Exception):
    """A bug in a job; its traceback has been shown where it happened (it would not survive pickling)."""


class Refused(BaseException):
    """Carries a failure out of a single run past Hydra, which would print a second line for an ``Exception``."""

    def __init__(self, failure: UserError | JobFailed):
        super().__init__(str(failure))
        self.failure = failure


def one_line(error: BaseException) -> str | None:
    """The line that explains a user's mistake; None where ``error`` is a bug."""
    cause, overrides = error.__cause__, sys.argv[1:]
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_config(error)
    if isinstance(error, InterpolationToMissingValueError) and "value: name" in str(error):
        return choose_an_experiment()
    if isinstance(error, OverrideParseException):
        return no_override(str(error.override), _joined(str(cause or error)))
    if isinstance(error, HydraException | OmegaConfBaseException):
        if several := SEVERAL.search(str(error)):
            return several_values(several[1])
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return _unknown_key(cause, overrides)
        if cause is not None and not isinstance(cause, HydraException | OmegaConfBaseException):
            return one_line(cause)
        return f"{getattr(error, 'full_key', None) or ' '.join(overrides)}: {_joined(str(error))}"
    if isinstance(error, OSError):
        return _file_system(error, overrides)
    if type(error).__module__.split(".")[0] in OURS:
        return _joined(str(error))
    origin = raised_in(error).split(".")[0] if isinstance(error, ValueError) else ""
    if origin in CONFIG:
        return f"{' '.join(overrides)}: {_joined(str(error))}"
    return _joined(str(error)) if origin in OURS else None


def _joined(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return "; ".join(line for line in lines if line and not line.startswith(("object_type=", "full_key:")))


def _no_such_config(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = ", ".join(sorted(error.options or ()))
    return f"{group or 'config'}={name}: " + (f"must be one of {options}" if options else "there is no such group")


def _unknown_key(error: ConfigKeyError | ConfigAttributeError, overrides: Sequence[str]) -> str:
    key = str(error.full_key or error.key)
    given = next((o for o in overrides if o.lstrip("+~").split("=")[0] == key), key)
    known = sorted(map(str, error.parent_node.keys())) if error.parent_node is not None else []
    return f"{given}: unknown key; known here: {', '.join(k for k in known if k != 'hydra')}"


def _file_system(error: OSError, overrides: Sequence[str]) -> str:
    path = str(error.filename) if error.filename is not None else ""
    reason = error.strerror or _joined(str(error))
    given = (o for o in overrides if path and "/" in o and _meets(o.partition("=")[2], path))
    return f"{next(given, path or 'file system')}: {reason}; must be a path that can be read and written"


def _meets(value: str, path: str) -> bool:
    return bool(value) and (path.startswith(value) or value.startswith(path))
