"""From gradients to the next parameters.

Gradients of micro-batches are summed, and each party takes one step of
its optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.core.trees import combine, inexact_part, tree_sum
from jsplit.training.config import Config
from jsplit.training.cotangents import cotangents, needs_vjp
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.losses import loss_name
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
        names += [loss_name(x) for x in config.topology.losses if x.party == party]
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
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
        jax.eval_shape(added, dict(store)),
    )
    return dict(zip(sums, zeros, strict=True))


def _micro_names(ops: Iterable[Op]) -> list[Name]:
    """Where the numbers of micro-batches lie that operations read."""
    read = (r for op in ops for r in op.reads if isinstance(r, Name))
    return [r for r in dict.fromkeys(read) if r.kind == Kind.MICRO]


def update_ops(config: Config) -> list[Op]:
    """One optimizer step at each party, from its gradients or, with micro-batches, their mean."""
    return [update_op(config, party) for party in config.topology.parties]


def update_op(config: Config, party: str) -> Op:
    """The optimizer step of one party, over the floating leaves of its parameters.

    Other leaves stay as they are.
    """
    step, memory = Name(party, Kind.STEP), Name(party, Kind.OPTIMIZER)
    grads = gradients(config, party)
    # A party without parameters counts steps nevertheless: randomness
    # is a function of them.
    if not grads:
        return Op(party, OpKind.UPDATE, "", (step,), (step,), lambda step: (step + 1,))
    if config.microbatches > 1:
        grads = {n: [total(name) for name in names] for n, names in grads.items()}
    optimizer = config.optimizer[party]
    params = [Name(party, Kind.PARAMS, n) for n in grads]
    read = [name for names in grads.values() for name in names]

    def run(step, state, *rest):
        old = dict(zip(grads, rest[: len(grads)], strict=True))
        values = dict(zip(read, rest[len(grads) :], strict=True))
        weights = inexact_part(old)
        gradient = {
            n: _gradient(config, weights[n], [values[name] for name in names])
            for n, names in grads.items()
        }
        _check_optimizer_state(party, optimizer, weights, state)
        updates, state = optimizer.update(gradient, state, weights)
        new: dict[str, PyTree] = combine(old, optax.apply_updates(weights, updates))
        return step + 1, state, *[new[n] for n in grads]

    reads, writes = (step, memory, *params, *read), (step, memory, *params)
    return Op(party, OpKind.UPDATE, "", reads, writes, run)


def _gradient(config: Config, weights: PyTree, terms: Sequence[PyTree]) -> PyTree:
    """The gradient of one node's parameters; zeros where no term reaches them."""
    # An optimizer is over all nodes of its party, so each must have a
    # gradient.
    if not terms:
        terms = [jax.tree.map(jnp.zeros_like, weights)]
    gradient = tree_sum(terms)
    # With one micro-batch nothing is divided or cast, so that XLA sees
    # the plain step.
    count = config.microbatches
    if count == 1:
        return gradient
    return jax.tree.map(lambda g, w: (g / count).astype(w.dtype), gradient, weights)


def _check_optimizer_state(
    party: str,
    optimizer: optax.GradientTransformation,
    weights: PyTree,
    state: PyTree,
) -> None:
    """Refuse a state of another optimizer before that fails with a message about trees."""
    expected = jax.tree.structure(jax.eval_shape(optimizer.init, weights))
    if expected != jax.tree.structure(state):
        raise ValueError(
            f"the optimizer state of `{party}` is of another optimizer than the "
            "trainer's; take that of its `init`."
        )
