"""Tests; folders mirror those of the code."""
