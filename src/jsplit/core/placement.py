"""Where arrays lie: whole on every device of a mesh, or divided along their leading axis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding

from jsplit.core.base import PyTree


def checked_mesh(mesh: Any, name: str = "`mesh`") -> Mesh:
    """The mesh, its axes such that where arrays lie is no part of their type."""
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"{name} must be a jax.sharding.Mesh, got {type(mesh).__name__}."
        )
    return Mesh(
        mesh.devices,
        mesh.axis_names,
        axis_types=(AxisType.Auto,) * len(mesh.axis_names),
    )


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Every array whole on every device of the mesh; without one, as it is."""
    return (
        tree
        if mesh is None
        else jax.tree.map(lambda x: _place_array(x, NamedSharding(mesh, jax.P())), tree)
    )


def shard_batch(tree: PyTree, mesh: Mesh | None, *axes: str) -> PyTree:
    """Every array spread along its leading axis over these axes of the mesh, or all; whole where they do not divide it."""
    if mesh is None:
        return tree
    axes = axes or mesh.axis_names
    parts = int(np.prod([mesh.shape[a] for a in axes]))

    def lay(x: Any) -> Any:
        even = jnp.ndim(x) > 0 and jnp.shape(x)[0] % parts == 0
        return _place_array(x, NamedSharding(mesh, jax.P(axes) if even else jax.P()))

    return jax.tree.map(lay, tree)


def _place_array(x: Any, sharding: NamedSharding) -> Any:
    """An array where it shall lie. Of an array of this process that others have as well, each takes its own part."""
    if isinstance(x, Tracer):
        return jax.lax.with_sharding_constraint(x, sharding)
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if sharding.is_fully_addressable or (
        isinstance(x, jax.Array) and not x.is_fully_addressable
    ):
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            _place_array(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x)
        )
    x = np.asarray(x, jnp.result_type(x))
    return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])


def default_mesh() -> Mesh:
    """The default device, as a mesh of one."""
    return Mesh(
        np.array([*jnp.zeros(()).devices()]), ("batch",), axis_types=(AxisType.Auto,)
    )
