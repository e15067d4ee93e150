"""Experiments: one file each, started by ``python -m experiments.run +exp=NAME``."""

import os

# wandb reads this while it is imported, and a crash report would be a network connection nobody asked for.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
