"""A guard over the cotangents of a run: it reads what crosses anyway, and changes nothing.

What it looks for, and when that is an alarm, is in `jsplit.guarding`; here is what a party
has to look at, and what becomes of an alarm.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line, shown
from jsplit.guarding import Alarms, Evidence, Guard
from jsplit.party.compute.exchange import Wires
from jsplit.party.compute.local import Local
from jsplit.party.guarded_values import guarded_values, why_not
from jsplit.party.guarded_window import MOST_RECORDS, Past, Window, wires_of
from jsplit.training.walk import Wire

_log = logging.getLogger("jsplit.party")
_MOST_CHECKPOINTS = 64
"""So many steps to go back to are kept where no peer says that it has saved one."""


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
        evidence: of each window of the steps that the party's state is made of.
    """

    def __init__(self, rule: Guard, local: Local, size: int):
        self.rule, self.party, self.config = rule, local.name, local.config
        self.evidence: list[Evidence] = []
        self._alarms, self._told = Alarms(rule), 0
        self._rng, self._size = np.random.default_rng(), size
        # Steps since anything could be judged; values of which a warning was given.
        self._silent, self._warned = 0, set[str]()
        self._past: dict[int, list[Past]] = {}
        # By step and micro-batch, what has crossed of it.
        self._crossed: dict[tuple[int, int], dict[Wire, PyTree]] = {}
        self._windows: list[Window] = []
        for values in guarded_values(local.topology, local.party):
            reason = why_not(values, local.topology, local.agreed.fields, self.config)
            shapes = {w: local.received(w, size) for w in wires_of(values)}
            if not reason:
                try:
                    self._windows.append(Window(values, self.config, shapes, size))
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

    def begin(self, step: int) -> None:
        """Go on from a checkpoint, perhaps an earlier one.

        What is computed again replaces what was: else an honest start would count twice,
        and who orders all back before each window is full would never be judged.

        Args:
            step: the number of the next step.
        """
        self._crossed.clear()
        self._past = {at: past for at, past in self._past.items() if at <= step}
        for number, window in enumerate(self._windows):
            window.clear()
            if step in self._past:
                window.go_back(self._past[step][number])
        self.evidence = [e for e in self.evidence if e.last < step]
        self._alarms = Alarms(self.rule)
        self._alarms.any(self.evidence)
        self._keep(step)

    def saved(self, step: int, oldest: int) -> None:
        """Keep what a later `begin` at this step goes on from.

        Args:
            step: of a checkpoint that was saved.
            oldest: of one that all have; nobody goes back further.
        """
        self._keep(step)
        self._past = {at: past for at, past in self._past.items() if at >= oldest}

    def _keep(self, step: int) -> None:
        self._past[step] = [window.past() for window in self._windows]
        while len(self._past) > _MOST_CHECKPOINTS:
            del self._past[min(self._past)]

    def ended(self, step: int) -> None:
        """Look at a step that has ended.

        Args:
            step: its number.

        Raises:
            Hijacked: if there is an alarm, and the policy is to stop.
        """
        self._silent += 1
        # Of later steps some messages have come already, of none the last.
        whole = [at for at in self._crossed if at[0] <= step]
        found = [self._crossed.pop(at) for at in sorted(whole)]
        for window in self._windows:
            for crossed in found:
                rows = self._rng.permutation(self._size)[:MOST_RECORDS]
                window.add(crossed, rows)
            judged = window.ended(step, self.rule)
            if judged is not None:
                self._told_of(*judged)
        # Not begun anew by going back: so long nothing was looked at, whatever it was.
        if self._silent == self.rule.window * self.rule.alone:
            _log.warning(
                "%s: nothing of what came back in the last %d steps could be judged: it "
                "was zeros or not finite, or steps were taken back before %d were done.",
                self.party,
                self._silent,
                self.rule.window,
            )

    def _told_of(self, evidence: Evidence, spoiled: int) -> None:
        self.evidence.append(evidence)
        if not math.isnan(evidence.statistic):
            self._silent = 0
        if spoiled and evidence.value not in self._warned:
            self._warned.add(evidence.value)
            _log.warning(
                "%s: in %d of steps %d to %d what came for `%s` is not all finite; the "
                "guard leaves these numbers out. Of a peer that goes on training it is a "
                "sign by itself.",
                self.party,
                spoiled,
                evidence.first,
                evidence.last,
                evidence.value,
            )
        _log.debug("%s: %s", self.party, evidence)
        if not self._alarms.add(evidence):
            return
        many = self._alarms.said(evidence.value)
        # Others are told the first 200 letters, so the numbers come early.
        said = f"{many} of what came back look foul: {evidence}"
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
