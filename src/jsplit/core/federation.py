"""The state of many clients, who they are, and the state of one of them.

Rooms that know nothing of rounds (models put together again, exports,
checkpoints) take such a state too, so its record stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import NamedTuple, SupportsIndex

import jax

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.checks import shown
from jsplit.core.donation import refuse_used_up
from jsplit.core.frozen import divided, joined

_SHOWN = 5  # names in an error


class SharedLeaves(NamedTuple):
    """Of a part that each client has of its own, what is one for all: it never changes.

    Attributes:
        party: whose it is.
        part: the field of its `PartyState`.
        node: of which node.
        changes: which leaves each client has of its own, by path.
    """

    party: str
    part: str
    node: str
    changes: Callable[[tuple[Hashable, ...]], bool]


# Static: names are no arrays, and a state is traced, mapped over and copied.
@jax.tree_util.register_static
@dataclass(frozen=True)
class Clients:
    """Who the clients of a state are, and what each of them has of its own.

    Attributes:
        names: of all clients, in the order of the axis [clients].
        own: of what each has its own: party and field of a `PartyState`.
        shared: what of that is one for all clients, as no step changes it.

    Example:
        >>> from jsplit.rounds import Clients
        >>> Clients(("north", "south")).names
        ('north', 'south')
    """

    names: tuple[str, ...] = ()
    own: frozenset[tuple[str, str]] = frozenset()
    shared: frozenset[SharedLeaves] = frozenset()

    def own_of(
        self, party: str, part: str, node: str
    ) -> Callable[[tuple[Hashable, ...]], bool]:
        """Return which leaves of a node each client has of its own, by path.

        Args:
            party: whose node it is.
            part: the field of its `PartyState`.
            node: its name.

        Returns:
            A function of the path of a leaf.

        Example:
            >>> from jsplit.rounds import Clients
            >>> Clients(("north",)).own_of("client", "params", "h")(("weight",))
            False
        """
        if (party, part) not in self.own:
            return lambda _: False
        for x in self.shared:
            if x[:3] == (party, part, node):
                return x.changes
        return lambda _: True


class Federation(NamedTuple):
    """The state of many clients and of those they train with.

    Attributes:
        parties: by party, as in a `TrainState`. What each client has of
            its own, and that alone, has a leading axis [clients].
        server: by party, the memory of the optimizer that applies
            averages, where there is one.
        clients: who the clients are, and what each has of its own.

    Example:
        >>> from jsplit.rounds import Federation
        >>> Federation._fields
        ('parties', 'server', 'clients')
    """

    # `save` writes a folder for each field by party besides `parties`, so the
    # names of these fields are part of the format of a checkpoint.
    parties: Mapping[str, PartyState]
    server: Mapping[str, PyTree]
    clients: Clients = Clients()

    def client(self, client: int | str) -> TrainState:
        """Return the state of one client and of those it trains with, as a trainer has it.

        `jsplit.save`, `jsplit.export` and the trainer's own functions take
        it.

        Args:
            client: its number, from 0, or its name.

        Returns:
            The state, whose arrays are copies.

        Raises:
            ValueError: if there is no such client.

        Example:
            >>> import jsplit, numpy as np, optax
            >>> low = jsplit.segment(
            ...     lambda w, x: x * w, init=lambda key, x: np.float32(1), inputs=["x"]
            ... )
            >>> high = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
            >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
            >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
            >>> people = jsplit.population.grouped(["north", "south", "north"])
            >>> fields = {"x": np.ones((3, 2), "f"), "label": np.ones(3, "f")}
            >>> drawn = people.round(fields, 0)
            >>> state = jsplit.rounds.alone(trainer).init(0, drawn)
            >>> south = state.client("south")
            >>> trainer.predict(south, {"x": fields["x"]})["output"].shape
            (3,)
        """
        refuse_used_up(self)
        number = number_of(self, client)

        def row(x: jax.Array) -> jax.Array:
            return x[number]

        parties: dict[str, PartyState] = {}
        for party, held in self.parties.items():
            parts: dict[str, PyTree] = {}
            for part in PartyState._fields:
                own = (party, part) in self.clients.own
                value = getattr(held, part)
                # What no step changes of a node is one for all clients.
                fixed: dict[str, PyTree] = {}
                for x in self.clients.shared if own else ():
                    if x[:2] == (party, part):
                        changing, frozen = divided(x.changes, value[x.node])
                        value = {**value, x.node: changing}
                        fixed[x.node] = jax.tree.map(_copy, frozen)
                parts[part] = jax.tree.map(row if own else _copy, value)
                for node, frozen in fixed.items():
                    parts[part][node] = joined(parts[part][node], frozen)
            parties[party] = PartyState(**parts)
        return TrainState(parties)


# A step of either state may use up its arrays.
def _copy(x: jax.Array) -> jax.Array:
    return x.copy()


def names_in(state: TrainState | Federation) -> tuple[str, ...]:
    """Return the names of the clients of a state; none for that of a trainer."""
    return state.clients.names if isinstance(state, Federation) else ()


def number_of(state: Federation, client: object) -> int:
    """Return the number of a client that is given by number or name.

    Raises:
        ValueError: if there is no such client, or several of this name.
    """
    names = state.clients.names
    if isinstance(client, str):
        found = [k for k, name in enumerate(names) if name == client]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"`client` {client!r} is the name of {len(found)} clients: give one "
                "of their numbers, " + ", ".join(map(str, found)) + "."
            )
    elif isinstance(client, SupportsIndex) and not isinstance(client, bool):
        # An array has an index too, if it is of one number.
        with suppress(TypeError):
            if 0 <= index(client) < len(names):
                return index(client)
    raise ValueError(
        f"`client` must be one of 0 to {len(names) - 1}, or of the names "
        f"{_shown(names)}, got {shown(client)}."
    )


def check_order(what: str, found: Sequence[str], names: Sequence[str]) -> None:
    """Refuse the clients of a state in another order than it has them.

    Args:
        what: which lists them, for the error.
        found: the names that it lists.
        names: those of the state.

    Raises:
        ValueError: if they are the same in another order.
    """
    # Other names may be other data for the same clients, but the same names in
    # another order are clients that would get each other's parts.
    if [*found] != [*names] and sorted(found) == sorted(names):
        raise ValueError(
            f"{what} lists the clients in another order than the state: "
            f"{_shown(found)}, where the state has {_shown(names)}."
        )


def one_model(state: object, client: int | str | None) -> TrainState:
    """Return a state in which every segment has one set of weights and statistics.

    Args:
        state: of a trainer, or of an algorithm over rounds.
        client: whose model it is, by number or name; needed only where
            clients have weights or statistics of their own.

    Returns:
        `state` itself if it is a trainer's. Of an algorithm's, optimizer and
        links are those of any client where none is named.

    Raises:
        ValueError: if a client is needed, there is no such client, or the state
            is used up.
    """
    # Whoever asks for a model reads its arrays.
    refuse_used_up(state)
    if isinstance(state, TrainState):
        if client is not None:
            raise ValueError(
                "`client` is for the state of an algorithm over rounds; that of a "
                f"trainer is of one client, got {shown(client)}."
            )
        return state
    if not isinstance(state, Federation):
        kind = type(state).__name__
        raise ValueError(
            "`state` must be that of a trainer, a TrainState, or that of an algorithm "
            f"over rounds, a Federation, got a {kind}."
        )
    if client is None:
        for party, part in sorted(state.clients.own):
            # Without BatchNorm, say, what is each client's own has no array.
            owned = jax.tree.leaves(getattr(state.parties[party], part))
            if owned and part in ("params", "state"):
                what = "weights" if part == "params" else "statistics"
                raise ValueError(
                    f"each client has {what} of its own at `{party}`: `client` must "
                    "say whose by a number or a name, of "
                    f"{_shown(state.clients.names)}."
                )
        client = 0
    return state.client(client)


def _shown(names: Sequence[str]) -> str:
    """Return the first of many names, for an error."""
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more
