"""The arguments of `views`, checked and spelled out as the configuration of a training."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
import optax
from jax.core import Tracer

from jsplit.core.base import PyTree, TrainState
from jsplit.core.checks import shown
from jsplit.core.trainer import Trainer
from jsplit.core.trees import abstract, as_arrays
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import (
    Links,
    Optimizers,
    check_batch,
    configure,
)
from jsplit.training.initial import initial_shapes
from jsplit.training.own_reads import training_fields
from jsplit.training.passing import passing


def asked(
    topology: Topology | Trainer,
    optimizer: Optimizers | None,
    links: Links | None,
    nonfinite: str | None,
) -> Config:
    """The configuration whose messages are asked about.

    Args:
        topology: or a trainer of it, which knows all else.
        optimizer: as for `jsplit.fused`; by default one that exchanges nothing.
        links: as for `jsplit.fused`.
        nonfinite: as for `jsplit.fused`.

    Returns:
        The configuration, of one micro-batch on one device: what crosses is the same.

    Raises:
        ValueError: if an argument does not fit, or is said twice.
    """
    if not isinstance(topology, Trainer):
        optimizer = optax.sgd(1.0) if optimizer is None else optimizer
        config = configure(
            topology, optimizer, links, "residuals", 1, None, "xla", nonfinite
        )
    else:
        if optimizer is not None or links is not None or nonfinite is not None:
            raise ValueError(
                "`optimizer`, `links` and `nonfinite` must be left out where a trainer is "
                "given, which has its own."
            )
        if not isinstance(topology.config, Config):
            got = type(topology.config).__name__
            raise ValueError(
                f"`topology` must be a trainer of jsplit's, its config is {got}."
            )
        config = topology.config
    return config._replace(
        mesh={}, microbatches=1, backward="residuals", loss_scale=None
    )


def shapes_of(config: Config, batch: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The shapes of a batch, checked."""
    batch = as_arrays(batch)
    check_batch(config.topology, batch, training_fields(config))
    return {name: abstract(x) for name, x in batch.items()}


def largest_of(batch: Mapping[str, PyTree]) -> dict[str, int]:
    """By field of class numbers or tokens, the largest in a batch that has values."""
    found: dict[str, int] = {}
    for name, x in as_arrays(batch).items():
        leaves = jax.tree.leaves(x)
        # Of shapes, and within a transformation of JAX, no value is known.
        real = all(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves)
        if leaves and real and not any(isinstance(leaf, Tracer) for leaf in leaves):
            whole = all(leaf.dtype.kind in "iu" and leaf.size for leaf in leaves)
            if whole:
                found[name] = max(int(leaf.max()) for leaf in leaves)
    return found


def states_of(
    config: Config, shapes: Mapping[str, PyTree], state: TrainState | None
) -> tuple[Config, TrainState]:
    """The configuration for batches of some shapes, and the shapes of all parties' state.

    Args:
        config: of the training.
        shapes: of the fields.
        state: that parameters, statistics and optimizers are taken from, if given.

    Raises:
        ValueError: if the state is of other parties.
    """
    config = passing(config, shapes)
    first = initial_shapes(config, shapes)
    if state is None:
        return config, first
    if (
        not isinstance(state, TrainState)
        or state.parties.keys() != first.parties.keys()
    ):
        got = list(state.parties) if isinstance(state, TrainState) else shown(state)
        raise ValueError(
            f"`state` must be a trainer's, of the parties {list(first.parties)}, got {got}."
        )
    # The memory of a link may have the size of a batch, so it is that of the shapes.
    parties = {}
    for party, own in state.parties.items():
        given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), own)
        parties[party] = first.parties[party]._replace(
            params=given.params, state=given.state, optimizer=given.optimizer
        )
    return config, TrainState(parties)
