"""Clients spread over devices: the axis `clients` of a mesh, and functions that run over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jsplit.core.base import PyTree
from jsplit.core.placement import checked_mesh
from jsplit.training.config import Config

CLIENTS = "clients"
"""The axis of a mesh over which clients are spread."""


def clients_mesh(mesh: Mesh | None, config: Config) -> Mesh | None:
    """Check the mesh over whose axis `clients` many clients are spread, if there is one.

    Args:
        mesh: as the user gave it.
        config: of the trainer.

    Returns:
        The mesh, or `None` where there is none.

    Raises:
        ValueError: if it is no mesh, has no axis `clients`, or the trainer
            has a mesh of its own.
    """
    if mesh is None:
        return None
    if config.mesh:
        raise ValueError(
            "`mesh` spreads clients, but `trainer` has one itself, which spreads the "
            "batch of each: give one of them."
        )
    mesh = checked_mesh(mesh)
    if CLIENTS not in mesh.shape:
        have = ", ".join(map(str, mesh.shape))
        raise ValueError(f"`mesh` must have an axis `{CLIENTS}`, it has {have}.")
    return mesh


def over_clients(
    function: Callable[..., PyTree], mesh: Mesh | None, in_axes: tuple[int | None, ...]
) -> Callable[..., PyTree]:
    """Make each device of the mesh run `function` on its part of the clients.

    Args:
        function: takes and gives arrays of several clients, [clients,
            ...].
        mesh: has the axis `clients`; `None`: the function stays as it is.
        in_axes: 0 for each argument that is by client, `None` for what all
            share.

    Returns:
        The function of all clients, whose number the devices must divide.
    """
    if mesh is None:
        return function
    specs = tuple(jax.P() if axis is None else jax.P(CLIENTS) for axis in in_axes)
    # Outputs are spread, never replicated, so there is nothing to check;
    # and the check does not know every primitive that a user's model may
    # contain.
    return jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=jax.P(CLIENTS), check_vma=False
    )


class Vmap(Protocol):
    """Runs a function once for each of several clients, as `jax.vmap` does."""

    def __call__(
        self, fun: Callable[..., PyTree], in_axes: tuple[int | None, ...]
    ) -> Callable[..., PyTree]: ...


def vmap_over_devices(mesh: Mesh | None) -> Vmap:
    """Return `jax.vmap`, each client on one device, whatever their number."""
    if mesh is None:
        return jax.vmap
    devices = mesh.shape[CLIENTS]

    def mapped(
        fun: Callable[..., PyTree], in_axes: tuple[int | None, ...]
    ) -> Callable[..., PyTree]:
        spread = over_clients(jax.vmap(fun, in_axes), mesh, in_axes)

        def run(*args: PyTree) -> PyTree:
            count = _count_mapped(args, in_axes)
            more = -count % devices
            if not more:
                return spread(*args)
            # Where the devices do not divide the clients, the first ones
            # run once more, and what that gives is dropped.
            rows = np.arange(count + more) % count
            filled = [
                a if axis is None else _take(a, rows)
                for a, axis in zip(args, in_axes, strict=True)
            ]
            return _take(spread(*filled), slice(count))

        return run

    return mapped


def _count_mapped(args: tuple, in_axes: tuple[int | None, ...]) -> int:
    """Return the length of the axis that is mapped over."""
    for a, axis in zip(args, in_axes, strict=True):
        # An argument without arrays, such as the state of a model without
        # BatchNorm, does not say how many there are.
        if axis == 0 and jax.tree.leaves(a):
            return jax.tree.leaves(a)[0].shape[0]
    raise ValueError("no argument has an array with a leading axis to map over.")


def _take(tree: PyTree, where: np.ndarray | slice) -> PyTree:
    return jax.tree.map(lambda x: x[where], tree)
