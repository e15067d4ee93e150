"""Numbers as the pages show them."""


def number(value: float) -> str:
    """Three digits: ``1.04``, ``63.9``, ``1,230,000``."""
    if abs(value) >= 1000:
        digits = 10 ** (len(str(int(abs(value)))) - 3)
        return f"{round(value / digits) * digits:,.0f}"
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in text else text
