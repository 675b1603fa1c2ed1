"""The caches of slices: a whole model that decodes is cut where the one that trains is.

So nobody writes a module for each slice: what decodes has the same cuts, and each slice of
it the caches that its layers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import first_line
from jsplit.core.paths import Nested, Path, by_path, keep, nest, overlay
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
        axes = _batch_axes(decoding, batch)
        whole = segment_and_inputs(whole, None, alike)[0]
        made = _of_any_batch(whole, kinds, batch, axes)
        try:
            found = again(made, *_one_position(example, batch))
        except Exception as error:
            # Of Flax or the user's own, which names neither.
            raise ValueError(
                f"the model that `decoding` gives for batch {batch} and length {length} "
                f"cannot be cut as the one that trains: {first_line(error)}"
            ) from error
        return {n: Sliced(part, kinds) for n, part in found.items()}

    def slice_of(name: str) -> Callable[[int, int], Sliced]:
        return lambda batch, length: cut(batch, length)[name]

    return {n: with_cache(part, slice_of(n)) for n, part in parts.items()}


def _batch_axes(decoding: WholeDecoding, batch: int) -> dict[Path, int]:
    """Which axis of each cache is that of the batch, by path.

    Seen from caches of two sizes: those of layers that a scan runs have it after theirs.
    """
    one, other = (by_path(decoder_of(decoding, n, 1)[1]) for n in (batch, batch + 1))
    found = {}
    for path, x, y in zip(one.paths, one.shapes, other.shapes, strict=True):
        differ = [i for i, n in enumerate(np.shape(x)) if n != np.shape(y)[i]]
        if differ:
            found[path] = differ[0]
    return found


def _of_any_batch(
    segment: Segment, kinds: Nested, size: int, axes: Mapping[Path, int]
) -> Segment:
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
            rows = np.arange(count) % before
            paths, leaves, _ = by_path(keep(tree, kinds, inside=True))
            own = [
                jnp.take(x, rows, axis=axes[path]) if path in axes else x
                for path, x in zip(paths, leaves, strict=True)
            ]
            return overlay(tree, nest(paths, own))

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
