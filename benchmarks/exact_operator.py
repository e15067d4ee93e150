"""The exact p-Laplacian by dimension and chunk: memory against a batch of evaluations, time against jacfwd."""

from benchmarks.table import Row
from benchmarks.timing import ratios
from benchmarks.topic import publish
from experiments.estimator_study.operator_cost import (
    EVALUATIONS,
    EXACT,
    EXACT_OF_U,
    FOLX_OF_U,
    JACFWD,
    Program,
    programs,
    timed,
)

DIMS = (16, 64, 256, 784)
CHUNKS = (None, 392, 196, 64, 16)
GOAL_DIM, GOAL_MEMORY, GOAL_TIME = 784, 2.0, 1.1
# Smaller ones read the weights so often that memory is bought with time; reported without a goal.
SMALLEST_TIMED = 196

Measured = dict[tuple[str, int | None], tuple[Program, list[float]]]


def of_dimension(d: int, runs: int) -> list[Row]:
    """Time and memory of every method, ratios with goals in the dimension that has them."""
    measured = {(program.method, program.chunk): (program, s) for program, s in timed(list(programs(d, CHUNKS)), runs)}
    rows = []
    for program, seconds in measured.values():
        if program.method != EVALUATIONS:
            rows.append(Row(f"{_what(program)}: time", [1e3 * s for s in seconds], "ms"))
            rows.append(Row(f"{_what(program)}: memory", [program.temp_bytes / 2**10], "KiB"))
        if program.method == EXACT:
            rows += _compared(program, seconds, measured)
    if (FOLX_OF_U, None) in measured:
        both = [measured[method, None][1] for method in (EXACT_OF_U, FOLX_OF_U)]
        rows.append(Row(f"d = {d}, {EXACT_OF_U} / {FOLX_OF_U}: time", ratios(*both), "×"))
    return rows


def _compared(program: Program, seconds: list[float], measured: Measured) -> list[Row]:
    batch, jacfwd = measured[EVALUATIONS, program.chunk][0], measured[JACFWD, None][1]
    held = program.d == GOAL_DIM
    in_time = held and (program.chunk is None or program.chunk >= SMALLEST_TIMED)
    shares = [program.temp_bytes / batch.temp_bytes]
    memory, time = f"{_what(program)}: memory / as many evaluations", f"{_what(program)}: time / jacfwd"
    return [
        Row(memory, shares, "×", at_most=GOAL_MEMORY if held else None),
        Row(time, ratios(seconds, jacfwd), "×", at_most=GOAL_TIME if in_time else None),
    ]


def measure(runs: int) -> list[Row]:
    """All dimensions."""
    return [row for d in DIMS for row in of_dimension(d, runs)]


def _what(program: Program) -> str:
    at_once = "all" if program.chunk is None else program.chunk
    return f"d = {program.d}, {program.method}" + (f", {at_once} at once" if program.method == EXACT else "")


if __name__ == "__main__":
    publish(measure)
