"""Where arrays lie when a party has several devices: whole on each, or spread along the batch.

A computation on arrays that lie so is one program over all devices of a
mesh, in one process or in several, and means what it means on one
device: a mean over a batch is over the whole batch, wherever its parts
lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jsplit.core.base import Fields, Info, PyTree, Segment, TrainState
from jsplit.core.placement import (
    checked_mesh,
    default_mesh,
    move_batch,
    replicate,
    shard_batch,
)
from jsplit.core.trees import abstract
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.kinds import PERSISTENT, Kind
from jsplit.training.left_out import Weight
from jsplit.training.losses import info_of
from jsplit.training.processes import check_processes, several_processes, tell_all
from jsplit.training.strengths import Strengths
from jsplit.training.walk import Address, Wire

Meshes = Mapping[str, Mesh]
"""By party, the devices that it computes on."""


def meshes_of(
    topology: Topology, mesh: Mesh | Mapping[str, Mesh] | None
) -> dict[str, Mesh]:
    """By party, the mesh that it is given; one for all is given to each.

    Args:
        topology: whose parties there are.
        mesh: a mesh, or meshes by party, or `None`.

    Returns:
        The meshes; a party without one has no entry.

    Raises:
        ValueError: naming the party.
    """
    if mesh is None:
        return {}
    if not isinstance(mesh, Mapping):
        return dict.fromkeys(topology.parties, checked_mesh(mesh))
    for party in mesh:
        if party not in topology.parties:
            raise ValueError(
                f"`mesh` names the party `{party}`, which is not one of "
                f"{', '.join(topology.parties)}."
            )
    found = {
        party: checked_mesh(x, f"`mesh` of `{party}`") for party, x in mesh.items()
    }
    check_processes(topology.parties, found)
    return found


def one_mesh(config: Config) -> Mesh | None:
    """The mesh that all parties share, if they have one.

    Raises:
        ValueError: if they have several: one program runs on one set of
            devices.
    """
    of = {party: config.mesh.get(party) for party in config.topology.parties}
    if len({*of.values()}) > 1:
        said = ", ".join(
            f"`{p}` has {'none' if m is None else dict(m.shape)}" for p, m in of.items()
        )
        raise ValueError(
            "`mesh` must be the same for all parties, whose steps are one program here; "
            f"{said}. In jsplit.messages each may have its own."
        )
    return of[config.topology.parties[0]]


def check_even(config: Config, size: int) -> None:
    """Refuse a batch to train on that the devices of a party do not divide.

    In inference each device would compute all of it; in training that
    would be slow without a word.
    """
    count = config.microbatches
    for party, mesh in config.mesh.items():
        if size % (mesh.size * count):
            several = f"each of the {count} micro-batches"
            part = several if count > 1 else "the batch"
            raise ValueError(
                f"{part} of {size // count} examples does not divide over the "
                f"{mesh.size} devices of the mesh of `{party}`; fill it up with examples "
                "of weight 0."
            )


def with_batch_sharding(config: Config) -> Config:
    """The same training, in which a party with a mesh computes on inputs spread over it."""
    if not config.mesh:
        return config

    # At every segment's inputs, since XLA may choose another layout for
    # what is between.
    nodes = []
    for n in config.topology.nodes:
        if isinstance(n, Node) and n.party in config.mesh:
            n = replace(n, segment=_on_shards(n.segment, config.mesh[n.party]))
        nodes.append(n)
    return config._replace(
        topology=Topology(nodes, config.topology.holds, public=config.topology.public)
    )


def _on_shards(segment: Segment, mesh: Mesh) -> Segment:
    """A segment whose inputs are spread over a mesh before it computes."""

    def apply(params, state, key, *inputs, train=True):
        spread = shard_batch(inputs, mesh)
        return segment.apply(params, state, key, *spread, train=train)

    return replace(segment, apply=apply)


def on_party_devices(
    function: Callable[..., tuple],
    party: str,
    reads: Sequence[Address],
    meshes: Meshes | None,
) -> Callable[..., tuple]:
    """A turn that runs on the devices of its party, to which what it reads is moved.

    Args:
        function: the turn, of the values of `reads`.
        party: whose it is; without a mesh of its own it computes on the
            default device.
        reads: what each argument is.
        meshes: by party; where nobody has one, `function` is given back
            as it is.
    """
    if not meshes:
        return function
    mesh = meshes.get(party) or default_mesh()

    def lay(name: Address, x: PyTree) -> PyTree:
        if isinstance(name, Wire) and several_processes(meshes):
            return move_batch(x, meshes[name.sender], mesh)
        if isinstance(name, Wire) or name.kind in (Kind.VALUE, Kind.WEIGHT):
            return shard_batch(x, mesh)
        # What an earlier turn of this party left lies where it should
        # already.
        return replicate(x, mesh) if name.kind in PERSISTENT else x

    return lambda *values: function(*map(lay, reads, values))


Combine = Callable[[Mapping[str, jax.Array], Strengths], Info]


def combined(config: Config) -> Combine:
    """How the losses of all parties, and strengths, become what a step tells.

    They may lie on different devices, and are moved to those of the party that has the
    first loss.
    """
    combine: Combine = partial(info_of, config.topology)
    losses = config.topology.losses
    # One loss of weight 1 is the total as it is: nothing is computed,
    # so nothing compiled.
    if len(losses) > 1 or any(x.weight != 1 for x in losses):
        combine = jax.jit(combine)
    if not config.mesh:
        return combine
    if several_processes(config.mesh):
        return lambda *given: combine(*tell_all(given))
    mesh = config.mesh.get(config.topology.losses[0].party) or default_mesh()
    return lambda *given: combine(*[replicate(x, mesh) for x in given])


def zeros(function: Callable[..., PyTree], config: Config) -> Callable[..., PyTree]:
    """A function that gives zeros, whatever it is given: one made fast, or bound to no device."""
    if not config.mesh:
        return jax.jit(function)

    # One program for arguments on devices of several parties cannot be
    # compiled; shapes are enough, and zeros that are not committed to a
    # device go to any.
    def run(*given: PyTree) -> PyTree:
        shapes = jax.eval_shape(function, *abstract(given))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return run


def placed(
    devices: Mesh | None, state: TrainState, batch: Fields, weight: Weight | None
) -> tuple[TrainState, dict[str, PyTree], ArrayLike | None]:
    """The arguments of a program where it computes; without a mesh, as they are."""
    return (
        replicate(state, devices),
        # A plain dictionary: programs do not take every mapping for a
        # pytree.
        shard_batch(dict(batch), devices),
        shard_batch(weight, devices),
    )
