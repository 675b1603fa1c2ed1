"""What goes in and out of a loop over epochs: callbacks, what these are told, the result.

A piece is what one step reads: a batch and the weights of its examples, or a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from jax.typing import ArrayLike

from jsplit.core.base import Info, PyTree, TrainState
from jsplit.core.federation import Federation
from jsplit.fitting.history import History, Row
from jsplit.populations.round import Round
from jsplit.rounds.state import RoundInfo

State = TrainState | Federation
"""What a trainer or an algorithm over rounds trains."""

Told = Info | RoundInfo
"""What a step or an evaluation has told."""


class Piece(NamedTuple):
    """What one step reads.

    Attributes:
        batch: fields by name, [batch, ...]; of an algorithm a round.
        weight: how much each example counts; `None`: all alike.
    """

    batch: Mapping[str, PyTree] | Round
    weight: ArrayLike | None = None


class Epoch(NamedTuple):
    """What a callback is told at the end of an epoch.

    Attributes:
        number: of the epoch, from 0.
        row: what was measured in it, by column.
        state: after it.
        best: whether it is the best so far.
        validation: what `evaluate` has told of the validation data; with it, of an
            algorithm, each loss by client. `None` without such data.
        history: of all epochs so far, this one too.

    Example:
        >>> from jsplit.fitting import Epoch
        >>> Epoch._fields
        ('number', 'row', 'state', 'best', 'validation', 'history')
    """

    number: int
    row: Row
    state: State
    best: bool
    validation: Told | None
    history: History


class Callback(Protocol):
    """What a loop calls on its way. Any of the four may be left out; so may the class: a function
    is one that has `on_epoch` alone.

    Example:
        >>> class Printed:
        ...     def on_epoch(self, epoch):
        ...         print(epoch.number, epoch.row["loss"])
        ...         return epoch.row["loss"] < 0.1  # that will do
    """

    def on_start(self, history: History) -> None:
        """Called before the first step.

        Args:
            history: of the epochs that are done already, where a training goes on.

        Example:
            >>> class Began:
            ...     def on_start(self, history):
            ...         print("from epoch", len(history))
        """
        ...

    def on_step(self, step: int, info: Told) -> None:
        """Called after each step.

        Args:
            step: its number in the whole training, from 1.
            info: what it has told, as arrays on the device; to read a number waits for
                the step.

        Example:
            >>> class Slow:
            ...     def on_step(self, step, info):
            ...         if step % 100 == 0:
            ...             print(step, float(info.loss))
        """
        ...

    def on_epoch(self, epoch: Epoch) -> bool | None:
        """Called after each epoch, and again if the process dies before it is saved.

        Args:
            epoch: what it was like.

        Returns:
            `True` to end the training.

        Example:
            >>> class Enough:
            ...     def on_epoch(self, epoch):
            ...         return epoch.row["val_loss"] < 0.1
        """
        ...

    def on_end(self, history: History) -> None:
        """Called at the end, also when an error ends the training.

        Args:
            history: of all epochs.

        Example:
            >>> class Ended:
            ...     def on_end(self, history):
            ...         print(history)
        """
        ...


class Fitted(NamedTuple):
    """What `jsplit.fit` gives.

    Attributes:
        state: after the last step.
        best: after the best epoch; `state` itself where no epoch was done.
        history: what was measured in each epoch.

    Example:
        >>> from jsplit.fitting import Fitted
        >>> Fitted._fields
        ('state', 'best', 'history')
    """

    state: State
    best: State
    history: History
