"""The site builds strictly, names whatever is public, and reads well from disk: desk and phone, light and dark."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import plap_jax
from experiments.publish.browser import chromium, running
from tests.helpers.audit_page import Opened
from tests.helpers.places import ROOT

pytestmark = pytest.mark.slow
BUILT = ROOT / "site"  # of make docs
SOURCES = ("docs/**/*", "plap_jax/**/*.py", "conf/**/*.yaml", "*.md", "mkdocs.yml")
DESK, PHONE = (1280, 900), (390, 844)


def is_fresh() -> bool:
    """Whether ``make docs`` has been run since anything that it reads was changed."""
    index = BUILT / "index.html"
    changed = (path.stat().st_mtime for pattern in SOURCES for path in ROOT.glob(pattern))
    return index.exists() and index.stat().st_mtime > max(changed)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site that ``make docs`` has built, or else built by this Python or the one of ``make docs``."""
    if is_fresh():
        return BUILT
    own = ROOT / ".venv-docs" / "bin" / "python"
    has = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))
    python = sys.executable if has else own
    if not has and not own.exists():
        pytest.skip("what builds the site is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [python, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with running() as started:
        yield started


@pytest.fixture
def window(browser):
    """An opener of windows of a size, which are closed after the test."""
    contexts = []

    def opened(size=DESK, **options) -> Opened:
        contexts.append(browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), **options))
        return Opened(contexts[-1].new_page())

    yield opened
    for context in contexts:
        context.close()


def written_pages(site: Path) -> list[Path]:
    """Pages that are written to be read; those of the API and of files look all alike."""
    return sorted(path for path in site.rglob("*.html") if path.relative_to(site).parts[0] not in ("api", "files"))


def outside(requests: list[str]) -> list[str]:
    return [url for url in requests if not url.startswith(("file:", "blob:", "data:"))]


def test_every_public_name_has_an_entry(site):
    html = (site / "api" / "plap_jax.html").read_text()
    shown = set(re.findall(r'id="plap_jax\.(\w+)"', html))
    assert set(plap_jax.__all__) <= shown


def test_indices_are_set_below_and_exponents_above_the_line_but_not_in_code(site):
    formulas = (site / "mathematics.html").read_text()
    assert "κ<sub>p</sub>" in formulas and "|s|<sup>p−2</sup>" in formulas
    left = []
    for path in [*written_pages(site), site / "api" / "plap_jax.html"]:
        page = path.read_text().partition("<article")[2].partition("</article>")[0]
        prose = re.sub(r"<[^>]+>", "", re.sub(r"<(pre|code|svg)\b.*?</\1>", "", page, flags=re.DOTALL))
        left += [(path.name, found) for found in re.findall(r"[κΔσμ]_\S*|\^\{\S*", prose)]
        assert "<sub>" not in "".join(re.findall(r"<code>.*?</code>", page, flags=re.DOTALL)), path.name
    for path in site.rglob("*.html"):  # an index behind a hat opens emphasis
        left += [path.name] * len(re.findall("\u0302<em", path.read_text()))
    assert left == []
    assert "κ<sub>" not in (site / "search" / "search_index.json").read_text(), "a search is for what one types"


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_page_fits_shows_its_pictures_and_asks_for_nothing_outside(site, window, size):
    opened = window(size)
    for path in [*written_pages(site), site / "api" / "audit.html"]:
        if path.name == "404.html":  # a server's
            continue
        opened.page.goto(path.as_uri())
        pictures = opened.page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
        widths = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert (path.name, pictures, widths[0] <= widths[1]) == (path.name, [], True)
    assert not opened.complaints and not outside(opened.requests)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_search_finds_a_term_and_its_link_opens(site, window, size):
    opened = window(size)
    page = opened.page
    page.goto((site / "start" / "paper.html").as_uri())
    page.locator("label.md-header__button[for=__search]" if size == PHONE else "input.md-search__input").click()
    page.fill("input.md-search__input", "Benjamini Hochberg")
    first = page.locator(".md-search-result__link").first
    first.wait_for()
    target = first.evaluate("link => link.href")
    first.click()
    page.wait_for_url(target)
    assert "paper.html" not in target and "Benjamini" in page.locator("article").inner_text()
    assert not opened.complaints and not outside(opened.requests)


def test_what_the_api_names_is_found_below_pages(site, window):
    page = window().page
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").click()
    page.fill("input.md-search__input", "antithetic")
    page.locator(".md-search-result__link").first.wait_for()
    found = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.pathname)")
    assert not any("/files/" in path and path.endswith(".py.html") for path in found)
    assert [path for path in found if "/api/" in path] and "/api/" not in found[0]


def ground(page) -> int:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_dark_where_the_reader_has_it_dark_or_asks_for_it(site, window):
    for scheme, is_dark in (("light", False), ("dark", True)):
        page = window(color_scheme=scheme).page
        page.goto((site / "index.html").as_uri())
        assert (ground(page) < 200, ground(page) > 600) == (is_dark, not is_dark)
    page.locator("label[for^=__palette]:visible").click()  # the reader of a dark page asks for light
    page.wait_for_function("document.body.dataset.mdColorScheme === 'default'")
    assert ground(page) > 600
