"""A guard over the cotangents of a run: it reads what crosses anyway, and changes nothing.

What it looks for, and when that is an alarm, is in `jsplit.guarding`; here is what a party
has to look at, and what becomes of an alarm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line, shown
from jsplit.guarding import Alarms, Evidence, Guard, begin, judge, measured, note
from jsplit.guarding.tally import Tally
from jsplit.party.compute.exchange import Wires
from jsplit.party.compute.local import Local
from jsplit.party.guarded_values import Guarded, guarded_values, why_not
from jsplit.training.config import Config
from jsplit.training.crossing import Packet, completed
from jsplit.training.walk import Wire

_log = logging.getLogger("jsplit.party")
_MOST = 64
"""So many records of a message are looked at: the chain rule takes a square of them."""


class Hijacked(ValueError):
    """What came back is taken for an attack, by a guard whose policy is to stop."""


def checked_guard(given: object) -> Guard | None:
    """The guard that a party gives, after it was looked at.

    Raises:
        ValueError: naming `guard`.
    """
    if given is not None and not isinstance(given, Guard):
        raise ValueError(
            f"`guard` must be a jsplit.party.Guard, or None for none, got {shown(given)}."
        )
    return given


class GuardOfRun:
    """Looks at the messages of one party's steps.

    Args:
        rule: what is an alarm.
        local: the party's part, which knows what messages are made of.
        size: how many records a message has.

    Attributes:
        evidence: of each window so far.
    """

    def __init__(self, rule: Guard, local: Local, size: int):
        self.rule, self.party, self.config = rule, local.name, local.config
        self.evidence: list[Evidence] = []
        self._alarms, self._told = Alarms(rule), 0
        self._rng, self._size = np.random.default_rng(), size
        self._last = -1
        # By step and micro-batch, what has crossed of it.
        self._crossed: dict[tuple[int, int], dict[Wire, PyTree]] = {}
        self._windows: list[_Window] = []
        for values in guarded_values(local.topology, local.party):
            reason = why_not(values, local.topology, local.agreed.fields, self.config)
            shapes = {w: local.received(w, size) for w in wires_of(values)}
            if not reason:
                try:
                    self._windows.append(_Window(values, self.config, shapes, size))
                except ValueError as error:
                    reason = first_line(error)
            if reason:
                _log.info(
                    "%s: the guard cannot judge what comes back for `%s`: %s",
                    self.party,
                    values.name,
                    reason,
                )
        self.wanted = frozenset(
            w for window in self._windows for w in wires_of(window.values)
        )

    def over(self, wires: Wires) -> Watched:
        """The messages of a step, each of which is also kept to its end."""
        return Watched(wires, self.wanted, self._crossed)

    def programs(self) -> Iterator[Callable[[], object]]:
        """What compiles each of its programs."""
        for window in self._windows:
            yield window.compile

    def ended(self, step: int) -> None:
        """Look at a step that has ended.

        Args:
            step: its number.

        Raises:
            Hijacked: if there is an alarm, and the policy is to stop.
        """
        # After a fault steps are done again: a window must not have one of them twice.
        if step <= self._last:
            for window in self._windows:
                window.clear()
        self._last = step
        # Of later steps some messages have come already, of none the last.
        whole = [at for at in self._crossed if at[0] <= step]
        found = [self._crossed.pop(at) for at in sorted(whole)]
        for window in self._windows:
            for crossed in found:
                rows = self._rng.permutation(self._size)[:_MOST]
                window.add(crossed, rows)
            evidence = window.ended(step, self.rule)
            if evidence is not None:
                self._told_of(evidence)

    def _told_of(self, evidence: Evidence) -> None:
        self.evidence.append(evidence)
        _log.debug("%s: %s", self.party, evidence)
        if not self._alarms.add(evidence):
            return
        row = self._alarms.in_a_row[evidence.value]
        # Others are told the first 200 letters, so the numbers come early.
        said = f"{row} windows in a row of what came back look foul: {evidence}"
        if self.rule.policy == "stop":
            raise Hijacked(f"the guard of `{self.party}` ends the run: {said}.")
        self._told += 1
        # Every one of the first, then ever more seldom: it may be so in each window.
        if self._told & (self._told - 1):
            return
        _log.warning(
            "%s: %s. Somebody may train this party's model to leak its records. "
            "`guard=None`, in the command `--no-guard`, switches this off.",
            self.party,
            said,
        )


class Watched:
    """The messages of a step; those that a guard wants are kept as well.

    Args:
        wires: what carries them.
        wanted: those that are kept.
        kept: by step and micro-batch, where.
    """

    def __init__(
        self,
        wires: Wires,
        wanted: frozenset[Wire],
        kept: dict[tuple[int, int], dict[Wire, PyTree]],
    ):
        self._wires, self._wanted, self._kept = wires, wanted, kept
        self.there, self.wait = wires.there, wires.wait

    def send(self, micro: int, wire: Wire, value: PyTree) -> None:
        """Send what a program gave."""
        self._wires.send(micro, wire, value)
        self._keep(micro, wire, value)

    def take(self, micro: int, wire: Wire) -> PyTree:
        """The value that a program reads; waits for it."""
        value = self._wires.take(micro, wire)
        self._keep(micro, wire, value)
        return value

    def _keep(self, micro: int, wire: Wire, value: PyTree) -> None:
        if wire in self._wanted:
            self._kept.setdefault((self._wires.step, micro), {})[wire] = value


class _Window:
    """The window under way of values that are judged together.

    Args:
        values: which.
        config: of the training, with the links of the messages.
        shapes: of these, as they are read.
        size: how many records they have.

    Raises:
        ValueError: if they are none of a guard's.
    """

    def __init__(
        self, values: Guarded, config: Config, shapes: Mapping[Wire, PyTree], size: int
    ):
        self.values, self.config = values, config
        self._note = jax.jit(self._noted)
        messages = [shapes[w] for w in wires_of(values)]
        rows = jax.ShapeDtypeStruct((min(size, _MOST),), "int32")
        # The tally is made of shapes; what does not fit is found here.
        self._empty = jax.eval_shape(self._begun, messages, rows)
        self._given = self._empty, messages, rows
        jax.eval_shape(self._noted, *self._given)
        self.clear()

    def clear(self) -> None:
        """Begin a window."""
        self._tally: Tally = jax.tree.map(
            lambda x: np.zeros(x.shape, x.dtype), self._empty
        )
        self._first, self._steps = -1, 0

    def compile(self) -> None:
        """Compile what adds a step to the window, and what is measured of it."""
        self._note.lower(*self._given).compile()
        measured.lower(self._empty).compile()

    def add(self, crossed: Mapping[Wire, PyTree], rows: np.ndarray) -> None:
        """Add some records of one micro-batch."""
        messages = [crossed[w] for w in wires_of(self.values)]
        self._tally = self._note(self._tally, messages, rows.astype("int32"))

    def ended(self, step: int, rule: Guard) -> Evidence | None:
        """Count a step; what was found, if the window is full."""
        self._first = step if self._first < 0 else self._first
        self._steps += 1
        if self._steps < rule.window:
            return None
        found = judge(
            self._tally,
            rule,
            self.values.name,
            self._first,
            step,
            answered=bool(self.values.received),
        )
        self.clear()
        return found

    def _begun(self, messages: Sequence[PyTree], rows: jax.Array) -> Tally:
        _, returned, received, gave = self._tables(messages, rows)
        return begin(returned, gave if received else None)

    def _noted(
        self, tally: Tally, messages: Sequence[PyTree], rows: jax.Array
    ) -> Tally:
        sent, returned, received, gave = self._tables(messages, rows)
        answers = (received, gave) if received else ()
        return note(tally, sent, returned, *answers)

    def _tables(
        self, messages: Sequence[PyTree], rows: jax.Array
    ) -> list[list[PyTree]]:
        by_wire = dict(zip(wires_of(self.values), messages, strict=True))
        tables: list[list[PyTree]] = []
        for group in _groups(self.values):
            read = [_read(self.config, w, by_wire[w]) for w in group]
            tables.append(jax.tree.map(lambda x: x[rows], read))
        return tables


def _groups(values: Guarded) -> tuple[tuple[Wire, ...], ...]:
    return values.sent, values.returned, values.received, values.gave


def wires_of(values: Guarded) -> list[Wire]:
    """All messages by which values are judged."""
    return [w for group in _groups(values) for w in group]


def _read(config: Config, wire: Wire, sent: PyTree) -> PyTree:
    """What the receiver of a message has of it, with zeros for what nobody reads."""
    if not isinstance(sent, Packet):
        return sent
    link = config.links.get((wire.kind, wire.what))
    value = link.decode(sent.payload, sent.like) if link else sent.payload
    return completed(value, sent.whole)
