"""A session at whoever asks: what it was given is kept, and given again where it is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from jsplit.core.base import Fields, PyTree
from jsplit.core.checks import as_positive_int
from jsplit.core.closing import Closing
from jsplit.core.ids import Id, listed
from jsplit.core.secret_keys import fresh_words
from jsplit.core.trees import as_arrays
from jsplit.party.connection.interrupts import Missing
from jsplit.party.serving.asking import FIRST, SLOWEST, Asking, Lost, Under
from jsplit.party.serving.given import Given, records
from jsplit.party.serving.words import IDS, Model
from jsplit.training.call_checks import check_call, check_integers
from jsplit.training.configure import check_batch
from jsplit.wire.errors import Refused

_log = logging.getLogger("jsplit.party")
_VAIN = 5
"""How often a session is begun again for one call. A server that is away is waited for;
one that is there and loses each session would do so for ever."""


class RemoteSession(Closing):
    """Asks parties that serve; `jsplit.party.session` makes one.

    Args:
        asking: the connections.
        batch: how many sequences there are; of records, how many go at a time.
        length: the most positions of a sequence; 0 for records.
        replay: whether it is begun again where it is lost.
        owns: whether its end is that of the connections.

    Attributes:
        fields: the names of what a call is given.
        batch: as given.
        length: as given.
        position: how many positions the sequence has.
        begun: how often the session was begun, at first or again.

    Example:
        >>> import numpy as np
        >>> from jsplit.party.serving.sample import sample_session
        >>> with sample_session() as session:
        ...     session({"x": np.array([[1.0], [2.0]], "float32")}).tolist()
        [[2.0], [5.0]]
    """

    def __init__(
        self, asking: Asking, batch: int, length: int, replay: bool, *, owns: bool
    ):
        self._asking, self._replay, self._owns = asking, replay, owns
        self.batch, self.length, self.begun = batch, length, 0
        self._part = asking.brought.part(asking.role, sequence=length > 0)
        self.fields = tuple(self._part.needed)
        if not self.fields:
            raise ValueError(
                f"`{asking.party}` holds no field that its segments read, so there is "
                "nothing that it could ask about."
            )
        agreed = asking.agreed.fields
        # An embedding refuses floats in words of its own, which name no argument.
        self._integers = [
            f for f in self.fields if agreed.get(f) in ("int32", "int64", "uint32")
        ]
        self._kept: list[Given] = []
        self._number, self._under = 0, None
        self._open, self._lock = True, threading.Lock()

    @property
    def position(self) -> int:
        """How many positions the sequence has.

        Returns:
            A number; 0 of a session of records.

        Example:
            >>> from jsplit.party.serving.sample import sample_session
            >>> with sample_session() as session:
            ...     session.position
            0
        """
        return sum(x.size for x in self._kept) if self.length else 0

    @property
    def model(self) -> Model:
        """The step and the hash of the model that answers, of all parties together.

        Returns:
            The `Model`.

        Raises:
            ValueError: if nobody has answered yet.

        Example:
            >>> import numpy as np
            >>> from jsplit.party.serving.sample import sample_session
            >>> with sample_session() as session:
            ...     answer = session({"x": np.ones((2, 1), "float32")})
            ...     session.model.step
            0
        """
        if not self.begun:
            raise ValueError("no party has said yet what model it has.")
        return self._asking.model

    def another(
        self, batch: int | None = None, length: int | None = None
    ) -> RemoteSession:
        """Make another session over the same connections, for another thread or user.

        Args:
            batch: how many sequences, or records at a time; by default as this one.
            length: the most positions of a sequence; by default as this one.

        Returns:
            A `RemoteSession`, which ends with the one that `jsplit.party.session` made.

        Raises:
            ValueError: if the session is over.

        Example:
            >>> from jsplit.party.serving.sample import sample_session
            >>> with sample_session() as session:
            ...     session.another(batch=2).batch
            2
        """
        self._check_open()
        batch = self.batch if batch is None else as_positive_int("batch", batch)
        length = self.length if length is None else as_positive_int("length", length)
        return RemoteSession(self._asking, batch, length, self._replay, owns=False)

    def __call__(self, fields: Fields, ids: Iterable[Id] | None = None) -> PyTree:
        """Ask: the next positions of the sequence, or records.

        Args:
            fields: this party's fields by name: [batch, positions, ...] of a sequence,
                [record, ...] of any number of records.
            ids: of the records, where other parties have fields of them too, which
                they look up.

        Returns:
            The output, in the order of what was given; of several outputs a dictionary
            by node.

        Raises:
            ValueError: if a field does not fit, or the session is over.
            Refused: if a party refuses it, or has another model than before.
            Missing: if a party did not come, or not answer, in time.
        """
        with self._lock:
            self._check_open()
            given = as_arrays(fields)
            check_batch(self._part.topology, given, {*self.fields})
            check_integers(given, self._integers)
            given = {f: given[f] for f in self.fields}
            if self.length:
                if ids is not None:
                    raise ValueError("`ids` are of records; a sequence has none.")
                count = check_call(given, self.batch, self.position, self.length)
                return self._next(Given(count, given, None, fresh_words()))
            names = None if ids is None else listed("ids", ids)
            found = [*map(self._next, records(given, names, self.batch))]
            return jax.tree.map(lambda *x: np.concatenate(x), *found)

    def _check_open(self) -> None:
        if not self._open or self._asking.over:
            raise ValueError("the session is over; begin another one.")

    def _next(self, given: Given) -> PyTree:
        """One call, begun again with all before it as often as it is lost."""
        until, pause = time.monotonic() + self._asking.patience, FIRST
        began, again, told = self.begun + _VAIN, " again" * (self.begun > 0), ""
        while True:
            try:
                if self._under is None:
                    self._begin(until)
                output = self._call(given, until)
            except Lost as error:
                self._let_go()
                self._check_open()
                if not self._replay:
                    raise Refused(f"the session is lost: {error}", again=True) from None
                if self.begun >= began:
                    raise Refused(
                        f"the session was begun {_VAIN} times and is lost each time: "
                        f"{error}",
                        again=True,
                    ) from None
                if time.monotonic() > until:
                    raise Missing(
                        f"`{self._asking.party}` has tried for "
                        f"{self._asking.patience:g} s: {error}"
                    ) from None
                # A server that is away for long is tried often, and told of once.
                if str(error) != told:
                    told = str(error)
                    _log.info(
                        "%s waits for up to %g s to begin its session%s: %s",
                        *(self._asking.party, self._asking.patience, again, told),
                    )
                time.sleep(pause)
                pause = min(2 * pause, SLOWEST)
            except BaseException:
                # Caches have gone on at some parties and not at others.
                self._let_go()
                raise
            else:
                if told:
                    _log.info("%s has begun its session%s", self._asking.party, again)
                if self.length:
                    self._kept.append(given)
                return output

    def _begin(self, until: float) -> None:
        """Open the session at all parties, and give it what it was given before."""
        asking = self._asking
        self._number, under = asking.new(self._part, self.batch, self.length)
        # Before it waits for anybody: who closes the session ends it there.
        self._under = under
        self._check_open()
        asking.open(self._number, under, until)
        self.begun += 1
        for before in self._kept:
            # Each as long as a call of its own: a long sequence takes longer than one.
            self._call(before, max(until, time.monotonic() + asking.patience))

    def _call(self, given: Given, until: float) -> PyTree:
        under, asking = self._under, self._asking
        assert isinstance(under, Under)
        if asking.looking_up and given.ids is None:
            raise ValueError(
                f"`ids` must be given: {', '.join(f'`{p}`' for p in asking.looking_up)} "
                "has fields of the records too."
            )
        course, call = under.course, under.course.call
        course.start(given.size, given.fields, given.words)
        if given.ids is not None:
            ids = [x if isinstance(x, str) else int(x) for x in given.ids]
            for party in asking.looking_up:
                text = asking.words.text(IDS, party, self._number, {"ids": ids}, call)
                asking.send(party, text)

        def post(place: int, arrays: Sequence[np.ndarray]) -> None:
            to = asking.cast[course.part.wires[place].receiver]
            asking.send(
                to,
                asking.words.value(to, self._number, place, call, given.size, arrays),
            )

        while not course.advance(post):
            frame = asking.hear(under, until)
            if frame.head.kind == "activation" and frame.head.step == call:
                asking.check_stamp(frame)
                course.arrive(frame.head.value, frame.arrays[:-1])
        sinks = course.part.topology.sinks
        outputs = {n: course.output(n) for n in sinks}
        return outputs[sinks[0]] if len(sinks) == 1 else outputs

    def _let_go(self) -> None:
        if self._under is not None:
            self._asking.drop(self._number)
            self._under = None

    def close(self) -> None:
        """End the session; the one that `jsplit.party.session` made ends all.

        A call that waits in another thread raises that the session is over.

        Example:
            >>> from jsplit.party.serving.sample import sample_session
            >>> with sample_session() as session:
            ...     session.close()
            ...     session({})
            Traceback (most recent call last):
            ValueError: the session is over; begin another one.
        """
        self._open = False
        self._asking.over |= self._owns
        if (under := self._under) is not None:
            under.heard.put(Lost("it is over"))
        with self._lock:
            self._let_go()
            self._kept.clear()
        if self._owns:
            self._asking.close()
