"""The command line: exit codes, one line for a mistake, a traceback for a bug, sweeps that outlive a failing job.

Most cases run ``main`` in this process; only what a process boundary could change is run as one.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from experiments import run
from experiments.core import job
from experiments.figures.__main__ import main as draw_again
from tests.helpers.command import TINY
from tests.helpers.places import ROOT


@pytest.fixture
def main(command):
    """``python -m experiments.run`` in ``tmp_path``."""
    return command


def process(*arguments, cwd, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "experiments.run", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_run_leaves_what_the_contract_says(main, tmp_path):
    code, out, err = main(*TINY, "seed=3")
    assert (code, err) == (0, "")
    (directory,) = (tmp_path / "outputs" / "tiny").iterdir()
    assert "moments/mean" in out and str(directory) in out
    expected = ["metrics.json", "manifest.json", ".hydra/config.yaml", "arrays/x.npz", "tables/x.csv", "tables/x.md"]
    expected += ["figures/x.png", "figures/x.pdf", "checkpoints/network/weights.npy"]
    assert [name for name in expected if not (directory / name).is_file()] == []
    metrics = json.loads((directory / "metrics.json").read_text())
    assert list(metrics) == ["moments/mean", "moments/nothing", "moments/spread"]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["seed"] == 3 and {"draw", "figures"} <= set(manifest["wall_times_s"])
    assert manifest["missing_metrics"] == {"moments/nothing": "no such class"}

    before = (directory / "figures" / "x.png").read_bytes()
    (directory / "figures" / "x.png").unlink()
    assert draw_again([str(directory)]) == 0
    assert (directory / "figures" / "x.png").read_bytes() == before


def test_equal_seeds_give_equal_bytes_cached_or_not(main):
    for name, overrides in {"a": (), "b": (), "c": ("cache_dir=elsewhere",), "d": ("seed=1",)}.items():
        assert main(*TINY, f"hydra.run.dir={name}", "figures=null", *overrides)[0] == 0
    a, b, c, d = (Path(name, "metrics.json").read_bytes() for name in "abcd")
    assert a == b == c != d


def test_the_objective_is_returned(main, monkeypatch):
    returned = []

    def execute(config):
        returned.append(job.execute(config))
        return returned[0]

    monkeypatch.setattr(run, "execute", execute)
    assert main(*TINY, "hydra.run.dir=run", "figures=null", "objective=moments/spread")[0] == 0
    assert returned == [json.loads(Path("run/metrics.json").read_text())["moments/spread"]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "+exp=NAME must name one experiment: audit, audit_demo, audit_demo_fashion, "),
        (("hydra.run.dir=somewhere",), "+exp=NAME must name one experiment: audit, audit_demo, audit_demo_fashion, "),
        (("-m", "seed=1,2"), "+exp=NAME must name one experiment: audit, audit_demo, audit_demo_fashion, "),
        (("+exp=none",), "exp=none: must be one of audit, audit_demo, audit_demo_fashion, "),
        ((*TINY, "flux.p=0.5"), "flux.p=0.5: must be >= 1"),
        ((*TINY, "typo=1"), "typo=1: unknown key; known here: cache_dir, data, diffusion,"),
        ((*TINY, "flux.typo=1"), "flux.typo=1: unknown key; known here: directions, n_samples, p, radius"),
        ((*TINY, "+typo=1"), "typo=1: unknown key; known here: cache_dir, data, diffusion,"),
        (
            (*TINY, "diffusion=none"),
            "diffusion=none: must be one of ddpm_linear_100, edm, rectified_flow, ve, vp_cosine",
        ),
        ((*TINY, "none/group=a"), "none/group=a: "),
        ((*TINY, "flux.p"), "flux.p: must be key=value in Hydra's grammar"),
        (
            (*TINY, "name=it's!"),
            """name=it's!: the value must be quoted, for Hydra and again for the shell: 'name="it'""",
        ),
        ((*TINY, "name=a, b"), "name=a, b: must be one value, 'name=\"a, b\"'; several are a sweep, -m, or a list"),
        ((*TINY, "flux=3"), f"{' '.join(TINY)} flux=3: Config group override must be"),
        ((*TINY, "seed=${none}"), "seed: Interpolation key 'none' not found"),
        ((*TINY, "seed=???"), "seed: Missing mandatory value"),
        ((*TINY, "scale=none"), "scale=none: must be one of smoke, cpu, full"),
        ((*TINY, "sample.fail=value"), "sample.fail='value': must be none"),
        ((*TINY, "cache_dir=/dev/null/cache"), "cache_dir=/dev/null/cache: Not a directory; must be"),
        ((*TINY, "hydra.run.dir=file/run"), "hydra.run.dir=file/run: Not a directory; must be a path that can"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(main, tmp_path, arguments, line):
    (tmp_path / "file").write_text("")
    code, _, err = main(*arguments)
    assert code == 2
    assert err.startswith(line) and err.count("\n") == 1


def test_a_failing_run_takes_earlier_verdicts_with_it(main):
    assert main(*TINY, "hydra.run.dir=run", "figures=null")[0] == 0
    assert main(*TINY, "hydra.run.dir=run", "figures=null", "sample.fail=value")[0] == 2
    assert not Path("run/metrics.json").exists()
    assert Path("run/error.txt").read_text().startswith("sample.fail='value': must be none")
    assert main(*TINY, "hydra.run.dir=run", "figures=null")[0] == 0
    assert Path("run/metrics.json").exists() and not Path("run/error.txt").exists()


def test_a_bug_keeps_its_traceback(main):
    code, _, err = main(*TINY, "hydra.run.dir=run", "sample.fail=bug")
    assert code == 1
    assert err.startswith("Traceback") and err.endswith("AttributeError: a bug\n")
    assert Path("run/error.txt").read_text() == err


def test_a_tracker_that_cannot_be_made_is_a_warning(main):
    code, out, _ = main(*TINY, "hydra.run.dir=run", "figures=null", "tracking._target_=experiments.none.Tracker")
    assert code == 0
    assert out.count("tracking is off") == 1
    assert Path("run/metrics.json").exists()


def test_a_sweep_trains_once_per_seed_and_is_collected(main):
    code, out, _ = main("-m", *TINY, "hydra.sweep.dir=sweep", "seed=0,1", "flux.p=1,2")
    assert code == 0 and "4 of 4 runs" in out
    assert sorted(path.name for path in Path("sweep/sweep").iterdir()) == [
        "results." + k for k in ("csv", "md", "pdf", "png")
    ]
    assert len(list(Path("outputs/.cache/network").glob("*/entry.json"))) == 2
    p_of = [json.loads(Path(f"sweep/{i}/metrics.json").read_text())["moments/mean"]["value"] for i in range(4)]
    assert p_of[1] - p_of[0] == pytest.approx(1) and p_of[3] - p_of[2] == pytest.approx(1)


def test_a_sweep_goes_on_after_a_failing_job(main):
    code, out, err = main("-m", *TINY, "hydra.sweep.dir=sweep", "figures=null", "sample.fail=value,bug,none")
    assert code == 2
    assert "1 of 3 runs" in out and "failed: 0 (" in out and "failed: 1 (" in out
    assert "AttributeError: a bug" in err and err.splitlines()[-1] == "sample.fail='value': must be none"
    assert Path("sweep/2/metrics.json").exists()
    assert Path("sweep/sweep/results.csv").read_text().count("failed: ") == 2


def test_a_process_ends_with_the_same_code_and_line(tmp_path):
    mistake = process(*TINY, "seed=x", cwd=tmp_path)
    assert (mistake.returncode, mistake.stderr) == (2, "seed=x: must be an integer (seed of all randomness)\n")


@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_mistake():
    # The reading end is closed before the first byte: with `| head -1` all may fit into the pipe before head is gone.
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as pipe:
        command = [sys.executable, "-m", "experiments.run", "--help"]
        done = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_without_hydra_one_line_says_what_to_install():
    command = [sys.executable, "-c", "import sys; sys.modules['hydra'] = None; import experiments.run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr == "experiments need hydra: pip install '.[experiments]' in the repository, or make setup\n"


@pytest.mark.slow
def test_joblib_goes_on_after_a_failing_job(tmp_path):
    sweep = ("hydra.sweep.dir=sweep", "figures=null", "sample.fail=bug,none", "seed=1,2")
    jobs = process("-m", *TINY, *sweep, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path)
    assert jobs.returncode == 1
    assert "2 of 4 runs" in jobs.stdout
    assert jobs.stderr.count("AttributeError: a bug") == 2
    assert [(tmp_path / "sweep" / str(i) / "metrics.json").exists() for i in range(4)] == [False, False, True, True]
    assert (tmp_path / "sweep" / "sweep" / "results.png").is_file()


@pytest.mark.parametrize("platform", ["cuda", "none"])
def test_a_platform_that_is_not_here_is_one_line(tmp_path, platform):
    if platform == "cuda" and importlib.util.find_spec("jax_cuda13_plugin"):
        pytest.skip("there may be a GPU")
    run = process(*TINY, "hydra.run.dir=run", cwd=tmp_path, JAX_PLATFORMS=platform)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith(f"JAX_PLATFORMS={platform}: cannot be used here (") and run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "console",
    [
        {"PYTHONIOENCODING": "cp1252"},
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    ],
)
def test_consoles_that_know_no_unicode(tmp_path, console):
    sweep = process("-m", *TINY, "figures=null", "hydra.sweep.dir=sweep", "seed=1,-1", cwd=tmp_path, **console)
    assert sweep.returncode == 2 and "1 of 2 runs -> " in sweep.stdout
    assert sweep.stderr.splitlines()[-1].startswith("seed=-1: must be >= 0") and "Error\n" not in sweep.stderr
    assert "  →  " in (tmp_path / "sweep" / "0" / "run.log").read_text(encoding="utf-8")


def test_the_home_directory_has_its_short_name_in_every_path(main, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    code, _, err = main(*TINY, "hydra.run.dir=~/run", "cache_dir=~/cache", "figures=null")
    assert (code, err) == (0, "")
    assert (tmp_path / "home" / "run" / "metrics.json").is_file() and (tmp_path / "home" / "cache").is_dir()
    assert not (tmp_path / "~").exists()


def test_two_runs_in_one_directory_are_refused(main):
    Path("run").mkdir()
    with FileLock("run/.lock"):
        code, _, err = main(*TINY, "hydra.run.dir=run")
    assert code == 2
    assert err.rstrip().endswith("run: another run is writing there") and err.startswith("hydra.run.dir=")
    assert not Path("run/metrics.json").exists()
