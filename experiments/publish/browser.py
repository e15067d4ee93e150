"""A headless Chromium for pages on disk: ``python -m experiments.publish.browser PAGE.html PICTURE.png``.

Chromium is the system's own (Debian's package chromium); Playwright, of the extra ``dev``, drives it.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Path of the browser, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def running() -> Iterator[Browser]:
    """A browser with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def screenshot(html: Path, png: Path, width: int = 1180, height: int = 1765) -> None:
    """The top of a page as it stands on a screen of that many pixels, light."""
    with running() as browser:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(html.resolve().as_uri())
        page.wait_for_function("[...document.images].every((image) => image.complete || image.loading === 'lazy')")
        png.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=png)


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]), Path(sys.argv[2]))
