"""Noise that a segment asks for is added to its gradient, from its party's own secret.

After the backward pass and before anybody looks at the gradient.
"""

from __future__ import annotations

from zlib import crc32

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.gradient_noise import GradientNoise
from jsplit.core.strength import Strength
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.cotangents import needs_vjp
from jsplit.training.kinds import Kind, OpKind
from jsplit.training.walk import Name, Op


def noisy_nodes(topology: Topology) -> list[tuple[Node, GradientNoise]]:
    """The nodes whose segments ask for noise, and what they ask for."""
    return [
        (n, n.segment.noise) for n in topology.segments if n.segment.noise is not None
    ]


def noise_ops(config: Config, party: str) -> list[Op]:
    """One operation for each gradient of a party that gets noise."""
    return [
        _noise_op(config, node, noise)
        for node, noise in noisy_nodes(config.topology)
        # What nothing is trained through has no gradient of records.
        if node.party == party and needs_vjp(config, node)
    ]


def _noise_op(config: Config, node: Node, noise: GradientNoise) -> Op:
    party = node.party
    gradient = Name(party, Kind.GRAD, node.name)
    at = ()
    if isinstance(noise.scale, Strength):
        at = (Name(party, Kind.STRENGTH, noise.scale.name),)
    number = crc32(f"gradient/{node.name}/{party}".encode())

    def run(secret: jax.Array, step: jax.Array, value: PyTree, *scale: jax.Array):
        strength = scale[0] if scale else jnp.float32(noise.scale)
        key = _key(secret, step, number)
        return (noise.add(key, value, strength),)

    reads = (Name(party, Kind.SECRET), Name(party, Kind.STEP), gradient, *at)
    return Op(party, OpKind.UNSCALE, node.name, reads, (gradient,), run)


def _key(secret: jax.Array, *numbers: PyTree) -> jax.Array:
    """The secret with numbers folded in; [clients] of them if there are so many secrets."""
    for n in numbers:
        fold = jax.random.fold_in
        secret = (
            jax.vmap(fold, (0, None))(secret, n) if secret.ndim else fold(secret, n)
        )
    return secret
