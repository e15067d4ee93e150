"""``plap-audit``: from options to files; a mistake is one line, and nothing of anyone else's is replaced."""

import csv
import logging
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from plap_jax.audit import command_line
from plap_jax.audit.command_line import main
from plap_jax.audit.images import pixels
from plap_jax.audit.maps import Mapper
from plap_jax.audit.models import load_model
from plap_jax.audit.scores import Scorer
from plap_jax.diffusion import Diffusion, VPCosine
from plap_jax.networks import ResidualMLP
from plap_jax.training import save_diffusion
from tests.helpers import memorizing_model
from tests.helpers.own_model import OWN_MODEL
from tests.helpers.places import ROOT

MEMORIZED, images = memorizing_model.MEMORIZED, memorizing_model.images
FACTORY = "tests.helpers.memorizing_model:factory"
MODEL = ("--model", FACTORY, "--sigma", "0.22", "--target-stderr", "0.1", "--evaluations", "512")
ODD = "Büro (a=b) #1, 100 %"  # a folder's name may hold whatever a config file would not take


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """What a command changes in its process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    logging.getLogger("plap_jax").setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve memorized images and eight others as files, one that is none, and a reference."""
    base = tmp_path_factory.mktemp("command")
    (base / ODD).mkdir()
    for i, image in enumerate(np.concatenate([MEMORIZED, images(8, 1)])):
        Image.fromarray(pixels(image)[..., 0]).save(base / ODD / f"{i:02d}.png")
    (base / ODD / "broken.png").write_text("no image")
    np.savez(base / "others.npz", images=images(60, 2))
    np.save(base / "ones.npy", np.ones((2, 4, 4, 1)))
    np.save(base / "training.npy", np.concatenate([MEMORIZED, images(3, 4)]))
    return base


@pytest.fixture(scope="module")
def finished(folder):
    """The command, and the folder that it left."""
    command = (*MODEL, "--images", f"{folder}/{ODD}", "--reference", f"{folder}/others.npz", "--fdr", "0.1")
    command += ("--training", f"{folder}/training.npy", "--out", f"{folder}/out")
    assert main(command) == 0
    return command, folder / "out"


def rows(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def refused(capsys, *argv):
    """The line of a command that is refused."""
    assert main(argv) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]  # the bar
    assert len(told) == 1, told
    return told[0]


def test_the_files_are_there_and_say_what_was_asked(finished):
    _, out = finished
    table = rows(out / "audit.csv")
    assert len(table) == 20 and {row["file"] for row in table[:12]} == {f"{i:02d}.png" for i in range(12)}
    assert sum(int(row["flagged"]) for row in table[:12]) == 12 and float(table[0]["copy_ratio"]) < 0.1
    (skipped,) = rows(out / "skipped.csv")
    assert skipped["set"] == "images" and skipped["file"] == "broken.png" and skipped["reason"]
    page = (out / "report.html").read_text()
    for words in (f"<dd>{ODD}</dd>", "<dd>others.npz</dd>", "<dd>training.npy</dd>", f"function {FACTORY}"):
        assert words in page, words
    assert str(out.parent) not in page
    assert sorted(path.name for path in out.iterdir()) == [
        "audit.csv",
        "maps.npz",
        "parts",
        "plap-audit.sha256",
        "report.html",
        "skipped.csv",
    ]


def test_curvature_maps_of_flagged_images_are_kept_as_arrays(finished):
    _, out = finished
    flagged = sorted(row["file"] for row in rows(out / "audit.csv") if row["flagged"] == "1")
    with np.load(out / "maps.npz") as maps:
        assert maps["curvature_map_names"].tolist() == flagged and maps["noise_levels"].tolist() == [0.22]
        assert maps["curvature_map"].shape == maps["curvature_map_stderr"].shape == (len(flagged), 4, 4)


def test_the_same_command_again_goes_on_and_tells_the_result(finished, monkeypatch, capsys):
    command, out = finished
    before = (out / "audit.csv").read_bytes()
    for asked in (Scorer, Mapper):
        monkeypatch.setattr(asked, "__call__", lambda *_: pytest.fail("it is computed again"))
    assert main(command) == 0
    told = capsys.readouterr()
    assert (out / "audit.csv").read_bytes() == before
    assert "of 20 images flagged" in told.out and "\nskipped: 1, " in told.out
    assert f"{out}/report.html" in told.out and "21/21" in told.err  # the bar


@pytest.mark.parametrize("name", ["report.html", "audit.csv", "skipped.csv", "maps.npz"])
def test_files_of_others_are_not_replaced(folder, tmp_path, name, capsys):
    command = (*MODEL, "--images", f"{folder}/others.npz", "--out", str(tmp_path))
    (tmp_path / name).write_text("mine")
    line = refused(capsys, *command)
    assert line.startswith(
        f"--out {tmp_path}: holds {name}, which plap-audit did not write, or which was changed since"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_a_table_that_was_changed_by_hand_is_not_replaced(finished, tmp_path, capsys):
    command, out = finished[0][:-1], tmp_path / "out"
    shutil.copytree(finished[1], out)
    with (out / "audit.csv").open("ab") as table:
        table.write(b"my note\n")
    assert "holds audit.csv, which" in refused(capsys, *command, str(out))
    assert (out / "audit.csv").read_bytes().endswith(b"my note\n")


def test_what_is_no_longer_true_goes(finished, folder, tmp_path):
    """skipped.csv and maps.npz of an earlier command in the same folder."""
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    assert main([*MODEL, "--images", f"{folder}/training.npy", "--out", str(out)]) == 0
    assert not (out / "skipped.csv").exists() and not (out / "maps.npz").exists() and len(rows(out / "audit.csv")) == 15
    assert [line.partition("  ")[2] for line in (out / "plap-audit.sha256").read_text().splitlines()] == [
        "report.html",
        "audit.csv",
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--images=DATA --model=no_such:factory", "--model no_such:factory: cannot be imported (No module named"),
        ("--images=DATA --model=nowhere", "--model nowhere: must be a diffusers folder, a checkpoint (RUN/checkpoin"),
        ("--images=DATA --model=tests.helpers.memorizing_model:wrong_shape", "--model tests.helpers.memorizing_mode"),
        ("--images=DATA --model=json:loads", "--model json:loads: must be package.module:factory, a function without"),
        ("--images=gone MODEL", "--images gone: must be a folder of images, an .npz or an .npy file that is there"),
        ("--images=DATA MODEL --reference=gone.npy", "--reference gone.npy: must be a folder of images, an .npz or"),
        ("--images=DATA MODEL --reference=DATA", "--reference DATA: is what is audited: it must hold images that"),
        ("--images=DATA MODEL --fdr=1.5", "--fdr 1.5: must lie in (0, 1)"),
        ("--images=DATA MODEL --sigma=7", "--sigma 7.0: must lie in ["),
        ("--images=DATA MODEL --noise-levels 0.1 -3", "--noise-levels 0.1 -3: must be different numbers in (0, 1)"),
        ("--images=DATA MODEL --n-samples=4", "--n-samples 4: must hold at least 8 independent units"),
        ("--images=DATA MODEL --max-samples=8", "--max-samples 8: must be an integer >= 16"),
        ("--images=DATA MODEL --maps=3", "--maps 3: must be 0 for none, or an integer >= 8: directions of each"),
        ("--images=DATA MODEL --seed=-1", "--seed -1: must lie in 0 ... 2^31 - 1"),
        ("--images=DATA MODEL --prompts=3", "--prompts 3: must not be given: this model has no prompts"),
        ("--images=DATA MODEL --out=DATA", "--out DATA: must be a folder"),
        ("--images=DATA MODEL --out=/dev/null/x", "--out /dev/null/x: /dev/null/x/parts: Not a directory; must"),
        (
            "--images=ONES MODEL",
            "--images ONES: may be of [0, 1] or of [-1, 1]: say which, as --pixel-range='0..1' or --p",
        ),
        ("--images=DATA MODEL --fdr=x", "--fdr: invalid float value: 'x'; plap-audit --help tells all options"),
        ("--images=DATA MODEL --fd=0.1", "unrecognized arguments: --fd=0.1; did you mean --fdr?"),
        ("--images=DATA MODEL --refrence=x", "unrecognized arguments: --refrence=x; did you mean --reference?"),
        ("--images=DATA MODEL --zzz", "unrecognized arguments: --zzz; plap-audit --help tells all options"),
        (
            "--images a.png b.png MODEL",
            "unrecognized arguments: b.png: no option takes that; of several files give the f",
        ),
        ("MODEL", "the following arguments are required: --images; plap-audit --help tells all options"),
    ],
)
def test_a_mistake_is_one_line(folder, options, line, capsys):
    places = {"DATA": str(folder / "others.npz"), "ONES": str(folder / "ones.npy"), "MODEL": f"--model={FACTORY}"}
    argv = options.split()
    for name, place in places.items():
        argv, line = [word.replace(name, place) for word in argv], line.replace(name, place)
    assert refused(capsys, *argv).startswith(line)


def test_images_of_which_none_can_be_read_are_named_by_their_option(tmp_path, capsys):
    (tmp_path / "a.png").write_text("no image")
    line = refused(capsys, *MODEL, "--images", str(tmp_path), "--out", str(tmp_path / "out"))
    assert line.startswith(f"--images {tmp_path}: must hold an image that can be read")


def test_the_extra_is_named_before_anything_is_computed(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "plap_jax.audit.report", raising=False)
    monkeypatch.delitem(sys.modules, "plap_jax.audit.page", raising=False)
    line = refused(capsys, *MODEL, "--images", f"{folder}/others.npz", "--out", f"{tmp_path}/none")
    assert (
        line == "a report needs jinja2: pip install '.[audit]' in the repository" and not (tmp_path / "none").exists()
    )


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (RuntimeError("a bug"), 1), (ValueError, 1)])
def test_interrupts_and_bugs(tmp_path, error, code, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(command_line, "audit_images", fails)
    if error is ValueError:  # of NumPy, of which no line would tell what to change
        monkeypatch.setattr(command_line, "audit_images", lambda *args, **kwargs: np.zeros(3).reshape(2))
    assert main([*MODEL, "--images", "x", "--out", f"{tmp_path}/stopped"]) == code
    told = capsys.readouterr().err
    assert told == "interrupted\n" if code == 130 else "Traceback" in told
    if code == 130:  # parts of an earlier sitting
        (tmp_path / "stopped" / "parts").mkdir(parents=True)
        (tmp_path / "stopped" / "parts" / "a").touch()
        main([*MODEL, "--images", "x", "--out", f"{tmp_path}/stopped"])
        kept = f"interrupted; the same command goes on with what is kept in {tmp_path}/stopped/parts\n"
        assert capsys.readouterr().err == kept


def test_a_home_is_found_and_other_names_are_literal(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    line = refused(capsys, "--model", FACTORY, "--images=~/gone.npy")
    assert line.startswith(f"--images {tmp_path}/gone.npy: must be")
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "--model", FACTORY, "--images=~no-one/gone.npy")
    assert line.startswith(f"--images {tmp_path}/~no-one/gone.npy: must be")


def test_checkpoints_and_folders_are_told_apart(tmp_path, monkeypatch):
    network = ResidualMLP((4, 4, 1), width=8, depth=1, embed_dim=8, n_conditions=3, rngs=nnx.Rngs(1))
    save_diffusion(tmp_path / "run" / "checkpoints" / "net", Diffusion(network, VPCosine()))
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "net"):
        found = load_model(str(path))
        assert found.model.n_conditions == 3 and found.words == "checkpoint net, ResidualMLP for images (4, 4, 1)"
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="^model_index.json: _class_name=None: must be one of"):
        load_model(str(tmp_path / "pipe"))
    (tmp_path / "weights.ckpt").touch()
    with pytest.raises(ValueError, match="must be a folder of diffusers, or a single safetensors file; pickle is code"):
        load_model(str(tmp_path / "weights.ckpt"))
    for path in (tmp_path / "run" / "checkpoints", tmp_path / "run" / "checkpoints" / "nett"):
        with pytest.raises(ValueError, match="checkpoints holds net$"):
            load_model(str(path))
    with pytest.raises(ValueError, match="; if this is a name on a model hub, download it to a folder first$"):
        load_model("runwayml/stable-diffusion-v1-5")
    (tmp_path / "a:b").mkdir()  # is there, so it is no module
    with pytest.raises(ValueError, match="must be a diffusers folder, a checkpoint"):
        load_model(str(tmp_path / "a:b"))


def test_help_is_plain(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    told = capsys.readouterr().out
    assert left.value.code == 0 and told.isascii() and max(map(len, told.splitlines())) <= 120
    order = [told.index(f"  --{name} ") for name in ("model", "images", "reference", "sigma", "out", "n-samples")]
    assert order == sorted(order)


def test_a_module_and_paths_of_the_current_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "model_of_mine.py").write_text(OWN_MODEL)
    np.save(tmp_path / "images.npy", images(6, 1))
    monkeypatch.chdir(tmp_path)
    command = ("--model=model_of_mine:factory", "--images=images.npy", "--sigma=0.2")
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "\n  noise level " in f"\n{told}"  # as it is, without the name of a logger
    assert (tmp_path / "plap-audit" / "report.html").is_file() and "plap-audit/audit.csv" in told

    for given in ("model_of_mine.py", "model_of_mine.py:factory"):
        line = refused(capsys, f"--model={given}", "--images=images.npy")
        assert line == f"--model {given}: is a file of Python: name a function in it, as model_of_mine:factory"

    def none():
        raise RuntimeError("no such platform")

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "nowhere")
    line = refused(capsys, *command)
    assert line == "JAX_PLATFORMS=nowhere: cannot be used here (no such platform); cpu always works"


RAISING = """
from plap_jax import DiscreteVP, UserModel, VPLinear

def missing():
    return open("weights.pkl")

def key():
    return {}["weights"]

def ours():
    return DiscreteVP.linear(1000, 0.02, 1e-4)

def nothing():
    return UserModel(lambda x, t, condition: None, VPLinear(), (4, 4, 1))

def inside():
    def network(x, t, condition):
        return x.no_such_thing

    return UserModel(network, VPLinear(), (4, 4, 1))
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing", "raised FileNotFoundError: [Errno 2] No such file or directory: 'weights.pkl' (own.py, "),
        ("key", "raised KeyError: 'weights' (own.py, line 8)"),
        ("ours", "beta_start=0.02: must not exceed beta_end=0.0001"),
        ("nothing", "AttributeError: 'NoneType' object has no attribute 'shape'"),
        ("inside", "Tracer has no attribute no_such_thing (own.py, line 18)"),
    ],
)
def test_what_a_factory_raises_is_one_line_that_names_the_place(name, told, folder, tmp_path, monkeypatch, capsys):
    line = refused_of(RAISING, name, folder, tmp_path, monkeypatch, capsys)
    assert told in line


def refused_of(content, name, folder, place, monkeypatch, capsys):
    """The line that an audit ends in with a function of a module of one's own."""
    (place / "own.py").write_text(content)
    monkeypatch.chdir(place)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    line = refused(capsys, "--model", f"own:{name}", "--images", f"{folder}/others.npz")
    assert line.startswith(f"--model own:{name}: ")
    return line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def factory(:\n", "(SyntaxError: invalid syntax (own.py, line 1))"),
        ("import numpy\n\nnumpy.float(3)\n", "(own.py, line 3))"),
        ("from os import nothing_here\n", "(own.py, line 1))"),
        ("import no_such_package\n", "(ModuleNotFoundError: No module named 'no_such_package' (own.py, line 1))"),
        ("assert False\n", "(AssertionError (own.py, line 1))"),
    ],
)
def test_so_is_a_module_that_cannot_be_imported(content, told, folder, tmp_path, monkeypatch, capsys):
    line = refused_of(content, "factory", folder, tmp_path, monkeypatch, capsys)
    assert "cannot be imported (" in line and told in line


def test_of_flagged_images_the_highest_are_named_even_below_twins_that_are_not_tested():
    names, scores = ["twin.png", "a\nb.png", "c.png", "d.png"], np.array([9.0, 4.0, 5.0, 1.0])
    some = SimpleNamespace(names=names, score=scores, flagged=np.array([False, True, True, False]))
    assert command_line._highest(some) == "flagged, the highest: c.png (5.00), a b.png (4.00)"
    none = SimpleNamespace(names=names, score=scores, flagged=None)
    assert command_line._highest(none).startswith("the highest: twin.png (9.00), c.png (5.00)")


def test_the_highest_are_named(finished, capsys):
    assert main(finished[0]) == 0
    first = "flagged, the highest: "
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(first))
    table = rows(finished[1] / "audit.csv")
    named = [one.split(" (")[0] for one in told.removeprefix(first).split(", ")]
    assert named == [row["file"] for row in table[:5]]
    assert told.endswith(f" and {sum(row['flagged'] == '1' for row in table) - 5} more")


@pytest.mark.slow
def test_a_terminal_of_its_own(tmp_path):
    """The same in a new process, and a console that knows plain characters only."""
    (tmp_path / "my_model.py").write_text(OWN_MODEL)
    np.save(tmp_path / "images.npy", images(6, 1))
    command = [sys.executable, "-m", "plap_jax.audit", "--model=my_model:factory", "--images=images.npy", "--sigma=0.2"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    how = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    found = subprocess.run(command, env=env, **how)
    assert found.returncode == 0, found.stderr
    assert "\n  noise level " in f"\n{found.stdout}"  # as it is, without the name of a logger
    assert (tmp_path / "plap-audit" / "report.html").is_file() and "plap-audit/audit.csv" in found.stdout
    elsewhere = subprocess.run(command, env=env | {"JAX_PLATFORMS": "nowhere"}, **how)
    assert elsewhere.returncode == 2 and elsewhere.stderr.count("\n") == 1
    assert elsewhere.stderr.startswith("JAX_PLATFORMS=nowhere: cannot be used here")
