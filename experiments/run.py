"""Runs an experiment: ``python -m experiments.run +exp=NAME [key=value …]``; with ``-m`` a sweep over values."""

import gc
import os
import sys
import traceback

try:
    import hydra
    from omegaconf import DictConfig
except ModuleNotFoundError as missing:
    sys.exit(f"experiments need {missing.name}: pip install '.[experiments]' in the repository, or make setup")

from experiments.core.catalogue import CONF
from experiments.core.errors import JobFailed, Refused, one_line
from experiments.core.job import execute
from experiments.core.words import at_home
from experiments.publish.collect import SweepWatch, collect, runs_in, tell
from plap_jax.console import plain_console


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def job(config: DictConfig) -> float:
    """One job; what it returns is the experiment's objective."""
    plain_console()  # a launcher may have started this process
    gc.set_threshold(50_000, 20, 50)  # programs are traced into many objects: to look through all takes half a second
    return execute(config)


def main() -> int:
    """Exit code: 0, or 2 with one line on stderr for a mistake in what was asked for, or 1 for a bug."""
    plain_console()
    sys.argv[1:] = at_home(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, instead of printing its own kind of report and exiting
    try:
        job()
        sys.stdout.flush()  # here, where a reader that has gone is no mistake
        return 0
    except BrokenPipeError:  # whoever reads, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell has it of a program that SIGPIPE has ended
    except Refused as refused:
        return _tell(refused.failure)
    except Exception as error:
        return _tell(error)
    except KeyboardInterrupt:
        print("interrupted: finished stages and checkpoints are kept in cache_dir", file=sys.stderr)
        return 130
    finally:
        if SweepWatch.directory is not None and runs_in(SweepWatch.directory):
            tell(SweepWatch.directory, collect(SweepWatch.directory))  # here, as Hydra's hook misses failed sweeps


def _tell(error: Exception) -> int:
    if isinstance(error, JobFailed):
        return 1
    line = one_line(error)
    if line is None:
        traceback.print_exception(error)
        return 1
    print(line, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
