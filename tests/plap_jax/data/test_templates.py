"""Planted templates: the shared region is the same to the bit, nothing else is shared, and nothing leaks."""

import numpy as np
import pytest

from plap_jax.data import plant_templates
from plap_jax.data.regions import KINDS, has_detail, region_mask
from plap_jax.data.templates import ROLES

SIZES = {"doses": {5: 6, 2: 7}, "copies": {3: 4}, "n_pasted": 6, "n_single": 10, "n_fresh": 2, "n_plain": 8, "seed": 3}


def pools(n=400, m=300, seed=0):
    """Every pixel of every image is another number, so that a pixel tells which image it comes from."""
    rng = np.random.default_rng(seed)
    values = rng.permutation(np.linspace(-1, 1, (n + m) * 14 * 14)).reshape(n + m, 14, 14, 1)
    return values[:n], values[n:]


@pytest.fixture(scope="module")
def planted():
    train, heldout = pools()
    classes = np.arange(400) % 3, np.arange(300) % 3
    return plant_templates(train, heldout, **SIZES, train_classes=classes[0], heldout_classes=classes[1])


def origin(images, pool):
    """``(n, h, w)``: which image of ``pool`` each pixel comes from, −1 for none."""
    places = {value: i for i, image in enumerate(pool) for value in image.ravel().tolist()}
    return np.asarray([places.get(value, -1) for value in images.ravel().tolist()]).reshape(images.shape[:3])


def test_roles_are_as_many_as_was_asked(planted):
    counts = {role: int((planted.role == role).sum()) for role in ROLES}
    assert counts == {
        "template": 5 * 6 + 2 * 7, "copy": 4, "pasted": 6, "single": 10, "fresh": 26, "decoy": 26, "plain": 8
    }  # fmt: skip
    assert len(planted.train) == 44 + 3 * 4 + 6 + 10 == len(planted.train_captions)
    assert (planted.copies > 0).tolist() == np.isin(planted.role, ["template", "copy", "pasted", "single"]).tolist()
    assert planted.dose.tolist() == [5] * 6 + [2] * 7 + [1] * 6 + [0] * 13
    for dose in (5, 2, 0):
        assert set(planted.kind[planted.dose == dose]) == set(KINDS)


def test_the_region_is_the_same_to_the_bit_and_the_rest_is_of_another_image_each_time(planted):
    hosts = origin(planted.points, np.concatenate(pools()))
    outside = []
    for region, mask in enumerate(planted.masks):
        members = np.flatnonzero(planted.region == region)
        inside = planted.points[members][:, mask]
        assert (inside == inside[:1]).all()
        sources = {int(i) for i in np.unique(hosts[members][:, mask])}
        assert len(sources) == 1
        assert not sources & set(np.unique(hosts[:, ~mask][members]).tolist())
    for i in range(len(planted.points)):
        rest = np.unique(hosts[i][~planted.mask_of(i)])
        assert len(rest) == 1
        outside.append(int(rest[0]))
    assert len(set(outside)) == len(outside)  # no image is a host twice


def test_nothing_of_the_test_images_is_in_training_but_the_region(planted):
    train, heldout = pools()
    seen = np.isin(planted.role, ["template", "copy", "pasted", "single"])
    of_train = origin(planted.points, train) >= 0
    assert of_train[seen].all()
    for i in np.flatnonzero(~seen):
        mask = planted.mask_of(i) if planted.role[i] == "fresh" else np.zeros((14, 14), bool)
        np.testing.assert_array_equal(of_train[i], mask)
    sources = {name: origin(planted.points[planted.role == name], heldout).max() for name in ("fresh", "decoy")}
    assert min(sources.values()) >= 0


def test_decoys_are_of_the_same_kinds_and_images_of_a_region_on_one_side(planted):
    templates, decoys = (np.flatnonzero(planted.dose > 1), np.flatnonzero(planted.dose == 0))
    assert planted.kind[templates].tolist() == planted.kind[decoys].tolist()
    side = np.asarray([np.unique(planted.validation[planted.region == r]) for r in range(len(planted.masks))])
    assert side.shape == (len(planted.masks), 1)
    np.testing.assert_array_equal(side[templates], side[decoys])
    for dose in (5, 2):
        for kind in KINDS:
            assert len(set(side[(planted.dose == dose) & (planted.kind == kind), 0])) == 2


def test_captions_of_a_template_are_its_own_and_the_control_knows_none(planted):
    rest = planted.captions[planted.is_rest]
    assert planted.n_rest_captions == 3 and rest.max() == 2
    assert set(planted.captions[np.isin(planted.role, ["decoy", "plain", "pasted"])].tolist()) <= {0, 1, 2}
    assert len(set(planted.captions[planted.role == "copy"].tolist())) == 4
    for region in np.flatnonzero(planted.dose > 1):
        members = planted.captions[planted.region == region]
        assert len(set(members.tolist())) == 1
        assert (planted.captions == members[0]).sum() == len(members)
    assert set(planted.train_captions.tolist()) == set(range(planted.captions.max() + 1))


@pytest.mark.parametrize(("kind", "share"), [("logo", 64 / 784), ("sleeve", 0.25), ("background", 384 / 784)])
def test_regions_have_their_size_and_move(kind, share):
    masks = np.stack([region_mask(kind, (28, 28), np.random.default_rng(seed)) for seed in range(8)])
    assert masks.mean(axis=(1, 2)) == pytest.approx(share)
    assert (len(np.unique(masks, axis=0)) > 1) == (kind != "background")


def test_the_seed_moves_the_regions_and_repeats():
    train, heldout = pools()
    first, again = (plant_templates(train, heldout, **SIZES) for _ in range(2))
    other = plant_templates(train, heldout, **{**SIZES, "seed": 4})
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.masks, other.masks)


def test_a_region_that_holds_nothing_is_passed_over():
    train, heldout = pools()
    flat = np.where(np.arange(400)[:, None, None, None] % 2, train, 0.5)
    found = plant_templates(flat, heldout, **SIZES)
    for i in np.flatnonzero(np.isin(found.role, ["template", "pasted"])):
        assert has_detail(found.points[i])[found.mask_of(i)].mean() >= 0.4  # of the source 0.5, neighbours and all
    with pytest.raises(ValueError, match=r"^train=\(400, 14, 14, 1\): must hold more images of which a region has"):
        plant_templates(np.zeros_like(train), heldout, **SIZES)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"doses": {1: 6}}, "doses={1: 6}: must share regions between at least 2 images"),
        ({"doses": {4: 5}}, "doses={4: 5}: must give at least 6 regions to every dose"),
        ({"doses": {}}, "doses={}: must share regions"),
        ({"copies": {1: 4}}, "copies={1: 4}: must repeat at least 2 images at least 2 times"),
        ({"n_fresh": 0}, "n_fresh=0: must be >= 1"),
        ({"n_single": 1}, "n_single=1: must be >= 2"),
        ({"n_single": 500}, "train=(400, 14, 14, 1): must hold"),
        ({"kinds": ["logo", "logo"]}, "kinds=['logo', 'logo']: must hold some of logo, sleeve, background, none twice"),
        ({"train_classes": np.zeros(3, int)}, "train_classes=(3,): must be integers, one for each of 400 images"),
        ({"train": np.zeros((9, 4, 4, 1))}, "heldout=(300, 14, 14, 1): must be (m, *(4, 4, 1))"),
        ({"train": np.zeros((9, 4))}, "train=(9, 4): must be floating, (n, h, w, c)"),
        (
            {"train": np.zeros((9, 4, 4, 1)), "heldout": np.zeros((9, 4, 4, 1))},
            "train=(9, 4, 4, 1): must be >= 7 pixels",
        ),
    ],
)
def test_bad_input_is_one_line(changed, line):
    train, heldout = pools()
    given = {"train": train, "heldout": heldout, **SIZES, **changed}
    with pytest.raises(ValueError) as refused:
        plant_templates(given.pop("train"), given.pop("heldout"), **given)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="^kind='badge': must be one of logo, sleeve, background$"):
        region_mask("badge", (28, 28), np.random.default_rng(0))
