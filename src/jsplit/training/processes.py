"""Parties whose devices belong to several processes of one owner, joined by `jax.distributed`.

Every process runs the same script and makes the same calls. What crosses is moved by JAX from
one process's devices to the other's, and what a step tells is told to all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jsplit.core.base import PyTree


def check_processes(parties: Sequence[str], meshes: Mapping[str, Mesh]) -> None:
    """Refuse meshes over several processes between which nothing could be moved.

    Args:
        parties: of the topology.
        meshes: by party, if it has one.

    Raises:
        ValueError: naming a party.
    """
    away = [p for p, m in meshes.items() if _processes(m) != {jax.process_index()}]
    if not away:
        return
    for party in parties:
        # Its default device would be another one in every process.
        if party not in meshes:
            raise ValueError(
                f"`mesh` of `{away[0]}` has devices of other processes, so every party "
                f"needs one, and `{party}` has none."
            )
        # JAX moves between processes what has as many parts on both sides.
        if meshes[party].size != meshes[away[0]].size:
            raise ValueError(
                "`mesh` of parties in several processes must have equally many devices: "
                f"`{away[0]}` has {meshes[away[0]].size}, and `{party}` "
                f"{meshes[party].size}."
            )


def several_processes(meshes: Mapping[str, Mesh]) -> bool:
    """Whether parties lie in several processes, apart from each other."""
    if jax.process_count() == 1:
        return False
    if not meshes:
        return False
    first, *others = meshes.values()
    # One mesh for all parties: there is nothing to move.
    return any(other != first for other in others)


def tell_all(tree: PyTree) -> PyTree:
    """Give every process what lies on devices of one of them.

    Args:
        tree: arrays, each whole on some process's devices: losses, flags.

    Returns:
        The same numbers, on every process's own default device.
    """
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    own = [
        np.asarray(x.addressable_data(0))
        if jax.process_index() in _owners(x)
        else np.zeros(x.shape, x.dtype)
        for x in leaves
    ]
    # One exchange for all of them, in which every process has a row.
    found = multihost_utils.process_allgather(own)
    told = [
        jnp.asarray(rows[min(_owners(x))])
        for rows, x in zip(found, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, told)


def _owners(x: jax.Array) -> set[int]:
    if not isinstance(x, jax.Array):
        return {jax.process_index()}
    return {device.process_index for device in x.sharding.device_set}


def _processes(mesh: Mesh) -> set[int]:
    return {device.process_index for device in mesh.devices.flat}
