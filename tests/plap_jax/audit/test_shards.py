"""Audits in shards: any number of them, in any order, after any fault, gives what an audit in one piece gives."""

import errno
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from benchmarks import killed_shards
from plap_jax import UserModel
from plap_jax.audit import audit_images, audit_shard, evaluator, files, merge_shards, shards, store
from plap_jax.audit.command_line import main
from plap_jax.audit.denoising import Denoising
from plap_jax.audit.images import pixels
from plap_jax.audit.merging import UnfitParts
from plap_jax.audit.parts import DamagedPart, read_part, write_part
from plap_jax.audit.plan import read_plan
from plap_jax.audit.sharing import Shard, number_of
from plap_jax.audit.subject import as_subject, same_model
from tests.helpers import memorizing_model

MEMORIZED, images = memorizing_model.MEMORIZED, memorizing_model.images
MODEL = memorizing_model.factory()
QUICK = {"key": jax.random.key(0), "noise_levels": (0.08, 0.32), "evaluations": 1024}
SAME = ("score", "stderr", "p_value", "q_value", "flagged", "kappa", "evidence", "expected", "z")
FACTORY = "tests.helpers.memorizing_model:factory"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve memorized images and 36 others as files, one that is none, and a reference with near-duplicates."""
    base = tmp_path_factory.mktemp("shards")
    (base / "images").mkdir()
    for i, image in enumerate(np.concatenate([images(36, 1), MEMORIZED])):
        Image.fromarray(pixels(image)[..., 0]).save(base / "images" / f"{i:02d}.png")
    (base / "images" / "broken.png").write_text("no image")
    (base / "images" / "notes.txt").write_text("no image either")
    others = images(200, 2)
    np.save(base / "reference.npy", np.concatenate([others, others[:5] + np.float32(0.01)]).clip(-1, 1))
    return base


@pytest.fixture(scope="module")
def how(data):
    return {"reference": data / "reference.npy", **QUICK}


@pytest.fixture(scope="module")
def whole(data, how):
    """The audit in one piece."""
    return audit_images(MODEL, data / "images", **how)


def computed(folder, data, how, n, order=None):
    for k in order or range(1, n + 1):
        audit_shard(MODEL, data / "images", shard=f"{k}/{n}", folder=folder, **how)
    return folder


@pytest.fixture(scope="module")
def four(data, how, tmp_path_factory):
    """Four shards, computed in some order; tests that change it take a copy."""
    return computed(tmp_path_factory.mktemp("four") / "audit", data, how, 4, (3, 1, 4, 2))


@pytest.fixture
def copied(four, tmp_path):
    return shutil.copytree(four, tmp_path / "audit")


def part(folder, k):
    return folder / "evidence" / f"part-{k:05d}.parquet"


def same(found, expected):
    assert found.names == expected.names and found.skipped == expected.skipped
    for name in SAME:
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name
    assert found.lines == expected.lines and found.same_as == expected.same_as


def test_four_shards_in_any_order_are_the_audit_in_one_piece(four, whole):
    found = merge_shards(four, model=MODEL)
    assert whole.flagged[36:].all() and whole.skipped == [("broken.png", whole.skipped[0][1]), whole.skipped[1]]
    same(found, whole)
    maps = [[one for one in result.curvature_map if one is not None] for result in (found, whole)]
    np.testing.assert_array_equal(*maps)
    assert {k: v for k, v in found.words.items() if "map" not in k} == {
        k: v for k, v in whole.words.items() if "map" not in k
    }
    assert not list(four.glob("parts/*")) and read_plan(four).n_shards == 4


@pytest.mark.parametrize("n", [1, pytest.param(64, marks=pytest.mark.slow)])
def test_so_are_one_and_sixty_four_of_which_some_are_empty(n, data, how, whole, tmp_path):
    order = [int(k) for k in np.random.default_rng(0).permutation(n) + 1]
    same(merge_shards(computed(tmp_path, data, how, n, order), maps=0), whole)


def test_a_merge_tells_what_its_shards_found_when_they_had_the_model_denoise(how, tmp_path):
    right = memorizing_model.factory()
    wrong = UserModel(right.function, right.schedule, right.shape, "x0")
    everything = images(36, 1)
    for k in (1, 2):
        audit_shard(wrong, everything, shard=f"{k}/2", folder=tmp_path, **how)
    parts = [Denoising(**read_part(part(tmp_path, k)).header["denoising"]) for k in (1, 2)]
    merged = merge_shards(tmp_path, images=everything, maps=0).denoising
    assert merged.n == parts[0].n + parts[1].n == 36 and parts[0].n != parts[1].n
    assert merged.error == pytest.approx(sum(one.n * one.error for one in parts) / 36, rel=1e-12)
    assert merged.gaussian == pytest.approx(sum(one.n * one.gaussian for one in parts) / 36, rel=1e-12)
    assert merged.spent == parts[0].spent + parts[1].spent and "worse than a Gaussian" in merged.warning


def test_which_shard_an_image_is_in_follows_from_its_name_alone():
    names = [f"{i:05d}.png" for i in range(6400)]
    counts = np.bincount([number_of(name, 64) for name in names], minlength=65)
    assert counts[0] == 0 and counts[1:].min() > 60 and counts.max() < 150
    assert number_of("a/ü.png", 64) == 43 and Shard.parse("3/64").file == "part-00003.parquet"


def test_a_baseline_prompts_and_training_images_go_through_shards_too(tmp_path):
    everything = np.concatenate([images(20, 1), MEMORIZED])
    told = [0] * 20 + list(range(1, 13))
    how = {"reference": images(60, 2), "prompts": told, "reference_prompts": 0}
    how["training"] = np.concatenate([MEMORIZED, images(5, 7)])
    model, other = memorizing_model.prompted(), memorizing_model.unaware()
    expected = audit_images(model, everything, baseline=other, **how, **QUICK)
    for k in (2, 3, 1):
        audit_shard(model, everything, shard=f"{k}/3", folder=tmp_path, baseline=other, **how, **QUICK)
    with pytest.raises(ValueError, match="^images=None: must be given: it lay in memory when the shards were computed"):
        merge_shards(tmp_path)
    found = merge_shards(tmp_path, images=everything, maps=0, **how)
    same(found, expected)
    assert found.near_training.tolist() == expected.near_training.tolist()
    assert found.nfe_total - found.nfe_maps >= found.nfe.sum() * 2
    assert found.words["baseline"] == expected.words["baseline"]
    with pytest.raises(ValueError, match="^images=.*must be as it was when the shards were computed: n is 32"):
        merge_shards(tmp_path, images=everything[:-1], **(how | {"prompts": told[:-1]}))


def test_a_plain_score_and_a_noise_level_of_its_own(data, tmp_path):
    how = QUICK | {"reference": data / "reference.npy", "sigma": 0.22, "target_stderr": 0.1}
    computed(tmp_path, data, how, 2)
    found, expected = merge_shards(tmp_path, maps=0), audit_images(MODEL, data / "images", maps=0, **how)
    for name in ("score", "p_value", "flagged"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)
    assert found.meaning == expected.meaning and found.sigma == 0.22


@pytest.mark.parametrize("fault", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_part_is_named_and_computed_again(fault, copied, data, how, whole):
    path, before = part(copied, 3), part(copied, 2).stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    damaged = {"flipped": content, "cut": content[: len(content) // 3], "empty": b""}
    path.write_bytes(damaged[fault]) if fault in damaged else path.unlink()
    with pytest.raises(UnfitParts) as refused:
        merge_shards(copied)
    line = "damaged: evidence/part-00003.parquet is damaged: its checksum is another one; compute shard 3/4 again"
    gone = "missing: 1 of 4 shards are not computed yet: 3"
    assert str(refused.value) == (gone if fault == "gone" else line)
    computed(copied, data, how, 4)
    assert part(copied, 2).stat().st_mtime_ns == before
    same(merge_shards(copied, maps=0), whole)


def test_every_byte_of_a_part_is_under_its_seal(four, tmp_path):
    content = part(four, 1).read_bytes()
    path, rng = tmp_path / "part-00001.parquet", np.random.default_rng(0)
    for place in {0, len(content) - 1, *rng.integers(0, len(content), 200).tolist()}:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(DamagedPart):
            read_part(path)


def rewritten(path, to=None, **header):
    """A part with other words in its header, sealed anew."""
    found = read_part(path)
    found.header.update(header)
    write_part(to or path, found)


def test_parts_that_do_not_belong_together_are_a_line_each(copied):
    rewritten(part(copied, 1), code="0123456789")
    shutil.copy(part(copied, 3), part(copied, 2))
    part(copied, 3).unlink()
    rewritten(part(copied, 4), plan="another")
    (copied / "evidence" / "part-00009.parquet").write_text("x")
    (copied / "evidence" / "notes.txt").write_text("x")
    (copied / "evidence" / ".part-00003.parquet.1.tmp").write_text("half of it")
    with pytest.raises(UnfitParts) as refused:
        merge_shards(copied)
    assert str(refused.value).splitlines() == [
        "foreign: evidence/notes.txt is none of the 4 parts of this audit",
        "foreign: evidence/part-00001.parquet was computed by another version of plap_jax (code 01234567…); "
        "compute shard 1/4 again",
        "doubled: evidence/part-00002.parquet holds shard 3/4; compute shard 2/4 again",
        "foreign: evidence/part-00004.parquet belongs to another audit; compute shard 4/4 again",
        "foreign: evidence/part-00009.parquet is none of the 4 parts of this audit",
        "missing: 1 of 4 shards are not computed yet: 3",
    ]


def test_images_that_are_missing_doubled_or_foreign_are_named(copied):
    found = read_part(part(copied, 2))
    side = found.sides["images"]
    first, second = side.names[:2]
    found.sides["images"].names[:] = [second, *side.names[1:]]
    found.sides["reference"].names[-1] = "strange"
    write_part(part(copied, 2), found)
    with pytest.raises(UnfitParts) as refused:
        merge_shards(copied)
    where = "evidence/part-00002.parquet"
    lines = str(refused.value).splitlines()
    assert lines[0] == f"missing: {where}: 1 of the images, the first is {first!r}"
    assert lines[1] == f"doubled: {where}: 1 of the images"
    assert lines[2].startswith(f"missing: {where}: 1 of the reference") and lines[3].endswith("the first is 'strange'")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"n_directions": 8}, "holds another audit: settings.n_directions is 4 there, and 8 here; name another folder"),
        ({"key": jax.random.key(1)}, "holds another audit: key is [0, 0] there, and [0, 1] here; name another folder"),
        ({"fdr": 0.1}, "holds another audit: fdr is 0.05 there, and 0.1 here; name another folder"),
        ({"reference": images(7, 3)}, "holds another audit: reference.n is 205 there, and 7 here; name another folder"),
        ({"shard": "2/5"}, "holds another audit: shards is 4 there, and 5 here; name another folder"),
    ],
)
def test_a_shard_of_another_audit_is_refused_before_it_computes(change, line, four, data, how, monkeypatch):
    monkeypatch.setattr(shards.Question, "sides", lambda *_: pytest.fail("it computes"))
    with pytest.raises(ValueError) as refused:
        audit_shard(MODEL, data / "images", **({"shard": "2/4", "folder": four} | how | change))
    assert str(refused.value) == f"out={str(four)!r}: {line}"


def test_so_is_one_of_another_version_or_model(four, copied, data, how, monkeypatch):
    arguments = {"shard": "2/4", **how}
    with pytest.raises(ValueError, match="holds an audit with another model; name another folder$"):
        audit_shard(memorizing_model.other(), data / "images", folder=four, **arguments)
    monkeypatch.setattr(store, "code", lambda: "fedcba9876")
    with pytest.raises(ValueError, match=r"holds another audit: it was made by another version of plap_jax \(code "):
        audit_shard(MODEL, data / "images", folder=four, **arguments)
    monkeypatch.undo()
    # and a part that came in some other way is refused at the merge, by its name
    other = as_subject(memorizing_model.other(), None).sketch
    rewritten(part(copied, 2), models={"model": other})
    with pytest.raises(UnfitParts, match="^foreign: evidence/part-00002.parquet was computed with another model; comp"):
        merge_shards(copied)


def test_machines_that_round_otherwise_have_the_same_model():
    sketch = as_subject(MODEL, None).sketch
    off = {name: [[x * (1 + 1e-6) for x in row] for row in sketch[name]] for name in ("arrays", "answers")}
    assert same_model(sketch, off | {"contents": []})
    assert not same_model(sketch, off | {"contents": ["a file"]})
    trained_on = {"arrays": [[x * (1 + 1e-3) for x in row] for row in sketch["arrays"]]}
    assert sketch["arrays"] and not same_model(sketch, sketch | trained_on)


def test_clocks_and_hosts_may_differ(copied, whole):
    for k, (host, year) in enumerate([("a", 1970), ("b", 2100), ("a", 2026), ("c", 1999)], 1):
        rewritten(part(copied, k), host=host, finished=f"{year}-01-01T00:00:00+00:00", device="another kind")
        os.utime(part(copied, k), (year * 1e6, year * 1e6))
    same(merge_shards(copied, maps=0), whole)


def test_of_two_processes_with_one_shard_one_leaves(copied, data, how, caplog):
    part(copied, 2).unlink()
    chunks = copied / "parts" / "part-00002"
    chunks.mkdir(parents=True)
    arguments = {"shard": "2/4", "folder": copied, **how}
    with FileLock(chunks / "lock"), caplog.at_level("INFO", "plap_jax"):
        assert audit_shard(MODEL, data / "images", **arguments) is None
    assert "shard 2/4: another process computes it, and it is left to that one" in caplog.text
    assert not part(copied, 2).exists()
    assert audit_shard(MODEL, data / "images", **arguments) == part(copied, 2)
    before = part(copied, 2).stat().st_ino
    assert (
        audit_shard(MODEL, data / "images", **arguments) == part(copied, 2) and part(copied, 2).stat().st_ino == before
    )
    assert not chunks.exists()


def test_a_full_disk_leaves_nothing_and_is_one_line(data, tmp_path, monkeypatch, capsys):
    options = command(data, tmp_path / "out", "1/2")
    seen = []

    def full(descriptor):
        seen.append(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    assert main(options) == 2 and seen
    assert capsys.readouterr().err.splitlines()[-1] == "No space left on device"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "lock"]


def test_of_several_plans_the_first_stays(tmp_path):
    assert files.put(tmp_path / "plan.json", b"one", replace=False)
    assert not files.put(tmp_path / "plan.json", b"two", replace=False)
    assert (tmp_path / "plan.json").read_bytes() == b"one" and len(list(tmp_path.iterdir())) == 1


def command(data, out, shard):
    options = ["--model", FACTORY, "--images", f"{data}/images", "--reference", f"{data}/reference.npy"]
    return [*options, "--noise-levels", "0.08", "0.32", "--evaluations", "1024", "--out", str(out), "--shard", shard]


def test_the_command_line(data, whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main(command(data, out, "2/2")) == 0
    assert "1 of 2 parts are there\n" in capsys.readouterr().out
    assert main(["merge", str(out)]) == 2
    assert capsys.readouterr().err == "missing: 1 of 2 shards are not computed yet: 1\n"
    monkeypatch.chdir(tmp_path)
    assert main(command(data, "out", "1/2")) == 0
    assert "2 of 2 parts are there; plap-audit merge out judges them\n" in capsys.readouterr().out
    assert main(["merge", "out"]) == 0
    told = capsys.readouterr().out
    assert whole.lines[0] in told and "out/report.html shows them all" in told
    assert {path.name for path in out.iterdir()} >= {"report.html", "audit.csv", "skipped.csv", "maps.npz", "plan.json"}
    table = (out / "audit.csv").read_text()
    assert main([*command(data, tmp_path / "alone", "x/1")[:-2]]) == 0
    assert (tmp_path / "alone" / "audit.csv").read_text() == table
    header = read_part(part(out, 1)).header
    assert (
        header["shard"] == "1/2" and header["settings"]["n_directions"] == 4 and len(header["models_sha256"][0]) == 64
    )
    assert json.loads((out / "plan.json").read_text())["told"]["command"]["model"] == FACTORY


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--shard 0/4", "--shard 0/4: must be K/N with 1 <= K <= N <= 99999, as 3/64"),
        ("--shard 5/4", "--shard 5/4: must be K/N with 1 <= K <= N <= 99999, as 3/64"),
        ("--shard 3", "--shard 3: must be K/N with 1 <= K <= N <= 99999, as 3/64"),
        ("merge OUT", "merge OUT: must be the folder of an audit in shards, and holds no plan.json"),
        ("merge", "the following arguments are required: FOLDER; plap-audit merge --help tells all options"),
    ],
)
def test_a_mistake_is_one_line(words, line, data, tmp_path, capsys):
    options = words.replace("OUT", str(tmp_path)).split()
    options = options if options[0] == "merge" else [*command(data, tmp_path / "out", "1/2")[:-2], *options]
    assert main(options) == 2
    told = [one for one in capsys.readouterr().err.splitlines() if one]
    assert told == [line.replace("OUT", str(tmp_path))] and not (tmp_path / "out" / "plan.json").exists()


def test_the_extra_is_named_before_a_model_is_loaded(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "plap_jax.audit.parts", raising=False)
    assert main(command(data, tmp_path, "1/2")) == 2
    assert capsys.readouterr().err == "shards need pyarrow: pip install '.[cluster]' in the repository\n"


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_but_what_is_unfinished(tmp_path):
    """A few moments; ``python -m benchmarks.killed_shards`` tries twenty."""
    killed_shards.prepare(tmp_path)
    found = killed_shards.killed(tmp_path, n_kills=3)
    assert found["same"] and not found["again"]


def test_the_evidence_of_shards_and_of_one_piece_is_computed_in_batches_of_one_size(tmp_path, monkeypatch):
    """To the last bit the numbers of an image depend on the size of its batch, wherever products of matrices do."""
    sizes, original = [], evaluator.map_points

    def map_points(fn, points, *others, batch_size):
        sizes.append((batch_size, len(points) % batch_size))
        return original(fn, points, *others, batch_size=batch_size)

    monkeypatch.setattr(evaluator, "map_points", map_points)
    # Of 288 evaluations, 9 for an image, there is room for 32 images: a block is 16, a power of two.
    everything, how = images(40, 1), QUICK | {"reference": images(20, 2), "evaluations": 288}
    audit_images(MODEL, everything, maps=0, **how)
    audit_shard(MODEL, everything, shard="1/1", folder=tmp_path, **how)
    assert sizes.count((8, 0)) == 2 * 2 * (3 + 2)
    assert len(sizes) == 2 * 2 * (3 + 2) + 2, "and each asks once whether the model denoises at all"
