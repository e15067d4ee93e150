"""Images in two pools: scaled, distinct, disjoint, the same for the same seed; the sets that packages carry."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from experiments.core.catalogue import CONF
from plap_jax.data import digits, faces, fingerprint
from plap_jax.data.images import UnusableImage, scaled, split_distinct
from plap_jax.neighbours import nearest

SMALL = dict(seed=0, n_train=None, n_heldout=3, duplicate_distance=0.0, name="small")


def small(images, **changes):
    names = [f"image {i}" for i in range(len(images))]
    return split_distinct(lambda i: images[i], names, **(SMALL | changes))


def numbered(n):
    """Images that tell which they are: image i is constantly i/n."""
    return np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None] / n, (n, 2, 2, 1)).copy()


def rms(a, b):
    return nearest(a, b)[0][:, 0] / a[0].size ** 0.5


# The bundled sets


@pytest.mark.parametrize(("load", "shape", "sizes"), [(digits, (8, 8, 1), (1396, 400)), (faces, (24, 24, 1), (70, 30))])
def test_bundled_images(load, shape, sizes):
    data = load(seed=0)
    assert (data.train.shape, data.heldout.shape) == ((sizes[0], *shape), (sizes[1], *shape))
    assert data.train.dtype == data.heldout.dtype == np.float32
    everything = np.concatenate([data.train, data.heldout])
    assert -1 <= everything.min() < -0.99 and 0.99 < everything.max() <= 1
    assert rms(data.heldout, data.train).min() > 0.1
    assert data.name == load.__name__ and data.skipped == ()


def test_digits_have_their_labels_and_lack_one_duplicate():
    source = load_digits()
    originals = {image.tobytes(): label for image, label in zip(np.float32(source.images), source.target, strict=True)}
    data = digits(seed=3)
    for images, labels in ((data.train, data.train_labels), (data.heldout, data.heldout_labels)):
        assert labels.dtype == np.int32 and labels.shape == (len(images),)
        expected = [originals[np.round(8 * (image[..., 0] + 1)).astype(np.float32).tobytes()] for image in images]
        np.testing.assert_array_equal(labels, expected)
    assert len({image.tobytes() for image in np.concatenate([data.train, data.heldout])}) == 1796
    ((kept, dropped, distance),) = data.duplicates
    assert (kept, dropped) == ("1585", "1648") and source.target[1585] == source.target[1648] == 1
    assert distance == pytest.approx(np.sqrt(np.mean((source.images[1585] - source.images[1648]) ** 2)) / 8, rel=1e-6)


def test_faces_are_the_upper_left_of_the_first_hundred_and_the_others_are_none():
    data = faces(seed=0, size=20)
    assert data.train.shape[1:] == (20, 20, 1) and data.duplicates == () and data.train_labels is None
    originals = 2 * np.float32(skimage.data.lfw_subset()) - 1
    expected = {image[:20, :20].tobytes() for image in originals[:100]}
    assert {image.tobytes() for image in np.concatenate([data.train, data.heldout])[..., 0]} == expected
    # Eyes are darker than forehead and cheeks; a background has no reason to be dark there.
    for images, are_faces in ((originals[:100], True), (originals[100:], False)):
        forehead, eyes, cheeks = images[:, [4, 8, 12], 5:19].mean(axis=(0, 2))
        assert (eyes < min(forehead, cheeks) - 0.2) == are_faces


@pytest.mark.parametrize("load", [digits, faces])
def test_the_seed_decides_the_split_and_nothing_else_does(load):
    first, again, other = load(seed=0), load(seed=0), load(seed=1)
    for name in ("train", "heldout"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert {x.tobytes() for x in np.concatenate([first.train, first.heldout])} == {
        x.tobytes() for x in np.concatenate([other.train, other.heldout])
    }


@pytest.mark.parametrize(
    ("load", "arguments", "line"),
    [
        (digits, dict(n_heldout=0), "n_heldout=0: must be >= 1"),
        (digits, dict(n_train=0), "n_train=0: must be >= 1, or null for all that are left"),
        (
            digits,
            dict(n_heldout=1796),
            "n_heldout=1796: with one to train on needs 1797 images, and digits has 1796 that are usable and distinct "
            "(1 near-duplicates dropped, 0 skipped)",
        ),
        (
            faces,
            dict(n_heldout=50, n_train=51),
            "n_train=51: with n_heldout=50 needs 101 images, and faces has 100 that are usable and distinct "
            "(0 near-duplicates dropped, 0 skipped)",
        ),
        (faces, dict(size=26), "size=26: must lie between 1 and 25, the size of the originals"),
        (digits, dict(duplicate_distance=-0.1), "duplicate_distance=-0.1: must be a finite number >= 0"),
        (digits, dict(duplicate_distance=float("nan")), "duplicate_distance=nan: must be a finite number >= 0"),
    ],
)
def test_what_cannot_be_had_is_refused(load, arguments, line):
    with pytest.raises(ValueError) as error:
        load(seed=0, **arguments)
    assert str(error.value) == line


@pytest.mark.parametrize("load", [digits, faces])
def test_the_configs_hold_the_defaults(load):
    made = instantiate(OmegaConf.load(CONF / "data" / f"{load.__name__}.yaml"), _convert_="all")(seed=5)
    assert made.fingerprint == load(seed=5).fingerprint


# The fingerprint and the scale


def test_the_fingerprint_sees_every_bit_shape_type_and_side():
    data = faces(seed=0)
    seen = {data.fingerprint}
    for name in ("train", "heldout"):
        changed = getattr(data, name).copy()
        changed.view(np.uint8).reshape(-1)[-1] ^= 1
        seen.add(replace(data, **{name: changed}).fingerprint)
    seen.add(replace(data, train=data.heldout, heldout=data.train).fingerprint)
    seen.add(replace(data, train=data.train.reshape(70, 12, 48, 1)).fingerprint)
    seen.add(replace(data, train=data.train.view(np.int32)).fingerprint)
    assert len(seen) == 6 and all(len(digest) == 64 for digest in seen)
    assert data.fingerprint == fingerprint(data.train, np.asfortranarray(data.heldout))


def test_bytes_are_cast_before_they_are_scaled():
    values = scaled(np.array([0, 51, 204, 255], np.uint8), 255)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [-1, -0.6, 0.6, 1], rtol=1e-6)


# The split


def test_every_original_falls_into_one_pool_and_into_either_equally_often():
    images = numbered(12)
    held = np.zeros(12)
    for seed in range(400):
        data = small(images, seed=seed)
        indices = np.round(12 * np.concatenate([data.train, data.heldout])[:, 0, 0, 0]).astype(int)
        assert sorted(indices) == list(range(12))
        held[indices[9:]] += 1
    # 400 draws of 3 in 12: 100 ± 8.7 each.
    assert np.abs(held - 100).max() < 4 * 8.7


def test_of_two_copies_only_one_is_left_whatever_the_pools():
    images = numbered(8)
    images[5] = images[2]
    data = small(images, labels=np.arange(8))
    assert len(data.train) == 4 and data.duplicates == (("image 2", "image 5", 0.0),)
    assert sorted([*data.train_labels, *data.heldout_labels]) == [0, 1, 2, 3, 4, 6, 7]


def test_no_more_is_read_than_is_used_and_what_fails_is_made_up_for():
    images, read = numbered(50), []
    images[25:] = images[:25]

    def reader(index):
        read.append(index)
        if index % 3 == 0:
            raise UnusableImage("a third")
        return images[index]

    names = [str(i) for i in range(50)]
    data = split_distinct(reader, names, **(SMALL | dict(n_train=5)))
    assert (len(data.train), len(data.heldout)) == (5, 3)
    assert len(read) == len(set(read)) == 8 + len(data.duplicates) + len(data.skipped) < 25
    assert data.skipped == tuple(sorted((str(i), "a third") for i in read if i % 3 == 0)) != ()
    everything = np.concatenate([data.train, data.heldout])
    assert len(np.unique(everything)) == 8


def test_nothing_usable_is_refused():
    def reader(index):
        raise UnusableImage("broken")

    with pytest.raises(ValueError, match=r"small has 0 that are usable and distinct \(0 near-dup.* dropped, 4 skipped"):
        split_distinct(reader, list("abcd"), **SMALL)
