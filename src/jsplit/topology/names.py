"""The names that users give to parts, parties and values, checked."""

from __future__ import annotations

from collections.abc import Iterable

from jsplit.core.checks import names_of, shown

OWN = ("params", "state")
"""What a loss may read of its party's nodes: `<node>.params`, `<node>.state`."""


def as_names(owner: str, names: Iterable[str], what: str = "inputs") -> tuple[str, ...]:
    """Names as a tuple, from a list or, where there is one alone, from a string.

    Args:
        owner: Whose names they are, for the error.
        names: The names as a user gave them.
        what: Which argument they are, for the error.

    Raises:
        ValueError: If `names` is no list, or holds something that is no
            string.
    """
    return tuple(names_of(what, names, owner=owner, twice=True))


def check_names(kind: str, name: str, party: str) -> None:
    """Refuse a part whose name or party is no string, or an empty one."""
    for what, value in (("name", name), ("party", party)):
        if not isinstance(value, str) or not value:
            # `!r`, since what came may be anything; so it may not be quoted as a name.
            raise ValueError(
                f"{kind} {shown(name)}: `{what}` must be a name, got {shown(value)}."
            )
