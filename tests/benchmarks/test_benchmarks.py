"""Benchmarks without a clock: they import without torch, their page says what was measured, the twin is a twin."""

import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmarks import (
    compilations,
    exact_operator,
    machine,
    many_points,
    matrix_products,
    run,
    settings,
    topic,
)
from benchmarks.formatting import number
from benchmarks.table import Row, markdown
from benchmarks.timing import ROOT, fastest, ratios, run_process
from experiments.core.catalogue import CONF
from experiments.core.revision import require_clean, revision
from experiments.estimator_study import operator_cost
from experiments.gmm_memorization.critical_points import critical_points
from experiments.shared.random_networks import IMAGES, PATCHES, random_diffusion
from experiments.shared.timing import take_turns
from plap_jax.data.mixtures import triangle

WITH_TORCH = {"against_pytorch", "images_pytorch"}
without_torch = pytest.mark.skipif(find_spec("torch") is None, reason='no PyTorch (pip install ".[bench]")')


def needs_torch(test):
    return pytest.mark.torch(without_torch(test))


def modules():
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    return sorted(names - WITH_TORCH)


@pytest.mark.slow
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


def test_processor_time_does_not_count_waiting():
    seconds = take_turns({"waits": lambda: time.sleep(0.2)}, 1, clock=time.process_time)
    assert seconds["waits"][0] < 0.1


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


# --- topics, in sizes whose times mean nothing

TINY = {"width": 8, "depth": 1}


def by_name(rows):
    return {row.what: row for row in rows}


@pytest.mark.parametrize(("name", "sizes"), [("mlp_images", IMAGES), ("unet", PATCHES)])
def test_networks_that_are_timed_are_those_of_the_experiments(name, sizes):
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    configured = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    assert sizes.items() <= configured.items()


@pytest.mark.parametrize("estimator", compilations.ESTIMATORS)
def test_other_data_compile_nothing(estimator):
    jax.clear_caches()
    first, *others = compilations.compilations(compilations.ESTIMATORS[estimator]).values()
    assert first == 1, "nothing was counted where something must be compiled"
    assert others == [0] * 7


@pytest.mark.slow
def test_cost_of_the_exact_operator(monkeypatch):
    monkeypatch.setattr(operator_cost, "IMAGES", TINY)
    rows = operator_cost.measure_cost((6,), (None, 4, 7), 1)
    assert all(set(row) == {"d", "method", "chunk", "ms", "temp_bytes"} for row in rows)
    assert all(row["d"] == 6 and row["ms"] > 0 and row["temp_bytes"] > 0 for row in rows)
    exact = [row["chunk"] for row in rows if row["method"] == operator_cost.EXACT]
    assert exact == [None, 4], "a chunk of d or more is no chunk"
    batch = {row["chunk"]: row["temp_bytes"] for row in rows if row["method"] == operator_cost.EVALUATIONS}
    assert batch[4] < batch[None]


def test_goals_of_the_exact_operator(monkeypatch):
    def timed(d):
        for method, chunk, size, seconds in (
            (operator_cost.JACFWD, None, 9, [1.0, 2.0]),
            (operator_cost.EVALUATIONS, None, 8, [0.5, 0.5]),
            (operator_cost.EVALUATIONS, 16, 2, [0.1, 0.1]),
            (operator_cost.EXACT, None, 12, [1.0, 3.0]),
            (operator_cost.EXACT, 16, 5, [2.0, 2.0]),
        ):
            yield operator_cost.Program(d, method, chunk, None, size), seconds

    monkeypatch.setattr(exact_operator, "programs", lambda d, chunks: [d])
    monkeypatch.setattr(exact_operator, "timed", lambda contestants, runs: list(timed(contestants[0])))
    rows = by_name(exact_operator.of_dimension(784, 2))
    memory, time = "memory / as many evaluations", "time / jacfwd"
    assert rows[f"d = 784, p_laplacian, all at once: {memory}"].values == [1.5]
    assert rows[f"d = 784, p_laplacian, all at once: {memory}"].met
    assert rows[f"d = 784, p_laplacian, all at once: {time}"].values == [1.0, 1.5]
    assert rows[f"d = 784, p_laplacian, all at once: {time}"].met is False
    assert rows[f"d = 784, p_laplacian, 16 at once: {memory}"].met is False
    assert rows[f"d = 784, p_laplacian, 16 at once: {time}"].met is None
    assert all(row.met is None for row in exact_operator.of_dimension(6, 2))


@pytest.mark.slow
def test_rate_of_matrix_products(monkeypatch):
    for module in (matrix_products, many_points):
        monkeypatch.setattr(module, "EVALUATIONS_AT_ONCE", (32,))
    monkeypatch.setattr(matrix_products, "N_EVALUATIONS", 64)
    monkeypatch.setattr(matrix_products, "SQUARE", 16)
    rows = by_name(matrix_products.of_network("images network", TINY, 1))
    rate, peak = (rows[f"images network: {what}"].median for what in ("evaluations", "matrix product of its shape"))
    share = rows["images network: evaluations / matrix product"]
    assert share.median == pytest.approx(rate / peak) and share.at_least == 0.75


def test_operations_counted_are_those_of_the_matrix_products():
    score_fn, points = random_diffusion(64, **TINY).score_at(30), np.zeros((32, 64), np.float32)
    counted = matrix_products.evaluate.lower(score_fn, points).compile().cost_analysis()["flops"]
    kernels = matrix_products.kernels_of(score_fn)
    assert [kernel.shape for kernel in kernels] == [(64, 8), (8, 8), (8, 8), (8, 64)]
    multiplied = 2 * 32 * sum(kernel.size for kernel in kernels)
    assert multiplied < counted < 1.5 * multiplied


@pytest.mark.slow
def test_flux_against_the_bare_network(monkeypatch):
    monkeypatch.setattr(many_points, "N_POINTS", 8)
    monkeypatch.setattr(many_points, "EVALUATIONS_AT_ONCE", (128,))
    rows = by_name(many_points.of_network("tiny", TINY, 1))
    assert rows["tiny: flux / bare"].at_most == 1.05


@needs_torch
def test_the_twin_agrees():
    # a process of its own: torch warns when it is imported, and brings another pool of threads
    code = "\n".join(
        [
            "from experiments.shared.random_networks import random_diffusion, random_unet",
            "from benchmarks.pytorch.twin import require_agreement, twin",
            "networks = [random_diffusion(dim, width=32, depth=2) for dim in (2, 64)]",
            "networks += [random_unet((8, 4, 3), width=8, patch=2, multipliers=(1, 2), n_blocks=2, attention=(0, -1))]",
            "for diffusion in networks:",
            "    for t in (0, 10, 99):",
            "        require_agreement(diffusion, twin(diffusion), t)",
        ]
    )
    run_process([sys.executable, "-c", code])


@needs_torch
def test_networks_of_images_against_pytorch():
    code = "\n".join(
        [
            "import torch",
            "from benchmarks import images_pytorch as topic",
            "torch.compile, topic.thread_numbers = lambda network: network, lambda: [1]",
            "from experiments.shared.random_networks import random_unet",
            "config = topic.TrainConfig(n_steps=3, batch_size=4)",
            "diffusion = random_unet((4, 4, 1), width=8, multipliers=(1,))",
            "rows = topic.of_case(topic.NetworkCase('tiny', diffusion, config, 4, (4,), 1.2), 1)",
            "assert [row.at_least for row in rows] == [None, None, 1.2] * 2",
            "case = topic.cases()[0]",
            "assert case.diffusion.network.blocks[0].inner.kernel.shape == (256, 256)",
        ]
    )
    run_process([sys.executable, "-c", code])


@needs_torch
def test_the_baselines_estimate_the_same_flux_in_any_batch():
    code = "\n".join(
        [
            "import torch",
            "from benchmarks.pytorch.fluxes import DRAWS, ESTIMATORS",
            "centres, normal = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.0, 0.0]]), lambda x: -x",
            "for name, estimate in ESTIMATORS.items():",
            "    drawn = DRAWS[name](2, 4096, 3)",
            "    together = estimate(normal, centres, drawn, 0.7, 1.5)",
            "    apart = [estimate(normal, centres[i, None], drawn[i, None], 0.7, 1.5) for i in range(2)]",
            "    assert torch.allclose(together, torch.cat(apart), rtol=1e-5), (name, together, apart)",
            "    shared = estimate(normal, centres, drawn[:1], 0.7, 1.5)",
            "    assert torch.allclose(shared[0], together[0]) and shared.shape == (2,), (name, shared)",
            "    assert abs(together[1] - 0.7**0.5) < 0.05, (name, together)",
        ]
    )
    run_process([sys.executable, "-c", code])


@needs_torch
def test_pytorch_gets_batches():
    code = "\n".join(
        [
            "import numpy as np, torch",
            "from benchmarks.against_pytorch import Balls",
            "calls = []",
            "def score(x):",
            "    calls.append(len(x))",
            "    return -x",
            "for estimator in ('boundary', 'volume'):",
            "    balls = Balls(estimator, 8, 0.5, 1.0, np.ones((10, 2), np.float32))",
            "    assert balls.in_pytorch(score, 1, batch=4)().shape == (10,)",
            "assert calls == 2 * [32, 32, 16], calls",
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


@pytest.mark.parametrize("options", [["--write", "page.md"], ["--write", "page.md", "--allow-dirty"]])
def test_a_page_comes_from_a_commit(changed_tree, tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "require_clean", partial(require_clean, changed_tree))
    monkeypatch.setattr(run, "revision", partial(revision, changed_tree))
    monkeypatch.setattr(run, "OUTPUT", tmp_path / "outputs" / "page.md")
    monkeypatch.setattr(run, "measure", lambda topic, runs: [Row("time", [1.0], "s")])
    monkeypatch.setattr(sys, "argv", ["run", "--only", "experiment", *options])
    trial = "--allow-dirty" in options
    assert run.main() == (0 if trial else 2)
    if trial:
        assert "with changes in code.py" in (tmp_path / "page.md").read_text()
    else:
        assert not (tmp_path / "page.md").exists() and not run.OUTPUT.exists()
        assert capsys.readouterr().err.count("\n") == 1


def test_a_page_tells_its_commit(committed_tree):
    code = require_clean(committed_tree)
    assert machine.code_line(code) == f"Code: commit {code.commit[:12]}."
