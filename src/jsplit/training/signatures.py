"""The docstrings of the functions that a `Trainer` holds, whoever makes it.

They are closures, so what `help(trainer.step)` shows has to be given to
them: it is that of the Protocol whose form they have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

# Whatever type goes in comes out, so that a type checker still sees the
# function's own.
_F = TypeVar("_F", bound=Callable)


def documented_as(form: type) -> Callable[[_F], _F]:
    """Give a function the docstring of a Protocol's `__call__`."""

    def give(function: _F) -> _F:
        # The text stands once, and neither interpreter wraps its hot
        # functions for it.
        function.__doc__ = form.__call__.__doc__
        return function

    return give
