"""What every file of this folder may ask for."""

from __future__ import annotations

import pytest

from tests.helpers import make_problem


@pytest.fixture(scope="session")
def mlp():
    """A problem of 40 records, divided among clients as a test likes, and its batch."""
    problem = make_problem("vanilla", "mlp", "nnx", batch=40)
    return problem, problem.batch
