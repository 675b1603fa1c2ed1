"""Where arrays lie when there are several devices: whole on every one of them, or spread along their leading axis.

A computation on arrays that lie so is one program over all devices of a mesh, in one process or in several, and means what
it means on one device: a mean over a batch is over the whole batch, wherever its parts lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding

from jsplit.core.base import PyTree, Segment, shapes_of
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Node
from jsplit.training.step import Config
from jsplit.training.walk import Name, Wire

CLIENTS = "clients"
"""The axis of a mesh over which clients are spread."""

Meshes = Mapping[str, Mesh]
"""By party, the devices that it computes on."""


def checked(mesh: Any, name: str = "`mesh`") -> Mesh:
    """The mesh, its axes such that where arrays lie is no part of their type."""
    if not isinstance(mesh, Mesh):
        raise ValueError(f"{name} must be a jax.sharding.Mesh, got {type(mesh).__name__}.")
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def clients_mesh(mesh: Any, config: Config) -> Mesh | None:
    """The mesh over whose axis `clients` many clients are spread, if there is one."""
    if mesh is None:
        return None
    if config.mesh:
        raise ValueError(
            "`mesh` spreads clients, but `trainer` has one itself, which spreads the batch of each: give one of them."
        )
    if CLIENTS not in (mesh := checked(mesh)).shape:
        raise ValueError(f"`mesh` must have an axis `{CLIENTS}`, it has {', '.join(map(str, mesh.shape))}.")
    return mesh


def whole(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Every array whole on every device of the mesh; without one, as it is."""
    return tree if mesh is None else jax.tree.map(lambda x: put(x, NamedSharding(mesh, jax.P())), tree)


def along(tree: PyTree, mesh: Mesh | None, *axes: str) -> PyTree:
    """Every array spread along its leading axis over these axes of the mesh, or all; whole where they do not divide it."""
    if mesh is None:
        return tree
    axes = axes or mesh.axis_names
    parts = int(np.prod([mesh.shape[a] for a in axes]))

    def lay(x: Any) -> Any:
        even = jnp.ndim(x) > 0 and jnp.shape(x)[0] % parts == 0
        return put(x, NamedSharding(mesh, jax.P(axes) if even else jax.P()))

    return jax.tree.map(lay, tree)


def put(x: Any, sharding: NamedSharding) -> Any:
    """An array where it shall lie. Of an array of this process that others have as well, each takes its own part."""
    if isinstance(x, Tracer):
        return jax.lax.with_sharding_constraint(x, sharding)
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if sharding.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    x = np.asarray(x, jnp.result_type(x))
    return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])


def clients_mapped(mapped: Callable, mesh: Mesh | None) -> Callable:
    """`mapped`, which runs a function once for each client as `jax.vmap` does, with each device running its part of them.

    Where the devices do not divide the clients, some run once more, and what that gives is dropped."""
    if mesh is None:
        return mapped

    def outer(function: Callable, in_axes: tuple) -> Callable:
        def run(*args: PyTree) -> PyTree:
            count = next(x.shape[0] for a, axis in zip(args, in_axes, strict=True) if axis == 0 for x in jax.tree.leaves(a))
            more = -count % mesh.shape[CLIENTS]
            rows = np.arange(count + more) % count
            specs = tuple(jax.P() if axis is None else jax.P(CLIENTS) for axis in in_axes)
            filled = (
                jax.tree.map(lambda x: x[rows], a) if axis == 0 and more else a for a, axis in zip(args, in_axes, strict=True)
            )
            spread = jax.shard_map(
                mapped(function, in_axes), mesh=mesh, in_specs=specs, out_specs=jax.P(CLIENTS), check_vma=False
            )
            return jax.tree.map(lambda x: x[:count] if more else x, spread(*filled))

        return run

    return outer


def meshes_of(topology: Topology, mesh: Any) -> dict[str, Mesh]:
    """By party, the mesh that it is given; one for all is given to each.

    Raises:
        ValueError: naming the party.
    """
    if mesh is None:
        return {}
    if not isinstance(mesh, Mapping):
        return dict.fromkeys(topology.parties, checked(mesh))
    for party in mesh:
        if party not in topology.parties:
            raise ValueError(f"`mesh` names the party `{party}`, which is not one of {', '.join(topology.parties)}.")
    found = {party: checked(x, f"`mesh` of `{party}`") for party, x in mesh.items()}
    for party, x in found.items():
        elsewhere = any(d.process_index != jax.process_index() for d in x.devices.flat)
        if elsewhere and {found.get(p) for p in topology.parties} != {x}:
            raise ValueError(
                f"`mesh` of `{party}` has devices of other processes, out of reach for the other parties: give all parties it."
            )
    return found


def one_mesh(config: Config) -> Mesh | None:
    """The mesh that all parties share, if they have one: one program runs on one set of devices."""
    of = {party: config.mesh.get(party) for party in config.topology.parties}
    if len({*of.values()}) > 1:
        said = ", ".join(f"`{p}` has {'none' if m is None else dict(m.shape)}" for p, m in of.items())
        raise ValueError(
            f"`mesh` must be the same for all parties, whose steps are one program here; {said}. In jsplit.messages each may "
            "have its own."
        )
    return of[config.topology.parties[0]]


def check_even(config: Config, size: int) -> None:
    """Refuse a batch to train on that the devices of a party do not divide."""
    for party, mesh in config.mesh.items():
        if size % (mesh.size * config.microbatches):
            part = f"each of the {config.microbatches} micro-batches" if config.microbatches > 1 else "the batch"
            raise ValueError(
                f"{part} of {size // config.microbatches} examples does not divide over the {mesh.size} devices of the mesh of "
                f"`{party}`; fill it up with examples of weight 0."
            )


def constrained(config: Config) -> Config:
    """The same training, in which a party with a mesh computes on inputs that are spread over it."""

    def segment(one: Segment, mesh: Mesh) -> Segment:
        def apply(params, state, key, *inputs, train=True):
            return one.apply(params, state, key, *along(inputs, mesh), train=train)

        return replace(one, apply=apply)

    if not config.mesh:
        return config
    nodes = [
        replace(n, segment=segment(n.segment, config.mesh[n.party])) if isinstance(n, Node) and n.party in config.mesh else n
        for n in config.topology.nodes
    ]
    return config._replace(topology=Topology(nodes, config.topology.holds))


def at_home(
    function: Callable[..., tuple], party: str, reads: Sequence[Name | Wire], meshes: Meshes | None
) -> Callable[..., tuple]:  # fmt: skip
    """A turn that runs on the devices of its party, which what it reads is moved to; where nobody has a mesh, as it is."""
    if not meshes:
        return function
    mesh = meshes.get(party) or default()

    def lay(name: Name | Wire, x: PyTree) -> PyTree:
        if isinstance(name, Wire) or name.kind in ("value", "weight"):
            return along(x, mesh)
        return whole(x, mesh) if name.kind in ("params", "state", "optimizer", "link", "key", "step") else x

    return lambda *values: function(*map(lay, reads, values))


def gathered(combine: Callable[[dict], Any], config: Config) -> Callable[[dict], Any]:
    """A function of the losses of all parties, which are moved to the devices of the party that has the first."""
    if not config.mesh:
        return combine
    mesh = config.mesh.get(config.topology.losses[0].party) or default()
    return lambda losses: combine(whole(losses, mesh))


def zeros(function: Callable[..., PyTree], config: Config) -> Callable[..., PyTree]:
    """A function that gives zeros, whatever it is given: where parties have devices of their own, on none in particular."""
    if not config.mesh:
        return jax.jit(function)
    return lambda *given: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *shapes_of(given)))


def default() -> Mesh:
    """The default device, as a mesh of one."""
    return Mesh(np.array([*jnp.zeros(()).devices()]), ("batch",), axis_types=(AxisType.Auto,))
