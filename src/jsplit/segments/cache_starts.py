"""The empty cache of a session, whose arrays are nobody else's: each call donates them.

That of a module that decodes is made by one compiled function for all sessions: one that
is compiled anew for each costs more than all its first tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import Cache, Params, PyTree, Segment, State
from jsplit.core.paths import Nested, Path, keep, overlay
from jsplit.core.trees import abstract


class Made(NamedTuple):
    """What decodes, for one batch and length.

    Attributes:
        part: computes the next positions.
        first: gives, from shapes of inputs, its state before the first.
        by_kind: of that state, what is a cache by its kind.
        starts: by shapes of inputs and structure of the segment's state, the compiled
            function that makes an empty cache: a session after another compiles none.
        paths: of its parameters, where they are known.
    """

    part: Segment
    first: Callable[..., Nested]
    by_kind: Callable[[Nested], Nested]
    starts: dict[Hashable, Callable[[], Nested]]
    paths: Collection[Path] | None = None


def start_of(
    decoder: Made, state: State, inputs: Sequence[PyTree]
) -> Callable[[], Nested]:
    """What makes an empty cache, compiled once for all sessions of one size.

    Args:
        decoder: of that size.
        state: of the segment, which is no part of the cache.
        inputs: their shapes, for the longest sequence.
    """
    leaves, structure = jax.tree.flatten(abstract(tuple(inputs)))
    shapes = tuple((x.shape, x.dtype) for x in leaves)
    paths = jax.tree.structure(state)
    at = (structure, shapes, paths)
    if at not in decoder.starts:
        like = jax.tree.unflatten(structure, leaves)
        # Of the state only the paths are looked at, and no array is kept alive here.
        own = jax.tree.unflatten(paths, [None] * paths.num_leaves)

        # Compiled, so that of all that `init` of a module makes only this is computed;
        # and what comes out is nobody else's: a session donates it.
        @jax.jit
        def start() -> Nested:
            found = decoder.first(*like)
            kept = keep(found, own, inside=False)
            return overlay(kept, decoder.by_kind(found))

        decoder.starts[at] = start
    return decoder.starts[at]


def owned(cache: Cache) -> Cache:
    """A cache by hand, each of whose empty ones has arrays of its own.

    What `init` gives may be a parameter, as a first state that is learned, a constant of
    the module, or one array in two places; to donate it would delete those.

    Args:
        cache: as the user has written it.
    """

    def copied(x: PyTree) -> PyTree:
        return jnp.array(x, copy=True) if isinstance(x, jax.Array) else x

    def init(params: Params, state: State, /, *inputs: PyTree) -> PyTree:
        return jax.tree.map(copied, cache.init(params, state, *inputs))

    return Cache(init, cache.apply)
