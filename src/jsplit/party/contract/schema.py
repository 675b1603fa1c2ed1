"""Shapes and links in words, as an agreement holds them.

A value is `"float32[batch,8]"`, or a dictionary or list of such; a link is `"quantize(8)"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsplit import compress
from jsplit.core.base import Link, PyTree
from jsplit.core.checks import first_line
from jsplit.core.links import chain

_MAKERS = {"quantize": compress.quantize, "cast": compress.cast}


def write(small: Any, large: Any, batch: int, name: str) -> Any:
    """The shapes of a value in words, from those at one batch size and at twice that; `read` is the inverse.

    Raises:
        ValueError: if the value is made of other things than dictionaries, lists, tuples and arrays.
    """
    if small is None:
        return None
    kind: Any = type(small)
    if kind is dict and all(isinstance(k, str) for k in small):
        return {k: write(small[k], large[k], batch, name) for k in sorted(small)}
    if kind in (list, tuple):
        return [
            kind.__name__,
            *(write(a, b, batch, name) for a, b in zip(small, large, strict=True)),
        ]
    if not hasattr(small, "dtype"):
        raise ValueError(
            f"`{name}` crosses as a {type(small).__name__}; across a network go arrays in dictionaries and lists."
        )
    axes = []
    for n, twice in zip(small.shape, large.shape, strict=True):
        if n == twice:
            axes.append(str(n))
        elif twice == 2 * n and n % batch == 0:
            axes.append("batch" if n == batch else f"{n // batch}*batch")
        else:
            raise ValueError(
                f"`{name}` has an axis of {n} at a batch of {batch} and of {twice} at twice that."
            )
    return f"{small.dtype}[{','.join(axes)}]"


def read(words: Any, batch: int) -> PyTree:
    """The shapes that `write` put in words, at a batch size."""
    if words is None:
        return None
    if isinstance(words, dict):
        return {k: read(v, batch) for k, v in words.items()}
    if isinstance(words, list) and words[:1] in (["list"], ["tuple"]):
        parts = [read(v, batch) for v in words[1:]]
        return parts if words[0] == "list" else tuple(parts)
    found = re.fullmatch(
        r"(\w+)\[((?:(?:\d+\*)?batch|\d+)?(?:,(?:(?:\d+\*)?batch|\d+))*)\]", str(words)
    )
    if not found:
        raise ValueError(f"{words!r} is no shape; it is written as 'float32[batch,8]'.")
    try:
        dtype = jnp.dtype(found[1])
    except TypeError:
        raise ValueError(
            f"{words!r} has the dtype {found[1]}, which there is not."
        ) from None

    def axis(text: str) -> int:
        times, _, of = text.rpartition("*")
        return int(times or 1) * batch if of == "batch" else int(text)

    return jax.ShapeDtypeStruct(tuple(axis(t) for t in found[2].split(",") if t), dtype)


def link(spec: str | None, given: Mapping[str, Link] | None = None) -> Link | None:
    """The link that is called so: `"quantize(4)"`, `"cast(bfloat16) | quantize(8)"`, or one of `given`.

    Raises:
        ValueError: naming the link that there is not.
    """
    if spec is None or spec in (given or {}):
        return None if spec is None else (given or {})[spec]
    parts = []
    for text in spec.split("|"):
        found = re.fullmatch(r"\s*(\w+)\((\w*)\)\s*", text)
        if not found or found[1] not in _MAKERS:
            raise ValueError(
                f"`links` has `{text.strip()}`; there are quantize(bits), cast(dtype), and those you give by name."
            )
        argument = found[2]
        try:
            parts.append(
                _MAKERS[found[1]](
                    *[int(argument) if argument.isdecimal() else argument]
                    if argument
                    else []
                )
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`links` has `{text.strip()}`: {first_line(error)}"
            ) from None
    return chain(*parts)


def check_link(spec: str) -> None:
    """Refuse what can only be a slip: a link of ours with arguments that it does not take, or a name close to one of ours."""
    for text in map(str.strip, spec.split("|")):
        name = text.partition("(")[0]
        if name in _MAKERS:
            link(text)
        elif close := get_close_matches(name, _MAKERS, 1):
            raise ValueError(f"`links` has `{text}`; is `{close[0]}` meant?")


def encoded(way: Link | None, like: PyTree) -> PyTree:
    """Shapes of the payload in which a value of the shapes `like` crosses."""
    if way is None:
        return like
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda x, k: way.encode(way.init(like), x, k)[0], like, key)


def arrays(payload: PyTree) -> tuple[tuple[np.dtype, tuple[int, ...]], ...]:
    """Dtypes and shapes of the arrays that a frame carries, in their order."""
    return tuple((np.dtype(x.dtype), tuple(x.shape)) for x in jax.tree.leaves(payload))
