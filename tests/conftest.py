"""Fixtures that several test files share, and how tests run beside each other."""

import os
from contextlib import contextmanager
from dataclasses import replace

import pytest

pytest_plugins = ["tests.browser"]


def pytest_configure(config):
    """Each of pytest-xdist's workers, with the servers it starts, keeps to a core of its own.

    OpenMP threads of two processes on one core wait for each other in loops and run at a fifth of their speed.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_runtest_setup(item):
    """`requires_cuda` tests run wherever a GPU is at hand."""
    if item.get_closest_marker("requires_cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")


@pytest.fixture
def through(monkeypatch):
    """Inside `with through(way):` runs take that way through memory, whatever would fit."""
    from core import memory

    real = memory.plan

    @contextmanager
    def taking(way):
        with monkeypatch.context() as patch:
            patch.setattr(memory, "plan", lambda *given: replace(real(*given), way=way, lighter=None))
            yield

    return taking
