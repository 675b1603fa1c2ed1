"""Gradients by node, and their sums over micro-batches, with those of losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import at_least_float32
from jsplit.training.config import Config
from jsplit.training.cotangents import cotangents, needs_vjp
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.losses import loss_name, range_name
from jsplit.training.walk import Name, Op, Store, execute


def gradients(config: Config, party: str) -> dict[str, list[Name]]:
    """By node, the gradients of its parameters.

    There may be one of the backward pass, and one of each penalty on
    the parameters; a node without any has an empty list.
    """
    found: dict[str, list[Name]] = {}
    # The order counts: floating sums are of their terms in this order,
    # everywhere.
    for n in config.topology.segments:
        if n.party == party and n.segment.trainable:
            found[n.name] = cotangents(config, f"{n.name}.params", party)
            if needs_vjp(config, n):
                found[n.name].insert(0, Name(party, Kind.GRAD, n.name))
    return found


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
