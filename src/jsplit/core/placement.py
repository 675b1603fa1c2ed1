"""Where arrays lie: whole on every device of a mesh, or divided along their leading axis.

Numbers do not depend on it: a mesh says where, and never what, is computed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.core.keys import is_key
from jsplit.core.typed_jax import constrain, device_put, wrap_key_data, zeros


def checked_mesh(mesh: object, name: str = "`mesh`") -> Mesh:
    """Check that an argument is a mesh.

    Args:
        mesh: the argument.
        name: what the error calls it, with its backticks.

    Returns:
        A mesh of the same devices and axes.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(mesh, Mesh):
        kind = type(mesh).__name__
        raise ValueError(f"{name} must be a jax.sharding.Mesh, got {kind}.")

    # With explicit axes, where an array lies would be part of its type, and
    # what a user's model computes with it could be refused.
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Lay every array whole on every device of a mesh; without one, leave it as it is."""
    if mesh is None:
        return tree

    sharding = NamedSharding(mesh, jax.P())

    def lay(x: PyTree) -> PyTree:
        return _place_array(x, sharding)

    return jax.tree.map(lay, tree)


def shard_batch(tree: PyTree, mesh: Mesh | None, *axes: str) -> PyTree:
    """Spread every array along its leading axis over a mesh.

    Args:
        tree: arrays, [batch, ...].
        mesh: without one, all stays as it is.
        *axes: the axes of the mesh to spread over; by default all.

    Returns:
        The same arrays. One whose leading axis the devices do not divide
        lies whole on each of them.
    """
    if mesh is None:
        return tree

    axes = axes or mesh.axis_names
    parts = int(np.prod([mesh.shape[axis] for axis in axes]))
    spread, whole = NamedSharding(mesh, jax.P(axes)), NamedSharding(mesh, jax.P())

    def lay(x: PyTree) -> PyTree:
        shape = jnp.shape(x)
        # XLA refuses shards of different sizes; the same numbers computed
        # on each device are slower and right.
        even = bool(shape) and shape[0] % parts == 0
        return _place_array(x, spread if even else whole)

    return jax.tree.map(lay, tree)


def _place_array(x: ArrayLike, sharding: NamedSharding) -> jax.Array:
    """An array where it shall lie."""
    if isinstance(x, Tracer):
        return constrain(x, sharding)
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x

    # The devices of this process alone, or an array that already spans
    # processes: JAX can move it by itself.
    spans = isinstance(x, jax.Array) and not x.is_fully_addressable
    if sharding.is_fully_addressable or spans:
        return device_put(x, sharding)

    # NumPy has no typed keys, so what they are made of is placed, and
    # wrapped again.
    if isinstance(x, jax.Array) and is_key(x):
        data = _place_array(jax.random.key_data(x), sharding)
        return wrap_key_data(data, impl=jax.random.key_impl(x))

    # Every process has the whole array and must not send it: each takes the
    # parts that its own devices hold.
    local = np.asarray(x, jnp.result_type(x))

    # JAX says that there may be no index, and always gives one.
    def part(where: tuple[slice, ...] | None) -> np.ndarray:
        return local[where]

    # A process that has none of the devices sees no part to take a dtype from.
    return jax.make_array_from_callback(local.shape, sharding, part, dtype=local.dtype)


def move_batch(tree: PyTree, source: Mesh, target: Mesh) -> PyTree:
    """Move what lies on one mesh to another, spread along its leading axis on both.

    Args:
        tree: arrays, [batch, ...].
        source: where they lie.
        target: where they shall lie; of as many devices, if of other processes.

    Returns:
        The same arrays. Every process must call it, since one sends and another receives.
    """
    # JAX moves between processes what is divided alike on both sides.
    tree = shard_batch(tree, source)

    def lay(x: jax.Array) -> jax.Array:
        lies = x.sharding
        assert isinstance(lies, NamedSharding)  # `shard_batch` has made it
        return device_put(x, NamedSharding(target, lies.spec))

    return jax.tree.map(lay, tree)


def default_mesh() -> Mesh:
    """The default device, as a mesh of one."""
    # Asked of an array: `jax.devices()[0]` is not it under
    # `jax.default_device`.
    device = [*zeros(()).devices()]
    return Mesh(np.array(device), ("batch",), axis_types=(AxisType.Auto,))
