"""Integers that only pick an entry, as labels do in a cross-entropy, must be in range.

JAX wraps a negative one and gives NaN, or the last entry, for one too large, so a wrong
label would be another label without a word. One whose entry changes nothing, since the
loss masks it, may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        x = leaves[place]
        # A narrow integer may be unable to hold how many entries there are.
        last = min(size - 1, int(jnp.iinfo(x.dtype).max))
        outside = (x < 0) | (x > last)
        # Most losses mask nothing, and then no gradient must be computed to know that
        # every entry counts.
        if _all_count(flat.equations, var):
            matters = outside.any()
        else:
            matters = _matters(run, leaves, of_fields, place, last, outside)
        found = found + matters.astype(found.dtype)
    return found


# Through these, what is picked changes the result in every one of its numbers.
_PASSING = _FORMS | {"add", "neg", "reduce_sum", "sub"}
_SCALING = {"div", "mul"}
_TAKING = {"dynamic_slice", "gather", "slice"}


def _all_count(equations: Sequence[Equation], label: Var) -> bool:
    """Whether all that a label picks is summed up, and nothing is masked or left out."""
    indices, picked = {label}, set[Var]()
    for e in equations:
        name = e.eqn.primitive.name
        if picked & {*e.reads}:
            sizes = [
                shape_of(x).size
                for x in e.eqn.invars
                if not (isinstance(x, Var) and x in picked)
            ]
            scaled = name in _SCALING and all(size == 1 for size in sizes)
            # `x[..., 0]` of one column leaves nothing out.
            sizes = [shape_of(x).size for x in (e.eqn.invars[0], *e.writes)]
            whole = name in _TAKING and len({*sizes}) == 1
            if not (name in _PASSING or scaled or whole):
                return False
            picked.update(e.writes)
        elif indices & {*e.reads}:
            (picked if name == "gather" else indices).update(e.writes)
    return bool(picked)


def _matters(
    run: Callable[..., PyTree],
    leaves: Sequence[jax.Array],
    of_fields: Sequence[bool],
    place: int,
    last: int,
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
        found = jax.vmap(with_entry)(jnp.array([0, last], x.dtype))
        # NaN differs from itself: a loss that is not finite anyway is named as such.
        unlike = [(both[0] != both[1]).any() for both in jax.tree.leaves(found)]
        return jnp.stack(unlike).any()

    # Only where there is one: else nothing is computed.
    nothing = jnp.zeros((), bool)
    return jax.lax.cond(outside.any(), differs, lambda _: nothing, None)


def _entries(equations: Sequence[Equation], var: Var) -> int | None:
    """Of how many entries a variable picks one; nothing if it is used in another way."""
    same, size = {var}, None
    wraps, column = _wraps(equations), dict[Var, int]()
    for e in equations:
        read = same & {*e.reads}
        if not read:
            continue
        name = e.eqn.primitive.name
        if name == "gather" and e.eqn.invars[0] not in same:
            size = _smaller(size, _picked(e, column))
        elif name in _FORMS:
            same.update(e.writes)
            for v in e.writes:
                column[v] = _column(e, same, column)
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


def _column(e: Equation, same: set[Var], column: Mapping[Var, int]) -> int:
    """Which of the indices of a gather the label is, where several are put together."""
    place = max((column.get(v, 0) for v in e.reads if v in same), default=0)
    if e.eqn.primitive.name != "concatenate":
        return place
    # As in `x[arange(n), label]`; where it stands twice, the first place.
    for operand in e.eqn.invars:
        if isinstance(operand, Var) and operand in same:
            break
        place += shape_of(operand).shape[-1]
    return place


def _picked(e: Equation, column: Mapping[Var, int]) -> int | None:
    """Of how many entries a gather picks one, by the axis that the label is the index of."""
    # One that clips was asked to.
    if "CLIP" in str(e.eqn.params["mode"]):
        return None
    axes = e.eqn.params["dimension_numbers"].start_index_map
    sizes = [shape_of(e.eqn.invars[0]).shape[axis] for axis in axes]
    indices = e.eqn.invars[1]
    place = column.get(indices, 0) if isinstance(indices, Var) else 0
    return sizes[place] if place < len(sizes) else None


def _smaller(size: int | None, other: int | None) -> int | None:
    if size is None or other is None:
        return other if size is None else size
    return min(size, other)
