"""One part of the check in a process of its own: ``python -m benchmarks.gpu_check.part NAME ROWS SECONDS [--smoke]``.

Every row is written to the file ROWS as soon as it is there, so that what a part has found outlives it.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic

from benchmarks.gpu_check import correctness, speed
from benchmarks.gpu_check.names import PARTS
from benchmarks.gpu_check.rows import Finding, Missing, to_line
from benchmarks.gpu_check.sizes import FULL, SMOKE, Sizes
from benchmarks.gpu_check.software import NotHereError, describe

MEASURES: Mapping[str, Callable[[Sizes], Mapping[str, Callable[[], Finding]]]] = {
    "correctness": correctness.checks,
    "mlp": speed.mlp,
    "unet_bfloat16": partial(speed.unet, dtype="bfloat16"),
    "unet_float32": partial(speed.unet, dtype="float32"),
}


def found(what: str, measure: Callable[[], Finding]) -> Finding:
    """The row of a measurement, or why there is none: one that fails does not end the others."""
    try:
        return measure()
    except NotHereError as error:
        return Missing(what, str(error), failed=False)
    except ModuleNotFoundError as error:
        return Missing(what, f"needs {error.name}, which is not installed", failed=False)
    except Exception as error:
        return Missing(what, speed.one_line(error), failed=True)


def main() -> None:
    """Measures one part until its time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("rows", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    end = monotonic() + arguments.seconds
    with arguments.rows.open("a") as rows:

        def write(row: Finding) -> None:
            rows.write(to_line(row))
            rows.flush()

        machine = describe()
        write(machine)
        if machine.platform == "cpu" and not arguments.smoke:
            write(Missing(arguments.name, "JAX sees no accelerator; --smoke tries the check on a CPU", failed=True))
            return
        for what, measure in MEASURES[arguments.name](SMOKE if arguments.smoke else FULL).items():
            late = Missing(what, "no time was left", failed=False)
            write(found(what, measure) if monotonic() < end else late)


if __name__ == "__main__":
    main()
