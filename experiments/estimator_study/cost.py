"""Wall time and memory of the exact operator, by dimension and chunk, beside jacfwd and (where installed) folx.

Times differ from run to run: they are no metrics, but stand in ``tables/cost`` and ``arrays/cost.npz``.
"""

from typing import Annotated, Any

from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import Section
from experiments.estimator_study.convergence import columns
from experiments.estimator_study.operator_cost import measure_cost


class Cost(Section):
    """What is timed."""

    dims: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, description="dimensions of the timed networks")
    chunks: list[Annotated[int, Field(ge=1)] | None] = Field(min_length=1, description="products at once; null: all")
    runs: int = Field(ge=1, description="timings, of which the median is taken")


def run(config: Any, *, report: Report) -> None:
    """Rows (d, method, chunk, ms, temp_bytes)."""
    with report.stage("cost"):
        rows = measure_cost(config.cost.dims, config.cost.chunks, config.cost.runs)
    rows = [row | {"chunk": row["chunk"] or row["d"]} for row in rows]
    report.table("cost", rows)
    report.arrays("cost", **columns(rows))
