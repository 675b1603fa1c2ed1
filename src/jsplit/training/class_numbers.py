"""Integers that only pick an entry, as labels do in a cross-entropy, must be in range.

JAX wraps a negative one and gives NaN, or the last entry, for one too large, so a wrong
label would be another label without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, Var

from jsplit.core.base import PyTree
from jsplit.jaxprs.flat import Equation, flatten

# What only gives integers another form, or is part of how JAX wraps negative ones.
_FORMS = {
    "add",
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "expand_dims",
    "lt",
    "reshape",
    "select_n",
    "squeeze",
    "transpose",
}


def out_of_range(
    fn: Callable[..., PyTree], inputs: Sequence[PyTree], fields: Sequence[bool]
) -> jax.Array:
    """How many class numbers are out of range, float32 [].

    Args:
        fn: of a loss.
        inputs: what it reads.
        fields: which of these are fields of the batch; a value that a segment made is
            no label.
    """
    found = jnp.zeros((), jnp.float32)
    leaves, structure = jax.tree.flatten(list(inputs))
    owners = [
        jax.tree.map(lambda _, f=f: f, x) for x, f in zip(inputs, fields, strict=True)
    ]
    is_field = jax.tree.leaves(owners)
    whole = [f and _is_integer(x) for f, x in zip(is_field, leaves, strict=True)]
    if not any(whole):
        return found

    closed = jax.make_jaxpr(lambda *xs: fn(*structure.unflatten(xs)))(*leaves)
    flat = flatten(cast(ClosedJaxpr, closed))
    for x, var, asked in zip(leaves, flat.invars, whole, strict=True):
        size = _entries(flat.equations, var) if asked else None
        if size is not None:
            found = found + ((x < 0) | (x >= size)).sum().astype(jnp.float32)
    return found


def _is_integer(x: jax.Array) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.integer))


def _entries(equations: Sequence[Equation], var: Var) -> int | None:
    """Of how many entries a variable picks one; nothing if it is used in another way."""
    same, size, picks = {var}, None, False
    for e in equations:
        if not same & {*e.reads}:
            continue
        name = e.eqn.primitive.name
        if name == "gather":
            # As the operand it would be data, and no place in any.
            if e.eqn.invars[0] in same:
                return None
            picks = True
        elif name in _FORMS:
            if name == "add":
                size = _smaller(size, e.eqn.invars)
            same.update(e.writes)
        else:
            # A loss that looks at a label by other means, as to mask some, knows more
            # about it than is known here.
            return None
    return size if picks else None


def _smaller(size: int | None, added: Sequence[Var | Literal]) -> int | None:
    """The number of entries: what JAX adds to a negative index to wrap it."""
    for v in added:
        if isinstance(v, Literal):
            size = int(v.val) if size is None else min(size, int(v.val))
    return size
