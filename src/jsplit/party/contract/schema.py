"""Shapes in words, as an agreement holds them.

A value is `"float32[batch,8]"`, or a dictionary or list of such.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core import links
from jsplit.core.base import Link, PyTree

Words: TypeAlias = "str | None | list[Words] | dict[str, Words]"
"""Shapes of a value in words, as JSON has them."""

_AXIS = r"(?:(?:\d+\*)?batch|\d+)"
_ARRAY = re.compile(rf"(\w+)\[({_AXIS}?(?:,{_AXIS})*)\]")


def write(small: PyTree, large: PyTree, batch: int, name: str) -> Words:
    """The shapes of a value in words; `read` is the inverse.

    Args:
        small: shapes and dtypes of the value at one batch size.
        large: the same at twice that batch size. An axis that doubles is one of the
            batch, whatever its length happens to be.
        batch: the smaller batch size.
        name: of the value, for errors.

    Returns:
        The words.

    Raises:
        ValueError: if the value is made of other things than dictionaries, lists,
            tuples and arrays, or an axis does not grow with the batch as it must.
    """
    if small is None:
        return None
    # The exact type: a named tuple or another subclass could not be made again by
    # `read`, and would arrive as something else than was sent.
    kind = type(small)
    if kind is dict and all(isinstance(k, str) for k in small):
        return {k: write(small[k], large[k], batch, name) for k in sorted(small)}
    if kind in (list, tuple):
        pairs = zip(small, large, strict=True)
        # JSON has one kind of list, so the first entry says which of Python's it was.
        return [kind.__name__, *(write(a, b, batch, name) for a, b in pairs)]
    if not hasattr(small, "dtype"):
        raise ValueError(
            f"`{name}` crosses as a {type(small).__name__}; across a network go arrays "
            "in dictionaries and lists."
        )
    axes = zip(small.shape, large.shape, strict=True)
    words = [_axis_in_words(n, twice, batch, name) for n, twice in axes]
    return f"{small.dtype}[{','.join(words)}]"


def _axis_in_words(n: int, twice: int, batch: int, name: str) -> str:
    if n == twice:
        return str(n)
    if twice == 2 * n and n % batch == 0:
        # As where a segment joins the batch with another axis.
        return "batch" if n == batch else f"{n // batch}*batch"
    raise ValueError(
        f"`{name}` has an axis of {n} at a batch of {batch} and of {twice} "
        "at twice that."
    )


def read(words: Words, batch: int) -> PyTree:
    """The shapes that `write` put in words, at a batch size.

    Args:
        words: of a value.
        batch: how many examples.

    Returns:
        A pytree of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: if the words say no shape.
    """
    if words is None:
        return None
    if isinstance(words, dict):
        return {k: read(v, batch) for k, v in words.items()}
    if isinstance(words, list) and words[:1] in (["list"], ["tuple"]):
        parts = [read(v, batch) for v in words[1:]]
        return parts if words[0] == "list" else tuple(parts)
    found = _ARRAY.fullmatch(str(words))
    if not found:
        raise ValueError(f"{words!r} is no shape; it is written as 'float32[batch,8]'.")
    try:
        dtype = jnp.dtype(found[1])
    except TypeError:
        raise ValueError(
            f"{words!r} has the dtype {found[1]}, which there is not."
        ) from None
    # A scalar has an empty text between its brackets, which splits into one empty axis.
    axes = [text for text in found[2].split(",") if text]
    return jax.ShapeDtypeStruct(tuple(_length(text, batch) for text in axes), dtype)


def _length(text: str, batch: int) -> int:
    times, _, unit = text.rpartition("*")
    return int(times or 1) * batch if unit == "batch" else int(text)


def encoded(way: Link | None, like: PyTree) -> PyTree:
    """Shapes of the payload in which a value crosses. Computes nothing.

    Args:
        way: the link, if there is one.
        like: shapes and dtypes of the value.

    Returns:
        A pytree of `jax.ShapeDtypeStruct`.
    """
    if way is None:
        return like
    return links.encoded(way, like)[0]


def arrays(payload: PyTree) -> tuple[tuple[np.dtype, tuple[int, ...]], ...]:
    """Dtypes and shapes of the arrays that a frame carries, in their order."""
    return tuple((np.dtype(x.dtype), tuple(x.shape)) for x in jax.tree.leaves(payload))
