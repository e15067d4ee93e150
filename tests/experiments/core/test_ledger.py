"""A run removes and replaces what it, or a run before it, wrote: nothing of anybody else's, whatever its name."""

import hashlib
import logging
import os

import pytest

from experiments import run
from experiments.core import job, ledger
from experiments.core.errors import UserError
from experiments.core.files import replacing, write_text
from experiments.core.ledger import LEDGER, claim, note, open_ledger, refuse_foreign, remove_results, require_ours
from experiments.core.report import Report
from experiments.figures.__main__ import main as draw_again
from experiments.publish.collect import main as collect_again
from tests.helpers.command import TINY

FAST = (*TINY, "figures=null")
EMPTY = hashlib.sha256().hexdigest()
NAMES = [
    "figures/holiday.jpg",
    "tables/x.csv",
    "arrays/deep/down/x.npz",
    "checkpoints/network/weights.npy",
    "metrics.json",
    "manifest.json",
    "report.html",
    "error.txt",
    "valid.json",
    "run.log",
    ".hydra/config.yaml",
    ".lock",
]


def tree(directory):
    """Path → content of a whole tree, links and empty folders too."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def is_refused(call, *arguments):
    code, _, err = call(*arguments)
    return code == 2 and err.count("\n") == 1 and "written by this suite" in err


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_with_foreign_results_stays_as_it_is(command, tmp_path, name):
    write_text(tmp_path / "theirs" / name, "of months")
    before = tree(tmp_path)
    assert is_refused(command, *FAST, "hydra.run.dir=theirs")
    assert is_refused(command, *FAST, "hydra.run.dir=theirs", "flux.p=0.5")
    assert tree(tmp_path) == before


def test_the_current_directory_is_no_exception(command, tmp_path):
    for name in NAMES[:5]:
        write_text(tmp_path / name, "of months")
    before = tree(tmp_path)
    assert is_refused(command, *FAST, "hydra.run.dir=.", "cache_dir=.cache")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["1/figures/holiday.jpg", "0/metrics.json", "figures/a.png", "multirun.yaml"])
def test_a_sweep_is_refused_before_its_first_job(command, tmp_path, name):
    write_text(tmp_path / "sweep" / name, "of months")
    before = tree(tmp_path)
    assert is_refused(command, "-m", *FAST, "hydra.sweep.dir=sweep", "seed=1,2")
    assert tree(tmp_path) == before


def test_a_sweep_with_folders_of_its_own_naming_leaves_foreign_ones_alone(command, tmp_path):
    write_text(tmp_path / "sweep" / "a1" / "figures" / "x.png", "of months")
    before = tree(tmp_path / "sweep" / "a1")
    names = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=a${hydra:job.num}")
    code, _, err = command("-m", *FAST, *names, "seed=1,2")
    assert code == 2 and err.splitlines()[-1].startswith(f"hydra.sweep.dir={tmp_path}/sweep/a1: holds figures/x.png")
    assert tree(tmp_path / "sweep" / "a1") == before
    assert (tmp_path / "sweep" / "a0" / "metrics.json").is_file()


def test_links_are_not_followed(command, tmp_path):
    write_text(tmp_path / "elsewhere" / "x.png", "of months")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    assert is_refused(command, *FAST, "hydra.run.dir=run")
    assert tree(tmp_path) == before


def test_other_files_are_nobodys_business(command, tmp_path):
    write_text(tmp_path / "run" / "notes.txt", "of months")
    for _ in range(2):
        assert command(*FAST, "hydra.run.dir=run")[0] == 0
        assert (tmp_path / "run" / "notes.txt").read_text() == "of months"


def test_a_run_replaces_an_earlier_one_entirely(command, tmp_path):
    assert command(*TINY, "hydra.run.dir=run")[0] == 0
    assert (tmp_path / "run" / "figures" / "x.png").is_file()
    (tmp_path / "run" / "arrays" / "x.npz.123.tmp").write_bytes(b"left by a killed process")
    assert command(*FAST, "hydra.run.dir=run")[0] == 0
    assert not (tmp_path / "run" / "figures").exists()
    assert sorted(path.name for path in (tmp_path / "run" / "arrays").iterdir()) == ["x.npz"]


def test_a_refused_config_leaves_earlier_results(command, tmp_path):
    assert command(*FAST, "hydra.run.dir=run")[0] == 0
    before = tree(tmp_path / "run")
    code, _, err = command(*FAST, "hydra.run.dir=run", "flux.p=0")
    assert code == 2 and err.startswith("flux.p=0: must be >= 1")
    after = tree(tmp_path / "run")
    assert after.pop("error.txt").decode() == err
    assert after == before | {LEDGER: after[LEDGER]}
    assert command(*FAST, "hydra.run.dir=run")[0] == 0
    assert not (tmp_path / "run" / "error.txt").exists()


def test_a_file_that_somebody_puts_among_the_figures_survives(command, tmp_path):
    assert command(*TINY, "hydra.run.dir=run")[0] == 0
    (tmp_path / "run" / "figures" / "poster.png").write_bytes(b"of months")
    before = tree(tmp_path)
    assert is_refused(command, *TINY, "hydra.run.dir=run")
    assert tree(tmp_path) == before


def test_a_run_killed_at_once_is_taken_up(command, tmp_path):
    open_ledger(tmp_path / "run")
    assert command(*FAST, "hydra.run.dir=run")[0] == 0


def test_what_a_foreign_manifest_says_is_no_ledger(command, tmp_path):
    assert command(*FAST, "hydra.run.dir=run")[0] == 0
    (tmp_path / "run" / LEDGER).unlink()  # as of a run from before there were ledgers
    before = tree(tmp_path)
    assert is_refused(command, *FAST, "hydra.run.dir=run")
    assert tree(tmp_path) == before


def test_figures_and_tables_drawn_again_replace_nothing_foreign(command, tmp_path, capsys):
    assert command("-m", *TINY, "hydra.sweep.dir=sweep", "seed=1")[0] == 0
    assert draw_again(["sweep/0"]) == 0 and collect_again(["sweep"]) == 0
    (tmp_path / "sweep" / LEDGER).unlink()
    (tmp_path / "sweep" / "0" / LEDGER).unlink()
    before = tree(tmp_path)
    capsys.readouterr()
    assert draw_again(["sweep/0"]) == 2 and collect_again(["sweep"]) == 2
    assert tree(tmp_path) == before
    assert capsys.readouterr().err.count("not listed in") == 2


def test_a_file_is_listed_before_it_is_written(tmp_path):
    open_ledger(tmp_path)
    with pytest.raises(RuntimeError), replacing(tmp_path / "figures" / "x.png"):
        raise RuntimeError
    assert (tmp_path / LEDGER).read_text().splitlines()[1:] == ["-  figures/x.png"]
    write_text(tmp_path / "notes.txt", "")  # no result
    assert (tmp_path / LEDGER).read_text().count("\n") == 2
    (tmp_path / "metrics.json").write_text("of months")
    with pytest.raises(UserError, match=r"metrics\.json: was not written by this suite"):
        require_ours(tmp_path / "metrics.json")


def test_only_listed_results_are_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("")
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    open_ledger(run)
    for name in ("figures/a.png", "figures/deep/b.png"):
        write_text(run / name, "")
    (run / "figures" / "c.png").write_text("")
    with (run / LEDGER).open("a") as ledger:
        ledger.write("".join(f"{EMPTY}  {name}\n" for name in ("../outside", "figures/../../outside", "tables/x.csv")))
        ledger.write(f"{EMPTY}  figures/c.png")  # cut off: no line yet
    (run / "tables").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "elsewhere" / "x.csv", "")
    note(run / "tables" / "y.csv")
    write_text(run / "tables" / "y.csv", "")
    remove_results(run)
    assert tree(run).keys() == {LEDGER, "figures", "figures/c.png", "tables"} and outside.exists()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["x.csv", "y.csv"]
    (run / "tables").unlink()
    with pytest.raises(UserError, match=r"^D=.*: holds figures/c.png, not listed"):
        refuse_foreign(run, "D")
    (run / "figures" / "c.png").unlink()
    claim(run, "D", ("figures",))


@pytest.mark.parametrize("name", ["metrics.json", "figures/x.png", "tables/x.csv", ".hydra/config.yaml", "run.log"])
@pytest.mark.parametrize("after", ["edited", "linked"])
def test_a_result_that_was_changed_by_hand_survives(command, tmp_path, name, after):
    assert command(*TINY, "hydra.run.dir=run")[0] == 0
    path = tmp_path / "run" / name
    path.unlink()
    if after == "edited":
        path.write_text("of months")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    assert is_refused(command, *TINY, "hydra.run.dir=run")
    assert tree(tmp_path) == before


def test_a_name_that_is_no_longer_used_is_anybodys(command, tmp_path):
    assert command(*TINY, "hydra.run.dir=run")[0] == 0
    kept = (tmp_path / "run" / "figures" / "x.png").read_bytes()
    assert command(*FAST, "hydra.run.dir=run")[0] == 0
    (tmp_path / "run" / "figures").mkdir()
    (tmp_path / "run" / "figures" / "x.png").write_bytes(kept)  # somebody puts it back
    before = tree(tmp_path)
    assert is_refused(command, *FAST, "hydra.run.dir=run")
    assert tree(tmp_path) == before


def test_figures_changed_by_hand_are_not_drawn_over(command, tmp_path, capsys):
    assert command(*TINY, "hydra.run.dir=run")[0] == 0
    for _ in range(2):
        assert draw_again(["run"]) == 0
    (tmp_path / "run" / "figures" / "x.png").write_bytes(b"of months")
    before = tree(tmp_path)
    capsys.readouterr()
    assert draw_again(["run"]) == 2 and capsys.readouterr().err.count("holds figures/x.png, not listed") == 1
    assert tree(tmp_path) == before


def test_a_sweep_is_run_again_where_it_was(command, tmp_path):
    for seeds in ("seed=1", "seed=2,1"):
        assert command("-m", *FAST, "hydra.sweep.dir=sweep", seeds)[0] == 0
    with (tmp_path / "sweep" / "multirun.yaml").open("a") as handle:
        handle.write("# of months\n")
    before = tree(tmp_path)
    assert is_refused(command, "-m", *FAST, "hydra.sweep.dir=sweep", "seed=1")
    assert tree(tmp_path) == before


def test_another_process_may_write_the_same_results(tmp_path, monkeypatch):
    claim(tmp_path, "D", ("sweep",))
    path = tmp_path / "sweep" / "results.csv"
    write_text(path, "mine")
    read = ledger._listed

    def and_then_another_process_writes(directory):
        listed = read(directory)
        monkeypatch.setattr(ledger, "_listed", read)
        write_text(path, "theirs")
        return listed

    monkeypatch.setattr(ledger, "_listed", and_then_another_process_writes)
    require_ours(path)
    assert path.read_text() == "theirs"


def test_what_a_killed_process_left_is_taken_up(tmp_path):
    open_ledger(tmp_path)
    for name in ("arrays/x.npz", "checkpoints/network/weights"):
        note(tmp_path / name)
    write_text(tmp_path / "arrays" / "x.npz.123.tmp", "")
    write_text(tmp_path / "checkpoints" / "network.123.tmp" / "weights", "")
    finished = tmp_path / "finished"
    finished.write_text("0")
    note(tmp_path / "metrics.json", written=finished)  # killed before it took its name
    refuse_foreign(tmp_path, "D")
    remove_results(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, "finished"]
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "x.npz").write_text("of months")  # begun is not written
    with pytest.raises(UserError, match=r"holds arrays/x.npz, not listed"):
        refuse_foreign(tmp_path, "D")


@pytest.mark.parametrize("place", ["checkpoints/network/notes.txt", "checkpoints/network/weights"])
def test_a_checkpoint_replaces_nobody_elses(tmp_path, place):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_text("1")
    open_ledger(tmp_path / "run")
    report = Report(tmp_path / "run", {})
    for content in ("1", "2"):
        (tmp_path / "source" / "weights").write_text(content)
        report.checkpoint("network", tmp_path / "source")
    (tmp_path / "run" / place).write_text("of months")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"{place}: was not written by this suite, or was changed since"):
        report.checkpoint("network", tmp_path / "source")
    assert tree(tmp_path) == before


@pytest.fixture(params=["before the job", "at the device check"])
def warned(monkeypatch, request):
    """A library speaks through the root logger before the run has begun."""
    module, name = (run, "execute") if request.param == "before the job" else (job, "require_device")
    original = getattr(module, name)

    def speaking(*arguments):
        logging.getLogger("jax._src.xla_bridge").warning("there may be a GPU")
        return original(*arguments)

    monkeypatch.setattr(module, name, speaking)
    return request.param


def test_a_warning_before_the_run_refuses_nothing(command, tmp_path, warned):
    code, out, _ = command(*FAST, "hydra.run.dir=run")
    assert code == 0 and out.count("there may be a GPU") == 1
    log = (tmp_path / "run" / "run.log").read_text(encoding="utf-8")
    assert log.count("there may be a GPU") == (warned == "at the device check") and "moments/mean" in log


def test_a_warning_before_the_run_is_not_written_into_a_foreign_log(command, tmp_path, warned):
    write_text(tmp_path / "run" / "run.log", "of months\n")
    before = tree(tmp_path)
    assert is_refused(command, *FAST, "hydra.run.dir=run")
    assert tree(tmp_path) == before


def test_the_log_goes_on_and_ends_with_its_run(command, tmp_path):
    assert command("-m", *FAST, "hydra.sweep.dir=sweep", "seed=1,2")[0] == 0
    first = (tmp_path / "sweep" / "0" / "run.log").read_text(encoding="utf-8")
    assert command("-m", *FAST, "hydra.sweep.dir=sweep", "seed=1")[0] == 0
    both = (tmp_path / "sweep" / "0" / "run.log").read_text(encoding="utf-8")
    assert both.startswith(first) and both.count("seed=1") == 2 and "seed=2" not in both
    assert first.splitlines()[-1].endswith("sweep/0")
