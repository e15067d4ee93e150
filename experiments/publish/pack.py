"""What the published tables rest on, small enough to be kept with the code: ``docs/runs/NAME.tar.gz``.

``python -m experiments.publish.pack DIRECTORY`` packs every sweep over seeds in DIRECTORY; with ``--unpack`` it lays
those out there that DIRECTORY lacks, so that ``make results`` goes on with the next seed on another machine. Of a run
that is its metrics, its manifest, and its tables as CSV. The same runs give the same bytes.
"""

import gzip
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

from experiments.core.files import replacing
from experiments.core.ledger import MANIFEST, METRICS
from experiments.publish.pooled import runs_of
from plap_jax.console import plain_console

RUNS = Path(__file__).parents[2] / "docs" / "runs"
PLACES = ("tracking=", "cache_dir=", "hydra.")  # overrides that say where a run lay, and nothing of what it computed
USAGE = "usage: python -m experiments.publish.pack DIRECTORY [--unpack]"


def pack(directory: Path, runs: Path = RUNS) -> list[Path]:
    """The packed sweeps of ``directory``; seeds that are packed and do not lie there stay packed.

    Raises:
        ValueError: a run of code that was changed since its commit.
    """
    made = []
    for sweep in sorted(path for path in directory.iterdir() if path.is_dir()):
        found = runs_of(sweep)
        if found:
            runs.mkdir(exist_ok=True)
            made.append(runs / f"{sweep.name}.tar.gz")
            files = _packed_already(made[-1]) | {run.name: dict(_files(run)) for run in found}
            with replacing(made[-1]) as part:
                part.write(_packed(files))
    return made


def unpack(directory: Path, runs: Path = RUNS) -> list[Path]:
    """The runs that were laid out below ``directory``; what lies there stays."""
    made = []
    for packed in sorted(runs.glob("*.tar.gz")):
        sweep = directory / packed.name.removesuffix(".tar.gz")
        there = {run.name for run in runs_of(sweep)}
        with tarfile.open(packed) as tar:
            new = [member for member in tar if member.name.split("/")[0] not in there]
            tar.extractall(sweep, new, filter="data")
        made += [sweep / name for name in sorted({member.name.split("/")[0] for member in new})]
    return made


def _packed_already(path: Path) -> dict[str, dict[str, bytes]]:
    """Seed → file → content."""
    files: dict[str, dict[str, bytes]] = {}
    if path.exists():
        with tarfile.open(path) as tar:
            for member in tar:
                seed, _, name = member.name.partition("/")
                files.setdefault(seed, {})[name] = tar.extractfile(member).read()
    return files


def _packed(files: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Without times, owners or modes."""
    packed = BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for seed in sorted(files, key=lambda seed: (len(seed), seed)):
            for name, content in files[seed].items():
                about = tarfile.TarInfo(f"{seed}/{name}")
                about.size = len(content)
                tar.addfile(about, BytesIO(content))
    return packed.getvalue()


def _files(run: Path) -> Iterator[tuple[str, bytes]]:
    manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    if manifest["git"]["dirty"]:
        raise ValueError(f"{run}: must be a run of committed code; its tree was changed")
    manifest["overrides"] = [word for word in manifest["overrides"] if not word.startswith(PLACES)]
    yield MANIFEST, json.dumps(manifest, indent=2).encode()
    for path in [run / METRICS, *sorted((run / "tables").glob("*.csv"))]:
        yield path.relative_to(run).as_posix(), path.read_bytes()


def main(arguments: Sequence[str]) -> int:
    """Exit code: 2 with one line on stderr where there is nothing to pack, or it may not be published."""
    plain_console()
    words = [word for word in arguments if word != "--unpack"]
    if len(words) != 1 or words[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        made = (unpack if "--unpack" in arguments else pack)(Path(words[0]))
    except (ValueError, OSError, tarfile.TarError) as error:
        print(error, file=sys.stderr)
        return 2
    for path in made:
        print(f"→ {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
