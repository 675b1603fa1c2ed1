"""Callbacks as a loop calls them: looked at before a step is taken, and each told of the end.

What has none of the four methods would never be called, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import MappingProxyType

import jax
import numpy as np

from jsplit.core.checks import shown
from jsplit.fitting.history import History
from jsplit.fitting.records import Epoch

_METHODS = ("on_start", "on_step", "on_epoch", "on_end")


def as_callbacks(given: Sequence[object]) -> tuple[object, ...]:
    """The callbacks, each of which has something to call.

    Raises:
        ValueError: naming `callbacks`, if they are no list of callbacks.
    """
    if callable(given) or not isinstance(given, Sequence):
        raise ValueError(f"`callbacks` must be a list of them, got {shown(given)}.")
    for x in given:
        if isinstance(x, type):
            raise ValueError(
                f"`callbacks` holds the class {x.__name__}: give an object of it, "
                f"{x.__name__}(...)."
            )
        for name in _METHODS:
            if not callable(own := getattr(x, name, None)) and own is not None:
                raise ValueError(
                    f"`{name}` of a callback must be a function, got {shown(own)}."
                )
        if not callable(x) and not any(hasattr(x, name) for name in _METHODS):
            raise ValueError(
                f"`callbacks` must be functions, or objects with one of "
                f"{', '.join(_METHODS)}; got {shown(x)}."
            )
    return tuple(given)


def callbacks_of(callbacks: Sequence[object], name: str) -> list[Callable]:
    """What the callbacks have of one name; a function alone is told of epochs."""
    found = []
    for x in callbacks:
        is_function = callable(x) and not hasattr(x, "on_epoch")
        call = x if is_function and name == "on_epoch" else getattr(x, name, None)
        if call is not None:
            found.append(call)
    return found


def tell_epoch(callbacks: Sequence[object], told: Epoch) -> bool:
    """Tell each of an epoch; whether one of them ends the training.

    Args:
        callbacks: all of them, whatever the others say.
        told: what the epoch was like. Its row can be read alone: it is the history's.
    """
    told = told._replace(row=MappingProxyType({**told.row}))
    return any([_is_true(call(told)) for call in callbacks_of(callbacks, "on_epoch")])


def _is_true(given: object) -> bool:
    # A number of NumPy's compared with another is no `True` of Python's.
    if isinstance(given, np.ndarray | jax.Array) and given.ndim == 0:
        return given.dtype == np.bool_ and bool(given)
    return isinstance(given, bool | np.bool_) and bool(given)


def tell_end(callbacks: Sequence[object], history: History) -> None:
    """Tell each of the end, in the order in which they were opened.

    Whatever one raises, the others are told; then it is raised.
    """
    with ExitStack() as told:
        # A stack goes backwards.
        for call in reversed(callbacks_of(callbacks, "on_end")):
            told.callback(call, history)
