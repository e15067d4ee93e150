"""The same network, training and fluxes in eager PyTorch: what the library is measured against.

Beside ``plap_jax.pretrained`` and the tests of it the only modules of this repository that import torch
(``pip install -e .[bench]``; ``train_diffusers_digits`` and ``foreign`` run in the environment of ``make test-torch``).
"""
