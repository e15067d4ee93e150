"""A folder of images, with everything in it that people's folders hold."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from plap_jax.data import imagefolder
from plap_jax.data.decoding import as_array
from plap_jax.data.folder import decode
from plap_jax.data.images import UnusableImage
from plap_jax.neighbours import nearest

BASE = dict(seed=0, size=8, n_heldout=2)


def pixels(seed, height=8, width=8, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def save(path, seed=0, shape=(8, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, *shape)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Ten good images."""
    for i in range(10):
        save(tmp_path / "images" / f"{i}.png", i)
    return tmp_path / "images"


def load(folder, **changes):
    return imagefolder(path=str(folder), **(BASE | changes))


def test_images_come_as_they_are(folder):
    data = load(folder)
    assert data.train.shape == (8, 8, 8, 3) and data.heldout.shape == (2, 8, 8, 3)
    assert data.train.dtype == np.float32 and data.train.min() == -1 and data.train.max() == 1
    found = {np.round((image + 1) * 127.5).astype(np.uint8).tobytes() for image in [*data.train, *data.heldout]}
    assert found == {pixels(i).tobytes() for i in range(10)}
    assert data.name == "images" and data.train_labels is None and data.skipped == data.duplicates == ()


def test_neither_the_file_system_nor_anything_but_the_seed_decides_the_order(folder, tmp_path):
    first = load(folder)
    for name in sorted(os.listdir(folder), reverse=True):
        (tmp_path / "copy").mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / "copy" / name)
    assert load(tmp_path / "copy").fingerprint == first.fingerprint == load(folder).fingerprint
    assert load(folder, seed=1).fingerprint != first.fingerprint


def test_the_order_of_the_walk_does_not_matter(folder, monkeypatch):
    save(folder / "a" / "b" / "deep.png", 20)
    save(folder / "c" / "other.png", 21)
    first, walk = load(folder), os.walk

    def backwards(top, **options):
        for directory, subfolders, names in walk(top, **options):
            subfolders.sort(reverse=True)
            yield directory, subfolders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert load(folder).fingerprint == first.fingerprint and len(first.train) == 10


def test_labels_are_the_subfolders(tmp_path):
    for i, name in enumerate(["zebra/1.png", "ant/x/2.png", "ant/3.jpg", "zebra/4.webp", "cat/5.PNG"]):
        save(tmp_path / name, i)
    data = load(tmp_path, n_heldout=1)
    labels = np.concatenate([data.train_labels, data.heldout_labels])
    assert labels.dtype == np.int32 and sorted(labels) == [0, 0, 1, 2, 2]
    images = np.concatenate([data.train, data.heldout])
    cat = (pixels(4) / 127.5 - 1).astype(np.float32)
    assert labels[np.argmin(nearest(images, cat[None])[0][:, 0])] == 1
    save(tmp_path / "outside.png", 9)
    assert load(tmp_path, n_heldout=1).train_labels is None


def bad_files(folder):
    """Files that cannot be used, with the reason."""
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no image at all")
    (folder / "notes.txt").write_text("ten images")
    save(folder / "noise.jpg", 30, (64, 64))
    whole = (folder / "noise.jpg").read_bytes()
    (folder / "noise.jpg").unlink()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    png = bytearray((folder / "0.png").read_bytes())
    png[60:70] = bytes(10)
    (folder / "corrupt.png").write_bytes(png)
    frames = [Image.fromarray(pixels(i)) for i in (31, 32)]
    frames[0].save(folder / "moves.png", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "moves.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "still.gif")
    (folder / "still.gif").rename(folder / "gif.png")
    Image.fromarray(np.zeros((9, 9), np.float32)).convert("I").save(folder / "float.tif")
    (folder / "float.tif").rename(folder / "float.png")
    save(folder / "tiny.png", 33, (7, 20))
    (folder / "broken_link.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / ".hidden.png").write_text("not looked at")
    return {
        "empty.png": "empty",
        "text.jpg": "no PNG, JPEG or WebP by its content",
        "notes.txt": "not named as an image (.png, .jpg, .jpeg, .webp)",
        "cut.jpg": "cannot be decoded: image file is truncated",
        "corrupt.png": "cannot be decoded: ",
        "moves.png": "an animation of 2 frames",
        "moves.webp": "an animation of 2 frames",
        "gif.png": "no PNG, JPEG or WebP by its content",
        "float.png": "no PNG, JPEG or WebP by its content",
        "tiny.png": "20×7, smaller than 8×8",
        "broken_link.png": "not a file that can be read",
        "pipe.png": "not a file that can be read",
    }


def test_bad_files_are_listed_and_the_others_used(folder):
    expected = bad_files(folder)
    data = load(folder)
    assert len(data.train) + len(data.heldout) == 10
    assert [name for name, _ in data.skipped] == sorted(expected)
    for name, reason in data.skipped:
        assert reason.startswith(expected[name]) and "\n" not in reason
    assert data.fingerprint != load(folder, seed=1).fingerprint


def test_a_bad_file_is_refused_by_name(folder):
    for name in bad_files(folder):
        (folder / name).rename(folder.parent / name)
    for path in sorted(folder.parent.glob("*.*")):
        path.rename(folder / path.name)
        with pytest.raises(ValueError, match=f"^file='{path.name}': .*; on_bad=skip leaves such files out$") as error:
            load(folder, on_bad="refuse")
        assert "\n" not in str(error.value)
        (folder / path.name).unlink()
    assert load(folder, on_bad="refuse").skipped == ()


def test_every_prefix_of_every_format_is_used_or_skipped(folder):
    for suffix in ("png", "jpg", "webp"):
        save(folder / f"whole.{suffix}", 40, (16, 16))
        content = (folder / f"whole.{suffix}").read_bytes()
        for i in range(1, 20):
            (folder / f"part{i}.{suffix}").write_bytes(content[: len(content) * i // 20])
    data = load(folder)
    assert len(data.skipped) > 50 and all(name.startswith("part") for name, _ in data.skipped)


def test_a_file_name_that_is_no_text(folder):
    os.rename(os.fsencode(folder / "0.png"), os.fsencode(folder) + b"/\xff.png")
    (folder / "new\nline.png").touch()
    data = load(folder)
    assert data.skipped == (("new\nline.png", "empty"),)
    (folder / "1.png").unlink()
    os.link(os.fsencode(folder) + b"/\xff.png", folder / "1.png")
    ((kept, dropped, distance),) = load(folder).duplicates
    assert (kept, dropped, distance) == ("1.png", "?.png", 0.0)


# Modes


def two(folder, image, name="a.png", **options):
    """A folder of that image and of another one."""
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **options)
    save(folder / "z.png", 99)
    return folder


def first(folder, **changes):
    """The first of the two, 0 … 255: which pool it is in, and which the other, is left to chance."""
    data = load(folder, n_heldout=1, **changes)
    assert data.skipped == () and len(data.train) == len(data.heldout) == 1
    values = (np.concatenate([data.train, data.heldout]) + 1) * 127.5
    differ = [image for image in values if not np.allclose(image, pixels(99), atol=1e-3)]
    assert len(differ) == 1
    return np.round(differ[0], 3)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda rgb: Image.fromarray(rgb[..., 0]), lambda rgb: rgb[..., [0, 0, 0]]),
        (lambda rgb: Image.fromarray(257 * rgb[..., 0].astype(np.uint16)), lambda rgb: rgb[..., [0, 0, 0]]),
        (lambda rgb: Image.fromarray(rgb[..., 0] > 127), lambda rgb: 255 * (rgb[..., [0, 0, 0]] > 127)),
        (lambda rgb: Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=256), lambda rgb: rgb),
    ],
    ids=["grey", "16 bit", "1 bit", "palette"],
)
def test_modes(tmp_path, make, expected):
    rgb = pixels(7)
    np.testing.assert_array_equal(first(two(tmp_path / "f", make(rgb))), expected(rgb))


def test_what_is_transparent_is_white(tmp_path):
    rgb = pixels(7)
    alpha = np.tile(np.uint8([0, 255]), (8, 4))
    image = Image.fromarray(np.dstack([rgb, alpha]))
    expected = np.where(alpha[..., None] > 0, rgb, 255)
    np.testing.assert_array_equal(first(two(tmp_path / "alpha", image)), expected)
    palette = Image.fromarray(np.tile(np.uint8([0, 1]), (8, 4)))
    palette = palette.convert("P")
    palette.putpalette([10, 20, 30, 200, 210, 220])
    found = first(two(tmp_path / "palette", palette, transparency=0))
    np.testing.assert_array_equal(found[0, :2], [[255, 255, 255], [200, 210, 220]])


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = first(two(tmp_path / "f", image, "a.jpg", quality=100))
    np.testing.assert_allclose(found, np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=3)


def test_grey_is_the_luma(tmp_path):
    data = load(two(tmp_path / "f", Image.fromarray(pixels(7))), n_heldout=1, mode="L")
    luma = np.stack([pixels(seed) @ [[0.299], [0.587], [0.114]] for seed in (7, 99)])
    found = (np.concatenate([data.train, data.heldout]) + 1) * 127.5
    assert found.shape == (2, 8, 8, 1)
    assert sorted(nearest(found, luma)[1][:, 0]) == [0, 1]
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(luma.ravel()), atol=1)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_refused(mode):
    with pytest.raises(UnusableImage, match=f"^of mode {mode}, whose range of values is not known$"):
        as_array(Image.new(mode, (8, 8)), size=8, mode="L", resize="center-crop")


def test_the_orientation_is_honoured(tmp_path):
    rgb = pixels(7)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    found = first(two(tmp_path / "f", Image.fromarray(rgb), exif=exif))
    np.testing.assert_array_equal(found, np.rot90(rgb, -1))


def test_a_multi_picture_jpeg_is_its_first_picture(tmp_path):
    image, preview = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    folder = two(tmp_path / "f", image, "a.jpg", format="MPO", save_all=True, append_images=[preview])
    np.testing.assert_allclose(first(folder), np.broadcast_to([200, 0, 0], (8, 8, 3)), atol=3)


# Sizes


def test_the_central_square_is_averaged_down(tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = np.kron(np.indices((32, 32)).sum(axis=0) % 2 * 255, np.ones((1, 1)))[..., None]
    found = first(two(tmp_path / "f", Image.fromarray(wide)))
    np.testing.assert_allclose(found, 127.5, atol=8)  # a chequerboard turns grey; picking pixels would leave 0 or 255


def test_a_crop_is_taken_from_the_middle(tmp_path):
    image = np.full((20, 30, 3), 255, np.uint8)
    image[6:14, 11:19] = pixels(7)
    np.testing.assert_array_equal(first(two(tmp_path / "f", Image.fromarray(image)), crop=8), pixels(7))


def test_other_sizes_can_be_refused(folder):
    save(folder / "large.png", 50, (16, 8))
    assert load(folder, resize="refuse").skipped == (("large.png", "8×16, not 8×8"),)
    with pytest.raises(ValueError, match="^file='large.png': 8×16, not 8×8; on_bad=skip leaves such files out$"):
        load(folder, resize="refuse", on_bad="refuse")
    assert load(folder).skipped == ()


# Duplicates, numbers, bad arguments


def test_a_photograph_saved_twice_counts_once(folder):
    smooth = Image.fromarray(pixels(60, 4, 4)).resize((64, 64), Image.Resampling.BICUBIC)
    smooth.save(folder / "one.png")
    smooth.save(folder / "two.jpg", quality=70)
    smooth.resize((48, 48)).save(folder / "three.webp", quality=90)
    data = load(folder)
    assert [row[:2] for row in data.duplicates] == [("one.png", "three.webp"), ("one.png", "two.jpg")]
    assert all(0 < distance < 0.05 for *_, distance in data.duplicates)
    assert nearest(data.heldout, data.train)[0].min() / 192**0.5 > 0.05
    assert len(load(folder, duplicate_distance=0.0).train) == len(data.train) + 2


def test_with_n_train_no_more_is_read_than_is_used(folder, monkeypatch):
    opened, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: opened.append(path) or original(path, **options))
    data = load(folder, n_train=3)
    assert len(data.train) == 3 and len(opened) == len(set(opened)) == 5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (dict(path=None), "path=None: must be a folder of images"),
        (dict(path="no/such/folder"), "path='no/such/folder': must be a folder of images, and there is no such folder"),
        (dict(size=0), "size=0: must be >= 1"),
        (dict(mode="CMYK"), "mode='CMYK': must be RGB (three channels) or L (grey)"),
        (dict(on_bad="ignore"), "on_bad='ignore': must be skip or refuse"),
        (dict(resize="stretch"), "resize='stretch': must be center-crop or refuse"),
        (dict(crop=4), "crop=4: must not be given, or be at least size=8"),
        (dict(n_heldout=0), "n_heldout=0: must be >= 1"),
        (
            dict(n_heldout=10),
            "n_heldout=10: with one to train on needs 11 images, and images has 10 that are usable and distinct "
            "(0 near-duplicates dropped, 0 skipped)",
        ),
    ],
)
def test_bad_arguments_are_one_line(folder, arguments, line):
    with pytest.raises(ValueError) as error:
        imagefolder(**(BASE | dict(path=str(folder)) | arguments))
    assert str(error.value) == line


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold images .*, and none was found$"):
        load(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="must hold images .*, and none was found$"):
        load(tmp_path)


def test_a_damaged_exif_block_costs_no_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(3)).save(tmp_path / "a.png", exif=exif.tobytes()[:9] + b"\xff" * 40)
    found = decode(tmp_path / "a.png", 8, "RGB", "refuse")
    np.testing.assert_allclose(found, pixels(3) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["profile", "text"])
def test_megabytes_beside_the_pixels_cost_no_image(tmp_path, kind):
    info, filling = PngInfo(), bytes(2 * 2**20)
    if kind == "text":
        info.add_text("prompt", "a" * len(filling), zip=True)
    Image.fromarray(pixels(3)).save(
        tmp_path / "a.png", pnginfo=info, **({"icc_profile": filling} if kind == "profile" else {})
    )
    found = decode(tmp_path / "a.png", 8, "RGB", "refuse")
    np.testing.assert_allclose(found, pixels(3) / 127.5 - 1, atol=1e-6)
