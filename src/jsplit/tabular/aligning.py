"""Tables of several parties in one order: the records that all have, and who lost how many.

It is an inner join by id, in the order that parties over a network take as well. What is
told of those who are left out are counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType

import numpy as np

from jsplit.core.ids import bytes_of
from jsplit.core.tables import aligned
from jsplit.tabular.table import Table

_TAG = 16  # bytes: no two ids have one by chance
_log = logging.getLogger("jsplit.ids")


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """Tables of the records that all parties have; `print` says who lost how many.

    Attributes:
        tables: by party, in one order, that of their ids; of the parties whose table was
            given.
        had: by party, how many records it came with.
        kept: how many all have.
        absent: by party and other party, how many records of the one the other lacks.
        nearly: how many more records all would have if the case of letters, leading zeros
            and signs did not count: so many may be lost by how ids are written.

    Example:
        >>> import jsplit
        >>> lab = jsplit.records({"patient": ["c", "a", "b"], "x": [3, 1, 2]}, "patient")
        >>> clinic = jsplit.records({"patient": ["a", "d", "b"], "y": [5, 8, 6]}, "patient")
        >>> print(jsplit.align({"lab": lab, "clinic": clinic}))
        2 records are at all parties
        party   had  lost  not at lab  not at clinic
        lab       3     1                          1
        clinic    3     1           1
    """

    tables: Mapping[str, Table]
    had: Mapping[str, int]
    kept: int
    absent: Mapping[str, Mapping[str, int]]
    nearly: int = 0

    @property
    def lost(self) -> Mapping[str, int]:
        """By party, how many of its records are left out.

        Example:
            >>> import jsplit
            >>> one = jsplit.records({"id": [1, 2]}, id="id")
            >>> two = jsplit.records({"id": [2, 3, 4]}, id="id")
            >>> jsplit.align({"lab": one, "clinic": two}).lost
            {'lab': 1, 'clinic': 2}
        """
        return {party: had - self.kept for party, had in self.had.items()}

    def __repr__(self) -> str:
        lost = ", ".join(f"{party} lost {n}" for party, n in self.lost.items())
        return f"Alignment({self.kept} records; {lost})"

    def __str__(self) -> str:
        columns = ["party", "had", "lost", *(f"not at {party}" for party in self.had)]
        rows = [
            [
                party,
                str(had),
                str(self.lost[party]),
                *(str(self.absent[party].get(other, "")) for other in self.had),
            ]
            for party, had in self.had.items()
        ]
        lines = [f"{self.kept} records are at all parties", *aligned(columns, rows)]
        if self.nearly:
            lines.append(_suspicion(self.nearly))
        return "\n".join(lines)


def align(tables: Mapping[str, Table]) -> Alignment:
    """Bring the tables of several parties into one order, and leave out what not all have.

    For whoever has all of them, to try it; over a network no party has another's ids, and
    `jsplit.party.align` compares keyed tags of them.

    Args:
        tables: by party, as `jsplit.records` gives them.

    Returns:
        The tables and the counts. The order is that of the ids, whatever order the tables
        came in, and the one that `jsplit.party.run` takes.

    Raises:
        ValueError: naming parties, if one has text as ids and another integers, or they
            have no record in common. It gives counts and no id.

    Example:
        >>> import jsplit
        >>> lab = jsplit.records({"patient": ["c", "a", "b"], "x": [3, 1, 2]}, "patient")
        >>> clinic = jsplit.records({"patient": ["a", "d", "b"], "y": [5, 8, 6]}, "patient")
        >>> both = jsplit.align({"lab": lab, "clinic": clinic})
        >>> both
        Alignment(2 records; lab lost 1, clinic lost 1)
        >>> both.tables["lab"].column("x").tolist()
        [1, 2]
    """
    if not isinstance(tables, Mapping) or not tables:
        raise ValueError("`tables` must be a dictionary of tables by party.")
    for party, table in tables.items():
        if not isinstance(table, Table):
            raise ValueError(
                f"`tables` of `{party}` must be a Table, as `jsplit.records` gives it, "
                f"got {type(table).__name__}."
            )
    _check_kinds(tables)
    names = {party: bytes_of(table.ids) for party, table in tables.items()}
    nearly = _more_when_folded(tables, names)
    return _met(tables, names, nearly)


def tags_of(table: Table, key: bytes) -> np.ndarray:
    """A keyed hash of each id, in an order that says nothing: uint8 [record, 16].

    Args:
        table: of a party.
        key: that all share who hold records, 64 bytes at most.
    """
    tags = np.frombuffer(b"".join(sorted(_tagged(table, key))), np.uint8)
    return tags.reshape(-1, _TAG)


def align_by_tags(parties: Mapping[str, Table | np.ndarray], key: bytes) -> Alignment:
    """As `align`, where of some parties their `tags_of` are known alone."""
    names: dict[str, list[bytes]] = {}
    tables: dict[str, Table] = {}
    for party, given in parties.items():
        if isinstance(given, Table):
            tables[party] = given
            names[party] = _tagged(given, key)
            continue
        tags = np.asarray(given)
        if tags.dtype != np.uint8 or tags.ndim != 2 or tags.shape[1] != _TAG:
            raise ValueError(
                f"the tags of `{party}` must be uint8[record, {_TAG}], got "
                f"{tags.dtype}{list(tags.shape)}."
            )
        names[party] = [row.tobytes() for row in tags]
    if not tables:
        raise ValueError("`parties` must have a Table of this party, got tags alone.")
    _check_kinds(tables)
    return _met(tables, names, 0)


def _tagged(table: Table, key: bytes) -> list[bytes]:
    return [
        blake2b(name, digest_size=_TAG, key=key, person=b"jsplit tags").digest()
        for name in bytes_of(table.ids)
    ]


def _check_kinds(tables: Mapping[str, Table]) -> None:
    """Refuse the number 5 beside the text "5": nothing would be in common, or little."""
    kinds = {
        p: "text" if isinstance(t.ids[0], str) else "integers"
        for p, t in tables.items()
    }
    if len({*kinds.values()}) > 1:
        said = ", ".join(f"`{party}` has {kind}" for party, kind in kinds.items())
        raise ValueError(
            f"`tables` must have ids of one kind, and {said}; make one of them, as by `str`."
        )


def _met(
    tables: Mapping[str, Table], names: Mapping[str, list[bytes]], nearly: int
) -> Alignment:
    """Put together what all have.

    Args:
        tables: of the parties whose table is known.
        names: of all, what stands for the ids.
        nearly: see `Alignment`.
    """
    sets = {party: {*found} for party, found in names.items()}
    common = set.intersection(*sets.values())
    had = {party: len(found) for party, found in sets.items()}
    if not common:
        said = ", ".join(f"`{party}` {n}" for party, n in had.items())
        more = f" {_suspicion(nearly)}" if nearly else ""
        raise ValueError(f"no record is at all parties: {said}.{more}")
    if nearly:
        _log.warning(
            "%d records are at all parties. %s", len(common), _suspicion(nearly)
        )
    absent = {
        party: {o: len(own - other) for o, other in sets.items() if o != party}
        for party, own in sets.items()
    }
    kept = {
        p: table.take(_rows(table, names[p], common)) for p, table in tables.items()
    }
    return Alignment(MappingProxyType(kept), had, len(common), absent, nearly)


def _rows(table: Table, names: list[bytes], common: set[bytes]) -> np.ndarray:
    """Where the records are that all have, in the order of their ids."""
    # By the bytes of the id and not of what stands for it: so the order is that of
    # `jsplit.party.run`, and of a table that is aligned in one process.
    order = bytes_of(table.ids)
    here = [i for i, name in enumerate(names) if name in common]
    return np.array(sorted(here, key=order.__getitem__), np.int64)


def _more_when_folded(
    tables: Mapping[str, Table], names: Mapping[str, list[bytes]]
) -> int:
    """How many more ids all have in common in what a reader takes for the same."""
    alike = [{_folded(i) for i in table.ids} for table in tables.values()]
    exact = set.intersection(*({*found} for found in names.values()))
    return max(0, len(set.intersection(*alike)) - len(exact))


def _folded(i: object) -> str:
    return "".join(x for x in str(i).casefold() if x.isalnum()).lstrip("0")


def _suspicion(nearly: int) -> str:
    return (
        f"{nearly} more would be if the case of letters, leading zeros and signs did not "
        "count: see whether all tables write ids in one way."
    )
