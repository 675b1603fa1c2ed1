"""The window of steps under way of what a guard judges together, made of messages.

What is measured of it is in `jsplit.guarding`; here messages are read as their receiver
reads them, and a window can be as it was at an earlier step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.guarding import Evidence, Guard, Tally, begin, judge, measured, note
from jsplit.party.guarded_values import Guarded
from jsplit.training.config import Config
from jsplit.training.crossing import Packet, completed
from jsplit.training.walk import Wire

MOST_RECORDS = 64
"""So many records of a message are looked at: the chain rule takes a square of them."""
Past = tuple[Tally, int, int]
"""The sums of a window, its first step (-1: none) and how many it has."""


class Window:
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
        rows = jax.ShapeDtypeStruct((min(size, MOST_RECORDS),), "int32")
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

    def past(self) -> Past:
        """The window as far as it has come, to go back to."""
        return self._tally, self._first, self._steps

    def go_back(self, past: Past) -> None:
        """Be as at an earlier step."""
        self._tally, self._first, self._steps = past

    def compile(self) -> None:
        """Compile what adds a step to the window, and what is measured of it."""
        self._note.lower(*self._given).compile()
        measured.lower(self._empty).compile()

    def add(self, crossed: Mapping[Wire, PyTree], rows: np.ndarray) -> None:
        """Add some records of one micro-batch."""
        messages = [crossed[w] for w in wires_of(self.values)]
        self._tally = self._note(self._tally, messages, rows.astype("int32"))

    def ended(self, step: int, rule: Guard) -> tuple[Evidence, int] | None:
        """Count a step.

        Returns:
            Where the window is full, what was found, and in how many of its steps
            something that came was not finite.
        """
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
        spoiled = int(self._tally.spoiled)
        self.clear()
        return found, spoiled

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
