"""These tests need a GPU; ``make gpu`` runs them."""

from __future__ import annotations

import pytest
import torch


def pytest_configure() -> None:
    """Say at once what is missing, instead of passing over every test."""
    if not torch.cuda.is_available():
        pytest.exit("tests/gpu needs a GPU of NVIDIA, and torch finds none", returncode=2)
