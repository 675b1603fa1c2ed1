"""What two agreements differ in, in one line that people at both ends can read.

The lead compares what each party has with its own; where the hashes
differ, this says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeGuard

from jsplit.wire.said import named, printable

_LONGEST = 80
"""Characters of a name or a value, at most."""


def difference(
    ours: object, theirs: object, here: str, there: str, at: str = ""
) -> str:
    """Say in one line the first thing in which two agreements differ, and in how many.

    Args:
        ours: an agreement as JSON values.
        theirs: the other.
        here: the party that has the first.
        there: the party that has the second.
        at: the place that both have within something larger.

    Returns:
        A sentence, as "the agreements differ: `seed` is 4 at `hospital`
        and 3 at `server`."
    """
    found = _differences(ours, theirs, at)
    # The hashes differ, or nobody would have asked: so the texts do where
    # the values do not.
    if (first := next(found, None)) is None:
        return f"the agreements of `{here}` and `{there}` differ in their form."
    place, a, b = first
    # Counted and not kept: the other side may differ in a million places.
    others = sum(1 for _ in found)
    more = f" ({others} more)" if others else ""
    return (
        f"the agreements differ: {named(place)} is {_brief(a)} at `{here}` "
        f"and {_brief(b)} at `{there}`{more}."
    )


def _differences(a: object, b: object, at: str) -> Iterator[tuple[str, object, object]]:
    """Every place in which two JSON values differ, with what stands there."""
    if _is_object(a) and _is_object(b):
        # In the order of the first, and each key once: a set would say
        # another difference first in every process.
        for key in dict.fromkeys([*a, *b]):
            # Cut at each level: the other side has chosen how long its names are.
            inner = f"{at}.{_name(key)}" if at else _name(key)
            yield from _differences(a.get(key), b.get(key), inner)
    # Lists of other lengths are said whole: item by item, one that was
    # put in at the front would be a difference of all that follow.
    elif _is_list(a) and _is_list(b) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{at}[{_name(_label(x, i))}]")
    elif _differ(a, b):
        yield at or "agreement", a, b


def _differ(a: object, b: object) -> bool:
    # The types too: for Python 1, 1.0 and True are equal, and their JSON
    # is not.
    return a != b or type(a) is not type(b)


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _label(item: object, place: int) -> str:
    """An item of a list by its name, where it has one; nobody counts nodes to find the seventh."""
    return str(item.get("name", place)) if _is_object(item) else str(place)


def _name(key: object) -> str:
    text = str(key)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _brief(value: object) -> str:
    # `None` is a key that the other has alone, or a null; to a reader
    # both are missing.
    if value is None:
        return "missing"
    # A text as Python writes it, in quotes.
    return printable(repr(value) if isinstance(value, str) else value, _LONGEST)
