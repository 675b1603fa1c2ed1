"""What two agreements differ in, in one line that people at both ends can read.

The lead compares what each party has with its own; where the hashes differ, this says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast


def difference(ours: Any, theirs: Any, here: str, there: str, at: str = "") -> str:
    """Say in one line the first thing in which two agreements differ, and in how many.

    Args:
        ours: an agreement as JSON values.
        theirs: the other.
        here: the party that has the first.
        there: the party that has the second.
        at: the place that both have within something larger.

    Returns:
        A sentence, as "the agreements differ: `seed` is 4 at `hospital` and 3 at `server`."
    """
    found = list(_differences(ours, theirs, at))
    # The hashes differ, or nobody would have asked: so the texts do where the values do not.
    if not found:
        return f"the agreements of `{here}` and `{there}` differ in their form."
    place, a, b = found[0]
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return (
        f"the agreements differ: `{place}` is {_brief(a)} at `{here}` "
        f"and {_brief(b)} at `{there}`{more}."
    )


def _differences(a: Any, b: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    """Every place in which two JSON values differ, with what stands there."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        ours = cast("Mapping[str, Any]", a)
        theirs = cast("Mapping[str, Any]", b)
        # In the order of the first, and each key once: a set would say another difference first
        # in every process.
        for key in dict.fromkeys([*ours, *theirs]):
            inner = f"{at}.{key}" if at else str(key)
            yield from _differences(ours.get(key), theirs.get(key), inner)
    # Lists of other lengths are said whole: item by item, one that was put in at the front would
    # be a difference of all that follow.
    elif _are_lists_of_one_length(a, b):
        pairs = zip(cast("list[Any]", a), cast("list[Any]", b), strict=True)
        for i, (x, y) in enumerate(pairs):
            yield from _differences(x, y, f"{at}[{_label(x, i)}]")
    elif _differ(a, b):
        yield at or "agreement", a, b


def _differ(a: Any, b: Any) -> bool:
    # The types too: for Python 1, 1.0 and True are equal, and their JSON is not.
    return a != b or type(a) is not type(b)


def _are_lists_of_one_length(a: Any, b: Any) -> bool:
    if not isinstance(a, list) or not isinstance(b, list):
        return False
    return len(cast("list[Any]", a)) == len(cast("list[Any]", b))


def _label(item: Any, place: int) -> str:
    """An item of a list by its name, where it has one; nobody counts nodes to find the seventh."""
    if isinstance(item, Mapping):
        return str(cast("Mapping[str, Any]", item).get("name", place))
    return str(place)


def _brief(value: Any) -> str:
    # `None` is a key that the other has alone, or a null; to a reader both are missing.
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
