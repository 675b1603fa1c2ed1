"""What comes from others: held to the bounds of its receiver, and remembered by sender.

A value of 3e38 is finite, and what a step makes of it is not. The step fails at whoever
got the value; the one to look at is whoever sent it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf

import jax
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.party.bounds import check_norm, largest_norm
from jsplit.party.compute.exchange import Exchange
from jsplit.party.compute.local import Local
from jsplit.party.crossings_of_epochs import EpochFrames
from jsplit.party.faults import Faults
from jsplit.party.task import Task
from jsplit.training.crossing import Packet, packet
from jsplit.training.scalar_exchange import tree_of
from jsplit.wire.member import Member

_log = logging.getLogger("jsplit.party")
_MOST = 4
"""So many values are told of, at most."""

_Arrays = Sequence[ArrayLike]


class Incoming:
    """An exchange that looks at what it takes.

    Args:
        member: the party's side of the protocol, which knows who sends what.
        local: the party's part, which knows what values are made of.
        task: that all are at.
        bounds: by the name of a value, the largest norm of a record.
        party: this one.
    """

    def __init__(
        self,
        member: Member,
        local: Local,
        task: Task,
        bounds: Mapping[str, float],
        party: str,
    ):
        self.terms, self.local, self.task = member.terms, local, task
        self.sender = member.traffic.sender
        self.bounds, self.party = bounds, party
        for (_, name), link in local.config.links.items():
            if name in bounds and link.receiver is not None:
                raise ValueError(
                    f"`bound` names `{name}`, whose link keeps a memory at its receiver: "
                    "what comes cannot be read without that, so its norm is not looked at."
                )
        self.last: dict[
            tuple[str, str], tuple[tuple[int, int], list[ArrayLike] | float]
        ] = {}
        self.faults = Faults(party, finite=member.terms.finite)
        # Whoever is above this party adds up what all give, and sends it the sum.
        self.above = tree_of(local.topology).parent.get(local.party)
        self.largest = dict.fromkeys(bounds, 0.0)
        # What crosses at the end of epochs, where a training has them.
        self.epochs: EpochFrames | None = None
        self._decoders: dict[tuple[int, int], jax.stages.Wrapped] = {}

    def over(self, exchange: Exchange) -> Incoming:
        """The same, with what carries values, which is there only later."""
        self.exchange = exchange
        # Handed on as they are: what is sent goes through no call more.
        self.send, self.there, self.wait = exchange.send, exchange.there, exchange.wait
        return self

    def take(self, wire: int, step: int, micro: int) -> _Arrays:
        """The arrays of a value; waits for it.

        Raises:
            OverBound: if it is larger than this party takes, or cannot be.
        """
        found = self.exchange.take(wire, step, micro)
        crossing = self.terms.crossings[wire]
        # A value is held on to until the next of its kind, and measured only if
        # something goes wrong. Weights are large, and come seldom.
        kept = largest_norm(found) if crossing.kind == "weights" else [*found]
        self.last[crossing.kind, crossing.what] = (wire, step), kept
        if crossing.kind == "scalar":
            sent = partial(self._sent, wire, step)
            name = self.terms.name(self.sender(wire, step))
            what = "the sum that" if self._is_sum(name) else "what"
            given = f"{what} `{name}` sent"
            self.faults.look(crossing.what, step, found, given, sent)
        # No call where nothing is bounded: this runs for every value.
        if self.bounds and crossing.what in self.bounds:
            self._check(self.bounds[crossing.what], wire, step, micro, found)
        return found

    def _check(
        self, most: float, wire: int, step: int, micro: int, found: _Arrays
    ) -> None:
        crossing = self.terms.crossings[wire]
        size, value = None, found
        if crossing.kind in ("activation", "cotangent"):
            # Every client has the wires of a step.
            size, number = self.task.size_of(step), wire % len(self.local.wires)
            twin = None if self.epochs is None else self.epochs.wire(wire)
            if self.epochs is not None and twin is not None:
                # Its frame is a batch.
                size, number = self.epochs.size_of(micro), twin
            value = self._value(number, size, found)
        # In words only if it is needed: this runs for every value.
        sent = partial(self._sent, wire, step)
        norm = check_norm(most, size, value, sent, self.party)
        # An infinite bound refuses nothing: it is asked how large values are, by who
        # looks for one. Of a norm no more than a digit is told, and of each size once.
        before = self.largest[crossing.what]
        if most == inf and norm > before and f"{norm:.0e}" != f"{before:.0e}":
            self.largest[crossing.what] = norm
            per = "" if size is None else "of a record "
            said = f"{sent()}, the largest norm {per}so far is about {norm:.0e}"
            _log.info("%s: %s", self.party, said)

    def _value(self, number: int, size: int, found: _Arrays) -> PyTree:
        """The value that its receiver reads, decoded by its link if it has one."""
        wire, config = self.local.wires[number], self.local.config
        payload, _ = self.local.like(number, size)
        value = jax.tree.unflatten(jax.tree.structure(payload), found)
        if (wire.kind, wire.what) not in config.links:
            return value
        return self._decoder(number, size)(value)

    def _decoder(self, number: int, size: int) -> jax.stages.Wrapped:
        """What decodes a value that has a link."""
        if (number, size) not in self._decoders:
            wire, config = self.local.wires[number], self.local.config
            link = config.links[wire.kind, wire.what]
            sent = packet(config, wire, *self.local.like(number, size))
            assert isinstance(sent, Packet)
            # A program of its own: the one that computes with the value has no way to
            # stop before it does.
            self._decoders[number, size] = jax.jit(
                lambda payload, like=sent.like: link.decode(payload, like)
            )
        return self._decoders[number, size]

    def decoders(self, size: int) -> Iterator[Callable[[], object]]:
        """What compiles each program that decodes what is bounded.

        Args:
            size: how many records a value is of.
        """
        for number, wire in enumerate(self.local.wires):
            here = wire.receiver == self.local.party and wire.what in self.bounds
            if here and (wire.kind, wire.what) in self.local.config.links:
                payload, _ = self.local.like(number, size)
                decoder = self._decoder(number, size)
                yield lambda f=decoder, x=payload: f.lower(x).compile()

    def words(self) -> str:
        """From whom the last values came, the largest first; nothing if none came."""
        found: list[tuple[float, str]] = []
        for at, kept in self.last.values():
            norm = largest_norm(kept) if isinstance(kept, list) else kept
            # NaN is allowed to cross by some agreements, and nothing is larger.
            key = np.inf if np.isnan(norm) else norm
            said = f"{self._sent(*at)} (norm about {norm:.0e})"
            found.append((key, said))
        found.sort(key=lambda one: -one[0])
        said = "; ".join(text for _, text in found[:_MOST])
        return f"What came last, the largest first: {said}." if said else ""

    def _sent(self, wire: int, step: int) -> str:
        crossing = self.terms.crossings[wire]
        sender = self.terms.name(self.sender(wire, step))
        said = f"`{sender}` sent {crossing.kind} `{crossing.what}` of step {step}"
        # Who adds up need not be the one that gave what is wrong.
        is_sum = crossing.kind == "scalar" and self._is_sum(sender)
        return f"{said}, the sum of what all gave" if is_sum else said

    def _is_sum(self, sender: str) -> bool:
        """Whether a scalar is the sum of all, by who sent it, and no part of it."""
        return self.local.turns.role[sender] == self.above
