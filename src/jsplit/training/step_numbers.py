"""Numbers to watch a training by: norms of gradients and updates, and hyperparameters.

Each party's optimizer step gives its own beside what it gives anyway, so every interpreter has
them, and over a network a party has its own and nobody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.finite import at_least_float32
from jsplit.training.config import Config
from jsplit.training.kinds import Kind
from jsplit.training.walk import Name, Store

CROSSED, GRADIENTS = "crossed", "gradients"
NORMS, HYPERPARAMS, SECONDS = "norms", "hyperparams", "seconds"
"""What `Config.records` calls them."""


class Norms(NamedTuple):
    """Euclidean norms over all parameters of a node, by node, of one party's step.

    Attributes:
        gradient: of what the party's optimizer was given, float [].
        update: of what it added to the parameters, float []; 0 where the step was left
            out (`nonfinite="skip"`).

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> norms = jsplit.Norms({"h": jnp.float32(4)}, {"h": jnp.float32(0.4)})
        >>> float(norms.gradient["h"])
        4.0
    """

    gradient: Mapping[str, jax.Array]
    update: Mapping[str, jax.Array]


class StepNumbers(NamedTuple):
    """What one party's optimizer step tells.

    Attributes:
        norms: `None` if they are not asked for.
        hyperparams: by name; empty if not asked for, and where there are none.
    """

    norms: Norms | None
    hyperparams: Mapping[str, jax.Array]


def no_seconds(what: str) -> ValueError:
    """That the seconds of each party cannot be measured in one program of all."""
    return ValueError(
        f"`seconds` cannot be measured by party: {what} is one program of all parties. "
        "Take jsplit.messages, whose step runs the programs of each party, and call it "
        "outside of jax.jit; or a trace of jax.profiler, which names parties."
    )


def watches(config: Config) -> bool:
    """Whether the optimizer steps of a training tell more than they give."""
    return NORMS in config.records or HYPERPARAMS in config.records


def numbers_name(party: str) -> Name:
    """Where it lies what a party's step tells."""
    return Name(party, Kind.NUMBERS)


def numbers_in(store: Store) -> dict[str, StepNumbers]:
    """What lies in a store of what steps have told, by party."""
    return {
        n.party: x
        for n, x in store.items()
        if isinstance(n, Name) and n.kind == Kind.NUMBERS
    }


def numbers_of(
    config: Config,
    party: str,
    gradient: Mapping[str, PyTree],
    updates: Mapping[str, PyTree],
    memory: PyTree,
) -> StepNumbers:
    """What one optimizer step tells.

    Args:
        config: which says what is asked for.
        party: whose step it is.
        gradient: by node, what the optimizer was given.
        updates: by node, what it adds to the parameters.
        memory: its state after the step, in which the hyperparameters lie that it used.
    """
    norms = None
    if NORMS in config.records:
        # So that XLA does not fuse the step with the norms, which are no part of it: on
        # a device on which it fuses otherwise, the step would have other bits.
        gradient, updates = jax.lax.optimization_barrier(
            (dict(gradient), dict(updates))
        )
        rows = party in config.of_each
        norms = Norms(
            {n: norm_of(x, rows=rows) for n, x in gradient.items()},
            {n: norm_of(x, rows=rows) for n, x in updates.items()},
        )
    wanted = HYPERPARAMS in config.records
    return StepNumbers(norms, hyperparams_in(memory) if wanted else {})


def left_out(watched: StepNumbers, keep: jax.Array) -> StepNumbers:
    """What a step tells that may be left out: then it adds nothing.

    Args:
        watched: what it would have told.
        keep: whether it counts, bool [].
    """
    if watched.norms is None:
        return watched
    update = {n: jnp.where(keep, x, 0) for n, x in watched.norms.update.items()}
    return watched._replace(norms=watched.norms._replace(update=update))


def norm_of(tree: PyTree, *, rows: bool = False) -> jax.Array:
    """The Euclidean norm of all numbers of a tree, float32 at least.

    Args:
        tree: arrays, of any floating or complex dtype.
        rows: whether each has a first axis of sets of parameters, each of which has a
            norm of its own.

    Returns:
        float [], or [rows].
    """

    def squares(x: jax.Array) -> jax.Array:
        x = jnp.abs(x).astype(at_least_float32(jnp.abs(x).dtype))
        return (x * x).sum(tuple(range(1 if rows else 0, x.ndim)))

    found = [squares(x) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(reduce(add, found)) if found else jnp.zeros(())


def whole_norm(norms: Mapping[str, Mapping[str, jax.Array]]) -> jax.Array:
    """The norm over several parties' nodes, from the norms of each."""
    found = [x * x for by_node in norms.values() for x in by_node.values()]
    return jnp.sqrt(reduce(add, found)) if found else jnp.zeros(())


def hyperparams_in(memory: PyTree) -> dict[str, jax.Array]:
    """The hyperparameters in an optimizer's state, as `optax.inject_hyperparams` keeps them.

    Args:
        memory: the state, of any chain of optimizers.

    Returns:
        By name, as `learning_rate`. Of several of one name the second is `name.1`, and
        so on, in the order of the state.
    """
    found: dict[str, jax.Array] = {}

    def look(tree: PyTree) -> None:
        for x in jax.tree.leaves(tree, is_leaf=_has_hyperparams):
            if _has_hyperparams(x):
                for name, value in x.hyperparams.items():
                    found[_free(name, found)] = jnp.asarray(value)
                # What it wraps may have some as well.
                look(x.inner_state)

    look(memory)
    return found


def _has_hyperparams(x: PyTree) -> bool:
    return hasattr(x, "hyperparams")


def _free(name: str, taken: Mapping[str, jax.Array]) -> str:
    """The name, with a number if it is taken."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}.{number}"
    return free
