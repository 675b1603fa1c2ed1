"""What two agreements differ in, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def difference(ours: Any, theirs: Any, here: str, there: str, at: str = "") -> str:
    """In one line, the first thing in which two agreements differ, and in how many."""
    found = list(_differences(ours, theirs, at))
    if not found:
        return f"the agreements of `{here}` and `{there}` differ in their form."
    place, a, b = found[0]
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return f"the agreements differ: `{place}` is {_brief(a)} at `{here}` and {_brief(b)} at `{there}`{more}."


def _differences(a: Any, b: Any, at: str) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for k in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(k), b.get(k), f"{at}.{k}" if at else str(k))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(
                x, y, f"{at}[{x.get('name', i) if isinstance(x, Mapping) else i}]"
            )
    elif a != b or type(a) is not type(b):
        yield at or "agreement", a, b


def _brief(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
