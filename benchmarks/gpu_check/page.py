"""The page that the check writes."""

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.formatting import number
from benchmarks.gpu_check.rows import Compared, Finding, HeldMemory, Machine, Missing, Timed

# Tflop/s of dense matrix products, from the makers' data sheets; float32 is TF32, which XLA and PyTorch take here.
NAMED_PEAKS = {
    "NVIDIA H200": {"bfloat16": 989, "float32": 494},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989, "float32": 494},
    "NVIDIA H100 PCIe": {"bfloat16": 756, "float32": 378},
    "NVIDIA A100": {"bfloat16": 312, "float32": 156},
    "NVIDIA L4": {"bfloat16": 121, "float32": 60},
    "TPU v4": {"bfloat16": 275},
    "TPU v5 lite": {"bfloat16": 197},
    "TPU v6 lite": {"bfloat16": 918},
}
COMPARED = ("what", "difference", "allowed", "met")
TIMED = (
    "what",
    "per second",
    "Tflop/s",
    "of the product's",
    "of the data sheet's",
    "PyTorch, per second",
    "ours / PyTorch",
    "compiling, s",
    "temporary, MiB",
)
MEMORY = ("process", "held at most, MiB", "of, MiB")
MISSING = ("what", "why", "a fault")
NOTES = """\
- Differences are root mean squares relative to the CPU's result, but for the last row. "Highest" precision differs by
  the order of sums alone; "default" lets the card round the factors of float32 products.
- Rates are medians with the range in parentheses. Operations are XLA's count; "of the product's" compares with a large
  matrix product of the same dtype, timed in turn, and "of the data sheet's" with the maker's dense figure where it is
  known here. PyTorch's figures are for the same weights, shapes and batches, each batch in one call.
- Memory is JAX's own; temporary memory is XLA's figure for one call, inputs and results left out."""


def page(rows: Sequence[Finding], code: str, seconds: float, smoke: bool) -> str:
    """Markdown: the card, then a table of each kind of row.

    Args:
        rows: of all parts.
        code: the sentence that names the commit.
        seconds: that the check took.
        smoke: whether the sizes were a trial's.
    """
    machine = next((row for row in rows if isinstance(row, Machine)), None)
    if machine is None:
        machine = Machine("no device", "none", 0, "unknown", "unknown")
    parts = [f"# What only an accelerator can tell: {machine.card}"]
    if smoke:
        parts.append("**A trial in sizes whose times mean nothing** (`--smoke`).")
    parts.append(
        f"{machine.count} × {machine.card} ({machine.platform}). {machine.software}. PyTorch: {machine.torch}. {code} "
        f"`python -m benchmarks.gpu_check{' --smoke' * smoke}`, {seconds:.0f} s."
    )
    tables = {
        "Right": (COMPARED, [_compared(row) for row in rows if isinstance(row, Compared)]),
        "Fast": (TIMED, [_timed(row, machine.card) for row in rows if isinstance(row, Timed)]),
        "Memory": (MEMORY, [_memory(row) for row in rows if isinstance(row, HeldMemory)]),
        "Not measured": (MISSING, [_missing(row) for row in rows if isinstance(row, Missing)]),
    }
    for title, (columns, cells) in tables.items():
        if cells:
            parts += [f"## {title}", table(columns, cells)]
    return "\n\n".join([*parts, NOTES]) + "\n"


def table(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars within a cell are escaped."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def named_peak(card: str, dtype: str) -> float | None:
    """Tflop/s of the data sheet; None for a card that is not listed."""
    peaks = next((peaks for name, peaks in NAMED_PEAKS.items() if card.startswith(name)), {})
    return peaks.get(dtype)


def _compared(row: Compared) -> tuple[str, ...]:
    return row.what, number(row.difference), number(row.allowed), "yes" if row.met else "**no**"


def _timed(row: Timed, card: str) -> tuple[str, ...]:
    ours, theirs = (f"{row.what}, {row.unit}", _rates(row.rates)), (row.torch_note or "–", "–")
    if row.torch_rates:
        ratio = median(a / b for a, b in zip(row.rates, row.torch_rates, strict=True))
        theirs = (_rates(row.torch_rates), f"{number(ratio)} ×")
    costs = ("–" if row.compile_s is None else number(row.compile_s), number(row.temporary_mib))
    return *ours, *_shares(row, card), *theirs, *costs


def _shares(row: Timed, card: str) -> tuple[str, str, str]:
    if row.flops is None:
        return "–", "–", "–"
    reached, listed = row.flops * median(row.rates), named_peak(card, row.dtype)
    share = "–" if listed is None else f"{number(100 * reached / (listed * 1e12))} %"
    return number(reached / 1e12), f"{number(100 * reached / row.peak)} %", share


def _rates(rates: Sequence[float]) -> str:
    return f"{number(median(rates))} ({number(min(rates))}–{number(max(rates))})"


def _memory(row: HeldMemory) -> tuple[str, ...]:
    return row.what, number(row.used_mib), number(row.limit_mib)


def _missing(row: Missing) -> tuple[str, ...]:
    return row.what, row.reason, "**yes**" if row.failed else "no"
