"""The planted templates as files for other codes: ``python -m experiments.publish.planted OUT [key=value …]``.

Images, roles, masks, captions and seed of ``+exp=local_memorization``, without training anything. Whoever trains on
what is marked so, and maps the images marked as fresh, can be held against the table of docs/local.md.
"""

import csv
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from experiments.core.catalogue import CONF
from experiments.core.errors import UserError, one_line
from experiments.core.files import replacing, write_json, write_text
from experiments.core.ledger import claim
from experiments.core.revision import revision
from experiments.core.schema import RunConfig, check
from experiments.shared.templates import make_templates
from plap_jax.console import plain_console
from plap_jax.data import PlantedTemplates

FOLDER = "arrays"  # a name of the ledger: files of somebody else are not replaced
ROLES = {
    "template": "in training once, shares its region with as many training images as the dose says",
    "copy": "in training several times, whole",
    "pasted": "in training once, with a region of its own",
    "single": "in training once, as it is",
    "fresh": "never in training, with the region of a template: what is asked of a map",
    "decoy": "never in training, with a region that training never saw: a map must not find it",
    "plain": "never in training, as it is",
}


def publish(config: RunConfig, words: Sequence[str], out: Path) -> dict[str, int]:
    """Writes ``planted.npz``, ``images.csv``, ``about.json`` and two folders of PNG files; images of each role.

    Raises:
        UserError: somebody else's files would be replaced.
    """
    data, planted = make_templates(config)
    claim(out, "OUT", (FOLDER,))
    place = out / FOLDER
    masks = np.stack([planted.mask_of(i) for i in range(len(planted.points))])
    pixels = np.round((planted.points + 1) * 127.5).astype(np.uint8)
    exact = bool(np.array_equal(pixels.astype(np.float32) * np.float32(2 / 255) - 1, planted.points))
    with replacing(place / "planted.npz") as handle:
        np.savez_compressed(
            handle,
            images=planted.points,
            role=planted.role,
            copies=planted.copies,
            region=planted.region,
            dose=planted.dose_of_image,
            captions=planted.captions,
            validation=planted.validation,
            masks=masks,
        )
    for i, (image, mask) in enumerate(zip(pixels, masks, strict=True)):
        _write_png(place / "images" / f"{i:05d}.png", image)
        _write_png(place / "masks" / f"{i:05d}.png", np.where(mask, 255, 0).astype(np.uint8)[..., None])
    write_text(place / "images.csv", _table(planted))
    counts = {role: int((planted.role == role).sum()) for role in ROLES}
    about = {
        "command": shlex.join(["python", "-m", "experiments.publish.planted", "OUT", *words]),
        "commit": revision().commit,
        "source": data.name,
        "source_sha256": data.fingerprint,
        "seed": config.seed,
        "captions": int(planted.captions.max()) + 1,
        "captions_of_classes": planted.n_rest_captions,
        "png_files_are_exact": exact,
        "roles": ROLES,
        "images": counts,
        "training_rows": int(planted.copies.sum()),
    }
    write_json(place / "about.json", about)
    return counts


def _table(planted: PlantedTemplates) -> str:
    """A line for each image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "role", "copies_in_training", "caption", "half", "region", "kind", "dose"])
    for i in range(len(planted.points)):
        region = int(planted.region[i])
        of_region = (region, planted.kind[region], int(planted.dose[region])) if region >= 0 else ("", "", "")
        half = "validation" if planted.validation[i] else "test"
        writer.writerow(
            [f"{i:05d}.png", planted.role[i], int(planted.copies[i]), int(planted.captions[i]), half, *of_region]
        )
    return text.getvalue()


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with replacing(path) as handle:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(handle, format="PNG")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 2 with one line on stderr where the set cannot be written."""
    plain_console()
    if not arguments or "=" in arguments[0]:
        print("usage: python -m experiments.publish.planted OUT [key=value …]", file=sys.stderr)
        return 2
    out, words = Path(arguments[0]), list(arguments[1:])
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config, _ = check(compose("config", ["+exp=local_memorization", "tracking=disabled", *words]))
        counts = publish(config, words, out)
    except (ValueError, OSError, UserError, HydraException, OmegaConfBaseException) as error:
        print(one_line(error) or " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"→ {out / FOLDER}: {', '.join(f'{n} {role}' for role, n in counts.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
