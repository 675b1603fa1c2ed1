"""What jsplit offers is listed, exists, and says what it is."""

from __future__ import annotations

import inspect

import pytest

import jsplit


def test_all_lists_exactly_what_is_public():
    public = {
        n
        for n, x in vars(jsplit).items()
        if not n.startswith("_") and not inspect.ismodule(x)
    }
    listed = {n for n in jsplit.__all__ if not n.startswith("__")}
    modules = {n for n in listed if inspect.ismodule(getattr(jsplit, n))}
    assert listed - modules == public
    assert modules == {
        "compress",
        "fitting",
        "party",
        "population",
        "privacy",
        "rounds",
        "runs",
    }


def test_what_is_shown_is_what_is_listed():
    """To somebody who types `jsplit.` and waits; the rooms are there, and not in the way."""
    shown = {name for name in dir(jsplit) if not name.startswith("__")}
    assert shown == {name for name in jsplit.__all__ if not name.startswith("__")}


@pytest.mark.parametrize(
    "room", [n for n in jsplit.__all__ if inspect.ismodule(getattr(jsplit, n))]
)
def test_a_room_shows_what_it_lists_and_none_of_its_files(room):
    door = getattr(jsplit, room)
    assert sorted(door.__all__) == dir(door)
    for name in dir(door):
        getattr(door, name)


def test_everything_public_is_documented():
    for name in jsplit.__all__:
        thing = getattr(jsplit, name)
        if callable(thing):
            assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), (
                f"{name} has no docstring of its own"
            )
