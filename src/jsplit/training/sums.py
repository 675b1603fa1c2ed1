"""Gradients by node, and their sums over micro-batches, with those of losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import at_least_float32
from jsplit.core.trees import tree_sum
from jsplit.training.config import Config
from jsplit.training.cotangents import cotangents, lent_gradients, needs_vjp
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.losses import loss_name, range_name
from jsplit.training.walk import Name, Op, Store, execute


def gradients(config: Config, party: str) -> dict[str, list[Name]]:
    """By node, the gradients of its parameters.

    There may be one of the backward pass, one of the leaves that each
    other node borrows, and one of each penalty on the parameters; a
    node without any has an empty list.
    """
    found: dict[str, list[Name]] = {}
    # The order counts: floating sums are of their terms in this order,
    # everywhere.
    for n in config.topology.segments:
        if n.party == party and n.segment.trainable:
            found[n.name] = cotangents(config, f"{n.name}.params", party)
            if needs_vjp(config, n):
                found[n.name].insert(0, Name(party, Kind.GRAD, n.name))
    for n in config.topology.segments:
        if n.party == party and needs_vjp(config, n):
            for name in lent_gradients(config, n):
                found[name.what].append(name)
    return found


def summed(weights: PyTree, terms: Sequence[PyTree]) -> PyTree:
    """The sum of what `gradients` names, some of which may have only lent leaves.

    Args:
        weights: the floating leaves of the parameters of one node.
        terms: what adds up to their gradient.

    Returns:
        A tree like `weights`; zeros where no term reaches.
    """
    structure = jax.tree.structure(weights)
    full = [x for x in terms if jax.tree.structure(x) == structure]
    # An optimizer is over all nodes of its party, so each must have a
    # gradient.
    total = tree_sum(full or [jax.tree.map(jnp.zeros_like, weights)])
    for part in terms:
        if jax.tree.structure(part) != structure:
            total = _with_part(total, part)
    return total


def _with_part(tree: PyTree, part: PyTree) -> PyTree:
    """Nested dictionaries with those leaves added that `part` has of them."""
    # Integers that are lent have no gradient.
    if part is None:
        return tree
    if not isinstance(part, Mapping):
        return tree + part
    return {k: _with_part(x, part.get(k)) for k, x in tree.items()}


def gradient_of(config: Config, weights: PyTree, terms: Sequence[PyTree]) -> PyTree:
    """The gradient of one node's parameters; zeros where no term reaches them."""
    gradient = summed(weights, terms)
    # With one micro-batch nothing is divided or cast, so that XLA sees
    # the plain step.
    count = config.microbatches
    if count == 1:
        return gradient
    return jax.tree.map(lambda g, w: (g / count).astype(w.dtype), gradient, weights)


def total(name: Name) -> Name:
    """The sum over micro-batches of what lies at `name`."""
    return name._replace(summed=True)


def accumulate_ops(config: Config) -> list[Op]:
    """Add the gradients and losses of one micro-batch to their sums."""
    ops = []
    for party in config.topology.parties:
        names = [n for found in gradients(config, party).values() for n in found]
        of_party = [x for x in config.topology.losses if x.party == party]
        names += [loss_name(x) for x in of_party]
        if config.nonfinite != "allow":
            names += [range_name(x) for x in of_party]
        sums = tuple(total(n) for n in names)
        if names:
            reads = (*sums, *names)
            ops.append(Op(party, OpKind.ACCUMULATE, "", reads, sums, _accumulate))
    return ops


def _accumulate(*values: PyTree) -> tuple:
    """The new sums, from the sums and then as many values."""
    half = len(values) // 2
    # Sums may be wider than what is added to them, see `zero_sums`.
    return tuple(
        jax.tree.map(lambda s, v: s + v.astype(s.dtype), values[:half], values[half:])
    )


def zero_sums(ops: Sequence[Op], store: Store) -> Store:
    """Zeros for the sums over micro-batches. Computes nothing.

    Args:
        ops: those of one micro-batch, with the accumulation; of all
            parties, or of one.
        store: what they read of one micro-batch, and of one party's the
            messages that it is sent; shapes are enough.

    Returns:
        By the name of each sum, zeros; at least float32, so that many
        small terms add up.
    """
    adds = [op for op in ops if op.kind == OpKind.ACCUMULATE]
    # Without the accumulation, which reads the sums that are to be made
    # here.
    others = [op for op in ops if op.kind != OpKind.ACCUMULATE]
    sums = [w for op in adds for w in op.writes if isinstance(w, Name)]
    numbers = _micro_names(others)

    def added(store: Store) -> list[PyTree]:
        store = {**store, **dict.fromkeys(numbers, jnp.int32(0))}
        execute(others, store)
        return [store[name._replace(summed=False)] for name in sums]

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, at_least_float32(x.dtype)),
        jax.eval_shape(added, dict(store)),
    )
    return dict(zip(sums, zeros, strict=True))


def _micro_names(ops: Iterable[Op]) -> list[Name]:
    """Where the numbers of micro-batches lie that operations read."""
    read = (r for op in ops for r in op.reads if isinstance(r, Name))
    return [r for r in dict.fromkeys(read) if r.kind == Kind.MICRO]
