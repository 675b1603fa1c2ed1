"""Names of records as users bring them: lists, columns, tables of one column, generators.

A name says who a record is of, so an error gives counts and never a name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeAlias
from unicodedata import is_normalized, normalize

import numpy as np

from jsplit.core.arrays import MASKED, NUMPY, Foreign, unmasked
from jsplit.core.foreign import columns_of, is_table

Id: TypeAlias = str | int | float | np.generic
"""Of a record. A float must be a whole number, and as exact as an integer."""

# Under a type that a strict checker can follow, as in `arrays`.
_LISTS: tuple[type[Foreign], ...] = (list, tuple)
_UNORDERED: tuple[type[Foreign], ...] = (str, bytes, Mapping, Set)
_FLOATS: tuple[type[Foreign], ...] = (float, np.floating)
_ITERABLE: tuple[type[Foreign], ...] = (Iterable, np.ndarray)

_log = logging.getLogger("jsplit.ids")


def listed(name: str, given: Foreign) -> list[Foreign]:
    """One entry for each record, read once and in their order.

    Args:
        name: of the argument.
        given: a list, a column [n] or [n, 1], a table of one column, or
            anything that can be gone through once.

    Returns:
        The entries; text as in Unicode's normal form NFC, so that two
        tables that write one name in two ways have the same.

    Raises:
        ValueError: if it is no list, has several columns, hides entries
            under a mask, or has text that is no Unicode.
    """
    found = as_entries(name, given)
    broken = [x for x in found if isinstance(x, str) and not _is_text(x)]
    if broken:
        raise ValueError(
            f"`{name}` of {len(found)} records: {len(broken)} hold lone surrogates, which "
            "are no text: the table was read in another encoding than it has."
        )
    other = [isinstance(x, str) and not is_normalized("NFC", x) for x in found]
    if not any(other):
        return found

    # Two systems write the same letters in two ways, "é" as one sign or as two, and a
    # reader sees no difference.
    _log.warning(
        "`%s` of %d records: %d are taken in Unicode's normal form NFC.",
        name,
        len(found),
        sum(other),
    )
    normal = [
        normalize("NFC", x) if o else x for x, o in zip(found, other, strict=True)
    ]
    if twice := _distinct(found) - _distinct(normal):
        raise ValueError(
            f"`{name}` of {len(found)} records: {twice} are another one's in all but "
            "Unicode's normal form (NFC and NFD), so they name one record twice."
        )
    return normal


def bytes_of(ids: Sequence[Id], name: str = "ids") -> list[bytes]:
    """All ids in bytes, the same at every party that has them.

    In the order of these bytes all parties bring their records: a language's own order of
    strings may depend on where the machine stands.

    Args:
        ids: as `listed` gives them.
        name: of the argument.

    Returns:
        One entry for each. The kind is part of it, so that the string "5" is not taken
        for the number 5.

    Raises:
        ValueError: saying how many are none, were rounded, or are there twice. An id may
            be a secret, and the message may end up in a log, so it names none.
    """
    names = [_bytes_of(i) for i in ids]
    if odd := names.count(b""):
        if rounded := sum(map(_is_rounded, ids)):
            raise ValueError(
                f"`{name}` of {len(names)} records: {rounded} are floats so large that "
                "several integers are one of them, so records may have one another's id; "
                "read them as integers or as text."
            )
        raise ValueError(
            f"`{name}` of {len(names)} records: {odd} are neither strings nor integers."
        )
    if twice := len(names) - len({*names}):
        raise ValueError(
            f"`{name}` of {len(names)} records: {twice} are there more than once."
        )
    return names


def _bytes_of(i: Foreign) -> bytes:
    """An id in bytes; nothing if it is none."""
    if isinstance(i, str):
        return f"str:{i}".encode()
    is_whole = isinstance(i, _FLOATS) and float(i).is_integer()
    if hasattr(i, "__index__") or (is_whole and not _is_rounded(i)):
        return f"int:{int(i)}".encode()
    return b""


def _is_rounded(i: Foreign) -> bool:
    """Whether an id is a float that may have been another integer."""
    if not isinstance(i, _FLOATS) or not np.isfinite(i):
        return False
    # From here on the next integer is no float of this kind.
    return abs(i) >= 2 ** (np.finfo(np.asarray(i).dtype).nmant + 1)


def _distinct(entries: Sequence[Foreign]) -> int:
    return len({x for x in entries if isinstance(x, str)})


def _is_text(x: str) -> bool:
    # UTF-8 has no way to write half of a pair; the error of Python would quote it.
    return not any("\ud800" <= letter <= "\udfff" for letter in x)


def as_entries(name: str, given: Foreign) -> list[Foreign]:
    """What is given of each record, one by one.

    Raises:
        ValueError: if it is no list, has several columns, or hides entries under a mask.
    """
    # A string is gone through by its letters, a dictionary by its keys, and a set in
    # any order.
    unordered = isinstance(given, _UNORDERED)
    if is_table(given):
        if (count := given.shape[1]) != 1:
            raise ValueError(
                f"`{name}` must be one column, got a table of {count}; give the one "
                "that holds them."
            )
        (given,) = columns_of(given)
    elif unordered or not isinstance(given, _ITERABLE):
        raise ValueError(
            f"`{name}` must be a list, one for each record, got {type(given).__name__}."
        )

    if isinstance(given, MASKED):
        given = unmasked(f"`{name}`", given, "each record needs one")
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    # Arrays of other packages have shapes; columns of tables too, but give what is in
    # them as it is only one by one.
    if not isinstance(given, _LISTS) and len(getattr(given, "shape", ())) > 1:
        given = np.asarray(given)
    if hasattr(given, "__array__") and not hasattr(given, "to_numpy"):
        given = np.asarray(given)
    if isinstance(given, NUMPY):
        if given.shape[1:] not in ((), (1,)) or not given.ndim:
            raise ValueError(
                f"`{name}` must be a vector, one for each record, got shape "
                f"{given.shape}."
            )
        given = given.ravel()
    return [_alone(x) for x in given]


def _alone(x: Foreign) -> Foreign:
    """An entry of a column [n, 1] that was made a list."""
    is_row = isinstance(x, _LISTS) or getattr(x, "shape", ()) == (1,)
    return x[0] if is_row and len(x) == 1 else x
