"""The page of an audit in a real browser."""

import re
from dataclasses import replace

import numpy as np
import pytest

from plap_jax.audit.page import MAX_ROWS, Nearest, Row
from tests.helpers.audit_page import COLOURS, HOSTILE, N_FLAGGED, N, a_hostile_page, a_page


def test_it_opens_from_disk_without_a_complaint_or_a_request(opened):
    it = opened(a_page())
    assert it.page.title() == "Audit of a model"
    assert it.names() == [f"image_{i}.png" for i in range(50)]
    images = it.page.locator("#table img:not(.heat img)")
    assert images.count() == 100 and it.page.locator("#table .heat img").count() == N_FLAGGED
    for i in (0, 1, 98, 99):
        images.nth(i).scroll_into_view_if_needed()
        it.page.wait_for_function("image => image.complete", arg=images.nth(i).element_handle())
        assert images.nth(i).evaluate("image => image.naturalWidth") == (8 if i % 2 == 0 else 48)
    assert it.complaints == []
    assert [url for url in it.requests if not url.startswith("data:")] == [it.page.url]
    assert it.page.url.startswith("file://")


def test_the_header_sorts(opened):
    it = opened(a_page())
    unsorted = dict.fromkeys(("name", "score", "p", "kappa", "baseline", "ratio"), "none")
    score, p_value, name = (it.page.locator(f"button[data-key={key}]") for key in ("score", "p", "name"))
    assert it.sorting() == unsorted | {"score": "descending"}
    score.click()
    assert it.names()[:2] == ["image_129.png", "image_128.png"]
    assert it.sorting()["score"] == "ascending"
    p_value.click()
    assert it.names()[:4] == [f"image_{i}.png" for i in range(4)]
    assert it.sorting() == unsorted | {"p": "ascending"}
    p_value.click()
    assert it.names()[:4] == ["image_128.png", "image_129.png", "image_126.png", "image_127.png"]  # stable
    name.click()
    assert it.names()[:3] == ["image_0.png", "image_1.png", "image_2.png"]  # numbers as numbers
    it.page.locator("button[data-key=baseline]").click()
    assert it.names()[:2] == ["image_129.png", "image_128.png"]
    it.page.locator("button[data-key=ratio]").click()
    ratios = it.page.locator("#table tbody tr").evaluate_all("rows => rows.map(row => Number(row.dataset.ratio))")
    assert ratios == sorted(ratios)
    assert it.complaints == []


def test_it_filters_by_text_and_by_flag_and_turns_pages(opened):
    it = opened(a_page())
    assert it.status() == "Images 1 to 50 of 130"
    it.page.locator("#next").click()
    assert it.names()[0] == "image_50.png"
    it.page.locator("#next").click()
    assert it.status() == "Images 101 to 130 of 130"
    assert it.page.locator("#next").is_disabled()
    it.page.locator("#previous").click()
    it.page.locator("#filter").fill("FOX")
    assert it.names() == [f"image_{10 * i}.png" for i in range(13)]
    assert it.status() == "Images 1 to 13 of 13, of 130 in all"
    it.page.locator("#flagged").check()
    assert it.names() == ["image_0.png", "image_10.png", "image_20.png"]
    it.page.locator("#filter").fill("fox planted")
    assert it.names() == ["image_0.png", "image_10.png"]
    it.page.locator("#filter").fill("no such image")
    assert it.names() == []
    assert it.status() == "No image matches."
    it.page.locator("#filter").fill("")
    assert len(it.names()) == N_FLAGGED
    it.page.locator("#flagged").uncheck()
    it.page.locator("#size").select_option("all")
    assert len(it.names()) == N
    assert it.complaints == []


def test_it_works_by_keyboard_and_shows_where_the_focus_is(opened):
    it = opened(a_page())
    keyboard = it.page.keyboard
    keyboard.press("Tab")
    assert it.page.evaluate("document.activeElement.className") == "skip"
    assert it.page.locator(".skip").bounding_box()["y"] >= 0  # comes into view
    keyboard.press("Enter")
    keyboard.press("Tab")
    assert it.page.evaluate("document.activeElement.id") == "filter"
    for _ in range(10):
        keyboard.press("Tab")
        if it.page.evaluate("document.activeElement.dataset.key") == "score":
            break
    outline = it.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    before = it.names()
    keyboard.press("Enter")
    assert it.names() != before
    assert it.sorting()["score"] == "ascending"
    assert it.page.evaluate("document.activeElement.dataset.key") == "score"  # the focus stays
    keyboard.press("Space")
    assert it.names() == before


@pytest.mark.parametrize("width", [320, 390, 700, 850, 1200])
def test_no_width_needs_scrolling_sideways(opened, width):
    """Nor does it when a curvature map is enlarged."""
    page = a_page()
    long = replace(page.rows[0], name="a" * 300, prompt="b" * 300, nearest=Nearest("c" * 200, 0.3, COLOURS[0]))
    it = opened(replace(page, rows=[long, *page.rows], title="T" * 100, settings={"S" * 60: "v" * 200}), width)
    assert it.page.evaluate("document.documentElement.scrollWidth") <= width
    box = it.page.locator("#table tbody tr td.score").first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    for summary in it.page.locator(".look summary").all()[:2]:
        summary.click()
    assert it.page.evaluate("document.documentElement.scrollWidth") <= width
    it.page.locator("button[data-key=p]").click()  # sorting is at hand at every width
    assert it.sorting()["p"] == "ascending"


def luminance(colour: str) -> float:
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(opened, scheme):
    """WCAG 2: the contrast of text is at least 4.5."""
    it = opened(a_page(), color_scheme=scheme)
    it.page.locator(".look summary").first.click()
    assert (luminance(it.page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.5) is (scheme == "light")
    for selector in (
        "h1",
        ".tiles dt",
        "figcaption",
        "nav a",
        ".interval",
        ".group",
        ".flag",
        "q",
        ".control",
        "small",
        ".notice",
        ".quiet",
        ".slide label",
        "#maps p",
        ".look p",
    ):
        colour, ground = it.page.locator(selector).first.evaluate(
            """element => {
                const colour = getComputedStyle(element).color;
                const ground = () => getComputedStyle(element).backgroundColor;
                while (ground() === "rgba(0, 0, 0, 0)") element = element.parentElement;
                return [colour, ground()];
            }"""
        )
        brighter, darker = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5, selector


def test_a_curvature_map_stands_beside_its_image_and_opens_by_keyboard(opened):
    it = opened(a_page())
    rows = it.page.locator("#table tbody tr")
    assert rows.nth(N_FLAGGED).locator(".look").count() == 0
    row = rows.nth(1)  # bright in the upper right quarter
    image, heat = (row.locator("th .frame").nth(k).bounding_box() for k in (0, 1))
    assert image["y"] == heat["y"] and image["width"] == heat["width"] and heat["x"] - image["x"] - image["width"] < 10
    said = row.locator(".heat img").get_attribute("alt")
    assert said.startswith("Curvature map: brightest in the upper right, ")
    assert not row.locator(".look p").is_visible()
    row.locator("summary").focus()
    it.page.keyboard.press("Enter")
    assert row.locator(".heat").bounding_box()["width"] >= 1.9 * heat["width"]
    assert row.locator(".look p").inner_text().startswith(said)
    shown = row.locator(".heat img").evaluate(
        """image => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 8;
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            return Array.from(context.getImageData(0, 0, 8, 8).data);
        }"""
    )
    red = np.asarray(shown).reshape(8, 8, 4)[..., 0]
    assert red[:4, 4:].min() > 200 and red[4:].max() < 120 and red[:, :4].max() < 120
    it.page.keyboard.press("Enter")
    assert not row.locator(".look p").is_visible()
    legend = it.page.locator("#maps")
    assert "no proof that this part is memorized" in legend.inner_text()
    assert it.page.locator(".ramp text").all_text_contents()[0] == "0 or below"
    assert it.complaints == []


def test_a_page_without_maps_has_no_legend(opened):
    rows = [replace(row, heat=None) for row in a_page().rows]
    it = opened(a_page(rows=rows, maps=()))
    assert it.page.locator("#maps, .look, .heat").count() == 0 and it.complaints == []


def test_scripts_in_names_are_shown_and_not_run(opened):
    it = opened(a_hostile_page())
    assert it.page.evaluate("window.hacked") is None
    assert it.page.locator("#table tbody bdi").first.inner_text() == HOSTILE
    assert it.page.title() == HOSTILE
    it.page.locator("#table tbody tr").first.click()
    it.page.locator("#filter").fill("onerror")
    assert it.names() == [HOSTILE]
    assert it.page.evaluate("window.hacked") is None
    assert it.complaints == []


def test_the_policy_stops_code_and_pictures_from_elsewhere(opened):
    it = opened(a_page())
    it.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://192.0.2.1/seen.png";
            document.body.append(image);
            document.body.insertAdjacentHTML("beforeend", "<p onclick='window.hacked = 1' id=trap>x</p>");
            document.getElementById("trap").click();
        }"""
    )
    it.page.wait_for_timeout(100)
    assert it.page.evaluate("window.hacked") is None
    assert sum("Content Security Policy" in text for text in it.complaints) >= 3


def test_it_reads_without_scripts(opened):
    it = opened(a_page(), java_script_enabled=False)
    assert it.page.locator("#table tbody tr").count() == N
    assert not it.page.locator("#tools").is_visible()


def test_a_full_page_sorts_quickly(opened):
    rows = [
        Row(f"image_{i}", i / MAX_ROWS, thumbnail=COLOURS[i % N], p_value=0.5, flagged=False) for i in range(MAX_ROWS)
    ]
    it = opened(a_page(rows=rows))
    assert it.status() == "Images 1 to 50 of 2,000"
    took = it.page.evaluate(
        """() => {
            const start = performance.now();
            document.querySelector("button[data-key=name]").click();
            document.body.getBoundingClientRect();
            return performance.now() - start;
        }"""
    )
    assert it.names()[:2] == ["image_0", "image_1"]
    assert took < 1000  # milliseconds; a twentieth of it on an idle machine


@pytest.mark.slow
def test_print_shows_the_pictures_and_not_the_controls(opened, tmp_path):
    it = opened(a_page())
    it.page.pdf(path=tmp_path / "printed.pdf")
    assert (tmp_path / "printed.pdf").read_bytes().count(b"/Subtype /Image") >= 50
    it.page.emulate_media(media="print")
    assert not it.page.locator("#tools").is_visible()
    assert it.page.locator("#table tbody tr").first.is_visible()
