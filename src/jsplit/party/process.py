"""One party before and between its steps: where it begins, what it trains on, what it
hands over to the next client. The steps themselves are in `run` and `infer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from jsplit.core.base import PartyState, PyTree
from jsplit.party.base import Base
from jsplit.party.bounds import OverBound
from jsplit.party.compute.handover import learned, taken
from jsplit.party.compute.local import Local
from jsplit.party.compute.prefetch import check_size
from jsplit.party.compute.warming import Warming
from jsplit.party.connection.network import Network
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.field_types import check_dtypes
from jsplit.party.contract.record_order import Records, check_weights, places_of
from jsplit.party.contract.turns import Turns
from jsplit.party.durable import Checkpoints
from jsplit.party.guard_of_run import Hijacked
from jsplit.party.incoming import Incoming
from jsplit.training.base_hash import OtherBase
from jsplit.training.verdicts import NotFinite
from jsplit.wire.control import MOST_DURABLE, Start
from jsplit.wire.versions import in_words

_log = logging.getLogger("jsplit.party")


@dataclass
class PartyRun:
    """A party with its connections.

    Attributes:
        agreed: what the parties have agreed on.
        party: this one.
        local: its part of the computation.
        records: its records, by client.
        store: its checkpoints.
        network: its connections.
        turns: who works in which step, without the clients that are passed over.
        incoming: what its programs exchange values by.
        warming: its programs, before they are compiled.
        base: what no step changes of its state.
        end: the step after which the run is over: the last one that was agreed, or an
            earlier one at which a verdict has ended it.
    """

    agreed: Agreement
    party: str
    local: Local
    records: Mapping[str, Records]
    store: Checkpoints
    network: Network
    turns: Turns
    incoming: Incoming
    warming: Warming
    base: Base
    end: int

    def get_ready(self, over: Callable[[], bool] = bool) -> None:
        """Compile all programs, before an epoch begins in which others would wait.

        Others are connected meanwhile: what does not fit is found at once, and they
        are told that this party is at work.

        Args:
            over: whether the run is over, so that there is nothing to do.
        """
        network = self.network
        _log.info("%s: %s", self.party, in_words(network.member.versions))
        count = self.warming.compile(lambda: network.asked() or over())
        _log.info("%s has compiled %d programs", self.party, count)
        network.ready()

    def is_over(self) -> bool:
        """Whether this party has the last step, and knows that all have."""
        # The lead says so to whoever comes; nobody who has it too needs to wait for
        # those that have left already.
        end = self.end
        return end in self.store.steps and self.network.member.committed >= end

    def begin(self) -> tuple[PartyState, int]:
        """Begin an epoch, once all are there that must be.

        Returns:
            The state to go on with, and from which step. If the run is over, as the
            lead says, these are the last ones and no epoch begins.

        Raises:
            Refused: if the parties do not agree.
            Missing: if a party does not come.
        """
        member = self.network.member
        self.network.start(self.is_over)
        start = member.start
        if start is None:
            return self.store.restore(self.end), self.end
        self.turns = self.local.turns = self.agreed.turns.excluding(start.away)
        self._note_way_back(start)
        if self.agreed.turns.skips:
            self._catch_up(start.step)
        state = self.store.restore(start.step)
        self.network.durable(self.store.steps)
        _log.info(
            # An epoch of training, which the log counts too, is another thing.
            "%s goes on from step %d, epoch %d of the run",
            *(self.party, start.step, start.epoch),
        )
        return state, start.step

    def _note_way_back(self, start: Start) -> None:
        """Log from where to where this party goes back; refuse what it has no more."""
        lead, newest = self.agreed.lead, max(self.store.steps)
        until = self.turns.there_until(self.party, start.step)
        # What is on disk is known here for certain; the protocol knows what this party
        # said last.
        if min(self.store.steps) > until:
            raise self.network.refuse(
                f"`{lead}` says that all go on from step {start.step}, of which "
                f"`{self.party}` has nothing: its checkpoints begin with step "
                f"{min(self.store.steps)}."
            )
        if newest > until:
            # A lead may order this as often as it likes, so nobody should overlook it.
            _log.warning(
                "%s goes back from step %d to step %d, as `%s` says; what is computed "
                "again replaces newer checkpoints",
                self.party,
                newest,
                until,
                lead,
            )

    def _catch_up(self, step: int) -> None:
        """Where clients may be passed over: have the checkpoint from which all go on."""
        start = self.network.member.start
        assert start is not None
        # What this party did after it was passed over never happened for the others.
        self.store.discard_after(self.turns.there_until(self.party, step))
        if self.network.member.rendezvous:
            self.store.remember(start.away)
        if step not in self.store.steps:
            # It was away, and the others did these steps without it, so that nothing
            # but their number has changed for it.
            had = max(self.store.steps)
            _log.warning(
                "%s goes on from step %d with what it had at step %d: it was away, as "
                "`%s` says",
                self.party,
                step,
                had,
                self.agreed.lead,
            )
            newest = self.store.restore(had)
            self.store.save(newest._replace(step=jnp.int32(step)))

    def batch(self, step: int) -> Mapping[str, PyTree]:
        """The records of a step of training.

        Args:
            step: any, also one that has not begun.

        Returns:
            The party's fields by name, [batch, ...]; none if it holds no field.

        Raises:
            ValueError: if there are fewer records than a batch takes, or a function of
                the step gave another number of them.
        """
        size, turns = self.agreed.batch, self.turns
        client = turns.client(step)
        name = turns.names[client]
        records = self.records[name]
        if records.batches is not None:
            found = records.given(step)
        elif not records.fields:
            return {}
        else:
            # Its own number: memory is taken by it, and an epoch in which the lead says
            # another has not begun.
            count = records.count or 0
            if count < size:
                raise ValueError(
                    f"there are {count} records{of_client(name)}, a batch takes {size}."
                )
            # By the steps of this client: its passes go on from turn to turn.
            own_step = turns.steps_of(client, step)
            found = records.take(places_of(own_step, count, size, self.agreed.seed))
        if self.agreed.weight in found:
            # Of a function of the step in every step; others were looked at before.
            check_weights(self.agreed.weight, found[self.agreed.weight], size)
        check_size(found, size)
        check_dtypes(self.agreed.fields, found, self.party)
        return found

    def hand_over_to_all(self, state: PartyState, step: int) -> PartyState:
        """The same at the end of a step, where all that play a role take it then."""
        at = self.turns.taken_by_all(step)
        return state if at is None else self.hand_over(state, at, to_all=True)

    def hand_over(
        self, state: PartyState, step: int, *, to_all: bool = False
    ) -> PartyState:
        """Give what this party's role has learned to who plays it next, or take it.

        Args:
            state: of this party.
            step: before which this is.
            to_all: whether it is at the end of the step, to all that play the role.

        Returns:
            The state, with what was learned by others if this party's turn begins.
        """
        # Places of frames begin with each client's wires; hand-overs come after them.
        first = len(self.turns.names) * len(self.local.wires)
        layout = self.local.layout
        for place, hand in self.turns.handovers_of(self.party, step, to_all=to_all):
            if hand.sender == self.party:
                handed = [*self.base.handed, *learned(state, layout)]
                self.network.send(first + place, step, 0, handed)
            else:
                arrays = self.incoming.take(first + place, step, 0)
                try:
                    state = taken(state, layout, self.base.taken(arrays))
                except OtherBase as error:
                    # What was learned on another base is nothing on this one.
                    raise self.network.refuse(
                        f"`{hand.sender}` handed over to `{self.party}`, before step "
                        f"{step}, what {error} than those here: both must begin with "
                        "the same weights."
                    ) from None
                # Whoever takes over what is spoilt would be blamed for it, in its first
                # step.
                if faults := self.store.sound.faults(state):
                    raise self.network.refuse(
                        f"`{hand.sender}` handed over to `{self.party}`, before step "
                        f"{step}, what is not finite: {', '.join(faults)}."
                    )
        return state

    def ended_by(self, error: NotFinite | OverBound | Hijacked) -> Exception:
        """End the run for all by a value, and say from whom the last ones came.

        Args:
            error: what this party has found.

        Returns:
            The error to raise.
        """
        # Others would wait for this party, which cannot go on.
        if isinstance(error, (OverBound, Hijacked)):
            return self.network.refuse(str(error))
        origin = self.incoming.words()
        # From whom it came first: what one party says is cut at the others.
        self.network.refuse(f"{origin} {error}".lstrip())
        return NotFinite(f"{error} {origin}".rstrip())

    def tell_of_last(self) -> None:
        """Log from whom the last values came, where others have ended the run.

        What they found in a value of this party may come of what another sent it.
        """
        if origin := self.incoming.words():
            _log.info("%s: %s", self.party, origin)

    def keep_pace(self, step: int, asked: Callable[[], bool]) -> None:
        """Before a checkpoint, wait until all have the one before.

        As a rule only a party that has no turn waits: it has nothing to do, and would
        else save one checkpoint after the other, far ahead of those that all can go
        back to.

        Args:
            step: that has just ended.
            asked: whether the party was asked to stop; then it waits no longer.
        """
        # Who has a turn is held back by the others, but for a lead that keeps silent: then
        # no checkpoint could be deleted, and the disk would fill up.
        working = self.turns.works(self.party, step)
        if working and len(self.store.steps) < MOST_DURABLE:
            return
        every, member = self.agreed.checkpoint, self.network.member
        last = step // every * every
        self.network.until(
            lambda: asked() or member.committed >= last,
            f"its turn: not all have come to step {last}",
            self.agreed.parties,
        )


def of_client(client: str) -> str:
    """The words " of `client`" for a message; none where clients take no turns."""
    return f" of `{client}`" if client else ""
