"""Who works with whom in which step: clients that take turns in the same roles, and what each hands over to the next.

A party of the topology is a role. Some roles are played by one client after the other, a client being whoever plays them at the
same time (a hospital, or a hospital with its lab); all other roles are played by parties of the same name, in every step.
Without turns there is one client, which plays all roles in all steps. A client that stays away is passed over, if that was
agreed upon; who was away from which step on is all that the turns of a run depend on beside the agreement.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import cycle
from operator import index
from typing import Any, NamedTuple

from jsplit.training.walk import Wire
from jsplit.wire.session import Away, Crossing

_HANDOFFS = ("peer", "server", "none")
_MISSING = ("wait", "skip")
_ONE = ""
"""The name of the client where there are no turns."""


def turns(
    clients: Mapping[str, Mapping[str, str]],
    order: Sequence[tuple[str, int]],
    handoff: str = "peer",
    *,
    missing: str = "wait",
    largest: int = 1 << 30,
) -> dict[str, Any]:
    """Clients that take turns, for `jsplit.party.agreement`.

    Args:
        clients: by client, which party plays which role, a role being a party of the topology: `{"north":
            {"hospital": "north"}, "south": {"hospital": "south"}}`.
        order: who trains for how many steps, over and over until all steps of the agreement are done: `[("north", 10),
            ("south", 7)]`.
        handoff: how what a client has learned (parameters, statistics, optimizer state, memory of links) gets to the next, and
            after the last turn to all: `"peer"`, over a connection of the two if one can dial the other, `"server"`, always by
            way of the lead; either way nobody between can read it. With `"none"` each client keeps its own.
        missing: what becomes of a client that stays away for as long as parties are willing to wait: `"wait"`, the run ends and
            can be gone on with; `"skip"`, all go back to the newest checkpoint that the others have, and from there its turns
            are left out until it comes back. What it had learned since it took over is lost then: the next gets what it got.
        largest: the most bytes that what is handed over may take.

    References:
        Gupta and Raskar, `Distributed learning of deep neural network over multiple agents
        <https://arxiv.org/abs/1810.06060>`_, 2018, section 3.
    """
    casts = {c: dict(cast) for c, cast in clients.items()}
    return {
        "clients": casts,
        "order": [list(x) for x in order],
        "handoff": handoff,
        "missing": missing,
        "largest": largest,
    }


class _Hand(NamedTuple):
    """A hand-over: of what a role has learned, from one party to another."""

    role: str
    sender: str
    receiver: str


class Turns:
    """The turns of an agreement.

    Args:
        said: as `turns` gives them, or `None`.
        roles: the parties of the topology.
        steps: of the run.
        away: who was away.

    Raises:
        ValueError: naming what does not fit.
    """

    def __init__(self, said: Any, roles: Sequence[str], steps: int, away: Away = ()):
        self.said, self.roles, self.steps, self.away = said, roles, steps, away
        found = (
            {"clients": {_ONE: {}}, "order": [[_ONE, steps]], "handoff": "none"}
            if said is None
            else _check(said, roles)
        )
        self.handoff, self.skips = found["handoff"], found.get("missing") == "skip"
        self.clients: dict[str, dict[str, str]] = found["clients"]
        self.largest: int = found["largest"] if self.handoff != "none" else 0
        self.taken = list(next(iter(self.clients.values())))
        self.fixed = [r for r in roles if r not in self.taken]
        self.role = {
            p: r for cast in self.clients.values() for r, p in cast.items()
        } | {r: r for r in self.fixed}
        if len(self.role) < len(self.fixed) + len(self.clients) * len(self.taken):
            raise ValueError(
                "`turns` gives a party two roles, or a client the name of a party that is always there."
            )
        self.names = tuple(self.clients)
        self.order = [(self.names.index(c), n) for c, n in found["order"]]

    def without(self, away: Away) -> Turns:
        """The turns of a run in which these were away."""
        return (
            self
            if away == self.away
            else Turns(self.said, self.roles, self.steps, away)
        )

    def away_at(self, step: int) -> tuple[int, ...]:
        return next(
            (clients for begin, clients in reversed(self.away) if begin <= step), ()
        )

    @cached_property
    def turn(self) -> tuple[list[int], list[int]]:
        """At which step each turn begins, and which client it is of."""
        begins, whose, at = [], [], 0
        for client, count in cycle(self.order):
            if at >= self.steps or {*self.away_at(at)} >= {c for c, _ in self.order}:
                break
            if client not in self.away_at(at):
                begins.append(at)
                whose.append(client)
                at = min(
                    [
                        at + count,
                        *[
                            step
                            for step, gone in self.away
                            if at < step and client in gone
                        ],
                    ]
                )
        return begins, whose

    def client(self, step: int) -> int:
        """Whose turn it is, by place; a run of one client has no end."""
        begins, whose = self.turn
        return whose[bisect_right(begins, step) - 1]

    def client_of(self, party: str) -> int | None:
        """The client that a party is of, unless it is always there."""
        return next(
            (
                i
                for i, cast in enumerate(self.clients.values())
                if party in cast.values()
            ),
            None,
        )

    def works(self, party: str, step: int) -> bool:
        return self.client_of(party) in (None, self.client(step))

    def there_until(self, party: str, step: int) -> int:
        """The step until which a party knows what was done; an earlier one if it comes back after it was passed over."""
        client, until = self.client_of(party), step
        for begin, gone in reversed([x for x in self.away if x[0] < step]):
            if client not in gone:
                break
            until = begin
        return until

    def apart(self, a: str, b: str) -> bool:
        """Whether two parties have no connection even if one could dial the other: they never work in the same step, and
        nothing is handed over straight."""
        clients = {self.client_of(a), self.client_of(b)}
        return len(clients) == 2 and None not in clients and self.handoff != "peer"

    def player(self, role: str, client: int) -> str:
        """Who plays a role in a client's turns."""
        return self.clients[self.names[client]].get(role, role)

    @cached_property
    def taken_before(self) -> list[tuple[list[int], list[int]]]:
        """By client, where its turns begin, and how many steps it has taken before each, and in the end."""
        begins, whose = self.turn
        found: list[tuple[list[int], list[int]]] = [([], [0]) for _ in self.names]
        for begin, end, client in zip(
            begins, [*begins[1:], self.steps], whose, strict=True
        ):
            starts, before = found[client]
            starts.append(begin)
            before.append(before[-1] + end - begin)
        return found

    def steps_of(self, client: int, step: int) -> int:
        """How many steps a client has taken before this one."""
        if len(self.names) == 1:
            return step
        starts, before = self.taken_before[client]
        turn = bisect_right(starts, step) - 1
        return (
            min(before[turn] + step - starts[turn], before[turn + 1])
            if turn >= 0
            else 0
        )

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Clients of whom one may hand over to the other."""
        clients = range(len(self.names)) if self.handoff != "none" else ()
        return [(a, b) for a in clients for b in clients if a != b]

    @cached_property
    def hands(self) -> list[_Hand]:
        """Every hand-over that there can be."""
        return [
            _Hand(r, self.player(r, a), self.player(r, b))
            for a, b in self.pairs
            for r in self.taken
        ]

    @cached_property
    def times(self) -> list[list[int]]:
        """Before which steps each hand-over takes place: the last that had a turn, and is there, gives to the next, and in
        the end to all."""
        found: dict[tuple[int, int], list[int]] = {}
        begins, whose = self.turn
        everyone = range(len(self.names))
        for i, step in enumerate([*begins[1:], self.steps], 1):
            gone = self.away_at(step)
            giver = next((c for c in reversed(whose[:i]) if c not in gone), None)
            for taker in (
                [whose[i]] if i < len(whose) else [c for c in everyone if c not in gone]
            ):
                if giver not in (None, taker):
                    found.setdefault((giver, taker), []).append(step)
        return [found.get(pair, []) for pair in self.pairs for _ in self.taken]

    def hands_of(self, party: str, step: int) -> list[tuple[int, _Hand]]:
        """The hand-overs of a party before a step, with their places among all."""
        return [
            (i, h)
            for i, (h, steps) in enumerate(zip(self.hands, self.times, strict=True))
            if party in (h.sender, h.receiver)
            and steps[bisect_left(steps, step) :][:1] == [step]
        ]

    def crossings(self, wires: Sequence[Wire]) -> tuple[Crossing, ...]:
        """Everything that ever crosses: each client's wires, client by client, and then what is handed over."""
        clients, place = (
            range(len(self.names)),
            {p: i for i, p in enumerate(self.parties)},
        )
        ends = [
            (w.kind, w.what, self.player(w.sender, c), self.player(w.receiver, c))
            for c in clients
            for w in wires
        ]
        ends += [("weights", h.role, h.sender, h.receiver) for h in self.hands]
        return tuple(
            Crossing(kind, what, place[a], place[b]) for kind, what, a, b in ends
        )

    def uses(self, wires: int, crossing: int, step: int) -> int:
        """In how many of the steps before this one a crossing is used, where each client has so many wires."""
        if crossing < wires * len(self.names):
            return self.steps_of(crossing // wires, step)
        return bisect_left(self.times[crossing - wires * len(self.names)], step)

    @cached_property
    def parties(self) -> tuple[str, ...]:
        """All parties; their places are what frames say."""
        return (
            *dict.fromkeys(p for cast in self.clients.values() for p in cast.values()),
            *self.fixed,
        )


def _check(said: Any, roles: Sequence[str]) -> Mapping[str, Any]:
    """What was said, after all of it was looked at."""
    if not isinstance(said, Mapping) or said.keys() != {
        "clients",
        "order",
        "handoff",
        "missing",
        "largest",
    }:
        raise ValueError("`turns` must be what jsplit.party.turns gives.")
    clients, order = said["clients"], said["order"]
    if said["handoff"] not in _HANDOFFS:
        raise ValueError(
            f"`handoff` must be one of {', '.join(_HANDOFFS)}, got {said['handoff']!r}."
        )
    if said["missing"] not in _MISSING:
        raise ValueError(
            f"`missing` must be one of {', '.join(_MISSING)}, got {said['missing']!r}."
        )
    if (
        not isinstance(clients, Mapping)
        or not clients
        or not all(isinstance(c, Mapping) and c for c in clients.values())
    ):
        raise ValueError(
            f"`clients` must give for each client which party plays which role, got {clients!r}."
        )
    if (
        isinstance(said["largest"], bool)
        or not isinstance(said["largest"], int)
        or said["largest"] < 1
    ):
        raise ValueError(
            f"`largest` must be a number of bytes, got {said['largest']!r}."
        )
    first = next(iter(clients.values())).keys()
    for name, cast in clients.items():
        if (
            cast.keys() != first
            or not cast.keys() <= {*roles}
            or not all(isinstance(p, str) for p in cast.values())
        ):
            raise ValueError(
                f"`clients` must give each the same roles, of {', '.join(roles)}; `{name}` has {dict(cast)!r}."
            )
    if not isinstance(order, Sequence) or not order:
        raise ValueError(
            f"`order` must say who trains for how many steps, got {order!r}."
        )
    for turn in order:
        if (
            not isinstance(turn, Sequence)
            or len(turn) != 2
            or turn[0] not in clients
            or isinstance(turn[1], bool)
            or not hasattr(turn[1], "__index__")
            or index(turn[1]) < 1
        ):
            raise ValueError(
                f"`order` must hold clients and how many steps each takes, got {turn!r}."
            )
    return said
