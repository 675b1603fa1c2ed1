"""Where the strengths of losses and links lie: arrays in the states of the parties that read them.

So a new number compiles nothing anew, and several, along an axis of the state, are one
program. Training reads them and changes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from math import inf
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Link, PyTree, TrainState
from jsplit.core.federation import Federation
from jsplit.core.strength import Strength
from jsplit.core.trainer import Trainer
from jsplit.core.typed_jax import is_traced
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss
from jsplit.training.config import Config
from jsplit.training.kinds import Kind
from jsplit.training.walk import Name, Store
from jsplit.training.wires import wires

Strengths = Mapping[Name, jax.Array]
"""By where each lies, its number, float32 []; or [clients] where each client has its own."""


def strength_name(party: str, strength: Strength) -> Name:
    """Where a strength lies at a party."""
    return Name(party, Kind.STRENGTH, strength.name)


def strength_names(party: str, link: Link) -> dict[str, Name]:
    """Where those strengths of a link lie that can be set, by the names it is told."""
    return {
        n: strength_name(party, x)
        for n, x in link.strengths.items()
        if isinstance(x, Strength)
    }


def weight_names(loss: Loss) -> tuple[Name, ...]:
    """Where the weight of a loss lies, if it is a strength: a number lies nowhere."""
    strength = loss.weight
    if not isinstance(strength, Strength):
        return ()
    return (strength_name(loss.party, strength),)


def weight_in(loss: Loss, found: Strengths) -> float | jax.Array:
    """The weight of a loss: its number, or that of its strength."""
    names = weight_names(loss)
    return found[names[0]] if names else cast(float, loss.weight)


def in_topology(topology: Topology) -> tuple[Name, ...]:
    """Where the strengths lie that are weights of losses, each once."""
    names = (n for x in topology.losses for n in weight_names(x))
    return tuple(dict.fromkeys(names))


def in_store(topology: Topology, store: Store) -> dict[Name, jax.Array]:
    """The strengths that are weights of losses, out of a store."""
    return {n: store[n] for n in in_topology(topology)}


def in_state(topology: Topology, state: TrainState) -> dict[Name, jax.Array]:
    """The strengths that are weights of losses, out of a state of all parties."""
    names = in_topology(topology)
    return {n: state.parties[n.party].strengths[n.what] for n in names}


def strengths_of(config: Config) -> dict[str, dict[str, Strength]]:
    """By party, the strengths that its losses and links read, by name.

    Args:
        config: of the training.

    Raises:
        ValueError: if two of one party have one name and different values.
    """
    found: dict[str, dict[str, Strength]] = {p: {} for p in config.topology.parties}
    for party, value in _read(config):
        known = found[party].setdefault(value.name, value)
        if known != value:
            raise ValueError(
                f"strength `{value.name}` of `{party}` has two values, {known.value} "
                f"and {value.value}: give the same, or names of their own."
            )
    return found


def _read(config: Config) -> list[tuple[str, Strength]]:
    """Every strength that something reads, with the party at which it lies."""
    found: list[tuple[str, Strength]] = []

    def add(party: str, value: object) -> None:
        if isinstance(value, Strength):
            found.append((party, value))

    for loss in config.topology.losses:
        add(loss.party, loss.weight)
    for node in config.topology.segments:
        add(node.party, getattr(node.segment.noise, "scale", None))
    for wire in wires(config.topology):
        link = config.links.get((wire.kind, wire.what))
        # Who sends encodes, and with it reads.
        for value in getattr(link, "strengths", {}).values():
            add(wire.sender, value)
    return found


def first_strengths(config: Config, party: str) -> dict[str, jax.Array]:
    """The strengths of a party before anybody sets them, by name, float32 []."""
    own = strengths_of(config)[party]
    return {name: jnp.asarray(x.value, jnp.float32) for name, x in own.items()}


Limits = Mapping[tuple[str, str], float]
"""By party and name, the largest that a strength may be; none of those without a limit."""


def limits_of(config: Config) -> Limits:
    """The limits of all strengths, each the least of what those bear that read it."""
    found: dict[tuple[str, str], float] = {}
    for party, value in _read(config):
        if value.most < inf:
            at = party, value.name
            found[at] = min(value.most, found.get(at, inf))
    return found


def refuse_too_strong(limits: Limits, state: TrainState | Federation) -> None:
    """Refuse a state with a strength above its limit, which would send no numbers.

    A state does not know what reads its strengths, so it is asked where it is used.
    Within a program nobody knows.

    Raises:
        ValueError: naming the strength and its limit.
    """
    for (party, name), most in limits.items():
        own = state.parties.get(party)
        value = None if own is None else own.strengths.get(name)
        if value is None or is_traced(value):
            continue
        if (np.asarray(value) > np.float32(most)).any():
            raise ValueError(
                f"strength `{name}` of `{party}` is set to {np.max(value):g}, and what "
                f"reads it bears at most {most:g}: set less by jsplit.set_hyperparams."
            )


def within_limits(config: Config, trainer: Trainer) -> Trainer:
    """The trainer, which refuses a state with a strength above its limit.

    Without any limit it is the same trainer, and no call is added to a step.
    """
    limits = limits_of(config)
    if not limits:
        return trainer

    def refusing(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        @wraps(function)
        def call(state: TrainState, *given: PyTree, **options: PyTree) -> PyTree:
            refuse_too_strong(limits, state)
            return function(state, *given, **options)

        return call

    return trainer._replace(
        step=refusing(trainer.step),
        evaluate=refusing(trainer.evaluate),
        predict=refusing(trainer.predict),
    )
