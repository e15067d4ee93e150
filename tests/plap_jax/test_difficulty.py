"""Statistics of how hard an image is, against a slow twin written pixel by pixel."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from plap_jax.difficulty import BANDS, FLOOR, NAMES, difficulty


def twin(image: np.ndarray) -> dict[str, float]:
    """Of one grey image, by plain loops and the definition of the cosine transform."""
    h, w = image.shape
    down = [float(image[i + 1, j] - image[i, j]) for i in range(h - 1) for j in range(w)]
    across = [float(image[i, j + 1] - image[i, j]) for i in range(h) for j in range(w - 1)]
    found = {"mean": image.mean(), "spread": math.sqrt(np.mean((image - image.mean()) ** 2))}
    for name, steps in (("gradient_rows", down), ("gradient_columns", across)):
        found[name] = np.mean(np.abs(steps))
        found[f"{name}_squared"] = np.mean(np.square(steps))
    energies = [[] for _ in range(BANDS)]
    for k in range(h):
        for m in range(w):
            rows = np.cos(np.pi * (np.arange(h) + 0.5) * k / h) * math.sqrt((1 if k == 0 else 2) / h)
            columns = np.cos(np.pi * (np.arange(w) + 0.5) * m / w) * math.sqrt((1 if m == 0 else 2) / w)
            radius = math.hypot(k / h, m / w) / math.sqrt(2)
            if k + m:
                energies[min(BANDS - 1, int(radius * BANDS))].append(float(rows @ image @ columns) ** 2)
    for i, band in enumerate(energies):
        found[f"log_band_{i}"] = math.log((np.mean(band) if band else 0) + FLOOR)
    blocks = [image[i : i + 4, j : j + 4] for i in range(0, h - 3, 4) for j in range(0, w - 3, 4)]
    logs = [math.log(np.mean((block - block.mean()) ** 2) + FLOOR) for block in blocks]
    found |= {"log_block_variance_mean": np.mean(logs), "log_block_variance_median": np.median(logs)}
    stored = io.BytesIO()
    picture = np.array([[round(min(255, max(0, (v + 1) * 127.5))) for v in row] for row in image.tolist()], np.uint8)
    Image.fromarray(picture).save(stored, "PNG", compress_level=1)
    return found | {"log_png_size": math.log(len(stored.getvalue()))}


@pytest.mark.parametrize("shape", [(8, 8), (9, 14)])
def test_statistics_are_those_of_a_slow_twin(shape):
    images = np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype(np.float32)
    found = difficulty(images[..., None])
    assert found.shape == (3, len(NAMES))
    for image, row in zip(images.astype(np.float64), found, strict=True):
        expected = twin(image)
        assert dict(zip(NAMES, row, strict=True)) == pytest.approx({name: expected[name] for name in NAMES}, rel=1e-4)


def test_a_cosine_has_its_energy_in_one_band():
    rows = np.cos(np.pi * (np.arange(16) + 0.5) * 4 / 16)
    image = np.repeat(rows[:, None], 16, axis=1).astype(np.float32)
    z = dict(zip(NAMES, difficulty(image[None, ..., None])[0], strict=True))
    band = int(4 / 16 / math.sqrt(2) * BANDS)
    bands = [z[f"log_band_{i}"] for i in range(BANDS)]
    assert int(np.argmax(bands)) == band
    assert max(bands[:band] + bands[band + 1 :]) < math.log(2 * FLOOR)


def test_each_image_is_described_by_itself():
    images = np.random.default_rng(1).uniform(-1, 1, (5, 8, 8, 3))
    apart = np.concatenate([difficulty(image[None]) for image in images])
    np.testing.assert_allclose(difficulty(images), apart, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (5, 1, 3), (8, 8, 4)])
def test_constant_and_tiny_images_are_finite(shape):
    assert np.isfinite(difficulty(np.zeros((2, *shape)))).all()


def test_busy_images_are_larger_as_png():
    calm, busy = np.zeros((1, 28, 28, 1)), np.random.default_rng(2).uniform(-1, 1, (1, 28, 28, 1))
    size = NAMES.index("log_png_size")
    assert difficulty(busy)[0, size] > difficulty(calm)[0, size] + 1


@pytest.mark.parametrize("images", [np.zeros((3, 8, 8)), np.zeros((3, 0, 8, 1)), np.full((1, 4, 4, 1), np.nan)])
def test_what_is_no_image_is_refused(images):
    with pytest.raises(ValueError, match="^images=") as caught:
        difficulty(images)
    assert "\n" not in str(caught.value)
