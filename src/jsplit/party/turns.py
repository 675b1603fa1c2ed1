"""Who works with whom in which step: clients that take turns in the same roles, and what each hands over to the next.

A party of the topology is a role. Some roles are played by one client after the other, a client being whoever plays them at the
same time (a hospital, or a hospital with its lab); all other roles are played by parties of the same name, in every step.
Without turns there is one client, which plays all roles in all steps.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from operator import index
from typing import Any

from jsplit.walk import Wire
from jsplit.wire.session import Crossing

HANDOFFS = ("peer", "server", "none")
ONE = ""
"""The name of the client where there are no turns."""


def turns(
    clients: Mapping[str, Mapping[str, str]], order: Sequence[tuple[str, int]], handoff: str = "peer", *,
    largest: int = 1 << 30,
) -> dict[str, Any]:  # fmt: skip
    """Clients that take turns, for `jsplit.party.agreement`.

    Args:
        clients: by client, which party plays which role, a role being a party of the topology: `{"north":
            {"hospital": "north"}, "south": {"hospital": "south"}}`.
        order: who trains for how many steps, over and over until all steps of the agreement are done: `[("north", 10),
            ("south", 7)]`.
        handoff: how what a client has learned (parameters, statistics, optimizer state, memory of links) gets to the next, and
            after the last turn to all: `"peer"`, over a connection of the two if one can dial the other, `"server"`, always by
            way of the lead; either way nobody between can read it. With `"none"` each client keeps its own.
        largest: the most bytes that what is handed over may take.

    References:
        Gupta and Raskar, `Distributed learning of deep neural network over multiple agents
        <https://arxiv.org/abs/1810.06060>`_, 2018, section 3.
    """
    casts = {c: dict(cast) for c, cast in clients.items()}
    return {"clients": casts, "order": [list(x) for x in order], "handoff": handoff, "largest": largest}


@dataclass(frozen=True)
class Hand:
    """A hand-over at the end of a step: of what a role has learned, from one party to another."""

    role: str
    sender: str
    receiver: str


class Turns:
    """The turns of an agreement.

    Args:
        said: as `turns` gives them, or `None`.
        roles: the parties of the topology.
        steps: of the run.

    Raises:
        ValueError: naming what does not fit.
    """

    def __init__(self, said: Any, roles: Sequence[str], steps: int):
        said = {"clients": {ONE: {}}, "order": [[ONE, steps]], "handoff": "none"} if said is None else check(said, roles)
        self.steps, self.handoff = steps, said["handoff"]
        self.clients: dict[str, dict[str, str]] = said["clients"]
        self.largest: int = said["largest"] if self.handoff != "none" else 0
        self.taken = list(next(iter(self.clients.values())))
        self.fixed = [r for r in roles if r not in self.taken]
        self.role = {p: r for cast in self.clients.values() for r, p in cast.items()} | {r: r for r in self.fixed}
        if len(self.role) < len(self.fixed) + len(self.clients) * len(self.taken):
            raise ValueError("`turns` gives a party two roles, or a client the name of a party that is always there.")
        self.names = tuple(self.clients)
        self.order = [(c, n) for c, n in said["order"]]

    @cached_property
    def turn(self) -> tuple[list[int], list[int]]:
        """At which step each turn begins, and which client it is of."""
        begins, whose, at = [], [], 0
        for client, count in cycle(self.order):
            if at >= self.steps:
                break
            begins.append(at)
            whose.append(self.names.index(client))
            at += count
        return begins, whose

    def client(self, step: int) -> int:
        """Whose turn it is, by place; a run of one client has no end."""
        begins, whose = self.turn
        return whose[bisect_right(begins, step) - 1]

    def client_of(self, party: str) -> int | None:
        """The client that a party is of, unless it is always there."""
        return next((i for i, cast in enumerate(self.clients.values()) if party in cast.values()), None)

    def works(self, party: str, step: int) -> bool:
        return self.client_of(party) in (None, self.client(step))

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
        for begin, end, client in zip(begins, [*begins[1:], self.steps], whose, strict=True):
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
        return min(before[turn] + step - starts[turn], before[turn + 1]) if turn >= 0 else 0

    @cached_property
    def hands(self) -> dict[Hand, list[int]]:
        """Every hand-over that there is, and at the end of which steps."""
        found: dict[Hand, list[int]] = {}
        begins, whose = self.turn
        if self.handoff == "none" or not whose:
            return found
        passes = [(begins[i + 1] - 1, whose[i], [whose[i + 1]]) for i in range(len(whose) - 1)]
        passes.append((self.steps - 1, whose[-1], [*range(len(self.names))]))
        for step, giver, takers in passes:
            for taker in takers:
                for role in self.taken if taker != giver else ():
                    hand = Hand(role, self.player(role, giver), self.player(role, taker))
                    found.setdefault(hand, []).append(step)
        return found

    def hands_of(self, party: str, step: int) -> list[tuple[int, Hand]]:
        """The hand-overs of a party at the end of a step, with their places among all."""
        return [(i, h) for i, (h, steps) in enumerate(self.hands.items())
                if party in (h.sender, h.receiver) and steps[bisect_left(steps, step) :][:1] == [step]]  # fmt: skip

    def crossings(self, wires: Sequence[Wire]) -> tuple[Crossing, ...]:
        """Everything that ever crosses: each client's wires, client by client, and then what is handed over."""
        clients, place = range(len(self.names)), {p: i for i, p in enumerate(self.parties)}
        ends = [(w.kind, w.what, self.player(w.sender, c), self.player(w.receiver, c)) for c in clients for w in wires]
        ends += [("weights", h.role, h.sender, h.receiver) for h in self.hands]
        return tuple(Crossing(kind, what, place[a], place[b]) for kind, what, a, b in ends)

    def uses(self, wires: int, crossing: int, step: int) -> int:
        """In how many of the steps before this one a crossing is used, where each client has so many wires."""
        if crossing < wires * len(self.names):
            return self.steps_of(crossing // wires, step)
        return bisect_left(self.ends[crossing - wires * len(self.names)], step)

    @cached_property
    def ends(self) -> list[list[int]]:
        """At the end of which steps each hand-over takes place."""
        return [*self.hands.values()]

    @cached_property
    def parties(self) -> tuple[str, ...]:
        """All parties; their places are what frames say."""
        return (*dict.fromkeys(p for cast in self.clients.values() for p in cast.values()), *self.fixed)


def check(said: Any, roles: Sequence[str]) -> Mapping[str, Any]:
    """What was said, after all of it was looked at."""
    if not isinstance(said, Mapping) or said.keys() != {"clients", "order", "handoff", "largest"}:
        raise ValueError("`turns` must be what jsplit.party.turns gives.")
    clients, order = said["clients"], said["order"]
    if said["handoff"] not in HANDOFFS:
        raise ValueError(f"`handoff` must be one of {', '.join(HANDOFFS)}, got {said['handoff']!r}.")
    if not isinstance(clients, Mapping) or not clients or not all(isinstance(c, Mapping) and c for c in clients.values()):
        raise ValueError(f"`clients` must give for each client which party plays which role, got {clients!r}.")
    if isinstance(said["largest"], bool) or not isinstance(said["largest"], int) or said["largest"] < 1:
        raise ValueError(f"`largest` must be a number of bytes, got {said['largest']!r}.")
    first = next(iter(clients.values())).keys()
    for name, cast in clients.items():
        if cast.keys() != first or not cast.keys() <= {*roles} or not all(isinstance(p, str) for p in cast.values()):
            raise ValueError(f"`clients` must give each the same roles, of {', '.join(roles)}; `{name}` has {dict(cast)!r}.")
    if not isinstance(order, Sequence) or not order:
        raise ValueError(f"`order` must say who trains for how many steps, got {order!r}.")
    for turn in order:
        if (not isinstance(turn, Sequence) or len(turn) != 2 or turn[0] not in clients or isinstance(turn[1], bool)
                or not hasattr(turn[1], "__index__") or index(turn[1]) < 1):  # fmt: skip
            raise ValueError(f"`order` must hold clients and how many steps each takes, got {turn!r}.")
    return said
