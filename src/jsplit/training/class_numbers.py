"""Integers that only pick an entry, as labels do in a cross-entropy, must be in range.

JAX wraps a negative one and gives NaN, or the last entry, for one too large, so a wrong
label would be another label without a word. One whose entry changes nothing, since the
loss masks it, may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var

from jsplit.core.base import PyTree
from jsplit.core.trees import inexact_part
from jsplit.jaxprs.flat import Equation, flatten, shape_of

# What only gives integers another form.
_FORMS = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "expand_dims",
    "reshape",
    "squeeze",
    "transpose",
}


def out_of_range(
    fn: Callable[..., PyTree], inputs: Sequence[PyTree], fields: Sequence[bool]
) -> jax.Array:
    """In how many fields class numbers are out of range that matter, float32 [].

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
    of_fields = jax.tree.leaves(owners)
    asked = [
        f and bool(jnp.issubdtype(jnp.result_type(x), jnp.integer))
        for f, x in zip(of_fields, leaves, strict=True)
    ]
    if not any(asked):
        return found

    def run(*xs: jax.Array) -> PyTree:
        return fn(*structure.unflatten(xs))

    flat = flatten(cast(ClosedJaxpr, jax.make_jaxpr(run)(*leaves)))
    for place, var in enumerate(flat.invars):
        size = _entries(flat.equations, var) if asked[place] else None
        if size is None:
            continue
        outside = (leaves[place] < 0) | (leaves[place] >= size)
        if _nothing_masks(leaves, of_fields):
            matters = outside.any()
        else:
            matters = _matters(run, leaves, of_fields, place, size, outside)
        found = found + matters.astype(found.dtype)
    return found


def _nothing_masks(leaves: Sequence[jax.Array], of_fields: Sequence[bool]) -> bool:
    """Whether a loss reads a label and one floating value, and nothing to mask by."""
    # Most do, and then no gradient must be computed to know that every entry counts.
    values = [x for f, x in zip(of_fields, leaves, strict=True) if not f]
    floating = (jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in values)
    return len(leaves) == 2 and len(values) == 1 and all(floating)


def _matters(
    run: Callable[..., PyTree],
    leaves: Sequence[jax.Array],
    of_fields: Sequence[bool],
    place: int,
    size: int,
    outside: jax.Array,
) -> jax.Array:
    """Whether class numbers that are `outside` change the loss or its gradients, bool []."""
    x = leaves[place]

    def with_entry(entry: jax.Array) -> PyTree:
        there = list(leaves)
        there[place] = jnp.where(outside, entry, x)

        def value(parts: list[PyTree]) -> tuple[jax.Array, jax.Array]:
            given = [t if p is None else p for t, p in zip(there, parts, strict=True)]
            result = jnp.asarray(run(*given))
            return result.astype(jnp.float32).sum(), result

        # The gradients too: where all entries are alike, as at the start, the loss is.
        # Those of what segments gave, since a field is never moved.
        parts = [
            None if f else inexact_part(t)
            for f, t in zip(of_fields, there, strict=True)
        ]
        return jax.grad(value, has_aux=True)(parts)

    def differs(_: None) -> jax.Array:
        # One trace for both entries.
        found = jax.vmap(with_entry)(jnp.array([0, size - 1], x.dtype))
        # NaN differs from itself: a loss that is not finite anyway is named as such.
        unlike = [(both[0] != both[1]).any() for both in jax.tree.leaves(found)]
        return jnp.stack(unlike).any()

    # Only where there is one: else nothing is computed.
    nothing = jnp.zeros((), bool)
    return jax.lax.cond(outside.any(), differs, lambda _: nothing, None)


def _entries(equations: Sequence[Equation], var: Var) -> int | None:
    """Of how many entries a variable picks one; nothing if it is used in another way."""
    same, size = {var}, None
    wraps = _wraps(equations)
    for e in equations:
        read = same & {*e.reads}
        if not read:
            continue
        name = e.eqn.primitive.name
        if name == "gather" and e.eqn.invars[0] not in same:
            size = _smaller(size, _picked(e))
        elif name in _FORMS:
            same.update(e.writes)
        elif id(e.eqn) in wraps and wraps[id(e.eqn)] in same:
            # As JAX wraps a negative index; what only leads there is passed over.
            if name == "select_n":
                same.update(e.writes)
        else:
            # A loss that looks at a label by other means, as to mask some, knows more
            # about it than is known here.
            return None
    return size


def _wraps(equations: Sequence[Equation]) -> dict[int, Var]:
    """The equations by which JAX wraps negative indices, with the index of each."""
    made = {v: e for e in equations for v in e.writes}
    found: dict[int, Var] = {}
    for e in equations:
        if e.eqn.primitive.name != "select_n" or len(e.eqn.invars) != 3:
            continue
        below, plain, added = e.eqn.invars
        if not isinstance(plain, Var):
            continue
        parts = [made.get(v) for v in (below, added) if isinstance(v, Var)]
        if len(parts) == 2 and all(
            p is not None and p.eqn.primitive.name == kind and p.eqn.invars[0] is plain
            for p, kind in zip(parts, ("lt", "add"), strict=True)
        ):
            for one in (e, *parts):
                assert one is not None
                found[id(one.eqn)] = plain
    return found


def _picked(e: Equation) -> int | None:
    """Of how many entries a gather picks one, if it picks along one axis."""
    # One that clips was asked to.
    if "CLIP" in str(e.eqn.params["mode"]):
        return None
    axes = e.eqn.params["dimension_numbers"].start_index_map
    sizes = [shape_of(e.eqn.invars[0]).shape[axis] for axis in axes]
    # Of several axes the others are those of the examples, as in `x[arange(n), label]`.
    return sizes[-1] if sizes else None


def _smaller(size: int | None, other: int | None) -> int | None:
    if size is None or other is None:
        return other if size is None else size
    return min(size, other)
