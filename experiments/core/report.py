"""What a run leaves behind: metrics.json, manifest.json, arrays/, tables/, figures/, checkpoints/."""

import csv
import logging
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cache, partial
from importlib.metadata import version
from io import StringIO
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tabulate import tabulate

from experiments.core.checksums import sha256_json
from experiments.core.files import replacing, write_json, write_text
from experiments.core.ledger import MANIFEST, METRICS, PAGE, note, require_ours
from experiments.core.revision import revision
from plap_jax.data import fingerprint
from plap_jax.metrics import Interval

log = logging.getLogger(__name__)

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn", "hydra-core")
NOT_SCIENCE = ("tracking", "cache_dir", "figures", "headline", "objective")
Value = dict[str, float | int] | float | int | None


class Report:
    """Writes one run's results into ``directory``; what stands in ``metrics.json`` depends on config and seed alone.

    A run's directory may be that of an earlier, interrupted attempt.
    """

    def __init__(self, directory: Path | str, config: Mapping[str, Any], overrides: Sequence[str] = ()):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = dict(config)
        self._overrides = list(overrides)
        self.metrics: dict[str, Value] = {}
        self.wall_times: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._missing: dict[str, str] = {}
        self._data: dict[str, str] = {}
        self._shapes: dict[str, list[list[int]]] = {}
        self._files: dict[str, dict[str, str]] = {}
        self._started = datetime.now(UTC)
        self._git = _git()

    def metric(self, name: str, value: Interval | float | None, reason: str | None = None) -> None:
        """Records a result: an interval, a number, or None with the reason why there is none.

        Raises:
            ValueError: recorded twice, not finite, None without a reason, or named like a wall time.
        """
        if name in self.metrics:
            raise ValueError(f"metric {name}={value}: must be recorded once")
        if "time/" in name or name.endswith(("_s", "_ms")):
            raise ValueError(f"metric {name}={value}: wall times belong in the manifest (report.stage)")
        if (value is None) != (reason is not None):
            raise ValueError(f"metric {name}={value}: None needs a reason, and only None has one")
        if reason is not None:
            self._missing[name] = reason
        self.metrics[name] = _as_json(name, value)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Wall time of a block, added up under ``name`` in the manifest and told in the terminal."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.wall_times[name] = self.wall_times.get(name, 0.0) + seconds
            log.info("  %-32s %7.2f s", name, seconds)

    def rate(self, name: str, count: int, seconds: float) -> None:
        """``count`` per second of something computed in this run; in the manifest, for it differs from run to run."""
        self._rates[name] = count / max(seconds, 1e-9)

    def arrays(self, name: str, /, **arrays: Any) -> Path:
        """``arrays/<name>.npz`` with everything that a figure needs."""
        path = self.directory / "arrays" / f"{name}.npz"
        with replacing(path) as handle:
            np.savez(handle, **{key: np.asarray(value) for key, value in arrays.items()})
        return path

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], kinds: Sequence[str] = ("csv", "md")) -> None:
        """``tables/<name>.csv`` (full precision), ``.md`` and ``.tex`` (four digits); a mapping per row, equal keys."""
        write_rows(self.directory / "tables" / name, rows, kinds)

    def checkpoint(self, name: str, source: Path) -> Path:
        """A copy of the finished checkpoint ``source`` (a directory, say of the cache) as ``checkpoints/<name>``.

        Raises:
            UserError: somebody else's file is there.
        """
        target = self.directory / "checkpoints" / name
        require_ours(target)
        files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
        for file in files:
            note(target / file)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        for file in files:
            note(target / file, written=temporary / file)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        return target

    @contextmanager
    def page(self) -> Iterator[Path]:
        """Where the run's page is to be written; it takes its own name when it is whole."""
        with replacing(self.directory / PAGE) as handle:
            yield Path(handle.name)

    def fingerprint(self, name: str, *arrays: Any) -> str:
        """SHA-256 over types, shapes and values of a data set, noted in the manifest as ``data/<name>``."""
        self._data[name] = fingerprint(*arrays)
        self._shapes[name] = [list(np.shape(array)) for array in arrays]
        return self._data[name]

    def files(self, name: str, sources: Mapping[str, str]) -> None:
        """File → SHA-256 of what something of this name was read from, noted in the manifest."""
        if sources:
            self._files[name] = dict(sources)

    def write_metrics(self) -> None:
        """``metrics.json``, flat and sorted."""
        write_json(self.directory / METRICS, self.metrics)

    def write_manifest(self) -> None:
        """``manifest.json``: where the numbers come from and how long they took."""
        devices = jax.devices()
        science = {key: value for key, value in self.config.items() if key not in NOT_SCIENCE}
        manifest = {
            "config_sha256": sha256_json(science),
            "seed": self.config.get("seed"),
            "git": self._git,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
            "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
            "cpu": {"machine": platform.machine(), "count": os.cpu_count()},
            "x64": jax.config.jax_enable_x64,
            "data_sha256": self._data,
            "data_shapes": self._shapes,
            "files_sha256": self._files,
            "missing_metrics": self._missing,
            "wall_times_s": {name: round(seconds, 4) for name, seconds in self.wall_times.items()},
            "rates_per_s": {name: round(rate, 2) for name, rate in self._rates.items()},
            "started": self._started.isoformat(),
            "overrides": self._overrides,
        }
        write_json(self.directory / MANIFEST, manifest)

    def objective(self, name: str) -> float:
        """The number that a sweeper sees; NaN, with a warning, where this run has no such metric or it has no value.

        A part that was switched off, or a misspelt name, must not cost the results that are there.
        """
        value = self.metrics.get(name)
        value = value["value"] if isinstance(value, dict) else value
        if value is None:
            log.warning("objective=%s: no value in this run; a sweeper sees NaN", name)
            return math.nan
        return float(value)

    def summary(self, patterns: Sequence[str]) -> str:
        """The metrics that match one of the patterns, a line each."""
        chosen = [name for name in sorted(self.metrics) if any(fnmatch(name, p) for p in patterns)]
        return "\n".join(f"  {name:<48} {shown(self.metrics[name])}" for name in chosen)


def shown(value: Value) -> str:
    """A metric for human eyes: ``0.953 [0.941, 0.967]``."""
    if isinstance(value, dict):
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return "none" if value is None else f"{value:.4g}"


def flatten(metrics: Mapping[str, Value]) -> dict[str, float | int | None]:
    """Intervals as four numbers: ``a``, ``a/low``, ``a/high``, ``a/n``."""
    flat: dict[str, float | int | None] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            flat |= {name: value["value"]} | {f"{name}/{key}": value[key] for key in ("low", "high", "n")}
        else:
            flat[name] = value
    return flat


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], kinds: Sequence[str] = ("csv", "md")) -> None:
    """``path``.csv and ``path``.md; columns are the keys of all rows in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    body = [["" if row.get(column) is None else row[column] for column in columns] for row in rows]
    for kind in kinds:
        write_text(path.with_name(f"{path.name}.{kind}"), FORMATS[kind](columns, body))


def _csv(columns: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *body])
    return text.getvalue()


def _tabulated(style: str, columns: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    cells = [
        [f"{x:.4g}" if isinstance(x, Real) and not isinstance(x, Integral) else str(x) for x in row] for row in body
    ]
    return tabulate(cells, headers=columns, tablefmt=style, disable_numparse=True) + "\n"


FORMATS = {"csv": _csv, "md": partial(_tabulated, "github"), "tex": partial(_tabulated, "latex_booktabs")}


def _as_json(name: str, value: Interval | float | None) -> Value:
    if value is None:
        return None
    numbers = value.as_dict() if isinstance(value, Interval) else {"value": value}
    plain = {key: _number(f"metric {name}", number) for key, number in numbers.items()}
    return plain if isinstance(value, Interval) else plain["value"]


def _number(name: str, value: Any) -> float | int:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: must be a finite number")
    return value


@cache
def _git() -> dict[str, Any]:
    """Read once, when a process begins its first run: it goes on with the code that it has loaded."""
    found = revision()
    return {"commit": found.commit, "dirty": found.dirty}
