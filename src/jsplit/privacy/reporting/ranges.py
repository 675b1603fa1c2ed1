"""The ranges of fields and public records that a report is given, looked at before hours of work.

A misspelt name would leave an attack out, or let it search where no record is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from jsplit.core.checks import shown
from jsplit.privacy.measures.images import ends

_LISTED = 8


def checked_ranges(
    ranges: Mapping[str, tuple[float, float]] | None, fields: Iterable[str]
) -> dict[str, tuple[float, float]]:
    """Ranges by field, after they were looked at.

    Args:
        ranges: by field, its smallest and largest value; `None`: none are known.
        fields: all that there are.

    Raises:
        ValueError: naming `ranges`, if one is of no field, or is no range.
    """
    if ranges is None:
        return {}
    if not isinstance(ranges, Mapping):
        raise ValueError(
            "`ranges` must be a dictionary of (smallest, largest) by field, got "
            f"{shown(ranges)}."
        )
    there, found = [*fields], dict[str, tuple[float, float]]()
    for name, given in ranges.items():
        if name not in there:
            raise ValueError(
                f"`ranges` names {shown(name)}, which is no field of `data`; "
                f"{near(name, there)}."
            )
        try:
            found[name] = ends(given)
        except ValueError as error:
            raise ValueError(f"`ranges` of `{name}`: {error}") from error
    return found


def near(name: object, there: Sequence[str]) -> str:
    """The names that somebody may have meant, for an error.

    Args:
        name: what was given.
        there: all names.
    """
    close = get_close_matches(str(name), there, 3)
    if close:
        return f"near it is {', '.join(close)}"
    more = ", ..." if len(there) > _LISTED else ""
    return f"there are {', '.join(there[:_LISTED])}{more}"
