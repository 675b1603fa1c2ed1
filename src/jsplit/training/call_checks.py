"""What is refused of a call of a session: fields that do not fit it, caches that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.topology.nodes import Node
from jsplit.training.cached_walk import same_name
from jsplit.training.walk import Address

Traced = TypeVar("Traced")


def check_call(
    fields: Mapping[str, PyTree], batch: int, position: int, length: int
) -> int:
    """How many positions a call is given.

    Args:
        fields: arrays [batch, positions, ...].
        batch: of the session.
        position: how many positions the session has.
        length: how many it may have.

    Raises:
        ValueError: naming the field or argument that does not fit.
    """
    counts: dict[str, int] = {}
    for name, value in fields.items():
        for x in jax.tree.leaves(value):
            if len(x.shape) < 2 or x.shape[0] != batch or not x.shape[1]:
                raise ValueError(
                    f"`{name}` must be [{batch}, positions, ...], got {list(x.shape)}."
                )
            counts[name] = x.shape[1]
            if x.shape[1] != next(iter(counts.values())):
                raise ValueError(
                    f"all fields must have as many positions, got {counts}."
                )
    if not counts:
        raise ValueError("a call must be given a field that holds an array.")
    count = next(iter(counts.values()))
    if position + count > length:
        raise ValueError(
            f"`length` of the session is {length} positions, and {position} and {count} "
            "more are too many: begin one that may be longer."
        )
    return count


def check_integers(fields: Mapping[str, PyTree], integers: Collection[str]) -> None:
    """Refuse numbers with a fraction where training had whole ones, as tokens.

    Args:
        fields: of a call.
        integers: the names of those that are integers.

    Raises:
        ValueError: naming the field.
    """
    for name in integers:
        for x in jax.tree.leaves(fields.get(name)):
            if not jnp.issubdtype(x.dtype, jnp.integer):
                raise ValueError(f"`{name}` must be integers, got {x.dtype}.")


def run_or_name(
    trace: Callable[[Mapping[str, PyTree]], Traced], fields: Mapping[str, PyTree]
) -> Traced:
    """Trace a call; where it fails, name a field that had to be integers.

    Args:
        trace: of fields, or their shapes.
        fields: shapes of those that were given.

    Raises:
        ValueError: naming a field of floats with which the trace fails, and with integers
            in its place does not.
    """
    try:
        return trace(fields)
    except Exception:
        for name, value in fields.items():
            if not any(_is_float(x) for x in jax.tree.leaves(value)):
                continue
            try:
                trace({**fields, name: jax.tree.map(_whole, value)})
            except Exception:
                continue
            check_integers(fields, [name])
        raise


def _is_float(x: jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _whole(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, "int32") if _is_float(x) else x


def check_first(nodes: Iterable[Node], count: int) -> None:
    """Refuse a first call from which it cannot be seen that segments need no cache.

    Args:
        nodes: whose segments.
        count: the number of its positions.

    Raises:
        ValueError: naming a segment.
    """
    without = [n.name for n in nodes if n.segment.cache is None]
    if count < 2 and without:
        raise ValueError(
            f"segment `{without[0]}` has no cache, and from one position it does not "
            "show whether it needs one: begin with two or more, or say that it does not, "
            "jsplit.with_cache(segment, False)."
        )


def check_same(nodes: Iterable[Node], store: Mapping[Address, PyTree]) -> None:
    """Refuse segments that do not compute piece by piece what they compute at once.

    Args:
        nodes: whose segments.
        store: after the first call.

    Raises:
        ValueError: naming a segment.
    """
    for node in nodes:
        if bool(store[same_name(node)]):
            continue
        if node.segment.cache is None:
            raise ValueError(
                f"segment `{node.name}` has no cache, and what it gives at a position "
                "depends on the others: give it one by jsplit.with_cache."
            )
        raise ValueError(
            f"segment `{node.name}` gives something else by its cache than without, at "
            "once or in two pieces: what decodes is not the model that was trained, its "
            "cache does not advance, or it needs one and was given `False`."
        )
