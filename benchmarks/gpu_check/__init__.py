"""What only an accelerator can tell, in six minutes: ``python -m benchmarks.gpu_check [--out FILE] [--smoke]``.

Needs jax, flax, optax and numpy, no network, and nothing else of this repository's environment. Where PyTorch is
installed and sees the same kind of device, it is timed beside ours.
"""
