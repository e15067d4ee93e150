"""The check of an accelerator, on a CPU: what it compares and counts, that faults are rows, how little it imports."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu_check import __main__ as check
from benchmarks.gpu_check import correctness, part, speed
from benchmarks.gpu_check.names import PARTS
from benchmarks.gpu_check.page import NAMED_PEAKS, page
from benchmarks.gpu_check.rows import Compared, HeldMemory, Machine, Missing, Timed, from_line, sound, to_line
from benchmarks.gpu_check.sizes import SMOKE
from benchmarks.timing import run_process
from experiments.core.revision import require_clean
from experiments.shared.random_networks import evaluate, random_diffusion

NOT_NEEDED = {"hydra", "omegaconf", "pydantic", "wandb", "matplotlib", "orbax", "sklearn", "tqdm", "tabulate", "torch"}
ROWS = [
    Machine("NVIDIA H100 80GB HBM3", "gpu", 1, "jax 0.0", "not installed"),
    Compared("flux", 1e-5, 1e-3),
    Timed("MLP", "evaluations", [1e5, 2e5, 3e5], "bfloat16", 1e9, 4e14, 2.0, 100.0, [1e5, 1e5, 1e5]),
    Timed("operator", "products", [5.0], "float32", None, 4e14, 2.0, 100.0, torch_note="left | out"),
    HeldMemory("MLP", 1000.0, 80000.0),
    Missing("U-Net", "no time was left", failed=False),
]


def test_it_imports_only_what_a_plain_environment_has():
    code = (
        "import sys, benchmarks.gpu_check.__main__, benchmarks.gpu_check.part\n"
        f"print(*({NOT_NEEDED!r} & set(sys.modules)))"
    )
    assert run_process([sys.executable, "-c", code]).output.strip() == ""


def test_its_parent_process_does_without_jax():
    code = "import sys, benchmarks.gpu_check.__main__\nprint('jax' in sys.modules)"
    assert run_process([sys.executable, "-c", code]).output.strip() == "False"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_rows_travel_between_processes(row):
    line = to_line(row)
    assert from_line(line) == row and line.count("\n") == 1


def test_only_faults_are_faults():
    assert sound(ROWS)
    assert not sound([*ROWS, Missing("MLP", "RuntimeError", failed=True)])
    assert not sound([*ROWS, Compared("flux", 2e-3, 1e-3)])
    assert not sound([*ROWS, Compared("flux", float("nan"), 1e-3)])


def test_the_page_holds_shares_of_the_peaks_and_ratios():
    text = page(ROWS, "Code: commit 0.", 12.3, smoke=False)
    lines = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    cells = {line[0].removeprefix("| "): line[1:] for line in lines}
    of_sheet = f"{100 * 2e14 / (NAMED_PEAKS['NVIDIA H100 80GB HBM3']['bfloat16'] * 1e12):.1f} %"
    timed = ["200,000 (100,000–300,000)", "200", "50 %", of_sheet, "100,000 (100,000–100,000)", "2 ×", "2", "100 |"]
    assert cells["MLP, evaluations"] == timed
    assert cells["operator, products"][1:6] == ["–", "–", "–", "left \\| out", "–"]
    assert cells["flux"] == ["1e-05", "0.001", "yes |"] and cells["U-Net"] == ["no time was left", "no |"]
    assert "NVIDIA H100" in text and "Code: commit 0." in text and "trial" not in text
    assert "A trial" in page(ROWS, "", 1.0, smoke=True)


def test_a_measurement_that_fails_is_a_row():
    def broken(error):
        raise error

    fault = part.found("flux", partial(broken, RuntimeError("out of memory\nand more")))
    assert fault == Missing("flux", "RuntimeError: out of memory", failed=True)
    lacking = part.found("flux", partial(broken, ModuleNotFoundError("no", name="tqdm")))
    assert lacking == Missing("flux", "needs tqdm, which is not installed", failed=False)
    assert part.found("flux", lambda: ROWS[1]) == ROWS[1]


def test_a_part_that_crashes_or_hangs_costs_its_own_rows_alone():
    assert check.measure("no such part", 60, smoke=True) == [
        Missing("no such part", "ended with exit code 2", failed=True)
    ]
    (late,) = check.measure("mlp", 0.1, smoke=True)
    assert late == Missing("mlp, the rest", "no time was left", failed=False)


def test_a_machine_without_a_card_is_told(monkeypatch, tmp_path):
    """The part in this process; that its rows come out of one of its own is told by the parts that crash or hang."""
    if jax.default_backend() == "cpu":
        monkeypatch.setattr(sys, "argv", ["part", "mlp", str(tmp_path / "rows"), "120"])
        part.main()
        machine, told = map(from_line, (tmp_path / "rows").read_text().splitlines())
        assert machine.platform == "cpu" and told.failed and "no accelerator" in told.reason


def test_parts_without_time_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "SECONDS", check.LEAST - 1)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "page.md")])
    assert check.main() == 0
    assert (tmp_path / "page.md").read_text().count("no time was left") == len(PARTS) == len(part.MEASURES)


def test_a_page_of_the_docs_comes_from_a_commit(monkeypatch, tmp_path, changed_tree, capsys):
    monkeypatch.setattr(check, "require_clean", partial(require_clean, changed_tree))
    monkeypatch.setattr(check, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "page.md")])
    assert check.main() == 2
    assert "code.py" in capsys.readouterr().err and not (tmp_path / "page.md").exists()


def test_cpu_agrees_with_itself_and_a_card_that_is_wrong_is_found(monkeypatch):
    name, compare = next(iter(correctness.checks(SMOKE).items()))
    assert name.startswith("flux, MLP") and compare() == Compared(name, 0.0, correctness.ALLOWED["default"])
    right = correctness.on_both
    wrong = lambda *args: (right(*args)[0] * 1.1, right(*args)[1])  # noqa: E731
    monkeypatch.setattr(correctness, "on_both", wrong)
    assert compare().difference == pytest.approx(0.1, rel=1e-4) and not compare().met


def test_differences_are_relative_to_the_reference():
    assert correctness.difference(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(np.sqrt(1 / 5))
    assert np.isnan(correctness.difference(np.array([np.nan]), np.array([1.0])))


def test_operations_are_those_of_the_matrix_products():
    assert speed.operations(speed.product, jnp.ones((16, 16))) == 2 * 16**3
    score_fn = random_diffusion(64, width=32, depth=2).score_at(speed.TIME)
    counted = speed.operations(evaluate, score_fn, np.zeros((8, 64), np.float32)) / 8
    multiplied = 2 * (2 * 64 * 32 + 4 * 32**2)
    assert multiplied < counted < 1.5 * multiplied


@pytest.fixture(scope="module")
def mlp_rows():
    """What the MLP's part finds in sizes whose times mean nothing."""
    return [part.found(what, measure) for what, measure in speed.mlp(SMOKE).items()]


@pytest.mark.slow
def test_the_mlp_is_timed(mlp_rows):
    timed = {row.what: row for row in mlp_rows if isinstance(row, Timed)}
    assert list(timed) == [f"MLP, float32: {name}" for name in ("flux", "bare network", "training")] + [
        "MLP, float32: flux from and to the host"
    ]
    for row in timed.values():
        assert len(row.rates) == SMOKE.runs and min(*row.rates, row.flops, row.peak) > 0
    assert timed["MLP, float32: flux"].compile_s > 0
    assert timed["MLP, float32: training"].flops > SMOKE.mlp_batch * timed["MLP, float32: bare network"].flops


@pytest.mark.slow
def test_a_device_that_keeps_no_count_is_told(mlp_rows):
    if jax.devices()[0].memory_stats() is None:
        assert mlp_rows[-1] == Missing("MLP, float32", "this device keeps no count", failed=False)


@pytest.mark.slow
def test_the_whole_check_on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "SECONDS", 3600)  # however busy the machine
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--smoke", "--out", str(tmp_path / "page.md")])
    assert check.main() == 0
    text = (tmp_path / "page.md").read_text()
    for what in ("flux in bfloat16", "U-Net, bfloat16: training", "U-Net, float32: exact p-Laplacian"):
        assert what in text
    assert "**yes**" not in text and "**no**" not in text
