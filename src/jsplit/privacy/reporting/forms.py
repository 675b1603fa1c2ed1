"""Forms of segments that an adversary may know: the same layers, with parameters of its own.

What follows a cut, or comes before it, is read off the topology; parameters are drawn anew,
since segments of a Flax module start from given ones, and those are not the adversary's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree, Segment
from jsplit.segments.from_model import segment as segment_of
from jsplit.topology.graph import Topology


def head_of(
    topology: Topology, value: str, label: str
) -> tuple[Segment, Callable[..., jax.Array]] | None:
    """The segment that reads a value alone, and the loss that reads its output.

    Args:
        topology: who computes what.
        value: that crosses.
        label: that the loss reads.

    Returns:
        Both, the segment with parameters drawn anew; `None` if it is not so simple.
    """
    readers = [n for n in topology.segments if value in n.reads]
    if len(readers) != 1 or readers[0].reads != (value,):
        return None
    output = readers[0].name
    for loss in topology.losses:
        if loss.weight and tuple(loss.reads) == (output, label):
            return fresh(readers[0].segment), loss.fn
    return None


def bottom_of(topology: Topology, value: str, field: str) -> Segment | None:
    """The segment that makes a value of one field alone, with parameters drawn anew.

    Args:
        topology: who computes what.
        value: that crosses.
        field: that it must be made of.

    Returns:
        It, or `None`.
    """
    node = topology.node[value]
    return fresh(node.segment) if node.reads == (field,) else None


# Once for a segment, so that attacks with the same form are one program.
@cache
def fresh(segment: Segment) -> Segment:
    """A segment of the same form, whose parameters are drawn from its key.

    Matrices and kernels are normal with variance 1 / fan-in; what is the same
    everywhere, as a bias of zeros or a scale of ones, stays; other vectors are normal
    with the deviation that they have.

    Args:
        segment: of which only the form is known.

    Returns:
        The segment; its statistics start as those of `segment` do.
    """

    def init(key: jax.Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
        params, state = segment.init(key, *inputs)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, 1), max(1, len(leaves)))
        drawn = [_drawn(k, x) for k, x in zip(keys, leaves, strict=False)]
        return jax.tree.unflatten(tree, drawn), state

    return replace(segment, init=init)


def _drawn(key: jax.Array, x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    normal = jax.random.normal(key, x.shape, x.dtype)
    if x.ndim >= 2:
        return normal / np.sqrt(max(1, x.size // x.shape[-1]))
    same = (x == x.reshape(-1)[0]).all() if x.size else True
    return jnp.where(same, x, normal * x.std())


@cache
def completing(classes: int, width: int = 32) -> Segment:
    """A head to complete a model with: two dense layers on a value laid flat.

    Args:
        classes: how many logits.
        width: of the hidden layer.

    Returns:
        A segment of one input, without statistics.
    """

    def init(key: jax.Array, h: PyTree) -> list[tuple[jax.Array, jax.Array]]:
        sizes = (_flat(h).shape[1], width, classes)
        keys = jax.random.split(key, 2)
        pairs = zip(keys, sizes, sizes[1:], strict=False)
        draw = jax.nn.initializers.he_normal()
        return [(draw(k, (a, b)), jnp.zeros(b)) for k, a, b in pairs]

    def apply(params: PyTree, h: PyTree) -> jax.Array:
        (first, shift), (last, other) = params
        return jax.nn.relu(_flat(h) @ first + shift) @ last + other

    return segment_of(apply, init=init, inputs=["h"])


def _flat(h: PyTree) -> jax.Array:
    """A value as rows of numbers, [batch, numbers]."""
    leaves = [x.reshape(len(x), -1) for x in jax.tree.leaves(h)]
    return jnp.concatenate([x.astype(jnp.float32) for x in leaves], axis=1)
