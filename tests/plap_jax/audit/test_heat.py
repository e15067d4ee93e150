"""Curvature maps as pictures: colours where values put them, and words that say the same."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from plap_jax.audit.heat import MAX_SIDE, STOPS, Heat, HeatScale


def heat(value, stderr=0.01):
    return Heat(np.asarray(value, float), np.full(np.shape(value), stderr))


def decoded(scale, one):
    return np.asarray(Image.open(BytesIO(base64.b64decode(scale.picture(one)["src"].partition(",")[2]))).convert("RGB"))


def test_dark_is_nothing_or_less_and_light_the_top_of_all_images():
    one, other = heat([[-1, 0], [1, 2]]), heat([[0.5, 0.5], [0.5, 4]])
    scale = HeatScale([one, other], of_difference=False)
    assert scale.top == pytest.approx(4, rel=0.05)
    pixels = decoded(scale, one)
    assert (pixels[0] == STOPS[0]).all()
    grey = pixels.astype(float).sum(axis=-1)
    assert grey[0, 0] < grey[1, 0] < grey[1, 1]
    assert (decoded(scale, other)[1, 1] == STOPS[-1]).all()
    places = [x for x, _, _ in scale.ticks]
    assert places == sorted(places) and scale.ticks[1][1] == "1" and scale.ticks[-1][1].endswith("or above")


def test_lightness_rises_all_the_way():
    weights = (0.2126, 0.7152, 0.0722)
    lightness = [np.dot(weights, colour) for colour in STOPS]
    assert lightness == sorted(lightness)


def test_noise_does_not_fill_the_scale():
    noise = heat(np.random.default_rng(0).normal(0, 0.1, (8, 8)), 0.1)
    assert HeatScale([noise], of_difference=True).top >= 0.4
    assert HeatScale([noise], of_difference=False).top == 1


def test_many_cells_are_averaged_down():
    value = np.zeros((3, 4 * MAX_SIDE))
    value[:, ::2] = 2
    pixels = decoded(HeatScale([heat(value)], of_difference=False), heat(value))
    assert pixels.shape[1] == MAX_SIDE and np.ptp(pixels.astype(int), axis=(0, 1)).max() == 0


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (slice(0, 3), slice(0, 3), "in the upper left, 2 there, 0 elsewhere"),
        (slice(6, 9), slice(3, 6), "in the lower middle, 2"),
        (slice(3, 6), slice(6, 9), "in the middle right, 2"),
        (slice(3, 6), slice(3, 6), "in the middle, 2"),
    ],
)
def test_words_say_where(rows, columns, words):
    value = np.zeros((9, 9))
    value[rows, columns] = 2
    one = heat(value)
    assert words in one.words
    told = one.more("latent cells")
    assert told.startswith(one.words) and "Highest: 2 ± 0.01. 9 of 81 latent cells exceed 3 standard errors." in told


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 5), (8, 8)])
def test_an_even_map_is_said_to_be_even(shape):
    assert "about the same everywhere, 1;" in heat(np.ones(shape), 0.1).words


def test_two_rows_are_upper_and_lower():
    assert "brightest in the lower right" in heat([[0, 0], [0, 1]]).words
