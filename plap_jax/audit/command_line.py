"""``plap-audit``: the audit from a terminal. Paths are taken literally; a mistake is one line and exit code 2.

There is no positional argument, so a first word that is no option is free to name a sub-command.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

import jax

from plap_jax.audit.auditing import audit_images
from plap_jax.audit.models import load_model
from plap_jax.audit.output import FOLDER, MAPS, PARTS, REPORT, SKIPPED, TABLE, refuse_foreign, write_output
from plap_jax.audit.prompts import is_file
from plap_jax.audit.result import AuditResult, load_writer
from plap_jax.audit.settings import AuditSettings, PixelRange
from plap_jax.audit.subject import Subject
from plap_jax.console import plain_console, raised_in, require_device
from plap_jax.data.decoding import Resize
from plap_jax.typing import require

ABOUT = """\
Which of these images has a diffusion model memorized, and how sure is that?

Every image gets a score (higher = more memorized): what the model says of it at seven noise levels, beyond what
it says of images as hard as this one. With --reference, images that the model was certainly not trained on,
every image also gets a p-value, and images are flagged: on average at most the share --fdr of them by mistake.
Without, the images are ranked, and nothing bounds the mistakes. A --baseline, a model of the same kind that has
not seen the images, finds much more."""
EXAMPLES = """\
examples:
  plap-audit --model my_model:factory --images photos --reference unseen
  plap-audit --model finetuned --baseline stable-diffusion-v1-4 --images photos --reference unseen
  plap-audit --model runs/digits/checkpoints/network --images digits.npz --out digits-audit
  plap-audit --model stable-diffusion-v1-4 --images photos --prompts captions.csv

MODEL is one of
  a folder on this machine that a diffusers pipeline was saved to (needs the extra "torch")
  a checkpoint of plap_jax: RUN/checkpoints/NAME, or RUN if it holds only one
  module:factory, a function without arguments in a module of the current folder, which returns a
  plap_jax.UserModel, or what plap_jax.load_torch returns

PLACE is a folder with PNG, JPEG or WebP files, or an .npy or .npz file of rows (height, width, channels).

The same command again goes on where it was interrupted. What the numbers prove, and what they do not, is
written in the report."""
SETTINGS = (
    *("noise_levels", "n_directions", "duplicate_distance", "n_samples", "max_samples", "target_stderr"),
    *("evaluations", "resize", "crop", "pixel_range", "lora_base", "maps"),
)
# Of diffusers folders: those of the model alone, and those that its baseline shares.
OF_MODEL = ("lora", "lora_scale", "base", "ema")
SHARED = ("dtype", "variant", "image_size", "guidance", "null_class", "bridge")
# The value within "name=value: what is allowed", as the library writes it: quoted, in brackets, cut off, or a word.
_VALUE = re.compile(r"('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\([^)]*\)|.{77}\.\.\.|[^\s:]+): ")


class _Mistake(Exception):
    """What was asked cannot be done; one line says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print its usage too."""
        raise _Mistake(f"{message.removeprefix('argument ')}; plap-audit --help tells all options")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 2 with one line on stderr for a mistake; 1 with the traceback of a bug; 130 when interrupted."""
    plain_console()
    asked = argparse.Namespace()
    try:
        with _told():
            parser().parse_args(argv, asked)
            _audit(asked)
        return 0
    except KeyboardInterrupt:
        kept = f"; the same command goes on with what is kept in {asked.out}/{PARTS}" if hasattr(asked, "out") else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    except Exception as error:
        line = _one_line(error, asked)
        if line is None:
            traceback.print_exception(error)
            return 1
        print(line, file=sys.stderr)
        return 2


@contextmanager
def _told() -> Iterator[None]:
    """What the library tells is printed as it is, whatever handlers others have; stderr is for bars and mistakes."""
    logger, handler = logging.getLogger("plap_jax"), logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def parser() -> argparse.ArgumentParser:
    """All options; those that few audits need stand last."""
    made = _Parser(
        prog="plap-audit",
        usage="plap-audit --model MODEL --images PLACE [--reference PLACE] [--sigma S] [--out FOLDER] [more options]",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    told = made.add_argument_group("what is audited")
    told.add_argument("--model", required=True, metavar="MODEL", help="see below")
    told.add_argument("--images", required=True, metavar="PLACE", help="the images in question")
    told.add_argument(
        "--reference", metavar="PLACE", help="images of the same kind that the model was certainly not trained on"
    )
    told.add_argument("--baseline", metavar="MODEL", help="a model of the same kind that has not seen the images")
    told.add_argument("--prompts", metavar="CSV|TEXT", help="a prompt for all images, or a table with file,prompt")
    told.add_argument("--reference-prompts", metavar="CSV|TEXT", help="those of the reference")
    told.add_argument("--training", metavar="PLACE", help="the training images: each image is told its nearest one")
    how = made.add_argument_group("how")
    how.add_argument("--sigma", type=float, metavar="S", help="plain flux at this noise level alone, nothing taken out")
    how.add_argument("--fdr", type=float, default=0.05, metavar="Q", help="false-discovery rate (%(default)s)")
    how.add_argument("--out", default=FOLDER, metavar="FOLDER", help="for the report and its tables (%(default)s)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of all randomness (%(default)s)")
    _add_folder(made.add_argument_group("of a diffusers folder"))
    _add_settings(made.add_argument_group("seldom changed"))
    return made


def _add_folder(group: Any) -> None:
    """Arguments of ``load_diffusers``; None where nothing is chosen."""
    group.add_argument(
        "--lora", metavar="FILE[,FILE]", help="LoRAs added to MODEL, which is then the baseline; or: none"
    )
    group.add_argument("--lora-scale", type=float, metavar="S", help="factor of what they add (1)")
    group.add_argument("--no-lora-base", dest="lora_base", action="store_false", help="no baseline without the LoRAs")
    group.add_argument("--base", metavar="FOLDER", help="a pipeline, for pieces that MODEL lacks, as checkpoints do")
    group.add_argument("--ema", action="store_const", const=True, help="the averaged weights of unet_ema/")
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the network (float32)")
    group.add_argument("--variant", metavar="NAME", help="of the files with weights, as fp16")
    group.add_argument("--image-size", type=int, nargs="+", metavar="N", help="height and width, where not as trained")
    group.add_argument("--guidance", type=float, metavar="G", help="what a network that is told its guidance is told")
    group.add_argument("--null-class", type=int, metavar="K", help="the class that training used for none")
    group.add_argument("--bridge", choices=("callback", "torchax"), help="torchax: with derivatives (callback)")


def _add_settings(group: Any) -> None:
    default = AuditSettings()
    for name, kind, meaning in (
        ("n-directions", int, "random directions at each noise level"),
        ("duplicate-distance", float, "root mean square up to which two images are near-duplicates"),
        ("maps", int, "random directions of the curvature map of each flagged image, 0 for none"),
        ("n-samples", int, "with --sigma, random directions in a round"),
        ("max-samples", int, "at most so many for an image"),
        ("target-stderr", float, "with --sigma, rounds are added until the standard error is as small"),
        ("evaluations", int, "of the network at a time; less needs less memory, by default what suits its size"),
        ("crop", int, "side of the central square that is cut out of files; by default the largest"),
    ):
        value = getattr(default, name.replace("-", "_"))
        stated = "" if value is None else f" ({value})"
        group.add_argument(f"--{name}", type=kind, default=value, metavar="N", help=meaning + stated)
    resize = {"choices": get_args(Resize), "default": default.resize}
    group.add_argument("--resize", **resize, help="how files become the model's size (%(default)s)")
    ranges = {"choices": get_args(PixelRange), "metavar": "LOW..HIGH"}
    group.add_argument("--pixel-range", **ranges, help="of floats in arrays: --pixel-range=-1..1 or --pixel-range=0..1")
    levels = " ".join(f"{sigma:g}" for sigma in default.noise_levels)
    group.add_argument(
        "--noise-levels",
        type=float,
        nargs="+",
        default=default.noise_levels,
        metavar="S",
        help=f"without --sigma, all of these: sigma of a variance-preserving schedule ({levels})",
    )


def _audit(asked: argparse.Namespace) -> None:
    """From options to files, and the result in words."""
    for name in ("images", "reference", "training", "out"):
        setattr(asked, name, _at_home(getattr(asked, name)))
    for name in ("prompts", "reference_prompts"):
        if is_file(getattr(asked, name)):
            setattr(asked, name, _at_home(getattr(asked, name)))
    require(0 <= asked.seed < 2**31, "seed", asked.seed, "must lie in 0 ... 2^31 - 1")
    out = Path(asked.out)
    refuse_foreign(out)
    load_writer()  # Jinja may be missing, which is better known now than after hours
    require_device()
    of_model, shared = ({name: getattr(asked, name) for name in names} for names in (OF_MODEL, SHARED))
    if shared["image_size"] is not None:
        sides = shared["image_size"]
        shared["image_size"] = sides[0] if len(sides) == 1 else tuple(sides)
    given = ("reference", "prompts", "reference_prompts", "training", "fdr", "sigma")
    result = audit_images(
        partial(_model, "--model", asked.model, **of_model, **shared),
        asked.images,
        baseline=None if asked.baseline is None else partial(_baseline, asked.baseline, shared),
        **{name: getattr(asked, name) for name in given},
        key=jax.random.key(asked.seed),
        resume_dir=out / PARTS,
        progress=True,
        settings=AuditSettings(**{name: getattr(asked, name) for name in SETTINGS}),
    )
    write_output(out, result)
    _tell(out, result)


def _at_home(path: str | None) -> str | None:
    """``~`` expanded; a name that begins with it and is no one's home is meant literally."""
    if path is None:
        return None
    expanded = os.path.expanduser(path)
    return os.path.abspath(expanded) if expanded.startswith("~") else expanded


def _baseline(given: str, shared: dict[str, Any]) -> Subject:
    """A folder is loaded as the model is; others have no such options."""
    how = shared if Path(_at_home(given)).is_dir() else {}
    return _model("--baseline", given, **how)


def _model(option: str, given: str, **how: Any) -> Subject:
    """The model; a factory is looked for in the current folder first, as Python does."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return load_model(given, **how)
    except ValueError as error:
        if not _is_answer(error):
            raise
        line = str(error).removeprefix(f"{given}: ")
        name, _, rest = line.partition("=")
        line = _allowed(rest, given) if name in ("model", "target", "path", "folder") else line
        raise _Mistake(f"{option} {given}: {line}") from error


def _tell(out: Path, result: AuditResult) -> None:
    for line in result.lines:
        print(line)
    skipped = result.skipped_rows()
    if skipped:
        print(f"files skipped: {len(skipped)}, {out / SKIPPED} says why")
    if result.maps is not None:
        print(f"{out / MAPS} holds the curvature maps of {len(result.maps.rows)} flagged images")
    print(f"{out / REPORT} shows them all, {out / TABLE} is the table")


def _one_line(error: Exception, asked: argparse.Namespace) -> str | None:
    """What is wrong, by the option's name; None where it is a bug."""
    if isinstance(error, _Mistake | ImportError) and _is_answer(error):
        return str(error)
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror or error}"
    if not (isinstance(error, ValueError) and _is_answer(error)):
        return None
    name, _, rest = str(error).partition("=")
    if not hasattr(asked, name):
        return str(error)
    given = getattr(asked, name)
    value = " ".join(f"{one:g}" for one in given) if isinstance(given, list | tuple) else given
    return f"--{name.replace('_', '-')} {value}: {_allowed(rest, given).replace('pixel_range=', '--pixel-range=')}"


def _allowed(line: str, given: Any) -> str:
    """What stands behind the value in "value: what is allowed"."""
    for said in (f"{given!r}: ", f"{given}: "):
        if line.startswith(said):
            return line.removeprefix(said)
    found = _VALUE.match(line)
    return line[found.end() :] if found else line


def _is_answer(error: Exception) -> bool:
    """Whether this library refused: a ValueError of NumPy, or of someone's factory, is a bug."""
    return raised_in(error).split(".")[0] == "plap_jax"
