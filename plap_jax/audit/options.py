"""The options of ``plap-audit`` and of its sub-command ``merge``."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import Any, NoReturn, get_args

from plap_jax.audit.output import FOLDER
from plap_jax.audit.settings import AuditSettings, PixelRange
from plap_jax.data.decoding import Resize

MERGE = "merge"
UNKNOWN = "unrecognized arguments: "  # as argparse begins
ABOUT = """\
Which of these images has a diffusion model memorized, and how sure is that?

Every image gets a score (higher = more memorized): what the model says of it
at seven noise levels, beyond what it says of images as hard as this one. With
--reference, images that the model was certainly not trained on, every image
also gets a p-value, and images are flagged: on average at most the share --fdr
of them by mistake. Without, the images are ranked, and nothing bounds the
mistakes. A --baseline, a model of the same kind that has not seen the images,
finds much more."""
EXAMPLES = """\
examples:
  plap-audit --model my_model:factory --images photos --reference unseen
  plap-audit --model tuned --baseline base --images photos --reference unseen
  plap-audit --model run/checkpoints/network --images digits.npz --out digits
  plap-audit --model stable-diffusion-v1-4 --images photos --prompts texts.csv
  plap-audit --model tuned --images photos --reference unseen --shard 3/64
  plap-audit merge plap-audit

MODEL is one of
  a folder on this machine that a diffusers pipeline was saved to (needs the
  extra "torch")
  a checkpoint of plap_jax: RUN/checkpoints/NAME, or RUN if it holds only one
  module:factory, a function without arguments in a module of the current
  folder, which returns a plap_jax.UserModel or what plap_jax.load_torch returns

PLACE is a folder with PNG, JPEG or WebP files, an .npy or .npz file of rows
(height, width, channels), tars as WebDataset has them, or Parquet files with
encoded images; 'tars/{000..063}.tar' names 64 of them, 'data/*.parquet' all
in a folder. With "--prompts captions" the prompts are those that lie beside
the images there.

The same command again goes on where it was interrupted. With --shard the
evidence of a part of the images is left in FOLDER/evidence/, and "plap-audit
merge FOLDER" judges all parts together; --ray does both. What the numbers
prove, and what they do not, is written in the report."""
MERGE_ABOUT = """\
Judges what the shards of an audit have left in FOLDER/evidence/: checks that
they belong together and that none is missing, takes difficulty out of all
images together, and writes the report and its tables to FOLDER."""
SETTINGS = (
    *("noise_levels", "n_directions", "duplicate_distance", "n_samples", "max_samples", "target_stderr"),
    *("evaluations", "resize", "crop", "pixel_range", "lora_base", "maps"),
)
# Of diffusers folders: those of the model alone, and those that its baseline shares.
OF_MODEL = ("lora", "lora_scale", "base", "ema")
SHARED = ("dtype", "variant", "image_size", "guidance", "null_class", "bridge")


class Mistake(Exception):
    """What was asked cannot be done; one line says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print its usage too."""
        raise Mistake(f"{message.removeprefix('argument ')}{self._advice(message)}")

    def _advice(self, message: str) -> str:
        """What was meant, perhaps."""
        words = message.removeprefix(UNKNOWN).split() if message.startswith(UNKNOWN) else []
        if words and not words[0].startswith("-"):
            return ": no option takes that; of several files give the folder"
        known = [option for action in self._actions for option in action.option_strings]
        word = words[0].partition("=")[0] if words and words[0].startswith("--") else ""
        near = [option for option in known if word and option.startswith(word)] or get_close_matches(word, known, 1)
        return f"; did you mean {near[0]}?" if near else f"; {self.prog} --help tells all options"


def parser() -> argparse.ArgumentParser:
    """All options; those that few audits need stand last."""
    made = _Parser(
        prog="plap-audit",
        usage="plap-audit --model MODEL --images PLACE [--reference PLACE] [options]",
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
    how.add_argument("--shard", metavar="K/N", help="only the K-th of N parts, for several processes or machines")
    told = 'all shards on a Ray cluster, then the verdict; "local" starts one on this machine'
    how.add_argument("--ray", metavar="ADDRESS", help=told)
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
    group.add_argument("--pixel-range", **ranges, help="of floats in arrays: --pixel-range=-1..1 or =0..1")
    levels = " ".join(f"{sigma:g}" for sigma in default.noise_levels)
    group.add_argument(
        "--noise-levels",
        type=float,
        nargs="+",
        default=default.noise_levels,
        metavar="S",
        help=f"without --sigma, all of these: sigma of a variance-preserving schedule ({levels})",
    )


def merge_parser() -> argparse.ArgumentParser:
    """Options of the sub-command, of which most audits need none."""
    made = _Parser(
        prog=f"plap-audit {MERGE}",
        usage=f"plap-audit {MERGE} FOLDER [options]",
        description=MERGE_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("out", metavar="FOLDER", help="what --out was of the shards")
    moved = made.add_argument_group("where they are now, if they are no longer where the first shard found them")
    moved.add_argument("--model", metavar="MODEL", help="the model, for curvature maps alone")
    moved.add_argument("--baseline", metavar="MODEL", help="the baseline, likewise")
    for name in ("images", "reference", "training"):
        moved.add_argument(f"--{name}", metavar="PLACE")
    for name in ("prompts", "reference-prompts"):
        moved.add_argument(f"--{name}", metavar="CSV|TEXT")
    how = made.add_argument_group("how")
    told = "directions of each curvature map; 0: none, and no model is loaded"
    how.add_argument("--maps", type=int, metavar="N", help=told)
    return made
