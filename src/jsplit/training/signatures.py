"""The docstrings of the functions that a `Trainer` holds, whoever makes it.

They are closures, so what `help(trainer.step)` shows has to be given to
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import jax

from jsplit.core.base import Info, PyTree, TrainState

# Whatever type goes in comes out, so that a type checker still sees the
# function's own.
_F = TypeVar("_F", bound=Callable)

Fields = Mapping[str, PyTree]
"""A batch: fields by name, [batch, ...] each."""


# Said once for both interpreters, which promise the same.
class InitFn(Protocol):
    """The form of `trainer.init`."""

    def __call__(self, key: jax.Array | int, batch: Fields) -> TrainState:
        """Make the first state of all parties.

        Args:
            key: a PRNG key, or an integer seed of one.
            batch: every field that the topology reads, [batch, ...]
                each. Only shapes and dtypes matter.

        Returns:
            A `TrainState` at step 0.
        """
        ...


class StepFn(Protocol):
    """The form of `trainer.step`."""

    def __call__(
        self, state: TrainState, batch: Fields, weight: Any = None
    ) -> tuple[TrainState, Info]:
        """Train all parties on one batch.

        Args:
            state: of all parties. It is used up, since its buffers are
                donated.
            batch: every field that the topology reads, [batch, ...]
                each.
            weight: how much each example counts, [batch]; by default
                all alike.

        Returns:
            The new state, and the losses before the update.
        """
        ...


class EvaluateFn(Protocol):
    """The form of `trainer.evaluate`."""

    def __call__(self, state: TrainState, batch: Fields, weight: Any = None) -> Info:
        """Compute the losses on one batch in inference mode; changes nothing.

        Args:
            state: of all parties; it is not used up.
            batch: every field that the topology reads, [batch, ...]
                each.
            weight: how much each example counts, [batch]; by default
                all alike.

        Returns:
            The losses of this batch.
        """
        ...


class PredictFn(Protocol):
    """The form of `trainer.predict`."""

    def __call__(self, state: TrainState, fields: Fields) -> Mapping[str, PyTree]:
        """Compute the outputs of the topology in inference mode; changes nothing.

        Args:
            state: of all parties; it is not used up.
            fields: those that the nodes read, [batch, ...] each; labels
                are not needed.

        Returns:
            By node, the output of each node that no other node reads.
        """
        ...


def documented_as(form: type) -> Callable[[_F], _F]:
    """Give a function the docstring of a Protocol's `__call__`."""

    def give(function: _F) -> _F:
        # The text stands once, and neither interpreter wraps its hot
        # functions for it.
        function.__doc__ = form.__call__.__doc__
        return function

    return give
