"""The threshold that a reader moves, in a real browser."""

import re
from dataclasses import replace

import numpy as np
import pytest

from plap_jax.audit.histogram import Histogram
from plap_jax.audit.slider import slider
from tests.helpers.audit_page import ENVELOPE, N_FLAGGED, P_VALUES, SCORES, N, a_page

MARKED = """() => [...document.querySelectorAll("#table tbody tr.flagged")]
    .filter((row) => row.querySelector(".flag").checkVisibility()).map((row) => row.dataset.name)"""


def names(n):
    return [f"image_{i}.png" for i in range(n)]


def test_arrow_keys_move_it_and_everything_follows(opened):
    it = opened(a_page())
    page, told = it.page, it.page.locator("#told")
    page.locator("#size").select_option("all")
    assert page.evaluate(MARKED) == names(N_FLAGGED)
    assert told.inner_text().startswith(f"{N_FLAGGED} flagged, at most ")
    position, line = page.locator("#position"), page.locator("#cut line")
    before = float(line.get_attribute("x1"))
    position.focus()
    assert position.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")  # two images share each p-value
    assert page.evaluate(MARKED) == names(N_FLAGGED + 2)
    assert told.inner_text().startswith(f"{N_FLAGGED + 2} flagged, at most ")
    assert position.get_attribute("aria-valuetext") == told.inner_text()
    assert float(line.get_attribute("x1")) < before
    assert page.locator("#above-from").get_attribute("x") == line.get_attribute("x1")
    assert page.locator("#cut tspan").text_content() == f"{SCORES[N_FLAGGED + 1]:.3f}"
    assert page.locator('#points use[href="#diamond"].flagged').count() == N_FLAGGED + 2
    assert page.locator("#n-flagged").inner_text() == str(N_FLAGGED + 2)
    assert page.locator("[data-told]").all_inner_texts() == [str(N_FLAGGED + 2)] * 2
    page.keyboard.press("Home")
    assert page.evaluate(MARKED) == [] and told.inner_text() == "None flagged."
    assert page.locator("#points .flagged").count() == 0
    assert page.locator("#cut").get_attribute("visibility") == "hidden"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(MARKED) == names(2) and page.locator("#cut").get_attribute("visibility") == "visible"
    page.locator("#back").click()
    assert page.evaluate(MARKED) == names(N_FLAGGED) and page.locator("#back").is_disabled()
    assert page.evaluate("document.activeElement.id") == "position"
    assert it.complaints == []


def test_what_it_says_is_the_envelope(opened):
    it = opened(a_page())
    it.page.locator("#position").focus()
    it.page.keyboard.press("Home")
    for row in ENVELOPE[:4]:
        it.page.keyboard.press("ArrowRight")
        told = it.page.locator("#told").inner_text()
        numbers = [int(number) for number in re.findall(r"\d+", told)]
        assert numbers == [n for n in (row.flagged, row.at_most_false, row.at_least_true)[: len(numbers)]]
    assert "This holds wherever you stop" in it.page.locator("#threshold").inner_text()


def test_flagged_only_follows(opened):
    it = opened(a_page())
    it.page.locator("#flagged").check()
    it.page.locator("#position").focus()
    it.page.keyboard.press("ArrowLeft")
    assert it.names() == names(N_FLAGGED - 2)
    it.page.keyboard.press("End")
    assert it.status().startswith("Images 1 to 50 of ")
    it.page.locator("#flagged").uncheck()
    assert len(it.names()) == 50


def test_it_starts_at_none_and_near_duplicates_are_never_marked(opened):
    page = a_page()
    rows = [replace(row, flagged=False) for row in page.rows]
    rows[0] = replace(rows[0], p_value=None, same_as="image_7.png")
    none = slider(ENVELOPE, P_VALUES, SCORES, np.zeros(N, bool), 0.05)
    it = opened(replace(page, rows=rows, slider=none, histogram=Histogram(SCORES)))
    assert it.page.locator("#told").inner_text() == "None flagged."
    assert not it.page.locator("#cut").is_visible()
    assert it.page.locator("#table tbody tr").first.inner_text().count("near-duplicate of image_7.png, not tested") == 1
    it.page.locator("#position").focus()
    it.page.keyboard.press("ArrowRight")
    assert it.page.evaluate(MARKED) == ["image_1.png"]
    assert it.page.locator("#cut").is_visible()
    whisker = it.page.locator("#table tbody tr").nth(3).locator(".whisker .threshold")
    assert float(whisker.get_attribute("x1")) > 0 and whisker.get_attribute("visibility") == "visible"
    assert it.complaints == []


@pytest.mark.parametrize("width", [320, 1200])
def test_a_finger_can_move_it(opened, width):
    it = opened(a_page(), width)
    position = it.page.locator("#position")
    position.scroll_into_view_if_needed()
    box = position.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 40
    it.page.mouse.click(box["x"] + box["width"] - 10, box["y"] + box["height"] / 2)
    assert int(position.input_value()) > 0.9 * int(position.get_attribute("max"))
    assert it.page.locator("#told").bounding_box()["width"] <= width


def test_without_scripts_the_sentence_and_a_small_table_remain(opened):
    it = opened(a_page(), java_script_enabled=False)
    assert it.page.locator("#told").inner_text().startswith(f"{N_FLAGGED} flagged")
    assert not it.page.locator("#position").is_visible()
    it.page.locator("#threshold summary").click()
    rows = it.page.locator("#threshold tbody tr").all_inner_texts()
    assert 5 <= len(rows) <= 9 and sum("(start)" in row and f"\t{N_FLAGGED}\t" in row for row in rows) == 1
    assert it.page.locator("#points .flagged").count() == N_FLAGGED


def test_a_full_page_follows_quickly(opened):
    page = a_page()
    it = opened(replace(page, rows=[replace(row, name=f"{k} {row.name}") for k in range(15) for row in page.rows]))
    took = it.page.evaluate(
        """() => {
            const [start, position] = [performance.now(), document.getElementById("position")];
            position.stepUp();
            position.dispatchEvent(new Event("input"));
            document.body.getBoundingClientRect();
            return performance.now() - start;
        }"""
    )
    assert took < 500  # milliseconds; some 10 on an idle machine


def test_a_page_without_a_threshold_has_none(opened):
    it = opened(a_page(slider=None, scatter=None, difficulty=(), extreme=(), notices=()))
    for absent in ("#threshold", "#position", "#difficulty", "#extreme", ".notice"):
        assert it.page.locator(absent).count() == 0
    assert it.names() == names(50) and it.complaints == []
