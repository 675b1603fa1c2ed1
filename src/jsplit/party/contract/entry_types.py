"""Whether the entries of an agreement have the types that the file's format gives them.

It is looked at before anything is built: a string is a sequence too, and what is made of
it would be another agreement, of another hash, and no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_LISTS = ("parties", "nodes", "losses")
_BY_NAME = ("values", "links")
_TEXTS_BY_PARTY = ("identities", "hosts")


def check_types(found: Mapping[str, object]) -> None:
    """Refuse entries that are of another type than they must.

    Numbers, addresses and turns have checks of their own.

    Args:
        found: the agreement, with all of its entries.

    Raises:
        ValueError: naming the entry.
    """
    for name in _LISTS:
        if not isinstance(found[name], (list, tuple)):
            raise ValueError(f"`{name}` must be a list, got {found[name]!r}.")
    if not _is_names(found["parties"]):
        raise ValueError(
            f"`parties` must be a list of names, got {found['parties']!r}."
        )
    # Before it is looked up among the parties, which what has no hash could not be.
    if not isinstance(found["lead"], str):
        raise ValueError(f"`lead` must be the name of a party, got {found['lead']!r}.")
    _check_holds(found["holds"])
    for name in _BY_NAME:
        # Keys too: JSON writes 1 as "1", and two names could become one.
        if not _has_names(found[name]):
            raise ValueError(
                f"`{name}` must be a dictionary by the name of a value, "
                f"got {found[name]!r}."
            )
    for name in _TEXTS_BY_PARTY:
        _check_texts(name, found[name])
    _check_links(found["links"])
    if "metrics" in found and not isinstance(found["metrics"], (list, tuple)):
        raise ValueError(f"`metrics` must be a list, got {found['metrics']!r}.")
    if "fields" in found:
        _check_fields(found["fields"])
    if "unread" in found:
        _check_unread(found["unread"])
    for name in ("norms", "wants_loss", "public"):
        if not _is_names(found.get(name, [])):
            raise ValueError(f"`{name}` must be a list of names, got {found[name]!r}.")
    _check_carried(found.get("carried", {}))
    if not isinstance(found.get("weight", ""), str):
        raise ValueError(
            f"`weight` must be the name of an entry of data, got {found['weight']!r}."
        )


def _check_fields(fields: object) -> None:
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"`fields` must be a dictionary of dtypes by field, got {fields!r}."
        )
    for name, dtypes in fields.items():
        # A list, where a field is a tree of several arrays.
        if not isinstance(name, str) or not (
            isinstance(dtypes, str) or _is_names(dtypes)
        ):
            raise ValueError(
                f"`fields` must give the dtype of `{name}`, or a list of them, "
                f"got {dtypes!r}."
            )


def _is_names(value: object) -> bool:
    """Whether it is a list of strings, and not one string."""
    return isinstance(value, (list, tuple)) and all(isinstance(x, str) for x in value)


def _has_names(value: object) -> bool:
    """Whether it is a dictionary whose keys are strings."""
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _check_holds(holds: object) -> None:
    if not isinstance(holds, Mapping):
        raise ValueError(
            "`holds` must be a dictionary of fields by party, "
            f"got {type(holds).__name__}."
        )
    for party, names in holds.items():
        if not isinstance(party, str):
            raise ValueError(f"`holds` must be by the names of parties, got {party!r}.")
        # "xy" must not become the two fields "x" and "y".
        if not _is_names(names):
            raise ValueError(
                f"party `{party}`: `holds` must be a list of names, got {names!r}."
            )


def _check_texts(name: str, value: object) -> None:
    # An empty list has no entry that could be wrong, and would be written back as an
    # empty dictionary, of which the hash is another.
    if not isinstance(value, Mapping):
        raise ValueError(f"`{name}` must be a dictionary by party, got {value!r}.")
    for party, text in value.items():
        if not isinstance(party, str) or not isinstance(text, str):
            raise ValueError(
                f"`{name}` must give a text for the party `{party}`, got {text!r}."
            )


def _check_unread(unread: object) -> None:
    # An empty row is left out, or there would be two texts of one agreement.
    rows = [*unread.values()] if isinstance(unread, Mapping) else [None]
    for row in rows if _has_names(unread) or not rows else [None]:
        lists = row.values() if isinstance(row, Mapping) and row else [None]
        if not _has_names(row) or not all(_is_names(x) and x for x in lists):
            raise ValueError(
                "`unread` must say by party and by message which parts of a value do "
                f"not cross, got {unread!r}."
            )


def _check_carried(carried: object) -> None:
    rows = [*carried.values()] if isinstance(carried, Mapping) else [None]
    if not all(_is_names(x) and x for x in rows) or not _has_names(carried):
        raise ValueError(
            "`carried` must be a dictionary of lists of names by value, "
            f"got {carried!r}."
        )


def _check_links(links: object) -> None:
    pairs: Iterable[object] = links.values() if isinstance(links, Mapping) else ()
    for pair in pairs:
        # Of two letters, "ab" would pass for the pair of links "a" and "b".
        names = list(pair) if isinstance(pair, (list, tuple)) else []
        if len(names) != 2 or not all(x is None or isinstance(x, str) for x in names):
            raise ValueError(f"`links` must hold names of links, got {links}.")
