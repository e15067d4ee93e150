"""A run removes and replaces what it, or a run before it, wrote: nothing of anybody else's, whatever its name."""

import os

import pytest

from experiments.core.errors import UserError
from experiments.core.files import replacing, write_text
from experiments.core.ledger import LEDGER, claim, note, open_ledger, refuse_foreign, remove_results
from experiments.figures.__main__ import main as draw_again
from experiments.publish.collect import main as collect_again
from tests.helpers.command import TINY

FAST = (*TINY, "figures=null")
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
    assert (tmp_path / LEDGER).read_text().splitlines()[1:] == ["figures/x.png"]
    write_text(tmp_path / "notes.txt", "")  # no result
    assert (tmp_path / LEDGER).read_text().count("\n") == 2
    (tmp_path / "metrics.json").write_text("of months")
    with pytest.raises(UserError, match=r"metrics\.json: was not written by this suite"):
        note(tmp_path / "metrics.json")


def test_only_listed_results_are_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("of months")
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    open_ledger(run)
    for name in ("figures/a.png", "figures/deep/b.png"):
        write_text(run / name, "")
    (run / "figures" / "c.png").write_text("")
    with (run / LEDGER).open("a") as ledger:
        ledger.write("../outside\nfigures/../../outside\ntables/x.csv\nfigures/c.png")  # cut off: no line yet
    (run / "tables").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "elsewhere" / "x.csv", "of months")
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
