"""One segment as operations at its party: its forward pass, and its vjp in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.frozen import divided
from jsplit.core.keys import node_key
from jsplit.core.loans import with_loans
from jsplit.core.trees import combine, inexact_part, tree_sum
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.cotangents import (
    all_cotangents,
    cotangent,
    lent_gradients,
    needs_vjp,
    state_cotangents,
)
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.randomness import rng_names, step_key
from jsplit.training.store import params_names, state_names, whole
from jsplit.training.vjp import Pullback, run_for_pullback
from jsplit.training.walk import Name, Op


def forward_op(config: Config, node: Node, train: bool) -> Op:
    """Run one segment; in training leave its vjp too, if cotangents will come."""
    party, known = node.party, rng_names(config, node.party)
    differentiated = train and needs_vjp(config, node)
    params, state = params_names(node), state_names(node)
    value, vjp = Name(party, Kind.VALUE, node.name), Name(party, Kind.VJP, node.name)
    inputs = [Name(party, Kind.VALUE, i) for i in node.reads]
    owned = _lenders(config, node)
    one, two = len(params), len(params) + len(state)
    three = two + len(owned)

    def run(*given):
        params, state = given[:one], given[one:two]
        lenders, rest = given[two:three], given[three:]
        key, inputs = rest[: len(known)], rest[len(known) :]
        key = node_key(step_key(*key), node.name, node.segment)
        if differentiated:
            return _forward_and_vjp(config, node, params, state, lenders, key, inputs)
        lent, _ = _lent(config, node, lenders)
        weights = with_loans(whole(params), lent)
        value, new = node.segment.apply(
            weights, whole(state), key, *inputs, train=train
        )
        return value, _moving(node, new)

    reads = (*params, *state, *owned, *known, *inputs)
    writes = (value, state[0], vjp) if differentiated else (value, state[0])
    return Op(party, OpKind.FORWARD, node.name, reads, writes, run)


def _forward_and_vjp(
    config: Config,
    node: Node,
    params: Sequence[PyTree],
    state: Sequence[PyTree],
    lenders: Sequence[PyTree],
    key: jax.Array,
    inputs: Sequence[PyTree],
) -> tuple[PyTree, PyTree, Pullback]:
    """The value and new state of a segment, and its vjp.

    Args:
        config: of the training.
        node: whose segment.
        params: what lies at its `params_names`.
        state: what lies at its `state_names`.
        lenders: the parameters of the nodes that it borrows of.
        key: of the step.
        inputs: what it reads.
    """
    held = (
        *(*params, *state[1:], *lenders),
        *[inputs[node.reads.index(i)] for i in _own_fields(config, node)],
    )
    lent = zip(_lenders(config, node), lenders, strict=True)
    still = [x for name, x in lent if name.kind == Kind.FROZEN]
    # With `recompute` nothing is kept that could be computed again.
    frozen = (*params[1:], *state[1:], *still)
    frozen = () if config.backward == "recompute" else frozen
    run = partial(_value_and_vjp, config, node)
    return run_for_pullback(run, (params, state, lenders, key, inputs), held, frozen)


def _value_and_vjp(
    config: Config,
    node: Node,
    params: Sequence[PyTree],
    state: Sequence[PyTree],
    lenders: Sequence[PyTree],
    key: jax.Array,
    inputs: Sequence[PyTree],
) -> tuple[PyTree, PyTree, Callable[[PyTree], PyTree]]:
    """As `_forward_and_vjp`, with all that the vjp holds."""
    trained, *frozen = params
    # Only the leaves that are lent are differentiated, not all that their
    # owner has.
    lent, of_others = _lent(config, node, lenders)
    # One entry for each value: a node that reads a value twice has one
    # cotangent for it.
    named = dict(zip(node.reads, inputs, strict=True))
    with_state = bool(state_cotangents(config, node))

    def segment(weights: PyTree, arrived: Mapping[str, PyTree]):
        values = named | {i: combine(named[i], x) for i, x in arrived.items()}
        args = [values[i] for i in node.reads]
        own, borrowed = weights
        own = whole([combine(trained, own), *frozen])
        given = with_loans(
            own, [combine(x, y) for x, y in zip(lent, borrowed, strict=True)]
        )
        value, new = node.segment.apply(given, whole(state), key, *args, train=True)
        new = _moving(node, new)
        # Only what has cotangents is differentiated. The same results
        # as auxiliary ones carry the rest: integers, and a state that
        # no penalty reads.
        outputs = inexact_part(value), inexact_part(new) if with_state else ()
        return outputs, (value, new)

    if config.backward == "recompute":
        segment = jax.checkpoint(segment)
    weights = inexact_part((trained, of_others))
    arrived = {
        i: inexact_part(x)
        for i, x in named.items()
        if i in config.topology.depends_on_params and i in node.differentiable_inputs
    }
    (out, new_out), pull, (value, new) = jax.vjp(
        segment, weights, arrived, has_aux=True
    )
    new = combine(new, new_out) if with_state else new
    return combine(value, out), new, pull


def backward_op(config: Config, node: Node) -> Op:
    """Pull the cotangents of one node back to its parameters and inputs."""
    party = node.party
    of_value, of_state = all_cotangents(config, node), state_cotangents(config, node)
    inputs = [
        i for i in node.differentiable_inputs if i in config.topology.depends_on_params
    ]
    # Where a penalty reads the state alone, the cotangent of the value
    # is zeros like it.
    like = [] if of_value else [Name(party, Kind.VALUE, node.name)]
    grad = [Name(party, Kind.GRAD, node.name)] if node.segment.trainable else []
    held = [
        *params_names(node),
        *state_names(node)[1:],
        *_lenders(config, node),
        *[Name(party, Kind.VALUE, i) for i in _own_fields(config, node)],
    ]
    loans = config.topology.loans.get(node.name, ())
    lent = lent_gradients(config, node)

    def run(pull, *rest):
        held_values, rest = rest[: len(held)], rest[len(held) :]
        if of_value:
            value_ct = tree_sum(rest[: len(of_value)])
        else:
            value_ct = jax.tree.map(jnp.zeros_like, inexact_part(rest[0]))
        state_ct = tree_sum(rest[-len(of_state) :]) if of_state else ()
        (weights, parts), arrived = pull((value_ct, state_ct), held_values)
        # Of a lender of which nothing is trained nobody wants any.
        parts = [
            part
            for loan, part in zip(loans, parts, strict=True)
            if config.topology.node[loan.owner].segment.trainable
        ]
        return (*[weights for _ in grad], *parts, *[arrived[i] for i in inputs])

    reads = (Name(party, Kind.VJP, node.name), *held, *of_value, *like, *of_state)
    writes = (*grad, *lent, *[cotangent(party, i, node.name) for i in inputs])
    return Op(party, OpKind.BACKWARD, node.name, reads, writes, run)


def _lenders(config: Config, node: Node) -> list[Name]:
    """Where the parameters lie of the nodes whose weights a node borrows."""
    loans = config.topology.loans.get(node.name, ())
    owners = [config.topology.node[loan.owner] for loan in loans]
    return [name for owner in owners for name in params_names(owner)]


def _lent(
    config: Config, node: Node, lenders: Sequence[PyTree]
) -> tuple[list[PyTree], list[PyTree]]:
    """What a node borrows, by loan; all of it, and what of it is trained.

    Args:
        config: of the training.
        node: that borrows.
        lenders: what lies at `_lenders`.
    """
    rest, lent, trained = list(lenders), [], []
    for loan in config.topology.loans.get(node.name, ()):
        count = len(params_names(config.topology.node[loan.owner]))
        parts, rest = rest[:count], rest[count:]
        lent.append(loan.part(whole(parts)))
        # With `None` in the place of what is frozen.
        trained.append(loan.part(parts[0]))
    return lent, trained


def _moving(node: Node, new: PyTree) -> PyTree:
    """What a step may change of a node's new state; the rest is there anyway."""
    moves = node.segment.moves
    return new if moves is None else divided(moves, new)[0]


def _own_fields(config: Config, node: Node) -> list[str]:
    """The fields among a node's inputs, which its vjp need not hold.

    Its party has them anyway, while a message that no residual needs
    can be dropped.
    """
    return [i for i in dict.fromkeys(node.reads) if i in config.topology.fields]
