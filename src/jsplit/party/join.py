"""One party before its first step: its part is built, and found to fit the agreement.

`prepare` does all of that without any connection; `Prepared.connected` makes these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from jsplit.core.base import PartyState
from jsplit.core.trees import abstract
from jsplit.party.base import Base
from jsplit.party.begun_with import begun_with
from jsplit.party.bounds import checked_bounds
from jsplit.party.brought_records import example_of, is_alone, records_of
from jsplit.party.compute.handover import shapes_of_learned
from jsplit.party.compute.local import Local
from jsplit.party.compute.warming import Warming
from jsplit.party.connection.network import Network
from jsplit.party.connection.reach import Reach
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.field_types import check_dtypes
from jsplit.party.contract.record_order import Records
from jsplit.party.crossings_of_run import Frames
from jsplit.party.durable import Checkpoints, CheckpointStore
from jsplit.party.finite_states import FiniteStates
from jsplit.party.guard_of_run import GuardOfRun, checked_guard
from jsplit.party.in_memory import InMemory
from jsplit.party.incoming import Incoming
from jsplit.party.process import PartyRun
from jsplit.party.records_of_validation import validation_records
from jsplit.party.saved_states import SavedStates
from jsplit.party.sealing import sealer
from jsplit.party.task import Brought, Task, TaskKind
from jsplit.party.versions import own_versions
from jsplit.training.link_checks import check_fields
from jsplit.wire.certs import Trust
from jsplit.wire.control import Status
from jsplit.wire.member import Member
from jsplit.wire.open_files import raise_limit
from jsplit.wire.relay import OVERHEAD


@dataclass
class Prepared:
    """A party that has built its part, and that no one can reach yet.

    Attributes:
        agreed: what the parties have agreed on.
        party: this one.
        credentials: its certificate and key.
        local: its part of the computation.
        records: its records, by client, and those that it validates with.
        store: its checkpoints.
        saved: of inference, the checkpoints in the folder that it was given.
        member: its side of the protocol.
        limit: the most bytes that the arrays of one frame may take.
        incoming: looks at what comes from others.
        warming: its programs, to be compiled.
        guard: over what comes back to it, if it trains and has one.
        base: what no step changes of its state.
    """

    agreed: Agreement
    party: str
    credentials: Trust
    local: Local
    records: Mapping[str, Records]
    store: Checkpoints
    saved: SavedStates | None
    member: Member
    limit: int
    incoming: Incoming
    warming: Warming
    guard: GuardOfRun | None
    base: Base
    frames: Frames

    @contextmanager
    def connected(self, reach: Reach) -> Iterator[PartyRun]:
        """The party with its connections, which are closed in the end.

        Args:
            reach: where it listens and whom it dials where.

        Yields:
            The party, reachable.
        """
        # Before anybody can connect: connections are files, as checkpoints are.
        raise_limit()
        network = Network(
            self.agreed, self.party, self.member, self.credentials, self.limit, reach
        )
        try:
            yield PartyRun(
                self.agreed,
                self.party,
                self.local,
                self.records,
                self.store,
                network,
                self.agreed.turns,
                self.incoming.over(network),
                self.warming,
                self.base,
                self.agreed.steps,
            )
        finally:
            network.close()


@contextmanager
def prepare(
    agreed: Agreement, party: str, task: Task, brought: Brought
) -> Iterator[Prepared]:
    """Build a party's part, and find whether it fits the agreement.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        task: what all are to be at.
        brought: what the party brings.

    Yields:
        The party; its folder is let go of in the end.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    how = brought.backward, brought.kernels, brought.watched
    local = Local(agreed, party, brought.own, brought.optimizer, brought.links, *how)
    clients, training = agreed.turns.names, task.kind is TaskKind.TRAIN
    if not training and len(clients) > 1:
        raise ValueError(
            "`agreed` is of several clients: say whose with `--client`, in Python "
            f"`agreed.of(...)`, for one of {', '.join(clients)}."
        )
    fields = local.fields(task.kind)
    alone = is_alone(agreed, task, local.config.links)
    records = records_of(agreed, party, fields, brought, alone, training)
    first = example_of(
        next(iter(records.values())),
        agreed.weight,
        local.micros * task.size_of(0) if training else task.size_of(0),
    )
    _check_fields(local, records.values() if training else ())
    # Of a function of the step too, before anybody is connected.
    check_dtypes(agreed.fields, first, party)
    like = local.init({f: x for f, x in first.items() if f != agreed.weight})
    if training and brought.state is not None:
        anything = agreed.nonfinite == "allow"
        begun = begun_with(like, brought.state, anything=anything)
        brought = replace(brought, state=begun)
    base = Base(local.layout, brought.state or like)
    frames = _frames_of(agreed, party, task, local, like, base)
    everything = {**records, **validation_records(frames, brought, records)}
    bounds = checked_bounds(brought.bound, frames.received)
    store, saved = _stores_of(frames, brought, like, base)
    # From here on: whatever goes wrong, another process must be able to have the folder.
    with closing(store):
        if not store.steps:
            store.save(brought.state or like)
        durable = saved.steps if saved is not None else store.steps
        member = _member(frames, brought, everything, store, durable)
        guard = _guard_of(local, task, brought)
        incoming = Incoming(member, local, task, bounds, party)
        yield Prepared(
            agreed,
            party,
            brought.credentials,
            local,
            everything,
            store,
            saved,
            member,
            # One that was sealed for its way through the lead is a little longer.
            frames.limit + OVERHEAD,
            incoming,
            Warming(local, task, abstract(like), first, _more(incoming, guard)),
            guard,
            base,
            frames,
        )


def _frames_of(
    agreed: Agreement,
    party: str,
    task: Task,
    local: Local,
    like: PartyState,
    base: Base,
) -> Frames:
    """What crosses in the run, of sizes that may be sent."""
    learned = (*base.handed_shapes, *shapes_of_learned(like, local.layout))
    frames = Frames(agreed, party, task, local, learned)
    frames.check()
    return frames


def _check_fields(local: Local, records: Iterable[Records]) -> None:
    """Refuse fields that a link is not for; what a function will give is not known yet."""
    for own in records:
        if not own.batches:
            links = local.config.links
            check_fields(local.topology, links, [local.party], own.fields)


def _guard_of(local: Local, task: Task, brought: Brought) -> GuardOfRun | None:
    """The guard over a training, if there is something to look at."""
    rule = checked_guard(brought.guard)
    if rule is None or task.kind is not TaskKind.TRAIN:
        return None
    guard = GuardOfRun(rule, local, task.size_of(0))
    if not guard.wanted:
        return None
    local.watch = guard.over
    return guard


def _more(
    incoming: Incoming, guard: GuardOfRun | None
) -> Callable[[int], Iterator[Callable[[], object]]]:
    """What compiles the programs beside those of walks, for messages of a size."""

    def compile_each(size: int) -> Iterator[Callable[[], object]]:
        yield from incoming.decoders(size)
        yield from () if guard is None else guard.programs()

    return compile_each


def _stores_of(
    frames: Frames, brought: Brought, like: PartyState, base: Base
) -> tuple[Checkpoints, SavedStates | None]:
    """Where a party keeps its states, and for inference those that it has in a folder."""
    agreed, party = frames.agreed, frames.party
    # What a party is given to evaluate with it may have as it is; and without a folder
    # there is nothing to lose that was not agreed to be let pass.
    anything = agreed.nonfinite == "allow"
    first = brought.state or like
    sound = FiniteStates(first, anything=anything, moving=base.moving)
    if brought.checkpoint is None:
        return InMemory(sound, base), None
    if frames.task.kind is not TaskKind.TRAIN:
        # The folder may be in use by a process that trains, and is only read.
        saved = SavedStates(brought.checkpoint, party, agreed.schema, like, base)
        return InMemory(sound, base), saved
    # Half of what others wait for this party.
    wait = float(agreed.patience) / 2
    given = brought.checkpoint, party, agreed.schema, like, wait, base
    return CheckpointStore(*given), None


def _member(
    frames: Frames,
    brought: Brought,
    records: Mapping[str, Records],
    store: Checkpoints,
    durable: Sequence[int],
) -> Member:
    """The party's side of the protocol, as it stands before the first connection."""
    agreed, parties = frames.agreed, frames.agreed.parties
    reach = agreed.reach(frames.party)
    direct = [parties.index(p) for p, how in reach.items() if how != "lead"]
    counts = {}
    for client, its in records.items():
        # Who gives `batch(step)` has no number of records to compare.
        if its.count is not None:
            counts[client] = (its.count, its.digest)
    # The lead finds the newest that all have, to infer with as to train on from.
    status = Status(store.instance, 0, tuple(durable), counts, ready=False)
    relayed = "lead" in reach.values()
    return Member(
        frames.terms(),
        parties.index(frames.party),
        parties.index(agreed.lead),
        status,
        frames.said,
        frozenset(direct),
        brought.keep_replies,
        sealer(frames, brought.credentials, status.instance) if relayed else None,
        store.away(),
        own_versions(),
    )
