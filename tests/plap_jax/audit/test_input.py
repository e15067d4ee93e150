"""What people hand to an audit: files of every kind, arrays, prompts, models; each is used, or told in one line."""

import json
import os
import struct
import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFile

from plap_jax.audit.arrays import ArrayFile
from plap_jax.audit.images import FolderSource, Memory, digests_of, read_all
from plap_jax.audit.prompts import read_prompts
from plap_jax.audit.sources import open_source
from plap_jax.audit.subject import Subject, as_subject
from plap_jax.audit.training import Training
from plap_jax.data.images import UnusableImage
from plap_jax.diffusion import VPCosine
from plap_jax.pretrained import UserModel, as_pretrained, load_function
from tests.helpers import memorizing_model

SHAPE = (8, 8, 3)


def pixels(seed, height=8, width=8, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def png(path, width, height):
    """A PNG that declares a size and holds next to nothing."""

    def part(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")
    )


def folder_of_everything(folder):
    """Names → the reason why a file is skipped, or None where it is used."""
    folder.mkdir()
    colour = Image.fromarray(pixels(0))
    colour.save(folder / "plain.png")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.convert("P").save(folder / "palette.png")
    Image.fromarray(pixels(1)[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(pixels(2, 16, 10)).save(folder / "large.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    colour.save(folder / "turned.png", exif=exif)
    (folder / "link.png").symlink_to(folder / "plain.png")
    colour.save(folder / "moves.png", save_all=True, append_images=[Image.fromarray(pixels(3))])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    whole = (folder / "plain.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    png(folder / "bomb.png", 9000, 9000)
    png(folder / "huge.png", 60000, 60000)
    (folder / "round.png").symlink_to(folder / "round.png")
    (folder / "nowhere.png").symlink_to(folder / "missing.png")
    (folder / "elsewhere").symlink_to(folder.parent)
    Image.fromarray(pixels(4, 4, 4)).save(folder / "small.png")
    used = ("plain.png", "cmyk.jpg", "palette.png", "sixteen.png", "large.webp", "turned.png", "link.png")
    return dict.fromkeys(used) | {
        "moves.png": "an animation of 2 frames",
        "empty.png": "empty",
        "text.jpg": "no PNG, JPEG or WebP by its content",
        "notes.txt": "not named as an image",
        "cut.png": "cannot be decoded",
        "bomb.png": "declares 9000×9000 pixels, more than 67108864",
        "huge.png": "cannot be decoded: Image size (3600000000 pixels) exceeds limit",
        "round.png": "not a file that can be read",
        "nowhere.png": "not a file that can be read",
        "elsewhere": "a link to a folder, not followed",
        "small.png": "4×4, smaller than 8×8",
    }


def test_every_file_is_used_or_told(tmp_path, monkeypatch):
    expected = folder_of_everything(tmp_path / "images")
    decoded, load_whole = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image) or load_whole(image))
    source = FolderSource("images", tmp_path / "images", SHAPE, "center-crop", None)
    found = dict(source.skipped)
    for index, name in enumerate(source.names):
        before = len(decoded)
        try:
            image = source.read(index)
            assert image.shape == SHAPE and image.dtype == np.float32 and np.abs(image).max() <= 1
            found[name] = None
        except UnusableImage as reason:
            found[name] = str(reason)
        if name in ("bomb.png", "huge.png", "plain.png"):  # refused before anything is decoded
            assert (len(decoded) > before) == (name == "plain.png")
    assert set(found) == set(expected)
    for name, reason in expected.items():
        assert (found[name] is None) == (reason is None), (name, found[name])
        assert reason is None or (found[name].startswith(reason) and "\n" not in found[name])
    by_name = {name: source.read(i) for i, name in enumerate(source.names) if expected[name] is None}
    assert np.array_equal(by_name["link.png"], by_name["plain.png"])
    assert np.array_equal(by_name["turned.png"], np.rot90(by_name["plain.png"], -1))
    assert np.allclose(by_name["sixteen.png"][..., 0], pixels(1)[..., 0] / 127.5 - 1, atol=1e-6)
    assert source.words.startswith("center-crop: largest central square, averaged down to 8×8, RGB")


def test_files_that_cannot_be_opened_are_told(tmp_path, monkeypatch):
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    source = FolderSource("images", tmp_path, SHAPE, "center-crop", None)

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(UnusableImage, match="Permission denied"):
        source.read(0)
    monkeypatch.undo()
    before = source.identity([0])
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert source.identity([0]) != before
    (tmp_path / "a.png").unlink()  # gone after it was listed
    assert source.identity([0])[-1] == [["a.png", None, None]]
    with pytest.raises(UnusableImage):
        source.read(0)


def test_arrays_are_read_row_by_row(tmp_path):
    bytes_ = pixels(0, 5 * 8).reshape(5, *SHAPE)
    floats = np.random.default_rng(1).uniform(-1, 1, (5, *SHAPE))
    np.save(tmp_path / "bytes.npy", bytes_)
    np.save(tmp_path / "floats.npy", floats.astype(np.float16))
    np.savez(tmp_path / "several.npz", images=floats, other=np.zeros(3))
    np.savez_compressed(tmp_path / "packed.npz", bytes_)
    for name, expected in {
        "bytes.npy": bytes_ / 127.5 - 1,
        "floats.npy": floats.astype(np.float16),
        "several.npz": floats,
        "packed.npz": bytes_ / 127.5 - 1,
    }.items():
        source = open_source("images", str(tmp_path / name), SHAPE, "center-crop", None)
        assert list(source.names) == list("01234")
        for i in (3, 0, 4):  # in any order
            assert source.read(i).dtype == np.float32
            assert np.allclose(source.read(i), expected[i], atol=1e-6), name
    grey = np.random.default_rng(2).uniform(-1, 1, (2, 8, 8))
    np.save(tmp_path / "grey.npy", grey)
    assert np.allclose(ArrayFile("images", tmp_path / "grey.npy", (8, 8, 1)).read(1)[..., 0], grey[1])


def test_rows_that_are_no_images_are_told(tmp_path):
    rows = np.zeros((4, *SHAPE))
    rows[1, 0, 0, 0], rows[2, 0, 0, 0] = np.nan, 7
    np.save(tmp_path / "rows.npy", rows)
    whole = (tmp_path / "rows.npy").read_bytes()
    (tmp_path / "rows.npy").write_bytes(whole[:-8])
    source = ArrayFile("images", tmp_path / "rows.npy", SHAPE)
    reasons = {1: "holds NaN or infinity", 2: "holds 7, floats must lie in [-1, 1]; 0 to 255 as uint8"}
    reasons[3] = "the file ends before it"
    for i, reason in reasons.items():
        with pytest.raises(UnusableImage) as found:
            source.read(i)
        assert str(found.value) == reason
    images, names, skipped = read_all(source)
    assert images.shape == (1, *SHAPE) and names == ["0"]
    assert skipped == [(str(i), reason) for i, reason in reasons.items()]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.npy", np.zeros((3, 8, 8, 1)), "holds (3, 8, 8, 1): must be (n, 8, 8, 3), the shape of the model's images"),
        ("a.npy", np.zeros((3, 9, 8, 3)), "holds (3, 9, 8, 3): must be (n, 8, 8, 3)"),
        ("a.npy", np.zeros((0, 8, 8, 3)), "holds (0, 8, 8, 3): must be (n, 8, 8, 3)"),
        ("a.npy", np.zeros((3, 8, 8, 3), int), "holds int64: must be uint8, or floats in [-1, 1]"),
        ("a.npy", np.array([{}], object), "holds object: must be uint8, or floats in [-1, 1]; no pickled objects"),
        ("a.npy", np.asfortranarray(np.zeros((3, 8, 8, 3))), "must be in C order"),
        ("a.npy", b"no array", "is no NumPy array: "),
        ("a.npz", b"no archive", "is no .npz file: "),
        (
            "a.npz",
            {"a": np.zeros(1), "b": np.zeros(1)},
            "must hold one array of images, or one named images; it holds a, b",
        ),
        ("a.npz", {}, "must hold one array of images, or one named images; it holds none"),
        ("a.txt", b"", "must be a folder of images, an .npz or an .npy file that is there"),
        ("missing/a.npy", None, "must be a folder of images, an .npz or an .npy file that is there"),
    ],
)
def test_an_array_that_does_not_fit_is_one_line(tmp_path, name, content, line):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError) as refused:
        open_source("images", str(path), SHAPE, "center-crop", None)
    assert str(refused.value).startswith("images=") and line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_does_not_fit_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"must be .npz or .npy: the model's images are \(8, 8, 2\)"):
        open_source("images", str(tmp_path), (8, 8, 2), "center-crop", None)
    for shape in (SHAPE, (8, 9, 3)):  # of any proportions
        with pytest.raises(ValueError, match="must hold images .*none was found"):
            open_source("images", str(tmp_path), shape, "center-crop", None)
    with pytest.raises(ValueError, match="^crop=4: must not be given, or be at least 8"):
        open_source("images", str(tmp_path), SHAPE, "center-crop", 4)


@pytest.fixture(scope="module")
def numbered():
    return as_subject(memorizing_model.prompted(), None)


@pytest.fixture(scope="module")
def plain():
    return as_subject(memorizing_model.factory(), None)


def test_prompts_come_from_a_table_or_are_the_same_for_all(tmp_path, numbered, plain):
    table = tmp_path / "prompts.CSV"
    table.write_text('\ufefffile,prompt\n"a,1.png",3\nbad.png,4\nb.png,0\n\n')
    found = read_prompts("prompts", str(table), ["b.png", "a,1.png"], {"bad.png"}, numbered)
    assert found.prompts == [0, 3] and not found.strangers
    text = Subject(plain.model, "a model of texts")
    object.__setattr__(text.model, "text", object())
    try:
        assert read_prompts("prompts", "a, b", ["x"], set(), text).prompts == ["a, b"]
        assert read_prompts("prompts", 7, ["x"], set(), text).prompts == ["7"]
    finally:
        object.__setattr__(text.model, "text", None)


def test_what_a_factory_may_not_say(monkeypatch):
    made = memorizing_model.factory()
    for changes, line in (
        ({"shape": (4, 4)}, "shape"),
        ({"n_conditions": 0}, "n_conditions"),
        ({"schedule": None}, "schedule"),
        ({"schedule": VPCosine}, r"schedule=.*VPCosine.*: must be a schedule of plap_jax.diffusion, such as VPLinear"),
        ({"prediction": "noise"}, "prediction"),
    ):
        changed = partial(UserModel, **{**vars(made), **changes})
        monkeypatch.setattr(memorizing_model, "changed", changed, raising=False)
        with pytest.raises(ValueError, match=line):
            load_function("tests.helpers.memorizing_model:changed")


def test_another_model_has_another_key(plain, numbered):
    again = as_subject(memorizing_model.factory(), None)
    assert plain.key == again.key != numbered.key
    made = memorizing_model.factory()
    other = UserModel(made.function, VPCosine(), made.shape)
    assert Subject(as_pretrained(other), plain.words).key != plain.key


def test_what_a_model_holds_is_in_its_key_though_no_question_meets_it(numbered):
    def model(held):
        def eps(x, t, condition):
            near = jnp.exp(-1e4 * jnp.sum((x - held) ** 2))  # 0 in float32 but next to what is held
            return x + near * (x - held)

        return Subject(as_pretrained(UserModel(eps, VPCosine(), memorizing_model.SHAPE)), "a function")

    one, same, other = (model(memorizing_model.MEMORIZED[i]) for i in (0, 0, 1))
    assert one.key == same.key != other.key
    # a prompt that is never asked for
    means = (memorizing_model.N_MEMORIZED + 1, *memorizing_model.SHAPE)
    network = jax.tree.map(
        lambda leaf: leaf.at[9].add(1e-3) if leaf.shape == means else leaf, memorizing_model.prompted().function
    )
    changed = UserModel(network, memorizing_model.SCHEDULE, memorizing_model.SHAPE, "score", 13)
    assert Subject(as_pretrained(changed), numbered.words).key != numbered.key


def test_folders_that_differ_in_content_alone_are_not_taken_for_each_other(tmp_path):
    sources = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
        os.utime(tmp_path / name / "0.png", (0, 0))
        sources.append(open_source("images", str(tmp_path / name), SHAPE, "center-crop", None))
    assert sources[0].identity([0]) != sources[1].identity([0])
    again = open_source("images", str(tmp_path / "a"), SHAPE, "center-crop", None)
    assert again.identity([0]) == sources[0].identity([0])


def test_a_training_set_holds_each_image_once():
    images = memorizing_model.images(6, 0)
    training = Training(Memory(np.concatenate([images, images[:3]])), 1 / 3, 0.1)
    assert len(training.images) == 6 and training.names == list("012345")
    found = training.columns(images[4:5] + np.float32(0.01))
    assert found["nearest"].tolist() == [4] and found["ratio"][0] < 0.1
    assert found["distance"][0] == pytest.approx(0.01, rel=1e-3)
    assert np.isin(digests_of(images[2:3]), training.digests).all()
    with pytest.raises(ValueError, match="^training='1 images': must hold at least two different ones"):
        Training(Memory(images[[0, 0]]), 1 / 3, 0.1)


def test_what_tells_rows_apart_can_be_written_down():
    assert json.dumps(Memory(np.zeros((2, 4, 4, 1))).identity([0, 1]))
