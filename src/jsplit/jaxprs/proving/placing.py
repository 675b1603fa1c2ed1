"""Primitives that put entries at known places of an array: `x.at[...].set`, a slice of it.

What they put in is found entry by entry, and so is what they leave of the array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.jaxprs.proving.facts import NONE, Fact, giving

Params = Mapping[str, object]


def sliced(
    starts: Sequence[Fact], sizes: Sequence[int], shape: Sequence[int]
) -> tuple[slice, ...] | None:
    """Where a slice of an array lies; `None`: it is not known.

    Args:
        starts: facts of its start, by axis.
        sizes: of the slice.
        shape: of the array.
    """
    at: list[slice] = []
    for start, size, whole in zip(starts, sizes, shape, strict=True):
        value = start.value()
        if value is None:
            return None
        # JAX moves a start so that the slice fits.
        first = max(0, min(int(value), whole - size))
        at.append(slice(first, first + size))
    return tuple(at)


def placed_slice(facts: Sequence[Fact], result: Fact) -> Fact:
    """What is proven of the result of `dynamic_update_slice`."""
    x, update = facts[:2]
    at = sliced(facts[2:], update.shape, x.shape)
    if at is None:
        return result
    numbers = _numbers(x).copy()
    numbers[at] = _numbers(update)
    return giving(result, [f for f in (x, update) if f.gives], numbers)


def placed(how: str, params: Params, facts: Sequence[Fact], result: Fact) -> Fact:
    """What is proven of the result of a scatter to places that the code says.

    Args:
        how: "" of one that sets, else what it does: "add", "mul".
        params: of the equation.
        facts: of the array, of the places, of the updates.
        result: as `facts.plain` gives it.
    """
    x, index, updates = facts
    at = index.value()
    if at is None or not (x.gives or updates.gives):
        return result
    x_ids, update_ids = _numbers(x), _numbers(updates)
    # How many updates came to each place; of two, one is lost or both are mixed.
    count = _scattered(params, np.zeros(x.shape), at, np.ones(updates.shape), True)
    new = _scattered(params, np.zeros(x.shape), at, update_ids + 1, False) - 1
    new = np.where(count == 1, new, NONE)
    if how == "":
        numbers = np.where(count == 0, x_ids, new)
        return giving(result, [f for f in (x, updates) if f.gives], numbers)
    if how == "add":
        if x.gives and not updates.gives and updates.clean:
            return giving(result, [x, updates], x_ids)
        if updates.gives and not x.gives and x.clean:
            return giving(result, [x, updates], new)
    # Of any other, what it leaves as it was.
    return giving(result, [x], np.where(count == 0, x_ids, NONE))


def _numbers(x: Fact) -> np.ndarray:
    return np.full(x.shape, NONE) if x.ids is None else x.ids


def _scattered(
    params: Params, x: np.ndarray, at: np.ndarray, updates: np.ndarray, adds: bool
) -> np.ndarray:
    """Numbers of entries, put by JAX as it puts entries."""
    scatter = jax.lax.scatter_add if adds else jax.lax.scatter
    found = scatter(
        jnp.asarray(x, "int32"),
        jnp.asarray(at),
        jnp.asarray(updates, "int32"),
        params["dimension_numbers"],  # type: ignore[arg-type]
        mode=params["mode"],  # type: ignore[arg-type]
    )
    return np.asarray(found).astype(np.int64)
