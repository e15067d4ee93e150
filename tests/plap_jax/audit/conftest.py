"""A real browser for pages."""

from collections.abc import Iterator

import pytest

from experiments.publish.browser import chromium, running
from plap_jax.audit.page import Page, write_page
from tests.helpers.audit_page import Opened


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with running() as started:
        yield started


@pytest.fixture
def opened(browser, tmp_path) -> Iterator:
    contexts = []

    def at(page: Page, width: int = 1200, **options) -> Opened:
        write_page(tmp_path / "report.html", page)
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        result = Opened(contexts[-1].new_page())
        result.page.goto((tmp_path / "report.html").as_uri())
        return result

    yield at
    for context in contexts:
        context.close()
