"""Clients that take turns in the same roles, and what each hands over to the next.

A party of the topology is a role. Some roles rotate: they are played by
one client after the other, a client being whoever plays them at the
same time (a hospital, or a hospital with its lab); all other roles are
played by parties of the same name, in every step. Without turns there
is one client, which plays all roles in all steps. A client that stays
away is passed over, if that was agreed upon; who was away from which
step on is all that the turns of a run depend on beside the agreement.
Whose turn a step is, is counted in `jsplit.wire.rota`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from jsplit.party.contract.file_types import TurnsEntry
from jsplit.party.contract.turns_check import checked_turns, without_turns
from jsplit.training.walk import Wire
from jsplit.wire.rota import Away, Rota, away_since
from jsplit.wire.schedule import Schedule
from jsplit.wire.steps import Steps
from jsplit.wire.terms import Crossing


def turns(
    clients: Mapping[str, Mapping[str, str]],
    order: Sequence[tuple[str, int]],
    handoff: str = "peer",
    *,
    missing: str = "wait",
    largest: int = 1 << 30,
) -> TurnsEntry:
    """Describe clients that take turns, for `jsplit.party.agreement`.

    What is wrong with it is said when the agreement is made, which
    knows the parties.

    Args:
        clients: by client, which party plays which role, a role being a
            party of the topology: `{"north": {"hospital": "north"},
            "south": {"hospital": "south"}}`. All clients play the same
            roles.
        order: who trains for how many steps, over and over until all
            steps of the agreement are done: `[("north", 10), ("south",
            7)]`.
        handoff: how what a client has learned (parameters, statistics,
            optimizer state, memory of links) gets to the next, and
            after the last turn to all: `"peer"`, over a connection of
            the two if one can dial the other; `"server"`, always by way
            of the lead; either way nobody between can read it. With
            `"none"` each client keeps its own.
        missing: what becomes of a client that stays away for as long as
            parties are willing to wait: `"wait"`, the run ends and can
            be gone on with; `"skip"`, all go back to the newest
            checkpoint that the others have, and from there its turns
            are left out until it comes back. What it had learned since
            it took over is lost then: the next gets what it got.
        largest: the most bytes that what is handed over may take.

    Returns:
        The description, as an agreement holds it: made of what JSON
        has.

    References:
        Gupta and Raskar, `Distributed learning of deep neural network
        over multiple agents <https://arxiv.org/abs/1810.06060>`_, 2018,
        section 3.

    Example:
        >>> from jsplit import party
        >>> clients = {name: {"hospital": name} for name in ("north", "south")}
        >>> described = party.turns(clients, [("north", 10), ("south", 7)])
        >>> described["order"], described["handoff"]
        ([['north', 10], ['south', 7]], 'peer')
    """
    return {
        "clients": {client: dict(cast) for client, cast in clients.items()},
        "order": [list(turn) for turn in order],
        "handoff": handoff,
        "missing": missing,
        "largest": largest,
    }


class Handover(NamedTuple):
    """What a role has learned goes from one party to another."""

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
        every: steps of an epoch, at whose end all take what was learned; 0: none.

    Attributes:
        handoff: as given to `turns`.
        skips: whether clients that stay away are passed over.
        clients: by client, which party plays which role.
        largest: the most bytes that what is handed over may take, 0 if
            nothing is.
        rotating_roles: the roles that clients play in turns.
        fixed_roles: the roles that are played by the party of the same
            name, in every step.
        role: by party, its role.
        names: of the clients; elsewhere a client is its place in these.
        rota: whose turn each step is.

    Raises:
        ValueError: naming what does not fit.
    """

    def __init__(
        self,
        said: object,
        roles: Sequence[str],
        steps: int,
        away: Away = (),
        every: int = 0,
    ):
        self.said, self.roles, self.steps, self.every = said, roles, steps, every
        found = without_turns(steps) if said is None else checked_turns(said, roles)
        self.handoff = found["handoff"]
        self.skips = found["missing"] == "skip"
        self.clients = found["clients"]
        self.largest = found["largest"] if self.handoff != "none" else 0
        self.names = tuple(self.clients)

        self.rotating_roles = list(next(iter(self.clients.values())))
        self.fixed_roles = [r for r in roles if r not in self.rotating_roles]
        self.role = {r: r for r in self.fixed_roles}
        for cast in self.clients.values():
            self.role |= {party: role for role, party in cast.items()}
        # A name that stands for two parties leaves one entry fewer than
        # there are parties.
        rotating = len(self.clients) * len(self.rotating_roles)
        if len(self.role) < len(self.fixed_roles) + rotating:
            raise ValueError(
                "`turns` gives a party two roles, or a client the name of a party that is "
                "always there."
            )
        order = tuple((self.names.index(c), int(n)) for c, n in found["order"])
        hands_over = self.handoff != "none"
        self.rota = Rota(len(self.names), order, steps, hands_over, away, every)

    @property
    def away(self) -> Away:
        """Who was away."""
        return self.rota.away

    def excluding(self, away: Away) -> Turns:
        """The turns of a run in which these were away."""
        if away == self.away:
            # The same object: its tables were made already.
            return self
        return Turns(self.said, self.roles, self.steps, away, self.every)

    @cached_property
    def parties(self) -> tuple[str, ...]:
        """All parties; their places are what frames say."""
        casts = [cast.values() for cast in self.clients.values()]
        playing = dict.fromkeys(party for cast in casts for party in cast)
        return (*playing, *self.fixed_roles)

    def client(self, step: int) -> int:
        """Whose turn a step is, by place."""
        return self.rota.client(step)

    def client_of(self, party: str) -> int | None:
        """The client that a party is of, by place, unless the party is always there."""
        for client, cast in enumerate(self.clients.values()):
            if party in cast.values():
                return client
        return None

    def works(self, party: str, step: int) -> bool:
        """Whether a party has a part in a step."""
        return self.client_of(party) in (None, self.client(step))

    def steps_of(self, client: int, step: int) -> int:
        """How many steps a client has taken before this one."""
        return self.rota.steps_of[client].count(step)

    def there_until(self, party: str, step: int) -> int:
        """The step until which a party knows what was done, `step` if never away.

        It is an earlier one if the party comes back after it was passed
        over.
        """
        return away_since(self.away, self.client_of(party), step)

    def never_connected(self, a: str, b: str) -> bool:
        """Whether two parties have no connection even if one could dial the other.

        So it is if they never work in the same step, and nothing is
        handed over straight.
        """
        clients = {self.client_of(a), self.client_of(b)}
        return len(clients) == 2 and None not in clients and self.handoff != "peer"

    def party_of_role(self, role: str, client: int) -> str:
        """Who plays a role in a client's turns, the client by its place."""
        return self.clients[self.names[client]].get(role, role)

    # What is handed over.

    def handovers_of(
        self, party: str, step: int, *, to_all: bool = False
    ) -> list[tuple[int, Handover]]:
        """The hand-overs of a party in a step, with their places among all.

        A place is that of who takes what of which role, whoever gives it.

        Args:
            party: that gives or takes.
            step: in which.
            to_all: whether those to all at its end; else those before it, of turns.
        """
        own = self._handovers_by_party.get(party, ())
        now = [(place, h) for place, h, uses in own if uses.has(step)]
        return [x for x in now if self._to_all(x[1], step) == to_all]

    def _to_all(self, handover: Handover, step: int) -> bool:
        # In the last step of an epoch both may be: who gives to all has its turn.
        gives = self.client_of(handover.sender) == self.client(step)
        return gives if self.every else step == self.steps

    def taken_by_all(self, step: int) -> int | None:
        """In which step all take what was learned by the end of one; `None`: they do not."""
        if self.every:
            return step if (step + 1) % self.every == 0 else None
        return step + 1 if step + 1 == self.steps else None

    @cached_property
    def _handovers_by_party(self) -> dict[str, list[tuple[int, Handover, Steps]]]:
        # It is asked for before every step, and among many clients few
        # hand-overs are a party's.
        found: dict[str, list[tuple[int, Handover, Steps]]] = {}
        for (giver, taker), uses in self.rota.handed.items():
            for number, role in enumerate(self.rotating_roles):
                sender = self.party_of_role(role, giver)
                receiver = self.party_of_role(role, taker)
                place = taker * len(self.rotating_roles) + number
                handover = Handover(role, sender, receiver)
                for party in (sender, receiver):
                    found.setdefault(party, []).append((place, handover, uses))
        return found

    # What crosses.

    def crossings(self, wires: Sequence[Wire]) -> tuple[Crossing, ...]:
        """Everything that ever crosses: each client's wires, then what each takes over.

        Args:
            wires: of a step; each client has its own.

        Returns:
            The crossings, in the order that `schedule` goes by.
        """
        place = {party: i for i, party in enumerate(self.parties)}
        found: list[Crossing] = []
        for client in range(len(self.names)):
            for wire in wires:
                sender = place[self.party_of_role(wire.sender, client)]
                receiver = place[self.party_of_role(wire.receiver, client)]
                found.append(Crossing(wire.kind, wire.what, (sender,), receiver))
        if self.rota.hands_over and len(self.names) > 1:
            players = [*zip(self.rotating_roles, self._players, strict=True)]
            for taker in range(len(self.names)):
                for role, of_role in players:
                    found.append(Crossing("weights", role, of_role, of_role[taker]))
        return tuple(found)

    @cached_property
    def _players(self) -> tuple[tuple[int, ...], ...]:
        """By role that is played in turns, its players by place, client by client."""
        place = {party: i for i, party in enumerate(self.parties)}
        clients = range(len(self.names))
        return tuple(
            tuple(place[self.party_of_role(role, client)] for client in clients)
            for role in self.rotating_roles
        )

    def schedule(self, wires: int) -> Schedule:
        """In which steps each of `crossings` is used.

        Args:
            wires: how many there are in a step.
        """
        return Schedule(self.rota, wires, self._players)
