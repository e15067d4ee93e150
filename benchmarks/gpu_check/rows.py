"""What the check found, as rows that travel from the parts' processes to the page, one line of JSON each."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Machine:
    """What a part ran on.

    Attributes:
        card: the accelerator's name, as JAX gives it.
        platform: "gpu", "tpu" or "cpu".
        count: such devices; the check uses the first.
        software: versions.
        torch: what PyTorch can do here.
    """

    card: str
    platform: str
    count: int
    software: str
    torch: str


@dataclass(frozen=True)
class Compared:
    """A result of the card beside the CPU's: the difference, relative unless ``what`` says otherwise."""

    what: str
    difference: float
    allowed: float

    @property
    def met(self) -> bool:
        """Whether the difference, which may be NaN, is one that rounding explains."""
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Timed:
    """Something done many times.

    Attributes:
        what, unit: what is counted by the second.
        rates: units per second, one number per run.
        dtype: of the matrix products in it.
        flops: floating-point operations per unit, by XLA's count; None where it cannot be counted.
        peak: operations per second of a large matrix product of this dtype, timed in turn with it.
        compile_s: tracing and compiling; None where it was not timed.
        temporary_mib: XLA's figure for the program's temporary memory.
        torch_rates: the same by PyTorch; empty where it was not run.
        torch_note: why it was not.
    """

    what: str
    unit: str
    rates: Sequence[float]
    dtype: str
    flops: float | None
    peak: float
    compile_s: float | None
    temporary_mib: float
    torch_rates: Sequence[float] = field(default_factory=list)
    torch_note: str = ""


@dataclass(frozen=True)
class HeldMemory:
    """The most that a part held on the device at one time, and what there is, in MiB."""

    what: str
    used_mib: float
    limit_mib: float


@dataclass(frozen=True)
class Missing:
    """What was not measured, and why; ``failed`` where that is a fault rather than a lack of time or of a package."""

    what: str
    reason: str
    failed: bool


KINDS = {kind.__name__: kind for kind in (Machine, Compared, Timed, HeldMemory, Missing)}
Finding = Machine | Compared | Timed | HeldMemory | Missing


def to_line(row: Finding) -> str:
    """One line of JSON, its end included."""
    return json.dumps({"kind": type(row).__name__, **asdict(row)}) + "\n"


def from_line(line: str) -> Finding:
    """The inverse of ``to_line``."""
    fields = json.loads(line)
    return KINDS[fields.pop("kind")](**fields)


def sound(rows: Sequence[Finding]) -> bool:
    """Whether nothing failed and every comparison held."""
    failed = any(row.failed for row in rows if isinstance(row, Missing))
    return not failed and all(row.met for row in rows if isinstance(row, Compared))
