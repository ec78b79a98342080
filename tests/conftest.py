"""Fixtures that several test files share."""

pytest_plugins = ["tests.browser"]


def pytest_runtest_setup(item):
    """`requires_cuda` tests run wherever a GPU is at hand."""
    if item.get_closest_marker("requires_cuda"):
        import pytest
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")
