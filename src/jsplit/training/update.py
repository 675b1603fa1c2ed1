"""From gradients to the next parameters: sums over micro-batches, and one optimizer step at each party."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.core.trees import combine, inexact_part, tree_sum
from jsplit.training.step import Config, cotangents, differentiable, training_ops
from jsplit.training.walk import Name, Op, execute

SUM = "sum of "
"""Prefix of the kind of a sum over micro-batches."""


def gradients(config: Config, party: str) -> dict[str, list[Name]]:
    """Where the gradients of a party's parameters lie: from the backward pass, and from penalties on them."""
    topology = config.topology
    own = [n for n in topology.segments if n.party == party and n.segment.trainable]
    return {
        n.name: [Name(party, "grad", n.name)] * differentiable(config, n)
        + cotangents(config, f"{n.name}.params", party)
        for n in own
    }


def accumulate_ops(config: Config) -> list[Op]:
    """Add the gradients and losses of one micro-batch to their sums."""
    ops = []
    for party in config.topology.parties:
        names = [n for ns in gradients(config, party).values() for n in ns]
        names += [
            Name(party, "loss", x.name)
            for x in config.topology.losses
            if x.party == party
        ]
        sums = tuple(total(n) for n in names)

        def run(*values):
            half = len(values) // 2
            return tuple(
                jax.tree.map(
                    lambda s, v: s + v.astype(s.dtype), values[:half], values[half:]
                )
            )

        if names:
            ops.append(Op(party, "accumulate", (*sums, *names), sums, run))
    return ops


def total(name: Name) -> Name:
    """Where the sum over micro-batches lies."""
    return name._replace(kind=SUM + name.kind)


def update_ops(config: Config) -> list[Op]:
    """One optimizer step at each party, from its gradients or, with several micro-batches, their mean."""
    return [update(config, party) for party in config.topology.parties]


def update(config: Config, party: str) -> Op:
    """The optimizer step of one party, over the floating leaves of its parameters; others stay as they are."""
    several = config.microbatches > 1
    grads = {
        n: [total(g) if several else g for g in gs]
        for n, gs in gradients(config, party).items()
    }
    counter, memory = Name(party, "step"), Name(party, "optimizer")
    params = [Name(party, "params", n) for n in grads]
    if not grads:
        return Op(party, "update", (counter,), (counter,), lambda step: (step + 1,))
    optimizer = config.optimizer[party]

    def run(step, state, *rest):
        old, found = dict(zip(grads, rest, strict=False)), iter(rest[len(grads) :])
        weights, gradient = inexact_part(old), {}
        for n, names in grads.items():
            parts = [next(found) for _ in names] or [
                jax.tree.map(jnp.zeros_like, weights[n])
            ]
            gradient[n] = tree_sum(parts)
            if several:
                gradient[n] = jax.tree.map(
                    lambda g, w: (g / config.microbatches).astype(w.dtype),
                    gradient[n],
                    weights[n],
                )
        if jax.tree.structure(
            jax.eval_shape(optimizer.init, weights)
        ) != jax.tree.structure(state):
            raise ValueError(
                f"the optimizer state of `{party}` is of another optimizer than the trainer's; take that of its `init`."
            )
        updates, state = optimizer.update(gradient, state, weights)
        new: Any = combine(old, optax.apply_updates(weights, updates))
        return step + 1, state, *[new[n] for n in grads]

    reads = (counter, memory, *params, *[g for gs in grads.values() for g in gs])
    return Op(party, "update", reads, (counter, memory, *params), run)


def zero_sums(config: Config, env: Mapping[Name, PyTree]) -> dict[Name, PyTree]:
    """Zeros for the sums over micro-batches, given a memory with one micro-batch in it. Computes nothing."""
    names = [
        w for op in accumulate_ops(config) for w in op.writes if isinstance(w, Name)
    ]

    def sums(env):
        memory = {
            **env,
            **{Name(p, "micro"): jnp.int32(0) for p in config.topology.parties},
        }
        execute(training_ops(config), memory)
        return [memory[n._replace(kind=n.kind.removeprefix(SUM))] for n in names]

    shapes = jax.eval_shape(sums, dict(env))
    wide = [
        jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), x
        )
        for x in shapes
    ]
    return dict(zip(names, wide, strict=True))
