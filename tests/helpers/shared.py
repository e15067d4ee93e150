"""What all tests of a session share: one run of each experiment, networks, compiled code."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.helpers.places import ROOT


@dataclass(frozen=True)
class Shared:
    """What all tests of a session share below ``folder``, whichever process runs them.

    One cache of networks, so that experiments on the same data train once; one cache of what XLA has compiled; and
    one run of each experiment.
    """

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def first(self, exp: str, *words: str) -> Path:
        """The directory of the session's run of ``exp`` with these words, made by the first who asks for it."""
        directory = self.folder / "runs" / exp
        ended = self.folder / "runs" / f"{exp}.json"
        directory.parent.mkdir(exist_ok=True)
        with FileLock(ended.with_suffix(".lock")):
            if not ended.exists():
                done = self.run(exp, directory, *words, code=None)
                ended.write_text(json.dumps({"words": words, "code": done.returncode, "stderr": done.stderr}))
        told = json.loads(ended.read_text())
        assert told["words"] == list(words), "one run of each experiment"
        assert told["code"] == 0, told["stderr"][-3000:]
        return directory

    def run(self, exp: str, directory: Path, *words: str, cache: Path | None = None, code: int | None = 0):
        """A run in a process of its own, to its end, which must have this exit code."""
        done = subprocess.run(
            self.command(exp, directory, *words, cache=cache),
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert code is None or done.returncode == code, done.stderr[-3000:]
        return done

    def command(self, exp: str, directory: Path, *words: str, cache: Path | None = None) -> list[str]:
        where = (f"hydra.run.dir={directory}", f"cache_dir={cache or self.cache}")
        return [sys.executable, "-m", "experiments.run", f"+exp={exp}", *words, *where]

    def environment(self, compiled: Path | None = None) -> dict[str, str]:
        """With a place for what XLA has compiled: runs that differ in other things share it."""
        return os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(compiled or self.compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    @property
    def compiled(self) -> Path:
        return self.folder / "compiled"
