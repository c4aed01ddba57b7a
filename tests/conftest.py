"""Fixtures of all tests: an installed kernel, started once per file of tests."""

import os
from pathlib import Path

import pytest

from kernels import Kernel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def prefix() -> Path:
    """The prefix below which tests/run.sh has installed forklab."""
    named = os.environ.get("FORKLAB_TEST_PREFIX")
    if not named:
        pytest.exit("FORKLAB_TEST_PREFIX is not set: run tests/run.sh", returncode=2)
    return Path(named)


@pytest.fixture(scope="module")
def kernel():
    """A kernel for the tests of one file. A test that ends it must restart it."""
    with Kernel() as running:
        yield running


@pytest.fixture
def own_kernel():
    """A kernel for one test alone."""
    with Kernel() as running:
        yield running
