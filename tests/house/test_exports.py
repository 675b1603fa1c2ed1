"""What jsplit offers is listed, exists, and says what it is."""

from __future__ import annotations

import importlib
import inspect

import pytest

import jsplit
from tests.house.source import DOORS


def test_all_lists_exactly_what_is_public():
    public = {
        n
        for n, x in vars(jsplit).items()
        if not n.startswith("_") and not inspect.ismodule(x)
    }
    modules = {n for n in jsplit.__all__ if inspect.ismodule(getattr(jsplit, n))}
    assert set(jsplit.__all__) - modules == public
    assert modules == {"compress", "party", "population", "rounds", "runs"}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_shows_what_it_lists_and_nothing_else(door):
    """To somebody who types a dot and waits; rooms are found by their files."""
    module = importlib.import_module(door)
    shown = {name for name in dir(module) if not name.startswith("_")}
    assert shown == {name for name in module.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", jsplit.__all__)
def test_everything_public_is_documented(name):
    thing = getattr(jsplit, name)
    if callable(thing):
        assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), (
            f"{name} has no docstring of its own"
        )
