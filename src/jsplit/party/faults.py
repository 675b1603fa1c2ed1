"""What parties add up in a step, held to what it can be; and steps that are left out by it.

A sum goes through an update without a trace of who gave what: so each part is looked at
where it comes in, and its sender is named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from jax.typing import ArrayLike

from jsplit.core.finite import Finite
from jsplit.party.bounds import OverBound
from jsplit.training.executor import StoreLike
from jsplit.training.nonfinite import FAULTS
from jsplit.training.update import SQUARED_NORMS
from jsplit.training.verdicts import Verdict

_log = logging.getLogger("jsplit.party")


class OwnVerdict(Verdict):
    """A verdict that remembers the flags of the last step.

    Attributes:
        last: those flags; `None` before a step, or if anything is allowed.
    """

    last: Finite | None = None

    def finite(self, store: StoreLike) -> Finite | None:
        """The flags of a step, with the names of what they are about."""
        self.last = super().finite(store)
        return self.last


class Faults:
    """What others send to be added up, and the steps that are left out by it.

    Args:
        party: this one.
        finite: whether a value that is not finite ends the run.
    """

    def __init__(self, party: str, finite: bool):
        self.party, self.finite, self.count = party, finite, 0
        self._by_step: dict[int, list[str]] = {}
        self._told: set[tuple[str, str]] = set()

    def look(
        self,
        what: str,
        step: int,
        found: Sequence[ArrayLike],
        sender: str,
        sent: Callable[[], str],
    ) -> None:
        """Look at a scalar that has come.

        Args:
            what: its name.
            step: of which it is.
            found: its arrays.
            sender: what somebody sent, in words: a part, or the sum of all.
            sent: gives who sent what, in words.

        Raises:
            OverBound: naming the sender, if it is what no sum of the kind can be.
        """
        if what == FAULTS:
            self._count(step, found, sender, sent)
        elif what == SQUARED_NORMS:
            self._squares(found, sender, sent)
        else:
            self._other(found, sender, sent)

    def _count(
        self,
        step: int,
        found: Sequence[ArrayLike],
        sender: str,
        sent: Callable[[], str],
    ) -> None:
        arrays = [np.asarray(x) for x in found]
        # A count of -1 would hide one of another party.
        if not all((np.isfinite(x) & (x >= 0)).all() for x in arrays):
            raise OverBound(f"{sent()}, which must be counts, finite and not below 0.")
        if any(x.any() for x in arrays):
            self._by_step.setdefault(step, []).append(f"by {sender}")

    def _squares(
        self, found: Sequence[ArrayLike], sender: str, sent: Callable[[], str]
    ) -> None:
        arrays = [np.asarray(x) for x in found]
        # NaN passes: it is met in the update, as NaN in any other value is.
        if any((x < 0).any() for x in arrays):
            raise OverBound(f"{sent()}, which must not be below 0.")
        if any(np.isinf(x).any() for x in arrays):
            # Of honest gradients of 1e20 too. But nothing is learned by such a step.
            so = "infinite: a step that is clipped by it changes nothing"
            self._warn(sender, sent, so)

    def _other(
        self, found: Sequence[ArrayLike], sender: str, sent: Callable[[], str]
    ) -> None:
        if all(np.isfinite(np.asarray(x)).all() for x in found):
            return
        # The loss is for an optimizer that slows down by it, for good: no parameter shows
        # that, so nothing else that is looked at would.
        if self.finite:
            raise OverBound(f"{sent()}, which is not finite.")
        self._warn(
            sender, sent, "not finite: an optimizer may slow down by it for good"
        )

    def _warn(self, sender: str, sent: Callable[[], str], so: str) -> None:
        if (sender, so) not in self._told:
            self._told.add((sender, so))
            _log.warning(
                "%s: %s, and it is %s. It is told once.", self.party, sent(), so
            )

    def settle(self, step: int, own: Finite | None) -> None:
        """Log that a step was left out, if it was.

        Args:
            step: that has just ended, where such steps are left out.
            own: the flags of this party.
        """
        words = [*dict.fromkeys(self._by_step.pop(step, ()))]
        own_words = own.nonfinite() if own is not None else []
        if not words and not own_words:
            return
        self.count += 1
        # Every one of the first, then ever more seldom: a run may leave out each step.
        if self.count & (self.count - 1):
            return
        _log.warning(
            "%s: step %d was left out, %d so far, for what is not finite or out of "
            "range: %s",
            self.party,
            step + 1,
            self.count,
            "; ".join([*own_words, *words]),
        )
