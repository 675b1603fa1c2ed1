"""How each part of a party's state gets from one client to the next: an enum, and a table of it.

An algorithm over many clients is little more than such a table. Print it
to see what travels: `print(algorithm.sharing)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from jsplit.core.tables import aligned
from jsplit.training.kinds import LEARNED, Kind
from jsplit.training.walk import Address, Name, Store

_COLUMNS = {kind: column for column, kind in enumerate((*LEARNED, Kind.STRENGTH))}
"""By the kind of a name, the column of the table that says how it is shared."""


class Sharing(Enum):
    """How one part of a party's state gets from one client to the next.

    Attributes:
        CARRIED: from one client's turn into the next client's.
        AVERAGED: all clients start from the same, and the mean of where
            they got to is taken, each client by its share.
        OWN: each client keeps its own, along a leading axis [clients].
        FRESH: of an optimizer's state, moments and what stands in one
            record with them (Adam's count) are made anew in every client's
            turn; counts of schedules and hyperparameters go on, as they do
            where they are averaged.

    Example:
        >>> from jsplit.rounds import Sharing
        >>> Sharing("averaged")
        <Sharing.AVERAGED: 'averaged'>
    """

    CARRIED = "carried"
    AVERAGED = "averaged"
    OWN = "own"
    FRESH = "fresh"


class PartySharing(NamedTuple):
    """How each part of one party's state is shared; the fields are those of a `PartyState`.

    Attributes:
        params: how parameters are.
        state: how BatchNorm statistics and other mutable collections are.
        optimizer: how the state of the party's optimizer is.
        links: how the memory of the links is that the party sends through.
        strengths: whether each client has numbers of its own for the party's losses
            and links, as where it has an optimizer of its own. Nothing changes them,
            so they do not travel, and the table does not print them.

    Example:
        >>> from jsplit.rounds import PartySharing, Sharing
        >>> PartySharing(*[Sharing.OWN] * 4).links
        <Sharing.OWN: 'own'>
    """

    params: Sharing
    state: Sharing
    optimizer: Sharing
    links: Sharing
    # The mean of a number that nobody changes is that number, to the bit.
    strengths: Sharing = Sharing.AVERAGED


@dataclass(frozen=True, repr=False)
class SharingTable:
    """How each part of each party's state is shared in an algorithm.

    Attributes:
        parties: by party, a `PartySharing`.

    Example:
        >>> from jsplit.rounds import PartySharing, Sharing, SharingTable
        >>> own, carried = Sharing.OWN, Sharing.CARRIED
        >>> table = SharingTable({"client": PartySharing(own, own, own, own),
        ...                       "server": PartySharing(carried, carried, carried, own)})
        >>> print(table)
        party    params    state  optimizer  links
        client      own      own        own    own
        server  carried  carried    carried    own
        >>> table.parties["server"].params
        <Sharing.CARRIED: 'carried'>
    """

    # In the order of the topology, in which the table prints.
    parties: Mapping[str, PartySharing]

    def __str__(self) -> str:
        rows = [
            [party, *(how.value for how in parts[: len(LEARNED)])]
            for party, parts in self.parties.items()
        ]
        return "\n".join(
            aligned(["party", *PartySharing._fields[: len(LEARNED)]], rows)
        )

    # A table in a notebook is read, not evaluated.
    __repr__ = __str__

    def __hash__(self) -> int:
        # Of the rows: a table is frozen, and a mapping has no hash.
        return hash(tuple(self.parties.items()))

    def __getitem__(self, name: Address) -> Sharing:
        """Return how the thing that lies at `name` is shared."""
        # Messages lie in a store only while a step runs.
        assert isinstance(name, Name)
        # Whatever else is shared: of a common secret one client could take off the
        # noise of another.
        if name.kind == Kind.SECRET:
            return Sharing.OWN
        # What tells a call of inference from others is one for all.
        if name.kind == Kind.NOISE:
            return Sharing.CARRIED
        return self.parties[name.party][_COLUMNS[name.kind]]

    def __contains__(self, sharing: Sharing) -> bool:
        """Return whether any part that is learned, of any party, is shared so."""
        return any(sharing in parts[: len(LEARNED)] for parts in self.parties.values())

    def pick(self, store: Store, *sharing: Sharing) -> Store:
        """Return those parts of a store that are shared in one of these ways.

        Args:
            store: parts of the states of parties, by name.
            *sharing: the ways that are asked for.

        Returns:
            Those parts, by name.

        Example:
            >>> from jsplit.rounds import PartySharing, Sharing, SharingTable
            >>> table = SharingTable({"client": PartySharing(*[Sharing.OWN] * 4)})
            >>> table.pick({}, Sharing.OWN)
            {}
        """
        # Run once for a round or while tracing, never for a step: an
        # enum's hash is a call into Python.
        return {name: x for name, x in store.items() if self[name] in sharing}

    def replace(self, old: Sharing, new: Sharing) -> SharingTable:
        """Return the table with `new` wherever it says `old`.

        Args:
            old: what is replaced.
            new: what comes in its place.

        Returns:
            A new table.

        Example:
            >>> from jsplit.rounds import PartySharing, Sharing, SharingTable
            >>> table = SharingTable({"client": PartySharing(*[Sharing.OWN] * 4)})
            >>> print(table.replace(Sharing.OWN, Sharing.CARRIED))
            party    params    state  optimizer    links
            client  carried  carried    carried  carried
        """
        found = {}
        for party, parts in self.parties.items():
            found[party] = PartySharing(*(new if s is old else s for s in parts))
        return SharingTable(found)
