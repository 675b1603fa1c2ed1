"""The first parameters and state of one node, and whether it runs on what it reads."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line
from jsplit.core.keys import node_key
from jsplit.core.loans import with_loans
from jsplit.core.paths import Nested
from jsplit.core.trees import abstract, describe
from jsplit.topology.nodes import Node


def first_of_node(
    node: Node,
    key: jax.Array,
    inputs: Sequence[PyTree],
    lent: Sequence[Nested],
    shapes_only: bool,
) -> tuple[PyTree, PyTree, PyTree]:
    """First parameters and state of a node, and the shapes of its value.

    Args:
        node: which.
        key: the key of all.
        inputs: the shapes that the node reads.
        lent: weights that it borrows.
        shapes_only: whether a model without values is accepted, as
            zeros.
    """
    where = f"node `{node.name}` at `{node.party}`"
    own = node_key(key, node.name, node.segment)
    try:
        # A segment's `init` may compute with its inputs, as Flax does,
        # so they are arrays.
        zeros = [jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), i) for i in inputs]
        params, state = node.segment.init(own, *zeros)
        value, new = jax.eval_shape(
            lambda p, *a: node.segment.apply(with_loans(p, lent), *a, train=True),
            *(params, state, own, *inputs),
        )
    except Exception as error:
        got = ", ".join(
            f"`{i}` {describe(x)}" for i, x in zip(node.reads, inputs, strict=True)
        )
        raise ValueError(
            f"{where} does not run on {got}: {first_line(error)}"
        ) from error

    # A state of another form would fail in the second step, far from
    # its cause.
    was, now = (jax.tree.map(lambda x: str(x.dtype), abstract(x)) for x in (state, new))
    same = jax.tree.structure(was) == jax.tree.structure(now)
    if not same or jax.tree.leaves(was) != jax.tree.leaves(now):
        raise ValueError(
            f"{where}: `apply` must give back a state of the structure and dtypes it "
            f"got, {was}, got {now}."
        )

    # A model of `nnx.eval_shape` has shapes in the place of arrays.
    leaves = jax.tree.leaves((params, state))
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        if not shapes_only:
            raise ValueError(
                f"{where}: its model has shapes but no values, so it can be divided and "
                "costed, but not trained."
            )
        params, state = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (params, state)
        )
    return params, state, value
