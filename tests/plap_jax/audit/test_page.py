"""The page of an audit: what is in the file."""

import base64
import hashlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from plap_jax.audit.claims import NULL, claims
from plap_jax.audit.histogram import Histogram
from plap_jax.audit.page import MAX_ROWS, Row
from tests.helpers.audit_page import N_FLAGGED, Elements, N, a_hostile_page, a_page, written


def test_the_file_stands_alone_and_its_policy_allows_its_own_two_blocks_only(tmp_path):
    elements = Elements(written(tmp_path, a_page()))
    sources = [
        value for _, a in elements.tags for key, value in a.items() if key in ("src", "href", "action", "srcset")
    ]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    names = {tag for tag, _ in elements.tags}
    assert not names & {"iframe", "object", "embed", "base", "audio", "video"}
    assert not [key for _, a in elements.tags for key in a if key == "style" or key.startswith("on")]
    (policy,) = [a["content"] for a in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(elements.raw[kind].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    order = [tag for tag, a in elements.tags if tag in ("script", "style") or "http-equiv" in a]
    assert order == ["meta", "style", "script"]  # a policy holds only for what comes after it


def test_the_file_holds_every_row_with_its_numbers_and_says_what_they_mean(tmp_path):
    html = written(tmp_path, a_page())
    elements = Elements(html)
    rows = [a for a in elements.all("tr") if "data-name" in a]
    assert [a["data-name"] for a in rows] == [f"image_{i}.png" for i in range(N)]
    assert sum(a.get("class") == "flagged" for a in rows) == N_FLAGGED
    for text in (
        "[0.930, 0.970]",
        "0.0050",
        "σ = 0.3, given",
        "95 % interval",
        NULL,
        "False-discovery rate held at 0.05",
    ):
        assert text in html
    assert all(a.get("alt") is not None and a["width"] and a["height"] for a in elements.all("img"))
    headers = [a for a in elements.all("th") if "aria-sort" in a]
    assert [a["aria-sort"] for a in headers] == ["none", "descending", "none", "none", "none", "none"]
    assert any(a.get("href") == "#images" and a.get("class") == "skip" for a in elements.all("a"))
    assert any(a.get("role") == "img" and a["aria-labelledby"] == "h-title h-desc" for a in elements.all("svg"))


def test_without_error_control_the_page_says_so_and_shows_no_p_value(tmp_path):
    rows = [replace(row, p_value=None, flagged=None, nearest=None, z=1.5, same_as="twin") for row in a_page().rows]
    own = claims(None, 64, own_generations=True)
    plain = Histogram(np.ones(3), np.zeros(2))
    html = written(tmp_path, a_page(rows=rows, claims=own, histogram=plain, slider=None))
    visible = re.sub("<(script|style)>.*?</\\1>", "", html, flags=re.S)
    assert "No error control" in visible
    assert "generations are not known to be free of memorized images" in visible
    for absent in ("Flagged only", 'data-key="p"', "data-p=", 'class="flag"', 'data-key="ratio"'):
        assert absent not in visible
    assert "Robust z" in visible
    assert "near-duplicate of <bdi>twin</bdi>, not tested" in visible  # beside the name


@pytest.mark.parametrize("n_reference", [0, 100])
@pytest.mark.parametrize("own", [False, True])
def test_claims_of_control_are_made_only_with_control(n_reference, own):
    told = claims(None, n_reference, own_generations=own)
    assert not told.is_controlled
    assert told.control == "No error control"
    assert not any("p-value" in text or "false discoveries" in text for text in told.proves)
    controlled = claims(0.1, 99)
    assert controlled.is_controlled
    assert any("10\N{NO-BREAK SPACE}%" in text for text in controlled.proves)
    assert any("below 0.01" in text for text in controlled.proves)  # 1/(99 + 1)
    too_few = claims(0.1, 2, can_flag=False)
    assert (too_few.control, too_few.is_controlled) == ("Reference too small to flag anything", False)
    assert claims(0.05, 2, can_flag=False, denoises=False).control == too_few.control
    unfit = claims(0.05, 20, denoises=False)
    assert unfit.does_not[0].startswith("The model predicts the noise in these images badly")
    assert (unfit.control, unfit.is_controlled) == ("The model may not denoise these images", False)
    with_training = claims(None, training_set=True, max_ratio=0.5)
    assert any("below 0.5" in text for text in with_training.proves)


def test_more_rows_than_the_page_holds_are_left_to_the_table(tmp_path):
    rows = [Row(str(i), score=float(i)) for i in range(MAX_ROWS + 5)]
    html = written(tmp_path, a_page(rows=rows, n_images=100_000, table="tables/audit.csv"))
    assert [a["data-name"] for a in Elements(html).all("tr") if "data-name" in a][:2] == [
        str(MAX_ROWS + 4),
        str(MAX_ROWS + 3),
    ]
    assert html.count("data-name=") == MAX_ROWS
    assert "2,000 highest scores of 100,000 audited images" in html
    assert "tables/audit.csv" in html
    assert "All of them stand in" not in written(tmp_path, a_page(rows=rows, n_images=100_000))
    assert "tables/audit.csv" not in written(tmp_path, a_page(table="tables/audit.csv"))


def test_text_is_escaped_wherever_it_stands(tmp_path):
    html = written(tmp_path, a_hostile_page())
    assert "<script>window" not in html
    assert "<img src=x" not in html
    elements = Elements(html)
    assert not [key for _, a in elements.tags for key in a if key.startswith("on")]
    assert len(elements.all("script")) == 1
    assert html.count("&lt;script&gt;window.hacked") >= 13 + N  # where each of the fields was put


def test_names_that_are_no_text_are_written_all_the_same(tmp_path):
    html = written(tmp_path, a_page(rows=[Row("a\x00b\x1b[0m\udcff.png", score=0.5)]))
    assert "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[0m\\udcff.png" in html


def test_scores_that_are_not_finite_come_last_and_are_named(tmp_path):
    rows = [Row("nan", math.nan), Row("low", 0.1), Row("inf", -math.inf), Row("high", 0.2, 0.1, math.nan)]
    html = written(tmp_path, a_page(rows=rows, histogram=Histogram(np.array([math.nan, 0.1, 0.2]))))
    assert re.findall('data-name="(.*?)"', html) == ["high", "low", "nan", "inf"]
    assert html.count("not finite") == 2
    assert "No image has a finite score." in written(tmp_path, a_page(rows=rows[:1], histogram=Histogram(np.array([]))))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_thumbnails_of_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="thumbnail='uint8.*must be uint8 of shape"):
        written(tmp_path, a_page(rows=[Row("a", 0.5, thumbnail=np.zeros(shape, np.uint8))]))


@pytest.mark.parametrize(
    ("score", "low", "high", "text"),
    [
        (0.81234, 0.80, 0.82, "0.812"),
        (-123.456, -124.0, -122.0, "−123.5"),
        (1.5e9, 1.4e9, 1.6e9, "1.5e+09"),
        (3e-9, 2e-9, 4e-9, "3e−09"),
        (0.123456, math.nan, math.nan, "0.1235"),
        (0.0, 0.0, 0.0, "0.000"),
    ],
)
def test_scores_have_as_many_digits_as_their_interval_allows(tmp_path, score, low, high, text):
    html = written(tmp_path, a_page(rows=[Row("a", score, low, high)], histogram=Histogram(np.array([score]))))
    assert f'<span class="value">{text}</span>' in html
