"""Images in tars, Parquet files and arrays of any name: the same pixels, names and captions as in a folder."""

import io
import json
import shutil
import sys
import tarfile
import tracemalloc

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from plap_jax.audit import AuditSettings, audit_images
from plap_jax.audit.archives import TarSource
from plap_jax.audit.arrays import shape_of
from plap_jax.audit.auditing import opened
from plap_jax.audit.images import Subset, pixels
from plap_jax.audit.plan import place_of
from plap_jax.audit.sources import files_of, in_braces, open_source
from plap_jax.audit.subject import Takes
from plap_jax.data.images import UnusableImage
from tests.helpers import memorizing_model

SHAPE, IMAGES = memorizing_model.SHAPE, memorizing_model.images(7, 3)
MODEL = memorizing_model.factory()
HOW = ("center-crop", None)
TEXTS = Takes(SHAPE, True, None)


def encoded(image):
    stored = io.BytesIO()
    Image.fromarray(pixels(image)[..., 0]).save(stored, "PNG")
    return stored.getvalue()


def tarred(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Seven images in two tars, in two Parquet files and in a folder, some with captions."""
    base = tmp_path_factory.mktemp("sources")
    (base / "folder").mkdir()
    for i, image in enumerate(IMAGES):
        (base / "folder" / f"{i:04d}.png").write_bytes(encoded(image))
    for k, rows in enumerate((range(4), range(4, 7))):
        files = {}
        for i in rows:
            files[f"./{i:04d}.png"] = encoded(IMAGES[i])
            files[f"./{i:04d}.cls"] = b"3"
            if i in (0, 5):
                files[f"./{i:04d}.txt"] = f"a digit {i}\n".encode()
            if i == 2:
                files["./0002.json"] = json.dumps({"width": 4, "caption": "a digit 2"}).encode()
        files["./alone.txt"], files["./.hidden.png"] = b"x", b"x"
        files["./0009.seg.png" if k else "./0008.png"] = b"no image"
        tarred(base / f"{k + 9:02d}.tar", files)
        column = [{"bytes": encoded(IMAGES[i]), "path": f"{i}.png"} for i in rows]
        column += [{"bytes": None, "path": "x"}] * (k == 0)
        texts = [f"a digit {i}" if i != 3 else None for i in rows] + ["none"] * (k == 0)
        table = pa.table({"image": column, "text": texts, "label": [1] * len(texts)})
        pq.write_table(table, base / f"train-{k:05d}-of-00002.parquet", row_group_size=2)
    return base


def read(source):
    return np.stack([source.read(i) for i in range(len(source.names))])


def test_braces_are_those_of_a_shell():
    assert in_braces("a{8..10}.tar") == ["a8.tar", "a9.tar", "a10.tar"]
    assert in_braces("{00..01}/{000..001}.tar")[2] == "01/000.tar" and in_braces("{a,b}.tar") == ["{a,b}.tar"]


def test_stars_stand_for_files_that_are_there_and_for_themselves(tmp_path):
    for name in ("b1.tar", "a1.tar", "a2.tar", "a*.tar"):
        (tmp_path / name).touch()
    assert [path.name for path in files_of(f"{tmp_path}/?{{1..2}}.tar")] == ["a1.tar", "b1.tar", "a2.tar"]
    assert [path.name for path in files_of(f"{tmp_path}/a*.tar")] == ["a*.tar"] and files_of(f"{tmp_path}/c*.tar") == []


def test_files_of_another_size_or_colour_are_told_before_they_are_read(place, tmp_path, caplog):
    assert open_source("images", place / "folder", SHAPE, *HOW).converted is None
    for i, size in enumerate([(4, 4), (6, 9), (4, 4)]):
        Image.new("RGB" if i == 2 else "L", size).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_text("no image")
    source = open_source("images", tmp_path, SHAPE, *HOW)
    told = "2 of 4 files looked at, such as 1.png (9×6, grey), are not as the model's images, and are converted; "
    assert source.converted == told + "center-crop: largest central square, averaged down to 4×4, grey, turned upright"
    assert Subset(source, [1], ()).converted == source.converted
    many = tmp_path / "many"
    many.mkdir()
    for i in range(100):
        Image.new("RGB", (4, 4)).save(many / f"{i:03d}.png")
    assert open_source("images", many, SHAPE, *HOW).converted.startswith(
        "32 of 32 files looked at, such as 000.png (4×4, RGB)"
    )
    with caplog.at_level("WARNING"):
        audit_images(MODEL, many, reference=place / "folder", key=jax.random.key(0), sigma=0.3, n_samples=8)
    told = [one.getMessage() for one in caplog.records if "looked at" in one.getMessage()]
    assert len(told) == 1 and told[0].startswith("  images: 32 of 32 files")


@pytest.mark.parametrize(
    ("mode", "size", "shape", "how", "is_told"),
    [
        ("L", (2, 2), (4, 4, 1), HOW, False),  # too small: skipped, with its reason
        ("L", (5, 5), (4, 4, 1), ("center-crop", 8), False),
        ("L", (8, 8), (4, 4, 1), ("center-crop", 8), True),
        ("L", (9, 9), (4, 4, 1), ("refuse", None), False),
        ("RGB", (4, 4), (4, 4, 1), ("refuse", None), True),
        ("L", (4, 4), (4, 4, 3), HOW, True),
        *[(mode, (4, 4), (4, 4, 1), HOW, False) for mode in ("1", "LA", "I;16")],
        *[(mode, (4, 4), (4, 4, 3), HOW, False) for mode in ("P", "RGBA")],
        ("L", (4, 6), (6, 4, 1), HOW, False),
    ],
)
def test_only_files_that_are_taken_and_changed_are_told(mode, size, shape, how, is_told, tmp_path):
    Image.new(mode, size).save(tmp_path / "one.png")
    assert (open_source("images", tmp_path, shape, *how).converted is not None) == is_told


def test_files_are_looked_at_upright(tmp_path):
    about = Image.Exif()
    about[0x0112] = 6
    Image.new("L", (6, 4)).save(tmp_path / "one.jpg", exif=about)
    assert open_source("images", tmp_path, (6, 4, 1), *HOW).converted is None
    assert open_source("images", tmp_path, (4, 4, 1), *HOW).converted.startswith(
        "1 of 1 files looked at, such as one.jpg (6×4"
    )


def test_tars_hold_the_images_of_a_folder(place):
    source = open_source("images", f"{place}/{{09..10}}.tar", SHAPE, *HOW)
    assert isinstance(source, TarSource)
    assert source.names == [
        *(f"09.tar/./{i:04d}.png" for i in (0, 1, 2, 3, 8)),
        *(f"10.tar/./{i:04d}.png" for i in (4, 5, 6)),
    ]
    kept = [0, 1, 2, 3, 5, 6, 7]
    folder = open_source("images", str(place / "folder"), SHAPE, *HOW)
    np.testing.assert_array_equal(np.stack([source.read(i) for i in kept[::-1]])[::-1], read(folder))
    with pytest.raises(UnusableImage, match="no PNG, JPEG or WebP"):
        source.read(4)
    assert source.captions == ["a digit 0", None, "a digit 2", None, None, None, "a digit 5", None]
    assert [name for name, _ in source.skipped] == ["09.tar/./alone.txt", "10.tar/./0009.seg.png", "10.tar/./alone.txt"]
    assert source.identity([0, 1]) != source.identity([0, 2]) and json.dumps(source.identity([0, 7]))
    assert source.words == folder.words


def test_a_tar_that_was_cut_loses_what_is_gone(place, tmp_path):
    source = open_source("images", str(place / "09.tar"), SHAPE, *HOW)
    (tmp_path / "cut.tar").write_bytes((place / "09.tar").read_bytes())
    cut = open_source("images", str(tmp_path / "cut.tar"), SHAPE, *HOW)
    (tmp_path / "cut.tar").write_bytes((place / "09.tar").read_bytes()[:1600])
    np.testing.assert_array_equal(cut.read(0), source.read(0))
    with pytest.raises(UnusableImage, match="the tar ends before it"):
        cut.read(3)


def test_parquet_files_hold_the_images_of_a_folder(place):
    source = open_source("images", f"{place}/train-{{00000..00001}}-of-00002.parquet", SHAPE, *HOW)
    assert source.names[4:6] == ["train-00000-of-00002.parquet/4", "train-00001-of-00002.parquet/0"]
    kept = [0, 1, 2, 3, 5, 6, 7]
    np.testing.assert_array_equal(
        np.stack([source.read(i) for i in kept]), read(open_source("images", str(place / "folder"), SHAPE, *HOW))
    )
    with pytest.raises(UnusableImage, match="holds no bytes of an image"):
        source.read(4)
    assert source.captions[3:5] == [None, "none"] and source.captions[7] == "a digit 6"
    assert json.dumps(source.identity([0, 7]))


def test_a_column_of_bytes_alone_will_do(tmp_path):
    table = pa.table({"jpg": [encoded(one) for one in IMAGES], "thumb": [b"x"] * 7, "n": range(7)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert len(read(open_source("images", str(tmp_path / "a.parquet"), SHAPE, *HOW))) == 7
    pq.write_table(table.rename_columns(["a", "b", "n"]), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="must hold one column with bytes of images, or one named image; a, b$"):
        open_source("images", str(tmp_path / "b.parquet"), SHAPE, *HOW)


def test_captions_beside_images_are_their_prompts(place):
    found = opened("images", f"{place}/{{09..10}}.tar", "captions", takes=TEXTS, settings=AuditSettings())
    assert found.prompts == ["a digit 0", "a digit 2", "a digit 5"]
    assert found.source.names == ["09.tar/./0000.png", "09.tar/./0002.png", "10.tar/./0005.png"]
    assert ("09.tar/./0001.png", "no prompt is given for it") in found.source.skipped
    with pytest.raises(ValueError, match="^prompts='captions': must lie beside the images, in a tar as 0001.txt"):
        opened("images", str(place / "folder"), "captions", takes=TEXTS, settings=AuditSettings())
    with pytest.raises(ValueError, match="^prompts='captions': must not be given: this model has no prompts"):
        opened("images", str(place / "09.tar"), "captions", takes=Takes(SHAPE, False, None), settings=AuditSettings())


@pytest.mark.parametrize(
    ("arrays", "chosen"),
    [
        ({"arr_0": IMAGES, "arr_1": np.zeros(7)}, "arr_0"),
        ({"mu": np.zeros(5), "sigma": np.zeros((5, 5)), "samples": IMAGES[..., 0]}, "samples"),
        ({"arr_0": IMAGES, "arr_1": -IMAGES}, "arr_0"),
        ({"images": IMAGES, "others": -IMAGES}, "images"),
    ],
)
def test_of_several_arrays_the_one_of_images_is_taken(arrays, chosen, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    found = read(open_source("images", str(tmp_path / "a.npz"), SHAPE, *HOW))
    np.testing.assert_array_equal(found, arrays[chosen].reshape(found.shape))
    assert shape_of(tmp_path / "a.npz") == SHAPE


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("{09..12}.tar", "must be files that are there, and 2 are not, such as 11.tar"),
        ("gone.parquet", "must be files that are there, and 1 are not, such as gone.parquet"),
        ("bad.tar", "is no uncompressed tar: "),
        ("packed.tar", "is no uncompressed tar: "),
        ("bad.parquet", "is no Parquet file: "),
        ("empty.tar", "must hold images (.png, .jpg, .jpeg, .webp), and none was found"),
        ("two.npz", "must hold one array of images, or one named images; it holds a, b"),
    ],
)
def test_what_is_none_is_one_line(name, line, place, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    (tmp_path / "bad.parquet").write_bytes(b"x" * 2000)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(place / "folder", "folder")
    for k in (9, 10):
        shutil.copy(place / f"{k:02d}.tar", tmp_path)
    tarred(tmp_path / "empty.tar", {"a.txt": b"x"})
    np.savez(tmp_path / "two.npz", a=IMAGES, b=IMAGES)
    with pytest.raises(ValueError) as refused:
        open_source("images", f"{tmp_path}/{name}", SHAPE, *HOW)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_places_are_found_from_other_folders(place, monkeypatch):
    monkeypatch.chdir(place)
    assert place_of("{09..10}.tar") == str(place / "{09..10}.tar") and place_of("folder") == str(place / "folder")
    assert place_of("a prompt") == "a prompt" and place_of(3) == 3 and place_of(IMAGES) is None


def test_the_extra_is_named(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "plap_jax.audit.parquet", raising=False)
    with pytest.raises(ImportError, match=r"^Parquet files need pyarrow: pip install '\.\[cluster\]' in the repo"):
        open_source("images", f"{place}/train-00000-of-00002.parquet", SHAPE, *HOW)


def test_a_tar_takes_little_more_memory_than_the_names_of_its_images(tmp_path):
    """Of each of ten million images: not its caption's place, too."""
    files = {f"{i:06d}{suffix}": b"x" for i in range(3000) for suffix in (".txt", ".png", ".json")}
    tarred(tmp_path / "a.tar", files)
    TarSource("images", [tmp_path / "a.tar"], SHAPE, *HOW)  # what is loaded once
    tracemalloc.start()
    source = TarSource("images", [tmp_path / "a.tar"], SHAPE, *HOW)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(source.names) == 3000 and kept < 200 * 3000
