"""The caches of slices: a whole model that decodes is cut where the one that trains is.

So nobody writes a module for each slice: what decodes has the same cuts, and each slice of
it the caches that its layers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import first_line
from jsplit.core.paths import Nested, keep, overlay
from jsplit.segments.attention_caches import (
    WholeDecoding,
    check_decoding,
    decoder_of,
)
from jsplit.segments.decoding import Sliced, with_cache
from jsplit.segments.from_model import Told, segment_and_inputs


def with_decoders(
    parts: Mapping[str, Segment],
    decoding: WholeDecoding,
    told: Told,
    again: Callable[..., dict[str, Segment]],
    example: Sequence[PyTree],
) -> dict[str, Segment]:
    """Give each slice the cache of the same slice of a model that decodes.

    Args:
        parts: slices of the model that trains.
        decoding: of (batch, length), the same model in the mode in which it decodes.
        told: what the user tells of the model.
        again: cuts a segment at the same places, given an example.
        example: their shapes, [batch, positions, ...].

    Returns:
        The slices, with their caches.

    Raises:
        ValueError: naming `decoding`, if it is no function of these.
    """
    check_decoding(decoding)
    alike = told._replace(init=None, variables=None)

    # All parts are slices of one: it is cut once for each size.
    @lru_cache(maxsize=8)
    def cut(batch: int, length: int) -> dict[str, Sliced]:
        whole, kinds = decoder_of(decoding, batch, length)
        axes = _batch_axes(kinds, decoder_of(decoding, batch + 1, length)[1])
        made = _of_any_batch(segment_and_inputs(whole, None, alike)[0], axes, batch)
        try:
            found = again(made, *_one_position(example, batch))
        except Exception as error:
            # Of Flax or the user's own, which names neither.
            raise ValueError(
                f"the model that `decoding` gives for batch {batch} and length {length} "
                f"cannot be cut as the one that trains: {first_line(error)}"
            ) from error
        for name, part in found.items():
            _check_carried(name, parts[name], part)
        return {n: Sliced(part, kinds) for n, part in found.items()}

    def slice_of(name: str) -> Callable[[int, int], Sliced]:
        return lambda batch, length: cut(batch, length)[name]

    return {n: with_cache(part, slice_of(n)) for n, part in parts.items()}


def _check_carried(name: str, trained: Segment, decoder: Segment) -> None:
    """Refuse a model that decodes without what goes around a cut of the one that trains."""
    wanted, got = ([c.name for c in part.carried] for part in (trained, decoder))
    if wanted == got:
        return
    trains, decodes = (
        ", ".join(f"`{n}`" for n in names) or "nothing" for names in (wanted, got)
    )
    raise ValueError(
        f"the model that trains carries {trains} with the cut `{name}`, and the one that "
        f"`decoding` gives {decodes}: let it read what goes around the cut as the other "
        "does, as a padding mask, which each layer keeps in an nnx.Cache."
    )


def _batch_axes(caches: Nested, wider: Nested) -> Nested:
    """Which axis of each cache is the batch, by those of a batch of one more; -1: none.

    Of a stack of layers it is not the first: that one is the layers'.
    """

    def axis(x: PyTree, y: PyTree) -> int:
        pairs = enumerate(zip(np.shape(x), np.shape(y), strict=True))
        return next((i for i, (size, more) in pairs if size != more), -1)

    return jax.tree.map(axis, caches, wider)


def _of_any_batch(segment: Segment, axes: Nested, size: int) -> Segment:
    """A segment whose caches, of one batch, are looked at with another as well.

    That the batch is free is seen from a trace with another one; nothing is run so.
    """

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool,
    ) -> tuple[PyTree, State]:
        batch = next(x.shape[0] for x in jax.tree.leaves(inputs))
        if batch == size:
            return segment.apply(params, state, key, *inputs, train=train)

        def resized(count: int, before: int, tree: Nested) -> Nested:
            def of_count(x: jax.Array, axis: int) -> jax.Array:
                if axis < 0:
                    return x
                # No gather: rows of layers are not followed through one.
                more = jax.lax.concatenate([x] * -(-count // before), axis)
                return jax.lax.slice_in_dim(more, 0, count, axis=axis)

            own = jax.tree.map(of_count, keep(tree, axes, inside=True), axes)
            return overlay(tree, own)

        given = resized(batch, size, state)
        output, after = segment.apply(params, given, key, *inputs, train=train)
        return output, resized(size, batch, after)

    return replace(segment, apply=apply)


def _one_position(example: Sequence[PyTree], batch: int) -> list[PyTree]:
    """The shapes of one position: Flax's own attention decodes no more at a time."""

    def one(x: PyTree) -> jax.ShapeDtypeStruct:
        shape = (batch, 1, *np.shape(x)[2:])[: np.ndim(x)]
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return [jax.tree.map(one, x) for x in example]
