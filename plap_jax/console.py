"""What a command line sees to first: a device that is there, and characters that the console can show."""

import codecs
import os
import sys
import unicodedata
from typing import TextIO

import jax

PLAIN = {
    "→": "->", "←": "<-", "×": "x", "·": "*", "…": "...", "–": "-", "—": "-", "−": "-", "±": "+-", "⁄": "/",
    "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "√": "sqrt ", "∞": "inf", "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


def require_device() -> None:
    """Refuses a platform that is not here, before the first array meets it.

    Raises:
        ValueError: ``JAX_PLATFORMS`` names a platform that JAX cannot use.
    """
    try:
        jax.devices()
    except Exception as error:  # each JAX, and each platform, raises another kind
        wanted, reason = os.environ.get("JAX_PLATFORMS", ""), " ".join(str(error).split()) or "no such device"
        raise ValueError(f"JAX_PLATFORMS={wanted}: cannot be used here ({reason}); cpu always works") from error


def raised_in(error: BaseException) -> str:
    """Name of the module whose code raised: NumPy's ValueErrors are bugs, the library's are answers."""
    module, trace = "", error.__traceback__
    while trace is not None:
        module, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return module


def plain(text: str) -> str:
    """``text`` in ASCII: signs as above, Greek letters by name, accents dropped, whatever else as ``?``."""
    return "".join(_plain(character) for character in text)


def plain_console(*streams: TextIO) -> None:
    """From here on ``streams`` (standard output and error) write plainly what their encoding does not hold.

    σ is sigma then, and → is ->.
    """
    codecs.register_error("plap_jax.plain", _replacement)
    for stream in streams or (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that a test or a notebook put there may have no encoding
            stream.reconfigure(errors="plap_jax.plain")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if character in PLAIN:
        return PLAIN[character]
    name = unicodedata.name(character, "").split()
    if len(name) == 4 and name[0] == "GREEK" and name[2] == "LETTER":
        return name[3].lower() if name[1] == "SMALL" else name[3].capitalize()
    parts = (c if c.isascii() else PLAIN.get(c, "") for c in unicodedata.normalize("NFKD", character))
    return "".join(parts) or "?"
