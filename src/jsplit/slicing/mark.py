"""Marking, in a model's code, the values at which it may be cut."""

from __future__ import annotations

import jax

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.jaxprs.tags import CUT, tag_arrays
from jsplit.segments.interception import in_compute_dtype


def cut(value: PyTree, name: str) -> PyTree:
    """Mark a value as (part of) the cut `name`.

    For use in a model's code; where the model is not split it is the
    identity. All values marked by one name cross together: a cut of one
    array is that array; a cut of several is a dictionary, with the keys of
    the marked pytree or, for values marked one by one, "0", "1", and so on
    in their order.

    Args:
        value: an array or a pytree of arrays, each [batch, ...].
        name: a Python identifier, or several joined by dots.

    Returns:
        The same value.

    Raises:
        ValueError: if `name` is no such name, or `value` holds no array.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> def model(x):
        ...     return jsplit.cut(jnp.tanh(x), "h").sum(-1)
        >>> model(jnp.ones((4, 3))).shape
        (4,)
        >>> list(jsplit.split(model, jnp.ones((4, 3))))
        ['h', 'output']
    """
    # `#` and `/` are for the names of calls and of operations, as `split`
    # takes them.
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            "`name` of a cut must be an identifier, or several joined by dots, got "
            f"{shown(name)}."
        )
    if not jax.tree.leaves(value):
        raise ValueError(f"`value` of the cut `{name}` holds no array.")

    # Cast before it is named: in mixed precision what crosses must be
    # narrow, whatever computed it.
    return tag_arrays(in_compute_dtype(value), CUT + name)
