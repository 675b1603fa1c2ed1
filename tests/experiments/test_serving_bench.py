"""The benchmark of a server: a session that fails ends it, and nobody waits for it."""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest

from experiments.bench import serving


class Failing:
    """Sessions of which the first to be asked fails."""

    fields, batch, length, position = ("tokens",), 1, 99, 0

    def another(self):
        return nullcontext(self)

    def __call__(self, fields):
        raise MemoryError("too many")


def test_a_session_that_fails_ends_the_measuring_at_once_and_by_its_cause():
    begun = time.monotonic()
    with pytest.raises(MemoryError, match="too many"):
        serving.rate(Failing(), 2, 5)
    assert time.monotonic() - begun < serving.LONG / 20
