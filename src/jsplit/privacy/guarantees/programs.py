"""The programs of segments and losses, traced at a size of the batch and followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.trees import combine, inexact_part
from jsplit.privacy.guarantees.apart import Mixed, follow
from jsplit.privacy.guarantees.axis_rules import Rows
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node

Values = dict[str, PyTree]
_Program = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
"""Of what is of no record, and what is: rows, and what must depend on no record."""


def of_size(value: PyTree, records: int) -> PyTree:
    """The shapes of a field, [batch, ...], for another number of records."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((records, *x.shape[1:]), x.dtype), value
    )


def of_segment(
    topology: Topology, node: Node, params: PyTree, state: PyTree, at: Values
) -> str | None:
    """Why a segment is not shown to keep records apart, or `None` if it is.

    Args:
        topology: of the node.
        node: whose segment it is.
        params: of it, of which only the shapes matter.
        state: of it, too.
        at: shapes of fields and values, to which those of the node's are added.
    """
    # The same key for all records: noise of the segment is of places, not of records.
    fixed = (params, state, jax.random.key(0))
    if any(i not in at for i in node.reads):
        return "what it reads is not known at another size of the batch"
    inputs = [at[i] for i in node.reads]

    def run(train: bool) -> _Program:
        return lambda own, given: node.segment.apply(*own, *given, train=train)

    doubt, value = _doubt(run(True), fixed, inputs)
    if value is None:
        return doubt
    at[node.name] = value
    # Activations cross in inference too.
    doubt = doubt or _doubt(run(False), fixed, inputs)[0]
    back = {i for i in node.differentiable_inputs if i in topology.node}
    if doubt or not back or node.name not in topology.on_loss_path:
        return doubt

    def pulled(own: PyTree, given: PyTree) -> tuple[PyTree, PyTree]:
        inputs, cotangent = given

        def fn(parts: Sequence[PyTree]) -> PyTree:
            now = [combine(x, p) for x, p in zip(inputs, parts, strict=True)]
            return inexact_part(run(True)(own, now)[0])

        # What a segment pulls back is its own to say (`jax.custom_vjp`).
        parts = [
            inexact_part(x) if i in back else None
            for i, x in zip(node.reads, inputs, strict=True)
        ]
        return jax.vjp(fn, parts)[1](cotangent), ()

    return _doubt(pulled, fixed, (inputs, inexact_part(value)))[0]


def of_loss(
    loss: Loss, own: Sequence[str], rest: Mapping[str, PyTree], at: Values
) -> str | None:
    """Why a loss is not shown to give cotangents of each record alone.

    Args:
        loss: which it is.
        own: the values of nodes that it reads.
        rest: what it reads that is of no record.
        at: shapes of fields and values.
    """
    if any(i not in at and i not in rest for i in loss.reads):
        return "what it reads is not known at another size of the batch"
    inputs = {i: at[i] for i in loss.reads if i not in rest}
    return _doubt(lambda r, x: (cotangents(loss, own, {**r, **x}), ()), rest, inputs)[0]


def cotangents(loss: Loss, own: Sequence[str], named: Values) -> PyTree:
    """A loss's cotangents of those values that are named `own`, by name."""
    more = {"weight": None} if loss.takes_weight else {}

    def fn(parts: Values) -> jax.Array:
        now = named | {i: combine(named[i], x) for i, x in parts.items()}
        return jnp.sum(loss.fn(*[now[i] for i in loss.reads], **more))

    return jax.grad(fn)({i: inexact_part(named[i]) for i in own})


def _doubt(
    program: _Program, fixed: PyTree, inputs: PyTree
) -> tuple[str | None, PyTree]:
    """Why rows are not shown to be apart, and the shapes of what is computed."""
    leaves = jax.tree.leaves(inputs)
    records = leaves[0].shape[0]
    try:
        traced, shapes = jax.make_jaxpr(program, return_shape=True)(fixed, inputs)
    except Exception as e:  # noqa: BLE001 - the program is the user's
        return f"it fails on {records} records ({type(e).__name__})", None
    rows = [None] * len(jax.tree.leaves(fixed)) + [Rows(0)] * len(leaves)
    value, _ = shapes
    found = follow(traced, rows, records)
    apart = len(jax.tree.leaves(value))
    for place, x in zip(found, jax.tree.leaves(value), strict=False):
        if isinstance(place, Mixed):
            return f"`{place.by}`", value
        if place not in (None, Rows(0)) or x.shape[:1] != (records,):
            return "its first axis is not the records'", value
    if any(place is not None for place in found[apart:]):
        return "its state depends on records", value
    return None, value
