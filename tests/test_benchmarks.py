"""Benchmarks without a clock: they import without torch, their page says what was measured, the twin is a twin."""

import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec

import jax
import numpy as np
import pytest

from benchmarks import machine, run, settings, topic
from benchmarks.networks import random_diffusion
from benchmarks.table import Row, markdown, number
from benchmarks.timing import ROOT, fastest, ratios, run_process, take_turns
from experiments.gmm_memorization.critical_points import critical_points
from plap_jax.data.mixtures import triangle

WITH_TORCH = {"against_pytorch"}
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason='torch is not installed (pip install ".[bench]")')


def modules():
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    return sorted(names - WITH_TORCH)


def test_everything_but_the_baselines_imports_without_torch():
    code = f"import sys, {', '.join(f'benchmarks.{name}' for name in modules())}\nassert 'torch' not in sys.modules"
    run_process([sys.executable, "-c", code])


def test_every_topic_is_a_module():
    assert all((ROOT / "benchmarks" / f"{name}.py").exists() for name in run.TOPICS)
    assert set(run.NEEDS_TORCH) | set(run.ON_REQUEST) <= set(run.TOPICS)


def test_the_page_holds_medians_goals_and_notes():
    slow = Row("slow part", [3.0, 2.0, 9.0], "s", at_most=2.5, note="scaled up")
    fast = Row("speed-up", [12.0], "×", at_least=10)
    plain = Row("rate", [1_234_567.0, 1_230_000.0], "/s")
    page = markdown([("First", [slow, fast]), ("Second", [plain])], "a machine")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert ["slow part", "3 s", "2 – 9", "3", "≤ 2.5 s", "**no**"] in cells
    assert ["speed-up", "12 ×", "12 – 12", "1", "≥ 10 ×", "yes"] in cells
    assert ["rate", "1,230,000 /s", "1,230,000 – 1,230,000", "2", "", ""] in cells
    assert "a machine" in page and "- slow part: scaled up" in page
    assert page.index("## First") < page.index("## Second")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123456, "0.0123"), (1.04, "1.04"), (63.94, "63.9"), (999.6, "1000"), (8123456, "8,120,000")]
)
def test_three_digits(value, text):
    assert number(value) == text


def test_a_row_without_runs_is_refused():
    with pytest.raises(ValueError, match=r"values=\[\]"):
        Row("nothing", [], "s")


def test_rows_travel_between_processes(tmp_path, monkeypatch):
    rows = [Row("time", [1.0, 2.0], "s", at_most=3, note="why"), Row("rate", [5.0], "/s")]
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["topic", "--runs", "2", "--out", str(out)])
    topic.publish(lambda runs: rows[:runs])
    assert [asdict(row) for row in topic.read(out)] == [asdict(row) for row in rows]


def test_contestants_take_turns():
    order = []
    seconds = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert fastest({"only": lambda: None}) == "only"


def test_a_failed_process_is_told():
    with pytest.raises(RuntimeError, match="exit code 3"):
        run_process([sys.executable, "-c", "raise SystemExit(3)"])
    finished = run_process([sys.executable, "-c", "print('well')"])
    assert finished.output == "well\n" and finished.seconds > 0 and finished.peak_mib > 1


def test_the_machine_is_described():
    assert machine.cpu_name("processor : 0\nmodel name\t: Some CPU @ 3 GHz\n") == "Some CPU @ 3 GHz"
    assert "cores" in machine.describe() and "not installed" in machine.describe(["no-such-package"])


def test_part_1_is_the_experiments():
    part = settings.part_1()
    points, _ = critical_points(triangle(part.side, part.variance))
    assert len(points) == part.n_points
    assert part.n_balls == part.n_points * part.n_repeats


@needs_torch
def test_the_twin_agrees():
    # a process of its own: torch warns when it is imported, and brings another pool of threads
    code = "\n".join(
        [
            "from benchmarks.networks import random_diffusion",
            "from benchmarks.pytorch.twin import require_agreement, twin",
            "for dim in (2, 64):",
            "    diffusion = random_diffusion(dim, width=32, depth=2)",
            "    for t in (0, 10, 99):",
            "        require_agreement(diffusion, twin(diffusion), t)",
        ]
    )
    run_process([sys.executable, "-c", code])


@needs_torch
def test_the_baselines_estimate_the_same_flux():
    code = "\n".join(
        [
            "import torch",
            "from benchmarks.pytorch.fluxes import DRAWS, STYLES",
            "centre, normal = torch.tensor([0.3, -0.2, 0.1]), lambda x: -x",
            "for estimator, draw in DRAWS.items():",
            "    drawn = draw(1, 64, 3)[0]",
            "    by = [styles[estimator](normal, centre, drawn, 0.7, 1.5) for styles in STYLES.values()]",
            "    at_mode = STYLES['ball'][estimator](normal, 0 * centre, draw(1, 4096, 3)[0], 0.7, 1.5)",
            "    assert abs(by[0] - by[1]) < 1e-4, (estimator, by)",
            "    assert abs(at_mode - 0.7**0.5) < 0.05, (estimator, at_mode)",
        ]
    )
    run_process([sys.executable, "-c", code])


def test_timed_networks_do_not_vanish():
    score_fn = random_diffusion(4, width=16, depth=1).score_at(30)
    scores = np.asarray(jax.vmap(score_fn)(np.eye(4, dtype=np.float32)))
    assert np.abs(scores).min(axis=1).max() > 1e-3


def test_the_command_line_explains_itself():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--write" in result.stdout and "--setup" in result.stdout
