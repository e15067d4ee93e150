"""``report.html``: an audit as one self-contained file, which opens offline and runs no code but its own."""

import base64
import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from plap_jax.audit.claims import Claims
from plap_jax.audit.drawings import Scatter, scatter_drawing, strip
from plap_jax.audit.heat import Heat, HeatScale
from plap_jax.audit.histogram import Histogram, drawing
from plap_jax.audit.slider import WHEREVER, Slider
from plap_jax.typing import require

MAX_ROWS = 2000  # with thumbnails, some 10 MB; the rest stands in the table of the run
MAX_SIDE = 96  # pixels of a thumbnail
LOSSLESS_SIDE = 40  # up to here PNG, shown pixel for pixel; larger ones as JPEG
WIDTH, MARGIN = 132, 6  # of the little picture of an interval, in its own units
SCORE_MEANING = (
    "κ₁ is the mean cosine between the model’s score and the direction back to the image, over random directions: "
    "1 where everything around the image is drawn to it, 0 where nothing is. Higher = more memorized."
)
# Control characters but tab and line break, which HTML does not allow; a file name may hold them.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
COLUMNS = ("p_value", "z", "nearest", "evidence", "kappa", "baseline")  # that some rows may have
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Nearest:
    """The nearest training image: d₁/d₂ is its distance over that of the second nearest."""

    name: str
    ratio: float
    thumbnail: np.ndarray | None = None


@dataclass(frozen=True)
class Row:
    """An image; thumbnails are uint8, ``(h, w, 1 or 3)``. A score that is not finite is shown as such.

    ``evidence`` is ``(2L,)`` in standard deviations, κ₁ at all levels, then the contrast; ``kappa`` and ``baseline``
    are mean κ₁ of the model and of its baseline; ``same_as`` names the near-duplicate that stands for it;
    ``heat`` is the curvature map.
    """

    name: str
    score: float
    low: float = math.nan
    high: float = math.nan
    thumbnail: np.ndarray | None = None
    p_value: float | None = None
    flagged: bool | None = None
    z: float | None = None
    nearest: Nearest | None = None
    prompt: str | None = None
    group: str | None = None
    evidence: np.ndarray | None = None
    kappa: float | None = None
    baseline: float | None = None
    same_as: str | None = None
    heat: Heat | None = None


@dataclass(frozen=True)
class Page:
    """All that the page says.

    Attributes:
        title: of the page and the browser's tab.
        headline: the result in one sentence.
        rows: the images; the MAX_ROWS highest scores are shown.
        settings: name → value in plain words.
        histogram: all scores, also those of images that are not among the rows.
        claims: what the numbers prove and do not prove (``claims.claims``).
        summary: label → value, the few numbers at the top.
        n_images: how many were audited; the number of rows where it is not given.
        score_name, score_meaning: the column's title, and a sentence on what the score is.
        table: the file in which all images stand, named where the page leaves some out; None: it is not known.
        notices: warnings, shown first.
        slider: the threshold that a reader may move, or None.
        difficulty: sentences on how difficulty was taken out; none: it was not.
        scatter: κ₁ as measured against expected, or None.
        levels: noise levels of the rows' evidence.
        extreme, n_extreme: reference images with high scores, and how many there are in all.
        maps: what the rows' curvature maps show and do not, in sentences; none: there are no maps.
        map_cells: what they are maps of, "pixels" or "latent cells".
        maps_of_difference: a baseline's maps are subtracted.
    """

    title: str
    headline: str
    rows: Sequence[Row]
    settings: Mapping[str, str]
    histogram: Histogram
    claims: Claims
    summary: Mapping[str, str] = field(default_factory=dict)
    n_images: int | None = None
    score_name: str = "κ₁"
    score_meaning: str = SCORE_MEANING
    table: str | None = None
    notices: Sequence[str] = ()
    slider: Slider | None = None
    difficulty: Sequence[str] = ()
    scatter: Scatter | None = None
    levels: Sequence[float] = ()
    extreme: Sequence[Row] = ()
    n_extreme: int = 0
    maps: Sequence[str] = ()
    map_cells: str = "pixels"
    maps_of_difference: bool = False


def write_page(path: Path, page: Page) -> None:
    """One file without any outside part: styles, script and pictures are in it, and its policy forbids the rest.

    Raises:
        ValueError: a thumbnail that is not uint8 ``(h, w, 1 or 3)``.
    """
    best = sorted(page.rows, key=lambda row: -row.score if math.isfinite(row.score) else math.inf)[:MAX_ROWS]
    number, chance = _decimals(best), _p_decimals(best)
    scale = _Scale(best, page.histogram.threshold)
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "chance": chance, "picture": _picture}
    histogram = drawing(page.histogram)
    heats = [row.heat for row in best if row.heat is not None]
    html = environment.get_template("page.html.jinja").render(
        page=page,
        rows=best,
        n_images=len(page.rows) if page.n_images is None else page.n_images,
        shown={name: any(getattr(row, name) is not None for row in best) for name in COLUMNS},
        n_flagged=sum(row.flagged is True for row in best) if any(row.flagged is not None for row in best) else None,
        histogram=histogram,
        scatter=None if page.scatter is None else scatter_drawing(page.scatter),
        positions=_positions(page.slider, histogram, scale, number),
        wherever=WHEREVER,
        levels=", ".join(f"{level:g}" for level in page.levels),
        strip=lambda evidence: strip(evidence, page.levels),
        scale=scale,
        heat_scale=HeatScale(heats, page.maps_of_difference) if heats else None,
        isfinite=lambda value: value is not None and math.isfinite(value),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", html)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    temporary.replace(path)


def _positions(slider: Slider | None, histogram: dict | None, scale: "_Scale", number) -> list[dict[str, Any]]:
    """What the script needs at each position: the score, its places in both kinds of pictures, and words."""
    if slider is None:
        return []
    return [
        {
            "score": one.score,
            "n": one.flagged,
            "words": one.words,
            "number": None if one.score is None else number(one.score),
            "x": None if one.score is None or histogram is None else histogram["place"](one.score),
            "whisker": None if one.score is None else scale(one.score),
        }
        for one in slider.positions
    ]


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: nothing is loaded, and nothing runs but the two blocks with these hashes."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    allowed = "style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)
    return f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _picture(pixels: np.ndarray) -> dict[str, str | int]:
    """The attributes of an ``img``: a data URI, its size, and whether it is drawn pixel for pixel."""
    is_image = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size > 0
    require(is_image, "thumbnail", f"{pixels.dtype}{pixels.shape}", "must be uint8 of shape (h, w, 1 or 3)")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    small = max(image.size) <= LOSSLESS_SIDE
    stored = BytesIO()
    image.save(stored, "PNG" if small else "JPEG", quality=85)
    data = base64.b64encode(stored.getvalue()).decode()
    uri = f"data:image/{'png' if small else 'jpeg'};base64,{data}"
    return {"src": uri, "width": image.width, "height": image.height, "class": "pixels" if small else "photo"}


class _Scale:
    """Scores → places in the little pictures of the intervals, which all share one axis."""

    def __init__(self, rows: Sequence[Row], threshold: float | None):
        ends = [end for row in rows for end in (row.score, row.low, row.high) if math.isfinite(end)]
        ends += [threshold] if threshold is not None else []
        self.low, self.high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        self.threshold = None if threshold is None else self(threshold)
        self.width = WIDTH
        self.has_intervals = any(math.isfinite(row.high - row.low) for row in rows)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        share = min(max(share, 0.0), 1.0)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)


def _decimals(rows: Sequence[Row]):
    """As many decimals for all scores as tell them apart by the width of a usual interval; at least four digits."""
    scores = np.array([row.score for row in rows if math.isfinite(row.score)])
    widths = np.array([row.high - row.low for row in rows if math.isfinite(row.high - row.low) and row.high > row.low])
    size = float(np.median(widths)) / 2 if widths.size else float(np.abs(scores).max(initial=0.0)) / 100
    digits = 1 - math.floor(math.log10(size) + 1e-6) if size > 0 else 3
    fixed = digits <= 6 and np.abs(scores).max(initial=0.0) < 1e6

    def shown(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "not finite"
        return (f"{value:.{max(digits, 0)}f}" if fixed else f"{value:.4g}").replace("-", "−")

    return shown


def _p_decimals(rows: Sequence[Row]):
    """Two digits of the smallest p-value, and as many decimals for the others."""
    smallest = min((row.p_value for row in rows if row.p_value), default=1.0)
    digits = 1 - math.floor(math.log10(smallest) + 1e-6)
    return lambda value: f"{value:.{max(digits, 2)}f}" if digits <= 6 else f"{value:.2g}"
