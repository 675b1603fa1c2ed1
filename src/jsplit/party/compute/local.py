"""What one party computes: its own turns of the walk that all share, and nothing of anyone else's.

The turns are those of `jsplit.messages`, function by function, so their
results are the same bit for bit. With several micro-batches a turn of a
later one may run while an earlier one waits for a message, but only if
the two touch nothing in common that either changes; so the order in
which messages arrive changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Link, PartyState, PyTree, Segment, TrainState
from jsplit.core.secret_keys import fresh_words
from jsplit.party.compute.exchange import Exchange, Wires
from jsplit.party.compute.first_state import first_state
from jsplit.party.compute.interleave import WaitingCarrier, interleave
from jsplit.party.compute.own_config import own_config
from jsplit.party.compute.payloads import needed_entries, payload_and_value
from jsplit.party.compute.pipeline import Pipeline, held, lateness
from jsplit.party.compute.prefetch import PrefetchedStep
from jsplit.party.compute.programs import MicroStore, PartyPrograms
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.record_order import Batches
from jsplit.party.contract.unread import unread_of
from jsplit.party.faults import OwnVerdict
from jsplit.topology.graph import Topology
from jsplit.training.crossing import packet
from jsplit.training.evaluating import ScalarLosses
from jsplit.training.executor import StoreLike
from jsplit.training.kinds import Kind
from jsplit.training.left_out import fill, normalise_weight
from jsplit.training.metrics import Rows, rows_of
from jsplit.training.nonfinite import all_measured, all_watched, hold, numbers_at
from jsplit.training.step_numbers import StepNumbers
from jsplit.training.store import layout_of, load, save_back
from jsplit.training.strengths import limits_of, refuse_too_strong
from jsplit.training.sums import total, zero_sums
from jsplit.training.verdicts import Verdict
from jsplit.training.walk import Address, Store, Wire
from jsplit.training.walks import all_wires, walks_of


class Local:
    """One party of an agreement.

    Args:
        agreed: what the parties have agreed on.
        party: whose part this is.
        own: its segments and loss functions by name, or a topology that
            has them.
        optimizer: its optimizer, if it owns parameters.
        links: links of its own, by the names that the agreement gives
            them.
        backward: mode, as for `jsplit.fused`; the others need not know.
        kernels: how operations are computed, as for `jsplit.fused`.
        records: what its optimizer's steps tell, as `Config.records`; see `told`.

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
        kernels: str = "fast",
        records: tuple[str, ...] = (),
    ):
        if party not in agreed.parties:
            raise ValueError(
                f"`party` must be one of {', '.join(agreed.parties)}, got {party!r}."
            )
        # A client plays a role of the topology, under whose name all its things lie.
        role = agreed.turns.role[party]
        self.name, self.party = party, role
        self.agreed, self.turns = agreed, agreed.turns
        self.micros: int = agreed.microbatches
        self.topology = agreed.topology(role, own)
        config = own_config(
            agreed, self.topology, role, optimizer, links, backward, kernels
        )
        self.scalars = ScalarLosses()
        self.config = self.scalars.watch(config)._replace(records=records)
        self.told: StepNumbers | None = None
        self.layout = {role: layout_of(self.config)[role]}
        self.limits = limits_of(self.config)
        self.wires = all_wires(self.config)
        self.unread = unread_of(agreed)
        # Asked for every message, so it is traced once for each size.
        self.like = cache(partial(payload_and_value, agreed, self.config, self.wires))

        walks = walks_of(self.config)
        self.judge = OwnVerdict.of_party(self.config, role, all_watched)
        self.judge_losses = Verdict.of_party(self.config, role, all_measured)
        self.losses = [n for n in walks.losses if n.party == role]
        self.metrics = [x for x in self.topology.metrics if x.party == role]
        self.observed = [n for n in walks.observed if n.party == role]
        self.outputs = [n for n in walks.outputs if n.party == role]
        programs = partial(PartyPrograms, kernels=kernels)
        self.late: list[int] = []
        if agreed.staleness:
            # No program may take the parameters' buffers, which steps under way need.
            train = walks.train._replace(ops=tuple(held(walks.train.ops)))
            self.walk = programs(role, train, donate=(Kind.OPTIMIZER,))
            self.late = lateness(self.walk.count, agreed.staleness)
        else:
            self.walk = programs(role, walks.train)
        self.finish = programs(role, walks.finish)
        self.measure = programs(role, walks.measure)
        self.infer = programs(role, walks.infer)

        self.watch: Callable[[Wires], WaitingCarrier] = lambda wires: wires
        self._zeros: Store | None = None
        self._prefetched: PrefetchedStep | None = None
        self._pipeline: Pipeline | None = None
        self._looked = False

    def fields(self, task: str) -> list[str]:
        """The entries of data that a task, "train", "evaluate" or "predict", needs."""
        weight, links = self.agreed.weight, self.config.links
        return needed_entries(self.topology, self.party, task, weight, links)

    def init(self, batch: Mapping[str, PyTree]) -> PartyState:
        """The party's first state: what `messages` would begin with, of this party alone.

        Raises:
            ValueError: if a segment does not run on its inputs or gives other shapes.
        """
        return first_state(self.agreed, self.config, self.party, self.name, batch)

    def step(
        self, state: PartyState, batches: Batches, step: int, exchange: Exchange
    ) -> tuple[PartyState, dict[str, jax.Array]]:
        """One step with the others: the next state, and the losses that this party computes.

        While it waits it begins the next one: gathers the batch, and computes what no
        turn of this step can change. That counts if the next step finds everything as
        it was read, and the same `batches`.
        """
        if self.late:
            return self._overlapped(state, batches, step, exchange)
        # Fields lie in the stores of micro-batches, and so may those of two steps.
        store = self.load(state, {})
        # Once is enough: what is empty in one state is in all.
        if not self._looked:
            self.walk.look(store)
            self.finish.look(store)
            self._looked = True

        size = self.agreed.batch // self.micros
        at = self.watch(Wires(self, exchange, step, size))
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is None or not prefetched.fits(batches, step, store):
            prefetched = PrefetchedStep(batches, step)
        prefetched.gather(self.layout[self.party], self.micros, self.agreed.weight)
        # Now is their step: what was computed ahead goes first, in the order of sending.
        for micro, wire, value in prefetched.held:
            at.send(micro, wire, value)
        if self.micros > 1:
            store.update(self.zero_sums({**store, **prefetched.own[0]}, size))

        stores = [MicroStore(store, own, self.walk.shared) for own in prefetched.own]
        meanwhile = self._ahead(batches, step + 1, store)
        interleave(self.walk, stores, prefetched.done, at, meanwhile)
        left: StoreLike = stores[0]
        if self.micros == 1:
            found = {n.what: left[n] for n in self.losses}
        else:
            self.finish.run(store, at)
            left = store
            found = self.mean_losses(store)
        self.told = numbers_at(self.config, self.party, left)
        self.judge(self.judge.finite(left), lambda: step + 1)
        return self._save_back(store), found

    def load(self, state: PartyState, batch: Mapping[str, PyTree]) -> Store:
        """What outlasts a step, and a batch if one is given, in a store."""
        counts = batch.get(self.agreed.weight)
        if counts is not None:
            batch = fill(counts, dict(batch))
        weight = normalise_weight(counts)
        # Every batch of inference draws anew; a step does not look at this.
        noise = fresh_words() if self.layout[self.party].secret else None
        own = TrainState({self.party: state})
        refuse_too_strong(self.limits, own)
        store = load(self.layout, own, batch, weight, noise)
        hold(self.layout, store, self.config.nonfinite)
        return store

    def _save_back(self, store: Store) -> PartyState:
        return save_back(self.layout, store).parties[self.party]

    def _overlapped(
        self, state: PartyState, batches: Batches, step: int, exchange: Exchange
    ) -> tuple[PartyState, dict[str, jax.Array]]:
        """One step, with turns of the steps after it.

        After a step at whose end all save their state, nothing is under way.
        """
        layout = self.layout[self.party]
        if self._pipeline is None or not self._pipeline.fits(batches, step):
            every = self.agreed.checkpoint
            last = min(step // every * every + every, self.agreed.steps)
            self._pipeline = Pipeline(
                self.walk,
                layout,
                self.load(state, {}),
                batches,
                self.late,
                step,
                last,
                self.agreed.weight,
            )
        own = self._pipeline.step(
            step,
            lambda number: self.watch(Wires(self, exchange, number, self.agreed.batch)),
        )
        self.told = numbers_at(self.config, self.party, own)
        # Each step under way has a number of its own; the state has that of its end.
        store = {**self._pipeline.store, layout.step: jnp.int32(step + 1)}
        self.judge(self.judge.finite(own), lambda: step + 1)
        return self._save_back(store), {n.what: own[n] for n in self.losses}

    def _ahead(
        self, batches: Batches, step: int, store: Mapping[Address, PyTree]
    ) -> Iterator[None]:
        """Begin the next step of this party, a little at a time."""
        if step >= self.agreed.steps or not self.turns.works(self.name, step):
            return
        layout = self.layout[self.party]
        prefetched = self._prefetched = PrefetchedStep(batches, step)
        try:
            prefetched.gather(layout, self.micros, self.agreed.weight)
        except Exception:  # it is raised where it belongs, in its own step
            self._prefetched = None
            return
        yield
        # That the step's number changes is known: the turns ahead are given the next.
        changed = (self.walk.changing | self.finish.changing) - {layout.step}
        count = self.walk.leading(changed)
        yield from prefetched.lead(self.walk, count, store, layout.step)

    def mean_losses(self, store: Store) -> dict[str, jax.Array]:
        """The losses of a step, from their sums over micro-batches."""
        return {n.what: store[total(n)] / self.micros for n in self.losses}

    def received(self, wire: Wire, size: int) -> PyTree:
        """The shapes of a message as this party's programs read it."""
        payload, value = self.like(self.wires.index(wire), size)
        return packet(self.config, wire, payload, value)

    def zero_sums(self, store: Store, size: int) -> Store:
        """Zeros for the sums over micro-batches, made in the first step and kept."""
        if self._zeros is None:
            # Shapes of what comes are known before anything has come.
            own = [wire for wire in self.wires if wire.receiver == self.party]
            received: Store = {wire: self.received(wire, size) for wire in own}
            self._zeros = zero_sums(self.walk.ops, store | received)
        return self._zeros

    def evaluate(
        self,
        state: PartyState,
        batch: Mapping[str, PyTree],
        step: int,
        size: int,
        exchange: Exchange,
    ) -> tuple[dict[str, jax.Array], Rows]:
        """The losses that this party computes, in inference mode, and what its metrics read."""
        store = self.load(state, batch)
        self.measure.run(store, Wires(self, exchange, step, size))
        self.judge_losses(self.judge_losses.finite(store))
        observed = {n: store[n] for n in self.observed}
        weight = batch.get(self.agreed.weight)
        rows = rows_of(self.topology, observed, batch, weight, size)
        return {n.what: store[n] for n in self.losses}, rows

    def predict(
        self,
        state: PartyState,
        batch: Mapping[str, PyTree],
        step: int,
        size: int,
        exchange: Exchange,
    ) -> dict[str, PyTree]:
        """The outputs that this party computes, in inference mode."""
        store = self.load(state, batch)
        self.infer.run(store, Wires(self, exchange, step, size))
        return {n.what: store[n] for n in self.outputs}
