"""Data sets of the library `datasets`, from disk: in the formats in which they come from the hub."""

import importlib
import io

import datasets
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from experiments.core.catalogue import CONF
from plap_jax.data import huggingface

BASE = dict(seed=0, size=8, n_train=12, n_heldout=4)
N = 20


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape or (8, 8, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Nothing is written to the user's cache, and nothing is asked of the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


def table(images, **columns):
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(num_classes=10),
        text=datasets.Value("string"),
        share=datasets.Value("float32"),
    )
    n = len(images)
    columns = dict(image=images, label=[i % 10 for i in range(n)], text=["a"] * n, share=[0.5] * n) | columns
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two splits, as `save_to_disk` leaves them."""
    folder = tmp_path_factory.mktemp("saved")
    splits = {
        "train": table([Image.fromarray(pixels(i)) for i in range(N)]),
        "test": table([Image.fromarray(pixels(i + 100)) for i in range(N)]),
    }
    datasets.DatasetDict(splits).save_to_disk(folder)
    return str(folder)


def contents(data):
    return {np.round((x + 1) * 127.5).astype(np.uint8).tobytes() for x in [*data.train, *data.heldout]}


def test_a_saved_data_set(saved):
    data = huggingface(path=saved, label_key="label", **BASE)
    assert data.train.shape == (12, 8, 8, 3) and data.heldout.shape == (4, 8, 8, 3)
    assert data.train.dtype == np.float32 and data.train.min() == -1 and data.train.max() == 1
    originals = {pixels(i).tobytes(): i % 10 for i in range(N)}
    assert len(contents(data)) == 16 and contents(data) <= set(originals)
    for images, labels in ((data.train, data.train_labels), (data.heldout, data.heldout_labels)):
        assert labels.dtype == np.int32
        expected = [originals[np.round((x + 1) * 127.5).astype(np.uint8).tobytes()] for x in images]
        np.testing.assert_array_equal(labels, expected)
    assert data.skipped == data.duplicates == () and data.name == saved
    assert huggingface(path=saved, **BASE).fingerprint == data.fingerprint
    assert huggingface(path=saved, **BASE).train_labels is None
    assert huggingface(path=saved, **(BASE | dict(seed=1))).fingerprint != data.fingerprint
    test = huggingface(path=saved, split="test", **(BASE | dict(n_train=None)))
    assert contents(test) == {pixels(i + 100).tobytes() for i in range(N)}


def test_one_split_alone(saved, tmp_path):
    datasets.load_from_disk(saved)["train"].save_to_disk(tmp_path / "one")
    one = huggingface(path=str(tmp_path / "one"), **BASE)
    assert one.fingerprint == huggingface(path=saved, **BASE).fingerprint


def test_a_folder_of_images_and_a_parquet_file_by_their_loaders(tmp_path):
    images = [Image.fromarray(pixels(i)) for i in range(N)]
    for i, image in enumerate(images):
        (tmp_path / "images" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "images" / f"class{i % 2}" / f"{i:02}.png")
    data = huggingface(path=str(tmp_path / "images"), label_key="label", **BASE)
    assert contents(data) <= {pixels(i).tobytes() for i in range(N)} and set(data.train_labels) == {0, 1}
    (tmp_path / "parquet").mkdir()
    table(images).to_parquet(tmp_path / "parquet" / "train.parquet")
    data = huggingface(path=str(tmp_path / "parquet"), **BASE)
    assert len(contents(data)) == 16 and contents(data) <= {pixels(i).tobytes() for i in range(N)}


def test_grey_cropped_and_resized(saved, tmp_path):
    data = huggingface(path=saved, **(BASE | dict(size=4)), mode="L", crop=6)
    assert data.train.shape == (12, 4, 4, 1)
    faces = [Image.fromarray(pixels(i, 218, 178, 3)) for i in range(3)]
    table(faces).save_to_disk(tmp_path / "faces")
    path = str(tmp_path / "faces")
    data = huggingface(path=path, seed=0, size=140, n_train=2, n_heldout=1, crop=140)
    assert contents(data) == {np.asarray(face)[39:179, 19:159].tobytes() for face in faces}


def test_no_more_is_decoded_than_is_used(saved, monkeypatch):
    decoded, original = [], datasets.Image.decode_example

    def counting(self, value, *args, **kwargs):
        decoded.append(value["bytes"])
        return original(self, value, *args, **kwargs)

    monkeypatch.setattr(datasets.Image, "decode_example", counting)
    huggingface(path=saved, label_key="label", **BASE)
    assert len(decoded) == len(set(decoded)) == 16


def test_rows_that_cannot_be_used_and_rows_that_come_twice(tmp_path):
    images = [dict(bytes=png(pixels(i)), path=None) for i in range(N)]
    images[3] = dict(bytes=images[3]["bytes"][:60], path=None)
    images[5] = None
    images[7] = dict(bytes=png(pixels(7, 4, 9, 3)), path=None)
    images[9] = images[2]
    table(images).save_to_disk(tmp_path / "d")
    data = huggingface(path=str(tmp_path / "d"), **(BASE | dict(n_train=None)))
    assert len(data.train) == N - 4 - 4 and data.duplicates == (("2", "9", 0.0),)
    reasons = dict(data.skipped)
    assert list(reasons) == ["3", "5", "7"] and (reasons["5"], reasons["7"]) == ("missing", "9×4, smaller than 8×8")
    assert reasons["3"].startswith("cannot be decoded: ")


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (dict(path=None), "path=None: must be a data set's name on the hub, or a folder"),
        (dict(size=0), "size=0: must be >= 1"),
        (dict(image_key="img"), "image_key='img': must be a column of images; there are image (Image), label (Class"),
        (dict(image_key="label"), "image_key='label': must be a column of images; there are image (Image), label (C"),
        (dict(label_key="class"), "label_key='class': must be a column; there are image (Image), label (ClassLabel),"),
        (dict(label_key="text"), "label_key='text': must be a column of integers, not of Value string"),
        (dict(label_key="share"), "label_key='share': must be a column of integers, not of Value float32"),
        (dict(n_train=17), "n_train=17: with n_heldout=4 needs 21 images, and "),
        (dict(split="validation"), "split='validation': must be one of train, test"),
    ],
)
def test_bad_arguments_are_one_line(saved, arguments, line):
    with pytest.raises(ValueError) as error:
        huggingface(**(BASE | dict(path=saved) | arguments))
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_without_a_connection_one_line_says_so(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nmany\nlines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError) as error:
        huggingface(path="ylecun/mnist", **BASE)
    assert str(error.value) == "path='ylecun/mnist', split='train': cannot be loaded: Couldn't reach the hub"


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError) as error:
        huggingface(path="ylecun/mnist", **BASE)
    assert str(error.value) == "path='ylecun/mnist': needs the package datasets: pip install '.[hf]' in the repository"


@pytest.mark.parametrize(
    ("name", "original", "shape"),
    [
        ("mnist", (28, 28), (28, 28, 1)),
        ("cifar10", (32, 32, 3), (32, 32, 3)),
        ("celeba", (218, 178, 3), (64, 64, 3)),
    ],
)
def test_the_configs_fit_data_sets_of_their_format(name, original, shape, monkeypatch):
    rows = table([Image.fromarray(pixels(i, *original)) for i in range(9)])
    config = OmegaConf.load(CONF / "data" / f"{name}.yaml")
    new = {"image": config.image_key, "label": config.label_key}
    rows = rows.rename_columns({old: name for old, name in new.items() if old != name})
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or rows)
    data = instantiate(config, _convert_="all")(seed=0, n_train=5, n_heldout=3)
    assert data.train.shape == (5, *shape) and data.heldout.shape == (3, *shape) and data.train_labels is not None
    assert asked == [((config.path, None), dict(split="train", revision=None))]
