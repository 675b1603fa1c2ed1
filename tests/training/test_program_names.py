"""A program's name says its party and what it does, and is one that a file can have."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from jsplit.training.program_names import named


def name_of(party, *labels):
    ops = [SimpleNamespace(label=x, reads=[x], writes=[x, "y"]) for x in labels]
    turn = SimpleNamespace(party=party, ops=ops)
    return named(turn, lambda *values: values, ["y"], set()).__name__


def test_a_short_name_is_all_of_it():
    name = name_of("hospital", "forward smashed", "send activation smashed to server")
    assert name == "hospital: forward smashed, send activation smashed to server"


@pytest.mark.parametrize("letter", "aé水")
def test_a_compiled_program_of_many_parts_and_long_names_can_be_kept(letter, tmp_path):
    """JAX keeps it as `jit_<name>-<64 digits>-cache`."""
    parts = [f"receive activation {letter * 20} {n}" for n in range(30)]
    for name in (name_of(letter * 99, *parts), name_of("lab", *parts)):
        file = tmp_path / f"jit_{name}-{'0' * 64}-cache"
        file.write_bytes(b"")
        assert os.listdir(tmp_path) == [file.name]
        file.unlink()
        assert name.endswith("...")
