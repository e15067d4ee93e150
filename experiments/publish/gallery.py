"""All figures of the suite, with pages of them: ``python -m experiments.publish.gallery [NAME …] [key=value …]``.

Every experiment of ``exhibits``, or those that are named, runs once at its default scale into ``outputs/figures/NAME``,
unless a run with the same config and the same code lies there; figures are drawn from its arrays in either case, and
gathered in ``figures/NAME`` with a page of their own. Settings are handed to every run.
"""

import importlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tabulate import tabulate

import plap_jax
from experiments.core.cache import code_tag, environment
from experiments.core.catalogue import CONF
from experiments.core.checksums import sha256_json
from experiments.core.errors import UserError
from experiments.core.files import as_json, write_json, write_text
from experiments.core.ledger import MANIFEST, METRICS, VALID, claim
from experiments.core.report import NOT_SCIENCE, shown
from experiments.core.revision import require_clean
from experiments.publish.exhibits import ENTRIES, Entry
from plap_jax.console import plain_console, require_device
from plap_jax.typing import require

ROOT = Path(__file__).resolve().parents[2]
RUNS, FIGURES = ROOT / "outputs" / "figures", ROOT / "figures"
# Sizes and levels were chosen with seed 0.
SEED = "seed=1"


def main(arguments: Sequence[str]) -> int:
    """Exit code: of the first run that failed; 2, with one line, for a mistake or code changed since its commit; 0."""
    plain_console()
    names = [word for word in arguments if "=" not in word]
    settings = [word for word in arguments if "=" in word]
    known = [entry.folder for entry in ENTRIES]
    try:
        for name in names:
            require(name in known, "experiment", name, f"must be among {', '.join(known)}, or key=value")
        require_clean()
        require_device()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    wanted = [entry for entry in ENTRIES if entry.folder in names or not names]
    commands = {entry: [f"+exp={entry.name}", *entry.settings, SEED, *settings] for entry in wanted}
    for entry, words in commands.items():  # all of them first: the pictures change the tree
        code = ensure(RUNS / entry.folder, words)
        if code:
            print(f"figures: {shlex.join(words)} failed", file=sys.stderr)
            return code
    for entry, words in commands.items():
        directory = RUNS / entry.folder
        config = OmegaConf.load(directory / ".hydra" / "config.yaml")
        module = importlib.import_module(config.figures)
        try:
            claim(directory, entry.name, ("figures",))
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        module.draw(directory)
        photograph(directory)
        page = section(entry, words, directory, module.CAPTIONS | OF_PAGE, list(config.headline))
        write_text(FIGURES / entry.folder / PAGE, page)
    write_text(FIGURES / PAGE, "\n".join((HEAD, *contents())))
    return 0


PAGE, REPORT = "README.md", "report.html"
OF_PAGE = {"report": "The top of the page that the run leaves."}
HEAD = """# Figures

Made by `make figures`, which runs each experiment once (seed 1; seed 0 chose sizes and noise levels) and draws from its
arrays; `make figures ARGS="gmm_memorization estimator_study"` makes these alone. Each page names its commit. After
`make figures` each picture is there as a PDF too. Numbers over several seeds are in
[docs/results.md](../docs/results.md). Intervals are 95 %.
"""


def contents() -> Iterator[str]:
    """Every experiment that has a page, with one picture."""
    for entry in ENTRIES:
        if (FIGURES / entry.folder / PAGE).is_file():
            link = f"{entry.folder}/{PAGE}"
            yield f"## [{entry.title}]({link})\n\n{entry.about}\n"
            yield f"[![{entry.title}]({entry.folder}/{entry.picture}.png)]({link})\n"


def ensure(directory: Path, words: Sequence[str]) -> int:
    """Runs the experiment into ``directory`` unless results of the same, committed code are there; its exit code."""
    key = _key(words)
    stored = directory / VALID  # the next run takes it away with its results
    if stored.is_file() and stored.read_bytes() == as_json(key).encode() and _committed(directory):
        print(f"{directory.relative_to(ROOT)}: valid", file=sys.stderr)
        return 0
    run = [sys.executable, "-m", "experiments.run", *words, "tracking=disabled", f"hydra.run.dir={directory}"]
    code = subprocess.run(run, cwd=ROOT, check=False).returncode
    if code == 0 and not _committed(directory):
        print(f"{directory}: must be a run of committed code; the tree was changed meanwhile", file=sys.stderr)
        return 2
    if code == 0:
        write_json(stored, key)
    return code


def photograph(directory: Path) -> None:
    """The top of the page that a run left, beside its figures, where there is a browser to show it."""
    if not (directory / REPORT).is_file():
        return
    try:
        browser = importlib.import_module("experiments.publish.browser")
    except ModuleNotFoundError as missing:
        print(f"{directory}: no picture of {REPORT}, for {missing.name} (extra dev) is missing", file=sys.stderr)
        return
    if browser.chromium() is None:
        print(f"{directory}: no picture of {REPORT}, for there is no Chromium", file=sys.stderr)
    else:
        browser.screenshot(directory / REPORT, directory / "figures" / "report.png")


def _committed(directory: Path) -> bool:
    """Whether a finished run lies there whose code was as committed."""
    manifest = directory / MANIFEST
    return manifest.is_file() and not json.loads(manifest.read_text())["git"]["dirty"]


def _key(words: Sequence[str]) -> dict[str, str]:
    """What a run's arrays depend on: the composed config without what is no science, the code, and what runs it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    science = {name: value for name, value in config.items() if name not in (*NOT_SCIENCE, "hydra")}
    code = code_tag(plap_jax, *imported(importlib.import_module(config["experiment"])))
    return {"config": sha256_json(science), "code": code, "environment": sha256_json(environment())}


def imported(module: ModuleType) -> list[ModuleType]:
    """The modules of ours that ``module`` is made of or takes names from, however indirectly; itself first."""
    found, left = {}, [module.__name__]
    while left:
        name = left.pop()
        if name in found or name.partition(".")[0] not in ("experiments", "benchmarks"):
            continue
        found[name] = sys.modules[name]
        for value in vars(sys.modules[name]).values():
            left.append(value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", "")))
    return [found[name] for name in sorted(found, key=lambda name: (name != module.__name__, name))]


def section(
    entry: Entry, words: Sequence[str], directory: Path, captions: dict[str, str], headline: Sequence[str]
) -> str:
    """Pictures with captions, command, commit and numbers; copies the pictures, and removes none."""
    target = FIGURES / entry.folder
    shutil.copytree(directory / "figures", target, dirs_exist_ok=True)
    drawn = sorted((directory / "figures").glob("*.png"))
    left = sorted({path.name for path in target.glob("*.png")} - {path.name for path in drawn})
    if left:
        print(f"{target}: {', '.join(left)} drawn by no run any more; remove what is not yours", file=sys.stderr)
    git = json.loads((directory / MANIFEST).read_text())["git"]
    command = f"`python -m experiments.run {shlex.join(words)}`, commit {(git['commit'] or 'unknown')[:7]}"
    lines = [f"# {entry.title}", "", entry.about, "", command, ""]
    for picture in drawn:
        caption = next((text for pattern, text in captions.items() if fnmatch(picture.stem, pattern)), picture.stem)
        lines += [f"![{caption}]({picture.name})", "", f"*{caption}*", ""]
    for table in entry.tables:
        lines += [(directory / "tables" / f"{table}.md").read_text(encoding="utf-8").strip(), ""]
    return "\n".join([*lines, *_numbers(json.loads((directory / METRICS).read_text()), headline)])


def _numbers(metrics: dict[str, Any], headline: Sequence[str]) -> Iterator[str]:
    rows = [(name, shown(metrics[name])) for name in sorted(metrics) if any(fnmatch(name, p) for p in headline)]
    yield "<details><summary>Numbers</summary>\n"
    yield tabulate(rows, headers=("metric", "value"), tablefmt="github", disable_numparse=True)
    yield "\n</details>\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
