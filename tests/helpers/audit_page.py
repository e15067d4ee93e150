"""A page of an audit, a hostile one, and what is in its file or its window."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from plap_jax.audit.claims import claims, difficulty_in_words, maps_in_words
from plap_jax.audit.drawings import Scatter
from plap_jax.audit.heat import Heat
from plap_jax.audit.histogram import Histogram
from plap_jax.audit.page import Nearest, Page, Row, write_page
from plap_jax.audit.slider import slider
from plap_jax.envelope import false_discovery_envelope

HOSTILE = (
    """</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">"' onclick="window.hacked=1"""
)
N, N_FLAGGED, N_REFERENCE = 130, 30, 199
P_VALUES = (np.arange(N) // 2 + 1) / (N_REFERENCE + 1)
SCORES = np.linspace(0.95, -0.2, N)
LEVELS = (0.05, 0.2, 0.6)
EVIDENCE = np.random.default_rng(1).normal(0, 3, (N, 6))
ENVELOPE = false_discovery_envelope(N_REFERENCE, N, n_draws=200).table(P_VALUES)
COLOURS = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)


def a_page(**changes) -> Page:
    """130 images, of which 30 are flagged; names are numbered by score, p-values are not sorted like the scores."""
    rows = [
        Row(
            name=f"image_{i}.png",
            score=float(SCORES[i]),
            low=float(SCORES[i]) - 0.02,
            high=float(SCORES[i]) + 0.02,
            thumbnail=COLOURS[i],
            p_value=float(P_VALUES[i]),
            flagged=i < N_FLAGGED,
            nearest=Nearest(f"train_{i}", 0.1 + 0.8 * ((7 * i) % N) / N, np.full((48, 48, 1), i, np.uint8)),
            prompt="a red fox" if i % 10 == 0 else None,
            group="planted" if i < 20 else "held out",
            evidence=EVIDENCE[i],
            kappa=0.9 - i / 500,
            baseline=0.5 + i / 500,
            heat=a_heat(i) if i < N_FLAGGED else None,
        )
        for i in range(N)
    ]
    page = Page(
        title="Audit of a model",
        headline="30 of 130 images are flagged.",
        rows=rows,
        settings={"Model": "a network", "Noise level": "σ = 0.3, given"},
        histogram=Histogram(SCORES, np.linspace(-0.3, 0.6, N_REFERENCE), threshold=rows[N_FLAGGED - 1].score),
        claims=claims(0.05, N_REFERENCE, calibrated=True, training_set=True),
        summary={"images": "130", "flagged": "30"},
        notices=["The reference differs in kind."],
        slider=slider(ENVELOPE, P_VALUES, SCORES, np.arange(N) < N_FLAGGED, 0.05),
        difficulty=difficulty_in_words(0.61, with_baseline=True),
        scatter=a_scatter(),
        levels=LEVELS,
        extreme=[Row(f"other_{i}", 0.7 - i / 10, thumbnail=COLOURS[i]) for i in range(3)],
        n_extreme=5,
        maps=[maps_in_words(of_difference=False), "Mean over the noise levels."],
    )
    return replace(page, **changes)


def a_heat(i: int) -> Heat:
    """Bright in one quarter of 8×8 pixels, another one for each i."""
    value = np.random.default_rng(i).normal(0.1, 0.1, (8, 8))
    value[4 * (i // 2 % 2) :][:4, 4 * (i % 2) :][:, :4] += 1.8
    return Heat(value, np.full((8, 8), 0.1))


def a_scatter(n: int = N, m: int = N_REFERENCE) -> Scatter:
    """Of n audited images, a part of them flagged, and m of a reference."""
    expected, reference = np.linspace(-0.2, 0.3, n), np.linspace(-0.2, 0.3, m)
    score = np.linspace(0.95, -0.2, n)
    flagged = np.arange(n) < n * N_FLAGGED / N
    names = [f"image_{i}.png" for i in range(n)]
    tested = np.ones(n, bool)
    return Scatter(expected + score / 2, expected, score, tested, flagged, names, reference + 0.01, reference, True)


def a_hostile_page() -> Page:
    page = a_page()
    row = replace(
        page.rows[0],
        name=HOSTILE,
        prompt=HOSTILE,
        group=HOSTILE,
        nearest=Nearest(HOSTILE, 0.5),
        same_as=HOSTILE,
        p_value=None,
    )
    told = replace(page.claims, control=HOSTILE, proves=(HOSTILE,), does_not=(HOSTILE,))
    texts = {"title": HOSTILE, "headline": HOSTILE, "score_name": HOSTILE, "score_meaning": HOSTILE, "table": HOSTILE}
    histogram = replace(page.histogram, reference_name=HOSTILE)
    summary, settings = {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}
    return a_page(
        rows=[row, *page.rows],
        claims=told,
        histogram=histogram,
        summary=summary,
        settings=settings,
        n_images=999,
        notices=[HOSTILE],
        difficulty=[HOSTILE],
        maps=[HOSTILE, HOSTILE],
        map_cells=HOSTILE,
        extreme=[Row(HOSTILE, 1.0)],
        scatter=replace(page.scatter, names=[HOSTILE] * N),
        **texts,
    )


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of scripts and styles."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            self.raw[self.inside] = self.raw.get(self.inside, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(tmp_path, page: Page) -> str:
    write_page(tmp_path / "report.html", page)
    return (tmp_path / "report.html").read_text()


class Opened:
    """A page in a window, with everything that it complained of or asked for."""

    def __init__(self, page):
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def names(self) -> list[str]:
        return self.page.locator("#table tbody tr").evaluate_all("rows => rows.map(row => row.dataset.name)")

    def sorting(self) -> dict[str, str]:
        headers = self.page.locator("#table thead th[aria-sort]")
        pairs = headers.evaluate_all("all => all.map(th => [th.querySelector('button').dataset.key, th.ariaSort])")
        return dict(pairs)

    def status(self) -> str:
        return self.page.locator("#status").inner_text()
