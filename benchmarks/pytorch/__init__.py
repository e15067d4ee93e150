"""The same network, training and fluxes in eager PyTorch: what the library is measured against.

The only modules of this repository that import torch (``pip install -e .[bench]``).
"""
