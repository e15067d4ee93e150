"""IDX files: read as they were written, value by value; whatever is wrong with one is told in a line that names it."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.core.catalogue import CONF
from plap_jax.data import fashion_mnist, idx, idx_images
from plap_jax.data.idx import NAMES, read_idx
from tests.helpers.fashion import needs_fashion_mnist

FILES = NAMES.split(", ")
TRAIN_IMAGES, TRAIN_LABELS, T10K_IMAGES, T10K_LABELS = FILES
SMALL = dict(seed=0, n_train=6, n_heldout=3, duplicate_distance=0.0)


def packed(values, code=0x08, letter="B"):
    """An IDX file of nested lists, one value at a time."""
    shape, flat = [], values
    while isinstance(flat, list):
        shape.append(len(flat))
        flat = flat[0]
    flat = values
    for _ in shape[1:]:
        flat = [value for row in flat for value in row]
    header = struct.pack(">BBBB", 0, 0, code, len(shape)) + b"".join(struct.pack(">I", size) for size in shape)
    return header + b"".join(struct.pack(f">{letter}", value) for value in flat)


def image(first):
    """2×3 pixels; the first tells which image it is."""
    return [[first, 1, 2], [3, 254, 255]]


def contents():
    """Seven images in one part and five in the other, labelled a tenth of their first pixels."""
    firsts = ([10 * i for i in range(7)], [200 + 10 * i for i in range(5)])
    pairs = [([image(v) for v in part], [v // 10 for v in part]) for part in firsts]
    return dict(zip(FILES, [packed(values) for pair in pairs for values in pair], strict=True))


def written(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    ("code", "letter", "values"),
    [
        (0x08, "B", [[0, 1], [254, 255]]),
        (0x09, "b", [[-128, -1], [1, 127]]),
        (0x0B, "h", [[[-300], [2]], [[3], [30000]]]),
        (0x0C, "i", [-70000, 5, 1 << 30]),
        (0x0D, "f", [[0.5, -1.25, 1e10]]),
        (0x0E, "d", [0.1, -1e300]),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_type_is_read_as_it_was_written(tmp_path, code, letter, values, pack):
    file = tmp_path / "any name"
    file.write_bytes(pack(packed(values, code, letter)))
    array = read_idx(file)
    assert array.tolist() == (values if letter != "f" else np.float32(values).tolist())
    assert array.dtype.newbyteorder("=") == np.dtype(letter)


def test_no_values_are_an_empty_array(tmp_path):
    (tmp_path / "empty").write_bytes(struct.pack(">BBBBII", 0, 0, 8, 2, 0, 5))
    assert read_idx(tmp_path / "empty").shape == (0, 5)


def spelled(name):
    return name.replace("-idx", ".idx")


@pytest.mark.parametrize("spell", [str, spelled])
@pytest.mark.parametrize(("end", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_images_of_both_parts_are_scaled_and_keep_their_labels(tmp_path, spell, end, pack):
    path = written(tmp_path, {spell(name) + end: pack(content) for name, content in contents().items()})
    data = idx_images(path=path, **SMALL | {"n_train": 9})
    assert data.train.shape == (9, 2, 3, 1) and data.heldout.shape == (3, 2, 3, 1)
    assert data.train.dtype == np.float32 and data.train_labels.dtype == np.int32
    everything = np.concatenate([data.train, data.heldout])[..., 0]
    labels = np.concatenate([data.train_labels, data.heldout_labels])
    assert sorted(labels.tolist()) == [0, 1, 2, 3, 4, 5, 6, 20, 21, 22, 23, 24]
    for pixels, label in zip(everything.tolist(), labels.tolist(), strict=True):
        expected = [[2 * byte / 255 - 1 for byte in row] for row in image(10 * label)]
        np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert data.name == path


def test_near_duplicates_are_told_by_part_and_number(tmp_path):
    files = contents() | {T10K_IMAGES: packed([image(v) for v in (200, 11, 220, 230, 240)])}
    data = idx_images(path=written(tmp_path, files), **SMALL | {"n_train": None, "duplicate_distance": 0.01})
    ((kept, dropped, distance),) = data.duplicates
    assert (kept, dropped) == ("train/1", "t10k/1") and len(data.train) == 8
    assert distance == pytest.approx(2 / 255 / 6**0.5, rel=1e-4)


def test_only_images_that_are_used_become_floats(tmp_path):
    n, side = 20_000, 28
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, n, side, side)
    pixels = np.random.default_rng(0).integers(0, 256, n * side * side, np.uint8).tobytes()
    files = {TRAIN_IMAGES: header + pixels, TRAIN_LABELS: struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(n)}
    files |= {T10K_IMAGES: packed([[[0] * side] * side]), T10K_LABELS: packed([0])}
    path = written(tmp_path, files)
    tracemalloc.start()
    idx_images(path=path, **SMALL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * len(pixels)  # as floats they alone would be 4


BAD = {
    "wrong magic": (
        TRAIN_IMAGES,
        lambda c: b"\x01" + c[1:],
        "must be an IDX file: 0, 0, a type from 8 to 14, the number",
    ),
    "unknown type": (TRAIN_IMAGES, lambda c: c[:2] + b"\x0a" + c[3:], "must be an IDX file"),
    "no dimensions": (T10K_LABELS, lambda c: c[:3] + b"\x00" + c[4:], "must be an IDX file"),
    "more dimensions than an array has": (T10K_LABELS, lambda c: c[:3] + b"\xff" + bytes(2000), "must be an IDX file"),
    "empty": (T10K_IMAGES, lambda c: b"", "must be an IDX file"),
    "in the header": (T10K_IMAGES, lambda c: c[:9], "must be an IDX file"),
    "truncated": (TRAIN_IMAGES, lambda c: c[:-1], "must have 58 bytes for the shape (7, 2, 3), and has 57"),
    "trailing bytes": (TRAIN_LABELS, lambda c: c + b"x", "must have 15 bytes for the shape (7,), and has 16"),
    "absurd sizes": (TRAIN_LABELS, lambda c: c[:4] + b"\xff" * 4 + c[8:], "must have 4294967303 bytes"),
    "labels for images": (
        T10K_IMAGES,
        lambda c: packed([0, 1, 2, 3, 4]),
        "must hold grey images, (n, h, w) bytes, not uint8 of shape (5,)",
    ),
    "no pixels": (
        T10K_IMAGES,
        lambda c: struct.pack(">BBBBIII", 0, 0, 8, 3, 5, 0, 3),
        "must hold grey images, (n, h, w) bytes, not uint8 of shape (5, 0, 3)",
    ),
    "floats": (
        T10K_IMAGES,
        lambda c: packed([image(0)], 0x0D, "f"),
        "must hold grey images, (n, h, w) bytes, not >f4 of shape (1, 2, 3)",
    ),
    "fewer labels": (
        T10K_LABELS,
        lambda c: packed([1, 2, 3, 4]),
        "must hold labels, one byte for each of 5 images, not uint8 of shape (4,)",
    ),
    "labels of four bytes": (T10K_LABELS, lambda c: packed([1] * 5, 0x0C, "i"), "must hold labels, one byte for each"),
    "cut gzip": (T10K_IMAGES, lambda c: gzip.compress(c)[:-9], "cannot be read: Compressed file ended before"),
    "gzip of another sum": (
        T10K_IMAGES,
        lambda c: gzip.compress(c)[:-8] + bytes(8),
        "cannot be read: CRC check failed",
    ),
    "gzip of nonsense": (T10K_IMAGES, lambda c: gzip.compress(c)[:10] + b"\xff" * 40, "cannot be read: Error -3 while"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_in_one_line(tmp_path, case):
    name, change, line = BAD[case]
    files = contents()
    path = written(tmp_path, files | {name: change(files[name])})
    with pytest.raises(ValueError) as error:
        idx_images(path=path, **SMALL)
    assert f": {name} {line}" in str(error.value) and "\n" not in str(error.value)


def test_parts_of_two_sizes_are_refused(tmp_path):
    path = written(tmp_path, contents() | {T10K_IMAGES: packed([[[i]] for i in range(5)])})
    with pytest.raises(ValueError, match=r"must hold images of one size, not \(2, 3\) and \(1, 1\)$"):
        idx_images(path=path, **SMALL)


def test_a_missing_file_a_folder_in_its_place_and_no_path(tmp_path):
    files = contents()
    del files[T10K_LABELS]
    path = written(tmp_path, files)
    with pytest.raises(ValueError, match=f": must hold {T10K_LABELS} or {T10K_LABELS}.gz; the four files are {NAMES}$"):
        idx_images(path=path, **SMALL)
    (tmp_path / T10K_LABELS).mkdir()
    with pytest.raises(ValueError, match=f": {T10K_LABELS} cannot be read: Is a directory$"):
        idx_images(path=path, **SMALL)
    with pytest.raises(ValueError, match=f"^path=None: must be a folder with {NAMES}, each with or without .gz$"):
        idx_images(path=None, **SMALL)


def test_without_the_package_fashion_mnist_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(idx, "FASHION_MNIST", str(tmp_path / "not here"))
    line = f"^path=None: must be a folder with {NAMES}; or install them: apt-get install dataset-fashion-mnist$"
    with pytest.raises(ValueError, match=line):
        fashion_mnist(seed=0, n_train=1, n_heldout=1)


def test_the_configs_hold_the_defaults(tmp_path):
    path = written(tmp_path, contents())
    for name, load in (("mnist_idx", idx_images), ("fashion_mnist", fashion_mnist)):
        changes = {"path": path, "n_train": 1, "n_heldout": 1}
        config = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        assert config.duplicate_distance == load.__kwdefaults__["duplicate_distance"]
        made = instantiate(config, _convert_="all")(seed=5, **changes)
        assert made.fingerprint == load(seed=5, **changes).fingerprint


@needs_fashion_mnist
def test_fashion_mnist_is_what_was_published():
    labels = [read_idx(f"{idx.FASHION_MNIST}/{name}.gz") for name in (TRAIN_LABELS, T10K_LABELS)]
    assert [np.bincount(part).tolist() for part in labels] == [[6000] * 10, [1000] * 10]
    assert labels[0][:5].tolist() == [9, 0, 0, 3, 0]  # a boot first
    images = read_idx(f"{idx.FASHION_MNIST}/{T10K_IMAGES}.gz")
    assert images.shape == (10_000, 28, 28) and images[0, 20, 14] == 195  # of a boot


@needs_fashion_mnist
def test_fashion_mnist_in_two_pools():
    data = fashion_mnist(seed=0, n_train=300, n_heldout=100)
    assert data.train.shape == (300, 28, 28, 1) and data.heldout.shape == (100, 28, 28, 1)
    assert data.train.min() == -1 and data.train.max() == 1 and data.name == "fashion_mnist"
    shares = np.bincount(data.train_labels, minlength=10) / 300
    assert len(shares) == 10 and abs(shares - 0.1).max() < 0.07
    # Sneakers (7) are half as tall as dresses (3): labels stand beside their images.
    tall = [(data.train[data.train_labels == label] > -0.9).any(axis=2).sum(axis=(1, 2)).mean() for label in (7, 3)]
    assert tall[0] < 0.7 * tall[1]
