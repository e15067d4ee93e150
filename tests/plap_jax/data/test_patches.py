"""Natural patches: nothing but membership separates the pools, and no pixel touches the other pool's."""

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.ndimage import distance_transform_cdt

from experiments.core.catalogue import CONF
from plap_jax.data import patches, photographs
from plap_jax.data.photographs import PHOTOGRAPHS, candidates, contrast, pools
from plap_jax.metrics import auc, mean_interval
from plap_jax.neighbours import nearest

FEW = dict(photographs=["chelsea"], n_train=100, n_heldout=30)


@pytest.fixture(scope="module")
def everything():
    return candidates(PHOTOGRAPHS, 16, 48, 8, 8, 0.05, 0.05)[0]


def statistics(images):
    """Brightness, contrast and gradient energy."""
    down, right = np.diff(images, axis=1), np.diff(images, axis=2)
    energy = np.square(down).mean(axis=(1, 2, 3)) + np.square(right).mean(axis=(1, 2, 3))
    return np.stack([images.mean(axis=(1, 2, 3)), contrast(images), energy])


def test_the_default_patches():
    data = patches(seed=0)
    assert (data.train.shape, data.heldout.shape) == ((2000, 16, 16, 3), (500, 16, 16, 3))
    assert data.train.dtype == np.float32 and data.train.min() == -1 and data.train.max() == 1
    images = np.concatenate([data.train, data.heldout])
    assert (nearest(images, images, exclude_self=True)[0] / 768**0.5).min() > 0.05
    assert contrast(images).min() >= 0.05 and len(data.duplicates) == 177
    shares = [np.bincount(labels, minlength=4) / len(labels) for labels in (data.train_labels, data.heldout_labels)]
    assert np.abs(shares[0] - shares[1]).max() < 0.05 and shares[0].min() > 0.1
    config = OmegaConf.load(CONF / "data" / "patches.yaml")
    assert instantiate(config, _convert_="all")(seed=0).fingerprint == data.fingerprint


def test_statistics_of_the_images_do_not_separate_the_pools(everything):
    measured = statistics(everything.patches)
    found = []
    for seed in range(40):
        train, heldout = pools(everything, 2000, 500, np.random.default_rng(seed))
        found.append([auc(row[train], row[heldout]) for row in measured])
    for values in np.array(found).T:
        interval = mean_interval(values, 0.99)
        assert interval.low <= 0.5 <= interval.high and interval.high - interval.low < 0.05
    # The same statistics do tell photographs apart, so that a split by photograph would fail here.
    rocket = everything.photograph == PHOTOGRAPHS.index("rocket")
    assert all(abs(auc(row[rocket], row[~rocket]) - 0.5) > 0.05 for row in measured)


def test_every_block_is_held_out_equally_often(everything):
    some = everything.take(everything.photograph == 1)
    blocks = np.unique(some.block)
    held, used = np.zeros(len(blocks)), np.zeros(len(blocks))
    for seed in range(150):
        train, heldout = pools(some, 100, 30, np.random.default_rng(seed))
        assert not np.intersect1d(some.block[train], some.block[heldout]).size
        held += np.isin(blocks, some.block[heldout])
        used += np.isin(blocks, some.block[np.concatenate([train, heldout])])
    share = held[used > 0].sum() / 150 / (used > 0).sum()
    spread = (150 * share * (1 - share)) ** 0.5
    assert np.abs(held[used > 0] - 150 * share).max() < 4 * spread


@pytest.fixture
def coded(monkeypatch):
    """A photograph whose pixels say where they are: red is the row, green the column, blue is noise."""
    height, width = 200, 250
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(height)[:, None], np.arange(width)
    picture[..., 2] = np.random.default_rng(0).integers(0, 256, (height, width))
    monkeypatch.setattr(photographs, "_pixels", lambda name: picture)
    return picture


@pytest.mark.parametrize(("guard", "stride"), [(1, 8), (5, 16)])
def test_pools_share_no_pixel_and_touch_nowhere(coded, guard, stride):
    data = patches(seed=0, photographs=["coffee"], n_train=40, n_heldout=20, guard=guard, stride=stride, block=32)
    covered = np.zeros((2, *coded.shape[:2]), bool)
    for mask, images in zip(covered, (data.train, data.heldout), strict=True):
        values = np.round((images + 1) * 127.5).astype(int)
        np.testing.assert_array_equal(values, coded[values[..., 0], values[..., 1]])  # patches are cut out as they are
        mask[values[..., 0], values[..., 1]] = True
    away = distance_transform_cdt(~covered[0], metric="chessboard")
    assert away[covered[1]].min() == guard + 1


def test_a_flat_photograph_leaves_nothing_and_noise_leaves_everything(coded):
    coded[..., 2] = 0
    with pytest.raises(ValueError, match="^min_contrast=0.5: leaves no patch over$"):
        patches(seed=0, photographs=["coffee"], min_contrast=0.5)


def test_the_seed_decides_and_the_order_is_random():
    first, again, other = (patches(seed=seed, **FEW) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    # In order of position neighbours would resemble each other more than any two.
    step = np.abs(np.diff(first.train, axis=0)).mean()
    assert step > 0.9 * np.abs(first.train[:, None] - first.train[None]).mean()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (dict(n_train=0), "n_train=0: must be >= 1"),
        (dict(n_train=None), "n_train=None: must be >= 1"),
        (
            dict(n_train=5000),
            "n_train=5000: with n_heldout=30 there are too few patches: at most 693 can be shared",
        ),
        (dict(photographs=["camera"]), "photographs=['camera']: must be different names among astronaut, chelsea,"),
        (dict(photographs=["coffee", "coffee"]), "photographs=['coffee', 'coffee']: must be different names among"),
        (dict(photographs=[]), "photographs=[]: must be different names among astronaut, chelsea, coffee, rocket"),
        (dict(size=1), "size=1: must be >= 2"),
        (dict(block=8), "block=8: must be >= size=16"),
        (dict(block=301), "block=301: must fit into chelsea, 300×451"),
        (dict(guard=0), "guard=0: must be >= 1, or patches of different pools would touch"),
        (dict(stride=0), "stride=0: must be >= 1"),
    ],
)
def test_what_cannot_be_had_is_refused(arguments, line):
    with pytest.raises(ValueError) as error:
        patches(seed=0, **(FEW | arguments))
    assert str(error.value).startswith(line)
