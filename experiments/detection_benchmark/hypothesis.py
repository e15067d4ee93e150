"""What was foretold of κ_1, in numbers; by image, prompt unknown.

Fixed before the runs: with difficulty taken out κ_1 is the first, or within 0.01 of the first, at every number of
copies and every guidance scale; against a baseline it is strictly the first from 2 to 8 copies (of single images the
control has seen as much). Each lead is over the rival that is best on the test half, which favours the rivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.core.report import Report
from experiments.detection_benchmark.evaluation import Measured
from experiments.detection_benchmark.forms import Form, name_in
from experiments.detection_benchmark.parts import Cell, Part
from experiments.detection_benchmark.tasks import FEW
from experiments.shared.methods import Method
from plap_jax.metrics import Interval

SLACK = 0.01
FORETOLD: tuple[Form, ...] = ("calibrated", "baseline")
Found = Sequence[tuple[Part, Measured]]


def write(
    report: Report, measured: Mapping[tuple[Cell, str], Found], methods: Mapping[str, Method], reference: str
) -> None:
    """``hypothesis/<form>/g<guidance>/k<copies>/lead``, and the share of the numbers of copies at which it holds.

    Nothing where the reference was scored raw alone.
    """
    rows = []
    for form in FORETOLD:
        ours = name_in(form, reference)
        held = []
        for (cell, copies), found in measured.items():
            best = _lead(found, ours, form, methods) if (cell.task, cell.prompt) == ("image", "unknown") else None
            if best is None:
                continue
            rival, lead = best
            report.metric(f"hypothesis/{form}/g{cell.guidance:g}/k{copies}/lead", lead)
            row = {"form": form, "guidance": cell.guidance, "copies": copies, "best_rival_on_test": rival}
            rows.append(row | lead.as_dict())
            if copies.isdigit() and (form == "calibrated" or 2 <= int(copies) <= FEW):
                held.append(holds(form, lead))
        if held:
            report.metric(f"hypothesis/{form}/share_held", sum(held) / len(held))
            report.metric(f"hypothesis/{form}/cells", len(held))
    if rows:
        report.table("hypothesis", rows)


def holds(form: Form, lead: Interval) -> bool:
    """Within 0.01 of the first; against a baseline the whole interval above 0."""
    return lead.low > 0 if form == "baseline" else lead.value >= -SLACK


def _lead(found: Found, ours: str, form: Form, methods: Mapping[str, Method]) -> tuple[str, Interval] | None:
    """The rival over which the lead is smallest, each on the images that it scored, and that lead."""
    leads = {}
    for part, measured in found:
        if ours not in measured.names:
            continue
        for name in part.names:
            if methods[name].family == "other" and _form_of(name) == form:
                leads[name] = measured.difference(measured.names.index(ours), measured.names.index(name))
    return min(leads.items(), key=lambda item: item[1].value) if leads else None


def _form_of(name: str) -> str:
    return next((form for form in FORETOLD if name.endswith(f"_{form}")), "raw")
