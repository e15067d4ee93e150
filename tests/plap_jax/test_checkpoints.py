"""Checkpoints: there and back, whole or not at all, and every kind of damage in one line."""

import hashlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax.checkpoints import CheckpointError, load_tree, read_about, remove, remove_unfinished, save_tree


class Pair(NamedTuple):
    kernel: object
    scale: object


def tree(width=3):
    return {
        "a": Pair(jnp.arange(2.0 * width).reshape(2, width), 0.1),
        "b": [np.arange(4), jnp.ones(2, jnp.bfloat16), None],
        "c": jnp.float32(2.5),
    }


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def test_there_and_back(tmp_path):
    save_tree(tmp_path / "deep" / "net", tree(), {"step": 3})
    like = jax.tree.map(lambda leaf: leaf * 0, tree())
    loaded = load_tree(tmp_path / "deep" / "net", like)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree())
    for got, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree()), strict=True):
        assert type(got) is type(expected)
        np.testing.assert_array_equal(got, expected)
    assert read_about(tmp_path / "deep" / "net")["notes"] == {"step": 3}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["net"]


def test_shapes_are_enough_to_load(tmp_path):
    save_tree(tmp_path / "net", {"w": jnp.ones((2, 3))})
    loaded = load_tree(tmp_path / "net", {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
    np.testing.assert_array_equal(loaded["w"], np.ones((2, 3)))


def test_checksums_are_those_of_sha256sum(tmp_path):
    path = save_tree(tmp_path / "net", tree())
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "sha256"], cwd=path, check=True)
    listed = {line.split("  ")[1] for line in (path / "sha256").read_text().splitlines()}
    assert listed == {str(p.relative_to(path)) for p in files(path)} - {"sha256"}


def test_a_checkpoint_is_replaced_and_nothing_else_is(tmp_path):
    save_tree(tmp_path / "net", {"w": jnp.zeros(2)})
    save_tree(tmp_path / "net", {"w": jnp.ones(2)})
    np.testing.assert_array_equal(load_tree(tmp_path / "net", {"w": jnp.zeros(2)})["w"], np.ones(2))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="path='.*mine': exists and is not a checkpoint"):
        save_tree(tmp_path / "mine", tree())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "net"]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_tree(tmp_path / "net", tree(), {"notes": object()})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_tree(tmp_path / "file" / "net", tree())


def test_leftovers_are_removed(tmp_path):
    save_tree(tmp_path / "net", tree())
    (tmp_path / ".unfinished-abc" / "new").mkdir(parents=True)
    remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_removal_is_whole_or_under_a_temporary_name(tmp_path, monkeypatch):
    path = save_tree(tmp_path / "net", tree())
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove(path)
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    remove_unfinished(tmp_path)
    remove(path)
    assert list(tmp_path.iterdir()) == []


def rewritten(path, text):
    """Another about.json, or none, of which the checksums are right."""
    about, sums = path / "about.json", path / "sha256"
    kept = [line for line in sums.read_text().splitlines(keepends=True) if not line.endswith("  about.json\n")]
    about.unlink()
    if text is not None:
        about.write_text(text, encoding="latin-1")
        kept.insert(0, f"{hashlib.sha256(about.read_bytes()).hexdigest()}  about.json\n")
    sums.write_text("".join(kept))


def refused(path, like=None):
    with pytest.raises(CheckpointError) as caught:
        load_tree(path, tree() if like is None else like)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"arrays": {}}',
        '{"arrays": [], "notes": {}}',
        '{"arrays": {}, "notes": []}',
        '{"arrays": {"data_std": 5}, "notes": {}}',
        '{"arrays": ',
        "[" * 100_000,
        "\xff",
        None,
    ],
    ids=lambda text: str(text)[:30],
)
def test_what_tells_of_a_checkpoint_in_another_form_is_refused(tmp_path, text):
    path = save_tree(tmp_path / "net", tree())
    rewritten(path, text)
    assert "about.json" in refused(path)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"w": (3,)}, "w is float32(2,) there, float32(3,) is expected"),
        ({"v": (2,)}, "its arrays cannot be read: "),
        ({"w": (10**15,)}, "its arrays cannot be read: "),
    ],
)
def test_arrays_are_not_what_is_told_of_them(tmp_path, told, line):
    path = save_tree(tmp_path / "net", {"w": jnp.ones(2)})
    like = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in told.items()}
    rewritten(path, json.dumps({"arrays": {name: f"float32{shape}" for name, shape in told.items()}, "notes": {}}))
    assert line in refused(path, like)


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path):
    path = save_tree(tmp_path / "net", tree())
    for file in files(path):
        original = file.read_bytes()
        middle = len(original) // 2
        name = str(file.relative_to(path))
        damages = [original[:-1], original + b"x", b""]
        if original:
            flipped = bytes([original[middle] ^ 0x10])
            damages.append(original[:middle] + flipped + original[middle + 1 :])
        for damaged in damages:
            if damaged != original:
                file.write_bytes(damaged)
                assert name == "sha256" or name in refused(path)
                refused(path)
        file.unlink()
        refused(path)
        file.write_bytes(original)
    load_tree(path, tree())


def test_missing_and_foreign_directories(tmp_path):
    assert "no such directory" in refused(tmp_path / "none")
    assert "has no sha256 file" in refused(tmp_path)


def test_other_architectures(tmp_path):
    path = save_tree(tmp_path / "net", tree())
    assert "a.kernel is float32(2, 3) there, float32(2, 4) is expected" in refused(path, tree(4))
    assert "d is absent there, float32(1,) is expected" in refused(path, tree() | {"d": jnp.ones(1)})
    assert "c is float32() there, absent is expected" in refused(path, {k: tree()[k] for k in "ab"})
    assert "c is float32() there, int32() is expected" in refused(path, tree() | {"c": jnp.int32(1)})


def test_about_is_plain_json(tmp_path):
    path = save_tree(tmp_path / "net", {"w": jnp.ones((2, 3))}, {"x": None})
    about = {"arrays": {"w": "float32(2, 3)"}, "notes": {"x": None}}
    assert json.loads((path / "about.json").read_text()) == about


def test_threads_may_save_and_load_at_the_same_time(tmp_path):
    """Two networks that are trained side by side do, and Orbax alone loses some of these."""
    trees = [{"w": np.arange(10.0) + i} for i in range(3)]

    def save_and_load(i):
        for n in range(12):
            path = save_tree(tmp_path / str(i) / str(n), trees[i])
            np.testing.assert_array_equal(load_tree(path, trees[i])["w"], trees[i]["w"])

    with ThreadPoolExecutor(len(trees)) as pool:
        for done in [pool.submit(save_and_load, i) for i in range(len(trees))]:
            done.result(timeout=60)
