"""An experiment over seeds, in as many sittings as it takes.

``python -m experiments.publish.seeds DIRECTORY SEEDS +exp=NAME [key=value …]``, SEEDS such as ``1,2,3``.

Every seed runs into ``DIRECTORY/<seed>``, unless a finished run of the same config and of the same code lies there. An
interrupted seed is taken up where its cache ends. What a run counts by, and all tables, is ``metrics.json``,
``manifest.json`` and ``tables/``: a few MB, enough to take along to another machine.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

import plap_jax
from experiments.core.catalogue import CONF
from experiments.core.checksums import sha256_json
from experiments.core.errors import one_line
from experiments.core.ledger import MANIFEST, METRICS
from experiments.core.report import NOT_SCIENCE
from experiments.core.revision import require_clean, same_code
from experiments.core.schema import check
from experiments.publish.gallery import imported
from plap_jax.console import plain_console, require_device

USAGE = "usage: python -m experiments.publish.seeds DIRECTORY SEEDS +exp=NAME [key=value …], SEEDS such as 1,2,3"


def main(arguments: Sequence[str]) -> int:
    """Exit code: of the first seed that fails; 2, with one line, for a mistake or a changed tree; 0 where all lie."""
    plain_console()
    if len(arguments) < 3 or not all(seed.isdigit() for seed in arguments[1].split(",")):
        print(USAGE, file=sys.stderr)
        return 2
    directory, seeds, words = Path(arguments[0]), arguments[1].split(","), list(arguments[2:])
    try:
        require_clean()
        require_device()
        waiting = {seed: missing(directory / seed, [*words, f"seed={seed}"]) for seed in seeds}
    except Exception as error:
        if (line := one_line(error)) is None:
            raise
        print(line, file=sys.stderr)
        return 2
    for seed, why in waiting.items():
        print(f"{directory / seed}: {why or 'there already'}", flush=True)
        if why and (code := _run(directory / seed, [*words, f"seed={seed}"])):
            print(f"{shlex.join(words)} seed={seed} failed", file=sys.stderr)
            return code
    return 0


def missing(directory: Path, words: Sequence[str]) -> str | None:
    """Why the run of ``words`` has yet to be made in ``directory``; None where its results lie there.

    Raises:
        UserError: the config cannot be run.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config, module = check(compose("config", list(words)))
    if not (directory / METRICS).is_file() or not (directory / MANIFEST).is_file():
        return "to be run"
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    science = {key: value for key, value in config.model_dump(mode="json").items() if key not in NOT_SCIENCE}
    if manifest["config_sha256"] != sha256_json(science):
        return "to be run again, the config is another one"
    code = [Path(str(part.__file__)) for part in imported(module)] + [Path(str(plap_jax.__file__)).parent]
    if manifest["git"]["dirty"] or not same_code(manifest["git"]["commit"], code):
        return "to be run again, the code is another one"
    return None


def _run(directory: Path, words: Sequence[str]) -> int:
    command = [sys.executable, "-m", "experiments.run", *words, "tracking=disabled", f"hydra.run.dir={directory}"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
