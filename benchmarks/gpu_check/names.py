"""The parts of the check in their order, what matters most first. Imports nothing: the parent process stays small."""

PARTS = ("correctness", "mlp", "unet_bfloat16", "unet_float32")
