"""Arguments that users give, checked where they are given.

An error names the argument in backticks, says what was expected, and what
came. A check that two rooms need is written here.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from operator import index
from typing import SupportsIndex, cast

_FEW = 20
"""So many names an error may list."""


def topological_order(reads: Mapping[str, Sequence[str]], what: str) -> list[str]:
    """Sort names so that each comes after those that it reads.

    Args:
        reads: by name, the names that it reads; those that are no key are
            given.
        what: what the names are, for the error: "the nodes".

    Returns:
        The names, in the order given as far as that is possible.

    Raises:
        ValueError: if some read each other's values in a circle, naming
            them.
    """
    order: list[str] = []
    while left := [n for n in reads if n not in order]:
        ready = [n for n in left if not any(i in left for i in reads[n])]
        if not ready:
            circle = " ".join([what, ", ".join(f"`{n}`" for n in _circle(left, reads))])
            raise ValueError(f"{circle} read each other's values in a circle.")

        # One at a time: taking all that are ready would put a later name
        # before an earlier one that becomes ready by the first of them, and
        # lose the user's order.
        order.append(ready[0])
    return order


def _circle(left: Sequence[str], reads: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of `left` that lie on a circle, without what only hangs on it."""
    found = list(left)
    # All of `left` wait for a circle, but what nobody else waits for is not
    # on one: it would only lengthen the list of culprits.
    while loose := [n for n in found if not any(n in reads[m] for m in found)]:
        found = [n for n in found if n not in loose]
    return found


def first_line(error: Exception) -> str:
    """Kind and first line of an error that somebody else's code raised."""
    # JAX's errors run over pages, and an error of ours must fit into a line
    # of a log.
    message = str(error).strip().partition("\n")[0]
    kind = type(error).__name__
    return f"{kind}: {message}" if message else kind


def shown(value: object) -> str:
    """What came in the place of an argument, for an error: never the inside of an array.

    Args:
        value: anything, also a field that was given in a wrong place.

    Returns:
        A number or a name as Python writes it, and names in a list; of
        all else its kind and size.
    """
    kind = type(value).__name__
    if value is None or type(value) in (bool, int, float, str, complex):
        return repr(value)
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"an array of shape {tuple(shape)}" if shape else f"a {kind}"
    if type(value) in (list, tuple):
        entries = cast("Sequence[object]", value)
        # A list of numbers may be a field, and one of names is an argument.
        if all(isinstance(x, str) for x in entries) and len(entries) < _FEW:
            return repr(value)
    if not hasattr(value, "__len__"):
        return f"a {kind}"
    return f"a {kind} of {len(cast('Sized', value))}"


# What stands between a user's line and a warning, besides jsplit: a model is
# traced by JAX and run by Flax, through contexts and wrapped functions.
_BETWEEN = {"jsplit", "jax", "flax", "contextlib", "functools"}


def warn_user(message: str) -> None:
    """Warn, at the line of the user's code from which jsplit was called."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_back is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in _BETWEEN:
            break
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def as_positive_int(name: str, value: object) -> int:
    """Check that an argument is an integer from 1 on.

    Args:
        name: of the argument.
        value: an integer of any kind, also of NumPy or JAX.

    Returns:
        The same as a Python integer.

    Raises:
        ValueError: if it is anything else, a bool or a float too.
    """
    found = 0
    # True is an integer to Python. `index` and not `int`, which would take
    # 2.5 for 2; an array of several numbers refuses it.
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with suppress(TypeError):
            found = index(value)

    if found < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {shown(value)}.")
    return found


def names_of(
    what: str, names: object, *, owner: str = "", twice: bool = False
) -> list[str]:
    """Check that an argument is a list of names.

    Args:
        what: the argument.
        names: strings in any iterable, or one alone.
        owner: whose argument it is, for the error: "node `top`".
        twice: whether a name may come more than once.

    Returns:
        The names, as a list.

    Raises:
        ValueError: if something in it is no string, or comes twice.
    """
    given: list[object] = [names]
    # A string is an iterable of its letters, and is never meant so.
    if isinstance(names, Iterable) and not isinstance(names, str):
        given = list(cast("Iterable[object]", names))

    place = f"{owner}: `{what}`" if owner else f"`{what}`"
    found: list[str] = []
    for name in given:
        if not isinstance(name, str):
            # Where none of several is a name, something else was given: a field, say.
            some = len(given) == 1 or any(isinstance(x, str) for x in given)
            got = shown(name if some else cast("object", names))
            raise ValueError(f"{place} must be names, got {got}.")
        if name in found and not twice:
            raise ValueError(f"{place} names `{name}` twice.")
        found.append(name)
    return found


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse an argument that is none of its choices.

    Args:
        name: of the argument.
        value: what was given.
        choices: what may be given.

    Raises:
        ValueError: naming the choices.
    """
    # An array compares itself with a name one by one.
    if not isinstance(value, Hashable) or value not in choices:
        known = ", ".join(map(str, choices))
        raise ValueError(f"`{name}` must be one of {known}, got {shown(value)}.")
