"""What the protocol is told of a run: every crossing, the shapes of its frames, and when.

The protocol knows neither models nor agreements; what is here makes its terms of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod

from jsplit.party.compute.local import Local
from jsplit.party.contract import schema
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.agreement_attributes import canonical
from jsplit.party.contract.epochs import VALIDATION
from jsplit.party.crossings_of_epochs import EpochFrames
from jsplit.party.task import Task, TaskKind
from jsplit.wire import codec
from jsplit.wire.codec import Shapes
from jsplit.wire.terms import Crossing, Terms


@dataclass(frozen=True)
class Frames:
    """The frames of one party's run.

    Attributes:
        agreed: what the parties have agreed on.
        party: whose run it is.
        task: that they are at.
        local: its part of the computation, which knows the shapes of what crosses.
        learned: shapes of what it hands over to who plays its role next.
    """

    agreed: Agreement
    party: str
    task: Task
    local: Local
    learned: Shapes

    @cached_property
    def crossings(self) -> tuple[Crossing, ...]:
        """Everything that ever crosses; a frame names its crossing by the place here."""
        found = self.agreed.turns.crossings(self.local.wires)
        return found if self.epochs is None else self.epochs.crossings(found)

    @cached_property
    def epochs(self) -> EpochFrames | None:
        """What crosses at the end of epochs, in a training that has them."""
        epochs, training = self.agreed.epochs, self.task.kind is TaskKind.TRAIN
        if epochs is None or not training:
            return None
        return EpochFrames(self.agreed, self.local, epochs)

    @property
    def received(self) -> list[str]:
        """The names of the values that this party receives."""
        mine = self.agreed.parties.index(self.party)
        own = [c for c in self.crossings if c.receiver == mine]
        return [c.what for c in own if c.kind != "verdict"]

    @cached_property
    def said(self) -> dict[str, object]:
        """What parties compare when they meet: the agreement, and what they are at."""
        return self.agreed.said | {"task": self.task.said}

    @cached_property
    def run(self) -> bytes:
        """The hash of `said`, 32 bytes, which every frame carries."""
        return sha256(canonical(self.said).encode()).digest()

    @cached_property
    def shapes(self) -> tuple[Shapes, ...]:
        """By crossing, dtypes and shapes of the arrays of a frame in a full step."""
        found = self._shapes_at(self.task.size_of(0))
        return found if self.epochs is None else self.epochs.shapes(found)

    @cached_property
    def last_shapes(self) -> tuple[Shapes, ...]:
        """`shapes` of the last step, if that has fewer records; else nothing."""
        last = self.task.size_of(self.task.steps - 1)
        return () if last == self.task.size_of(0) else self._shapes_at(last)

    @cached_property
    def limit(self) -> int:
        """The most bytes that the arrays of one frame may take, whoever sends it."""
        shapes = [*self.shapes[: len(self.local.wires)]]
        if self.epochs is not None:
            shapes += self.shapes[self.epochs.training :]
        sizes = map(_bytes_of, shapes)
        # What is handed over between others passes through the lead, which does not
        # know its shapes: hence the agreed maximum.
        return max(self.agreed.turns.largest, *sizes)

    def _shapes_at(self, size: int) -> tuple[Shapes, ...]:
        """By crossing, dtypes and shapes of the arrays of a frame of so many records."""
        wires, clients = len(self.local.wires), len(self.agreed.turns.names)
        of_a_client = []
        for wire in range(wires):
            payload, _ = self.local.like(wire, size)
            of_a_client.append(schema.arrays(payload))
        # Each client has the wires of a step, client by client; then come hand-overs.
        crossings = self.agreed.turns.crossings(self.local.wires)
        handovers = len(crossings) - wires * clients
        return (*of_a_client * clients, *[self.learned] * handovers)

    def check(self) -> None:
        """Refuse, before anybody is connected, what cannot be sent.

        Raises:
            ValueError: naming the value whose dtype no frame carries, or `turns` if
                more is handed over than was agreed.
        """
        me = self.agreed.parties.index(self.party)
        for place, crossing in enumerate(self.crossings):
            # Others' weights are of a model that this party does not know.
            mine = me in (*crossing.senders, crossing.receiver)
            if crossing.kind != "weights" or mine:
                what = f"{crossing.kind} `{crossing.what}`"
                codec.check(self.shapes[place], what)
        turns = self.agreed.turns
        size = _bytes_of(self.learned)
        takes_turns = turns.client_of(self.party) is not None
        if turns.largest and takes_turns and size > turns.largest:
            raise ValueError(
                f"`turns` allows {turns.largest} bytes to be handed over, "
                f"`{self.party}` has {size}: say so with `largest`."
            )

    def terms(self) -> Terms:
        """All that the protocol knows of the run."""
        agreed = self.agreed
        training = self.task.kind is TaskKind.TRAIN
        # Inference computes every batch as a whole, and in the order of its steps.
        micros = agreed.microbatches if training else 1
        lag = agreed.staleness if training else 0
        schedule = agreed.turns.schedule(len(self.local.wires))
        counts: tuple[int, ...] = ()
        end_shapes: tuple[Shapes, ...] = ()
        if self.epochs is not None:
            schedule = self.epochs.schedule(schedule, self.task.steps)
            first = self.epochs.training
            counts = self.epochs.counts(self.crossings[:first], micros)
            end_shapes = self.epochs.end_shapes(self.shapes[:first])
        return Terms(
            self.run,
            agreed.parties,
            self.crossings,
            self.shapes,
            self.task.steps,
            micros,
            # One step under way and one begun; each update that may lack adds one at
            # either end.
            2 + 2 * lag,
            clients=self._clients(),
            schedule=schedule,
            lag=lag,
            finite=agreed.nonfinite == "refuse",
            anew=not training,
            last_shapes=self.last_shapes,
            holders=self._holders(),
            counts=counts,
            end_shapes=end_shapes,
        )

    def _holders(self) -> dict[str, frozenset[int]]:
        """By client, who may have records of it: its parties, and those always there."""
        turns, place = self.agreed.turns, self.agreed.parties.index
        found = {}
        for client, cast in turns.clients.items():
            found[client] = frozenset(map(place, (*cast.values(), *turns.fixed_roles)))
        if self.epochs is not None:
            found[VALIDATION] = frozenset(range(len(self.agreed.parties)))
        return found

    def _clients(self) -> tuple[tuple[int, ...], ...]:
        """By client, its parties by their places, where one may be passed over."""
        turns, parties = self.agreed.turns, self.agreed.parties
        if not turns.skips:
            return ()
        casts = turns.clients.values()
        return tuple(tuple(parties.index(p) for p in cast.values()) for cast in casts)


def _bytes_of(arrays: Shapes) -> int:
    return sum(prod(shape) * dtype.itemsize for dtype, shape in arrays)
