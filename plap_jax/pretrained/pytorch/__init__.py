"""Pieces of diffusers pipelines as PyTorch modules. All modules in here import PyTorch and diffusers."""
