"""Many clients around one topology: the state of all, what a round tells, and both as the arrays that programs see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PartyState, PyTree
from jsplit.training.config import Config
from jsplit.training.losses import info_of

PARTS = ("params", "state", "optimizer", "links")
CARRIED, AVERAGED, OWN, FRESH = "carried", "averaged", "own", "fresh"

_Part = tuple[str, str]
"""A party, and a part of its state."""
Parts = dict[_Part, PyTree]
Ways = Mapping[_Part, str]
"""How each part gets from one client's turn to the next."""


class Federation(NamedTuple):
    """The state of many clients and of those they train with.

    Attributes:
        parties: by party, as in a `TrainState`; what each client has of its own, and that alone, has a leading axis [clients].
        server: by party, the memory of the optimizer that applies averages, where there is one.
    """

    parties: Mapping[str, PartyState]
    server: Mapping[str, PyTree]


class RoundInfo(NamedTuple):
    """What a round is worth telling.

    Attributes:
        loss, losses: as of a step; the mean over all examples of the round.
        each: every loss by client that takes part, [K], the mean over its examples; NaN where it had none.
        examples: how many that were, [K].
    """

    loss: jax.Array
    losses: Mapping[str, jax.Array]
    each: Mapping[str, jax.Array]
    examples: jax.Array


class Held(NamedTuple):
    """A federation as a round's program sees it: all parts, how many steps were taken, the memory of averaging optimizers."""

    parts: Parts
    step: Any
    server: Mapping[str, PyTree]


class Draw(NamedTuple):
    """The arrays of a round: `reads` and `weight` [K, S, B]; `client`, `steps`, `share` and steps taken `before` [K]."""

    reads: Any
    weight: Any
    client: Any
    steps: Any
    share: Any
    before: Any


class _Sums(NamedTuple):
    """Sums over examples: of each loss, and how many they were."""

    losses: dict[str, jax.Array]
    examples: jax.Array


def no_sums(config: Config) -> _Sums:
    """Zeros, each an array of its own, since they are donated."""
    kind = jnp.result_type(float)
    return _Sums(
        {x.name: jnp.zeros((), kind) for x in config.topology.losses},
        jnp.zeros((), kind),
    )


def add_losses(sums: _Sums, losses: Mapping[str, jax.Array], count: jax.Array) -> _Sums:
    """The sums after a batch of `count` examples."""
    return _Sums(
        {n: s + losses[n].astype(s.dtype) * count for n, s in sums.losses.items()},
        sums.examples + count,
    )


def told(config: Config, sums: _Sums) -> RoundInfo:
    """What to tell of the sums of K clients, [K]."""
    losses = {n: x.sum() / sums.examples.sum() for n, x in sums.losses.items()}
    each = {n: x / sums.examples for n, x in sums.losses.items()}
    return RoundInfo(info_of(config.topology, losses).loss, losses, each, sums.examples)


def parts_of(parties: Mapping[str, PartyState]) -> Parts:
    return {
        (p, part): x
        for p, own in parties.items()
        for part, x in zip(PARTS, own, strict=False)
    }


def parties_of(parts: Parts, key: Any, step: Any) -> dict[str, PartyState]:
    """The inverse of `parts_of`, at one key and step."""
    found = {}
    for p in dict.fromkeys(p for p, _ in parts):
        params, state, optimizer, links = (parts[p, part] for part in PARTS)
        found[p] = PartyState(params, state, optimizer, links, key, step)
    return found


def at(tree: PyTree, where: Any) -> PyTree:
    """Every array of a tree, indexed along its first axis."""
    return jax.tree.map(lambda x: x[where], tree)
