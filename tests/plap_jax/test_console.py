"""What a console cannot show is written in plain characters."""

import io

import pytest

from plap_jax.console import plain, plain_console


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "kappa1 at sigma = 0.1 -> 3 x 4, sqrt d +- 0.5, Koln ?"),
        ("cp1252", "kappa1 at sigma = 0.1 -> 3 × 4, sqrt d ± 0.5, Köln ?"),
        ("utf-8", "κ₁ at σ = 0.1 → 3 × 4, √d ± 0.5, Köln 猫"),
    ],
)
def test_streams_of_any_encoding(encoding, shown):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    plain_console(stream)
    stream.write("κ₁ at σ = 0.1 → 3 × 4, √d ± 0.5, Köln 猫")
    stream.flush()
    assert raw.getvalue().decode(encoding) == shown


def test_plain_text():
    assert plain("Δ κ^Δ ≤ ½ “a” é − –") == 'Delta kappa^Delta <= 1/2 "a" e - -'


def test_streams_without_an_encoding_are_left_alone():
    stream = io.StringIO()
    plain_console(stream)
    stream.write("κ")
    assert stream.getvalue() == "κ"
