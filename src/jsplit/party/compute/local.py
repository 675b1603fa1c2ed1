"""What one party computes: its own turns of the walk that all share, and nothing of anyone else's.

The turns are those of `jsplit.messages`, function by function, so their results are the same bit for bit. With several
micro-batches a turn of a later one may run while an earlier one waits for a message, but only if the two touch nothing in
common that either changes; so the order in which messages arrive changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Link, PartyState, PyTree, Segment, TrainState
from jsplit.core.checks import first_line
from jsplit.core.trees import batch_of, describe, inexact_part
from jsplit.party.compute.exchange import Exchange, Wires, said_with_structure
from jsplit.party.compute.pipeline import Pipeline, held, lateness
from jsplit.party.compute.prefetch import PrefetchedStep
from jsplit.party.compute.programs import Memory, PartyPrograms
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.records import Batches
from jsplit.topology.graph import Topology
from jsplit.training.configure import configure, fields_of
from jsplit.training.executor import PERSISTENT
from jsplit.training.initial import example, first_memory, seed_of, start
from jsplit.training.memory import collect, place, places_of
from jsplit.training.step import Packet, inference_ops, training_ops, wires
from jsplit.training.update import SUM, accumulate_ops, total, update_ops
from jsplit.training.walk import Name, Wire

_ENDED = object()


class Local:
    """One party of an agreement.

    Args:
        agreed: what the parties have agreed on.
        party: whose part this is.
        own: its segments and loss functions by name, or a topology that has them.
        optimizer: its optimizer, if it owns parameters.
        links: links of its own, by the names that the agreement gives them.
        backward: mode, as for `jsplit.fused`; the others need not know.

    Raises:
        ValueError: naming what does not fit the agreement.
    """

    def __init__(
        self,
        agreed: Agreement,
        party: str,
        own: Mapping[str, Segment | Callable] | Topology,
        optimizer: optax.GradientTransformation | None = None,
        links: Mapping[str, Link] | None = None,
        backward: str = "residuals",
    ):
        if party not in agreed.parties:
            raise ValueError(
                f"`party` must be one of {', '.join(agreed.parties)}, got {party!r}."
            )
        self.name, party = party, agreed.turns.role[party]
        self.agreed, self.party, self.micros, self.turns = (
            agreed,
            party,
            agreed["microbatches"],
            agreed.turns,
        )
        self.topology = agreed.topology(party, own)
        owners = dict.fromkeys(
            n.party for n in self.topology.segments if n.segment.trainable
        )
        if party in owners and optimizer is None:
            raise ValueError(f"`optimizer` is missing: `{party}` owns parameters.")
        optimizers = {
            p: optimizer if p == party and optimizer is not None else optax.identity()
            for p in owners
        }
        self.config = configure(
            self.topology, optimizers, agreed.links(links), backward, self.micros
        )
        self.places = {party: places_of(self.config)[party]}
        self.wires = wires(self.topology)
        self.known: dict[tuple[int, int], tuple] = {}
        losses = [Name(x.party, "loss", x.name) for x in self.topology.losses]
        self.losses = [n for n in losses if n.party == party]
        self.outputs = [
            Name(party, "value", n)
            for n in self.topology.sinks
            if self.topology.node[n].party == party
        ]
        training, adds, updates = (
            training_ops(self.config),
            accumulate_ops(self.config),
            update_ops(self.config),
        )
        sums = [w for op in adds for w in op.writes]
        lasting = [
            w for op in (*training, *updates) for w in op.writes if w.kind in PERSISTENT
        ]
        if self.micros == 1:
            training, updates = [*training, *updates], []
        self.late: list[int] = []
        if agreed[
            "staleness"
        ]:  # no program gives up parameters, which steps under way may still need
            self.walk = PartyPrograms(
                party,
                held([*training, *updates]),
                [*losses, *lasting],
                donate=("optimizer",),
            )
            self.late = lateness(self.walk.count, agreed["staleness"])
        else:
            self.walk = PartyPrograms(
                party,
                [*training, *(adds if self.micros > 1 else ())],
                [*losses, *lasting, *sums],
            )
        self.finish = PartyPrograms(party, updates, [*lasting, *map(total, losses)])
        self.measure = PartyPrograms(
            party, inference_ops(self.config, self.topology.losses), losses
        )
        outputs = [
            Name(self.topology.node[n].party, "value", n) for n in self.topology.sinks
        ]
        self.infer = PartyPrograms(party, inference_ops(self.config), outputs)
        self.sums = [
            w
            for op in adds
            for w in op.writes
            if isinstance(w, Name) and w.party == party
        ]
        self.zeros: dict[Name, PyTree] | None = None
        self.begun: PrefetchedStep | None = None
        self.pipeline: Pipeline | None = None
        self.looked: list = []

    def works(self, step: int) -> bool:
        """Whether this party has a part in a step, and there is that step."""
        return step < self.agreed["steps"] and self.turns.works(self.name, step)

    def fields(self, task: str) -> list[str]:
        """The fields of this party that a task needs."""
        readers = (
            (*self.topology.segments, *self.topology.losses)
            if task != "predict"
            else self.topology.segments
        )
        needed = {
            i
            for n in readers
            if n.party == self.party
            for i in n.reads
            if i in self.topology.fields
        }
        return sorted(needed & fields_of(self.topology, losses=task != "predict"))

    def like(self, wire: int, size: int) -> tuple[PyTree, PyTree]:
        """Shapes of a wire's payload, and of its value, in a batch of `size`."""
        if (wire, size) not in self.known:
            at = self.wires[wire]
            value = self.agreed.value(at, size)
            try:
                self.known[wire, size] = (
                    shapes.encoded(self.config.links.get((at.kind, at.what)), value),
                    value,
                )
            except Exception as error:
                raise ValueError(
                    f"the link of `{at.what}` does not run on {describe(value)}: {error}"
                ) from error
        return self.known[wire, size]

    def init(self, batch: Mapping[str, PyTree]) -> PartyState:
        """The party's first state: what `messages` would begin with, of this party alone.

        Raises:
            ValueError: if a segment does not run on its inputs, or gives other shapes than agreed.
        """
        key, size = seed_of(self.agreed["seed"]), self.agreed["batch"] // self.micros
        values = {n: shapes.read(x, size) for n, x in self.agreed["values"].items()}
        values |= {f: example(f, x, size) for f, x in batch.items()}
        params: dict[str, PyTree] = {}
        state: dict[str, PyTree] = {}
        for n in self.topology.segments:
            if n.party != self.party:
                continue
            params[n.name], state[n.name], made = start(
                n, key, [values[i] for i in n.reads], False
            )
            if n.name in values and said_with_structure(made) != said_with_structure(
                values[n.name]
            ):
                raise ValueError(
                    f"node `{n.name}` gives {describe(made)}, the agreement says {describe(values[n.name])}."
                )
            values[n.name] = made
        self.check_losses(values)
        links = {}
        for wire in self.wires:
            if wire.sender == self.party and (
                way := self.config.links.get((wire.kind, wire.what))
            ):
                value = values[wire.what]
                links[wire.label] = way.init(
                    value if wire.kind == "activation" else inexact_part(value)
                )
        trained = inexact_part(
            {n: x for n, x in params.items() if self.topology.node[n].segment.trainable}
        )
        memory = first_memory(self.config, self.party, trained) if trained else ()
        first = PartyState(params, state, memory, links, key, jnp.zeros((), jnp.int32))
        return jax.tree.map(lambda x: jnp.array(x, copy=True), first)

    def check_losses(self, values: Mapping[str, PyTree]) -> None:
        """Refuse losses that do not run on values of these shapes; others show it in their first step."""
        for x in self.topology.losses:
            if x.party == self.party and all(i in values for i in x.reads):
                try:
                    jax.eval_shape(x.fn, *[values[i] for i in x.reads])
                except Exception as error:
                    got = ", ".join(f"`{i}` {describe(values[i])}" for i in x.reads)
                    raise ValueError(
                        f"loss `{x.name}` at `{self.name}` does not run on {got}: {first_line(error)}"
                    ) from error

    def step(
        self, state: PartyState, batches: Batches, step: int, exchange: Exchange
    ) -> tuple[PartyState, dict[str, jax.Array]]:
        """One step with the others: the next state, and the losses that this party computes.

        While it waits it begins the next one: gathers the batch, and computes what no turn of this step can change. That
        counts if the next step finds everything as it was read, and the same `batches`.
        """
        if self.late:
            return self.overlapped(state, batches, step, exchange)
        memory = place(self.places, TrainState({self.party: state}), {})[self.party]
        if not self.looked:
            self.looked = [part.look(memory) for part in (self.walk, self.finish)]
        at = Wires(self, exchange, step, self.agreed["batch"] // self.micros)
        begun, self.begun = self.begun, None
        if begun is None or not begun.fits(batches, step, memory):
            begun = PrefetchedStep(batches, step)
        begun.gather(self.places[self.party], self.micros)
        for m, wire, value in begun.held:
            at.send(wire, m, value)
        self.work(memory, begun, at)
        if self.micros == 1:
            found = {n.what: begun.own[0][n] for n in self.losses}
        else:
            self.finish.run(memory, at, 0)
            found = {n.what: memory[total(n)] / self.micros for n in self.losses}
        return collect(self.places, {self.party: memory}).parties[self.party], found

    def overlapped(
        self, state: PartyState, batches: Batches, step: int, exchange: Exchange
    ) -> tuple[PartyState, dict[str, jax.Array]]:
        """One step, with turns of the steps after it; after one at whose end all save their state, nothing is under way."""
        if self.pipeline is None or not self.pipeline.fits(batches, step):
            memory = place(self.places, TrainState({self.party: state}), {})[self.party]
            every = self.agreed["checkpoint"]
            last = min(step // every * every + every, self.agreed["steps"])
            self.pipeline = Pipeline(
                self.walk,
                self.places[self.party],
                memory,
                batches,
                self.late,
                step,
                last,
            )
        own = self.pipeline.step(
            step, lambda number: Wires(self, exchange, number, self.agreed["batch"])
        )
        memory = {
            **self.pipeline.memory,
            self.places[self.party].step: jnp.int32(step + 1),
        }
        return collect(self.places, {self.party: memory}).parties[self.party], {
            n.what: own[n] for n in self.losses
        }

    def work(self, memory: dict, begun: PrefetchedStep, at: Wires) -> None:
        """All turns of all micro-batches, several of them under way at once; first what others wait for."""
        if self.micros > 1:
            if self.zeros is None:
                self.zeros = self.zero_sums({**memory, **begun.own[0]}, at.size)
            memory.update(self.zeros)
        own = [Memory(memory, part, self.walk.shared) for part in begun.own]
        waiting = [
            (m, t)
            for m in range(self.micros)
            for t in range(begun.done[m], len(self.walk.turns))
        ]
        ahead = self.ahead(begun.batches, at.step + 1, memory)
        while waiting:
            absent = {
                (m, t): self.absent(m, t, at) for m, t in self.walk.ready(waiting)
            }
            if able := [task for task, wanted in absent.items() if not wanted]:
                m, t = task = min(able, key=lambda x: (not self.walk.sends[x[1]], x))
                self.walk.turn(t, own[m], at, m)
                waiting.remove(task)
            elif next(ahead, _ENDED) is _ENDED:
                at.wait([x for wanted in absent.values() for x in wanted])

    def absent(self, m: int, t: int, at: Wires) -> list[tuple[Wire, int]]:
        """The messages that a turn of a micro-batch lacks."""
        return [(w, m) for w in self.walk.incoming[t] if not at.there(w, m)]

    def ahead(self, batches: Batches, step: int, memory: Mapping) -> Iterator[None]:
        """Begin the next step of this party, a little at a time."""
        if not self.works(step):
            return
        begun = self.begun = PrefetchedStep(batches, step)
        try:
            begun.gather(self.places[self.party], self.micros)
        except Exception:  # it is raised where it belongs, in its own step
            self.begun = None
            return
        yield
        counter = self.places[self.party].step
        count = self.walk.leading(
            (self.walk.changing | self.finish.changing) - {counter}
        )
        yield from begun.lead(self.walk, count, memory, counter)

    def zero_sums(self, memory: dict, size: int) -> dict[Name, PyTree]:
        """Zeros for the sums over micro-batches. Computes nothing."""

        def sums(memory):
            memory = dict(memory)
            for turn in self.walk.whole:
                ops = [op for op in turn.ops if op.label != "accumulate"]
                for r in turn.reads:
                    if isinstance(r, Wire):
                        payload, value = self.like(self.wires.index(r), size)
                        zeros = jax.tree.map(
                            lambda x: jnp.zeros(x.shape, x.dtype), payload
                        )
                        linked = (r.kind, r.what) in self.config.links
                        memory[r] = Packet(zeros, value) if linked else zeros
                for op in ops:
                    memory.update(
                        zip(
                            op.writes,
                            op.run(*[memory[r] for r in op.reads]),
                            strict=True,
                        )
                    )
            return [
                memory[n._replace(kind=n.kind.removeprefix(SUM))] for n in self.sums
            ]

        found = jax.eval_shape(
            sums, {**memory, Name(self.party, "micro"): jnp.int32(0)}
        )
        wide = [
            jax.tree.map(
                lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), x
            )
            for x in found
        ]
        return dict(zip(self.sums, wide, strict=True))

    def evaluate(
        self,
        state: PartyState,
        batch: Mapping[str, PyTree],
        step: int,
        size: int,
        exchange: Exchange,
    ) -> dict:
        """The losses that this party computes, in inference mode."""
        memory = place(self.places, TrainState({self.party: state}), batch)[self.party]
        self.measure.run(memory, Wires(self, exchange, step, size), 0)
        return {n.what: memory[n] for n in self.losses}

    def predict(
        self,
        state: PartyState,
        batch: Mapping[str, PyTree],
        step: int,
        size: int,
        exchange: Exchange,
    ) -> dict:
        """The outputs that this party computes, in inference mode."""
        memory = place(self.places, TrainState({self.party: state}), batch)[self.party]
        self.infer.run(memory, Wires(self, exchange, step, size), 0)
        return {n.what: memory[n] for n in self.outputs}


def check_size(batch: Mapping[str, PyTree], size: int) -> None:
    if batch and (got := batch_of(batch)) != size:
        raise ValueError(f"the batch has {got} examples, the agreement says {size}.")
