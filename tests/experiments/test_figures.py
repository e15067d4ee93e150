"""The look of all figures: readable in a column of print, colours and shapes that anyone can tell apart, vectors."""

import itertools
import re

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from experiments.figures.style import COLOURS, COLUMN, MARKERS, PAGE, SMALLEST, grid, save, with_intervals

# Machado, Oliveira, Fernandes (2009), severity 1; they act on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colours, deficiency: str) -> np.ndarray:
    """(n, 3) CIELAB."""
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(DEFICIENCIES[deficiency]).T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colours_differ_for_every_eye(deficiency):
    """A CIEDE2000 difference of 2 is just noticeable side by side, one of 10 at a glance."""
    lab = seen(COLOURS, deficiency)
    apart = {pair: deltaE_ciede2000(*lab[list(pair)]) for pair in itertools.combinations(range(len(COLOURS)), 2)}
    assert min(apart.values()) > 10, apart


def test_the_measure_of_colours_catches_red_and_green():
    red_green = ["#B04A00", "#6F7A00"]
    assert deltaE_ciede2000(*seen(red_green, "none")) > 25
    assert deltaE_ciede2000(*seen(red_green, "deuteranopia")) < 10


def test_every_colour_has_a_shape():
    assert len(set(MARKERS)) == len(MARKERS) == len(COLOURS) == len(set(COLOURS))


@pytest.mark.parametrize("where", ["title", "legend", "tick labels", "text", "heading"])
def test_text_too_small_for_print_is_refused(tmp_path, where):
    figure, axes = grid(1, 1, height=2)
    panel, small = axes[0, 0], {"fontsize": SMALLEST - 0.5}
    panel.plot([0, 1], label="a line")
    save(figure, tmp_path, "readable")
    assert {path.suffix for path in tmp_path.glob("readable.*")} == {".png", ".pdf"}
    if where == "title":
        panel.set_title("a title", **small)
    elif where == "legend":
        panel.legend(**small)
    elif where == "tick labels":
        panel.set_xticks([0, 1], ["low", "high"], **small)
    elif where == "heading":
        figure.suptitle("a heading", **small)
    else:
        panel.text(0, 0, "a word", **small)
    with pytest.raises(ValueError, match=f"figure tiny: must be {PAGE} in wide at most and its text {SMALLEST} pt"):
        save(figure, tmp_path, "tiny")
    assert not list(tmp_path.glob("tiny.*"))


def test_a_figure_wider_than_a_page_is_refused(tmp_path):
    figure, _ = grid(1, 1, width=PAGE + 0.1, height=2)
    with pytest.raises(ValueError, match="must be 7.0 in wide at most"):
        save(figure, tmp_path, "wide")


def test_a_figure_is_as_wide_as_a_column_and_its_lines_are_vectors(tmp_path):
    figure, axes = grid(1, 1, height=2)
    axes[0, 0].plot([0, 1])
    save(figure, tmp_path, "line")
    pdf = (tmp_path / "line.pdf").read_bytes()
    (width,) = set(re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf))
    assert float(width) == pytest.approx(72 * COLUMN)
    assert b"/Subtype /Image" not in pdf
    assert b"/FontFile2" in pdf  # TrueType, not Type 3, which publishers refuse


def test_intervals_stand_beside_each_other_on_a_logarithmic_axis():
    figure, axes = grid(1, 1, height=2)
    x, value = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.6, 0.7])
    for nth in range(3):
        with_intervals(axes[0, 0], x, (value, value - 0.1, value + 0.2), nth, 3, label=str(nth), spread=1.1)
    lines = axes[0, 0].get_lines()
    for line, factor in zip(lines, (1 / 1.1, 1, 1.1), strict=True):
        np.testing.assert_allclose(line.get_xdata(), x * factor)
        np.testing.assert_array_equal(line.get_ydata(), value)
    for bars, line in zip(axes[0, 0].collections, lines, strict=True):
        ends = np.array(bars.get_segments())
        np.testing.assert_allclose(ends[:, :, 0], np.stack([line.get_xdata()] * 2, axis=1))
        np.testing.assert_allclose(ends[:, :, 1], np.stack([value - 0.1, value + 0.2], axis=1))
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 3
