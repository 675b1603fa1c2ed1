"""A segment with a cache: what decodes with the parameters of one that was trained whole.

Flax decodes by modules with `decode=True`, whose caches are `nnx.Cache` variables or the
collection `cache`; `with_cache` makes pure functions of one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import unfreeze

from jsplit.core.base import Cache, Params, PyTree, Segment, State
from jsplit.core.checks import first_line, shown
from jsplit.core.paths import Nested, Path, by_path, dotted, keep, overlay
from jsplit.core.trees import abstract
from jsplit.segments.attention_caches import with_attention_caches
from jsplit.segments.cache_starts import Made, owned, start_of
from jsplit.segments.call import Call
from jsplit.segments.from_model import segment as segment_of
from jsplit.segments.trainable import params_filter


class Sliced(NamedTuple):
    """A slice of a module that decodes.

    Attributes:
        part: it.
        kinds: the caches of the whole module, by path.
    """

    part: Segment
    kinds: Nested


Decoder = nnx.Module | linen.Module | Segment | Sliced
Decoding = Decoder | Cache | bool | Callable[[int, int], Decoder]
"""What `with_cache` takes: what decodes, or what makes it for a batch and a length."""


def with_cache(segment: Segment, decoding: Decoding) -> Segment:
    """Let a segment compute a sequence piece by piece, for `jsplit.session`.

    Training, `evaluate` and `predict` go on as before, on whole sequences. What
    decodes has the same parameters at the same paths; what its state holds beyond that
    of the segment (and every `nnx.Cache`, and the collection `cache`) is the cache.
    Inputs and outputs are [batch, positions, ...]. A decoder that takes one position at
    a time, as Flax's own attention, is given several one after the other.

    Args:
        segment: as it was trained.
        decoding: a function of (batch, length) that gives the module that decodes, as
            `lambda b, n: nnx.view(model, decode=True, batch_size=b, max_length=n)`; or
            the module itself, if its caches have the right size, as linen's are made
            by `init` of the longest sequence; a `Segment`, whose `init` is called
            with inputs of one position; a `jsplit.Cache` of pure functions; or
            `False`: every position is computed by itself, and needs none.

    Returns:
        The segment, with its `cache`.

    Raises:
        ValueError: if `segment` is no Segment, or `decoding` none of these.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from flax import linen
        >>> class Attend(linen.Module):
        ...     decode: bool = False
        ...
        ...     @linen.compact
        ...     def __call__(self, h):
        ...         layer = linen.MultiHeadDotProductAttention(2, decode=self.decode)
        ...         mask = linen.make_causal_mask(h[..., 0])
        ...         return layer(h, mask=None if self.decode else mask)
        >>> body = jsplit.with_cache(jsplit.segment(Attend()), Attend(decode=True))
        >>> body.cache is None, body.inputs
        (False, ('h',))
    """
    if not isinstance(segment, Segment):
        raise ValueError(
            f"`segment` must be a Segment, got {shown(segment)}; see jsplit.segment."
        )
    if decoding is False:
        return replace(segment, cache=_without(segment))
    if isinstance(decoding, Cache):
        return replace(segment, cache=owned(decoding))
    if isinstance(decoding, _MODELS):
        ready = decoding
        return replace(segment, cache=_cache_of(segment, lambda batch, length: ready))
    if isinstance(decoding, bool | type) or not callable(decoding):
        raise ValueError(
            "`decoding` must be a Flax module, a Segment, a jsplit.Cache, a function of "
            f"(batch, length) that gives one, or False, got {shown(decoding)}."
        )
    make = cast("Callable[[int, int], Decoder]", decoding)
    return replace(segment, cache=_cache_of(segment, make))


_MODELS = (nnx.Module, linen.Module, Segment, Sliced)


@jax.tree_util.register_pytree_node_class
class _Sized:
    """A cache, and for which batch and length it was made."""

    # A part of the structure: what is compiled for one size is not run with another.
    def __init__(self, held: Nested, batch: int, length: int):
        self.held, self.batch, self.length = held, batch, length

    def tree_flatten(self):
        return (self.held,), (self.batch, self.length)

    @classmethod
    def tree_unflatten(cls, size, children):
        return cls(children[0], *size)


def _without(segment: Segment) -> Cache:
    """Of a segment that computes every position by itself."""

    def apply(
        params: Params, state: State, cache: PyTree, /, *inputs: PyTree
    ) -> tuple[PyTree, PyTree]:
        return segment.apply(params, state, None, *inputs, train=False)[0], cache

    return Cache(lambda params, state, *inputs: (), apply)


def _cache_of(segment: Segment, make: Callable[[int, int], Decoder]) -> Cache:
    """The cache of a segment, from what makes its decoder."""

    @lru_cache(maxsize=8)
    def made(batch: int, length: int) -> Made:
        # It outlasts the trace in which it may be asked for.
        with jax.ensure_compile_time_eval():
            decoder = with_attention_caches(make(batch, length), batch, length)
        if not isinstance(decoder, _MODELS):
            raise ValueError(
                "`decoding` must give a Flax module or a Segment, got "
                f"{shown(decoder)}."
            )
        return _made(segment, decoder)

    def init(params: Params, state: State, /, *inputs: PyTree) -> _Sized:
        batch, length = _size_of(inputs)
        decoder = made(batch, length)
        _check_paths(decoder.paths, params)
        held = start_of(decoder, state, inputs)()
        _check_length(decoder.by_kind(abstract(held)), length)
        return _Sized(held, batch, length)

    def apply(
        params: Params, state: State, cache: _Sized, /, *inputs: PyTree
    ) -> tuple[PyTree, _Sized]:
        part = made(cache.batch, cache.length).part

        def at_once(held: Nested, *pieces: PyTree) -> tuple[PyTree, Nested]:
            given = overlay(state, held)
            output, new = part.apply(params, given, None, *pieces, train=False)
            return output, keep(new, held, inside=True)

        output, held = _by_positions(at_once, cache.held, inputs)
        return output, _Sized(held, cache.batch, cache.length)

    return Cache(init, apply)


def _made(segment: Segment, decoder: Decoder) -> Made:
    if isinstance(decoder, nnx.Module):
        part = segment_of(decoder, inputs=segment.inputs)
        carried = nnx.Not(
            nnx.Any(params_filter(segment.trains), nnx.RngState, nnx.Intermediate)
        )
        kinds = cast("Nested", nnx.to_pure_dict(nnx.state(decoder, nnx.Cache)))
        return Made(
            part,
            lambda *inputs: cast(
                "Nested", nnx.to_pure_dict(nnx.state(decoder, carried))
            ),
            lambda found: keep(found, kinds, inside=True),
            {},
            by_path(nnx.to_pure_dict(nnx.state(decoder))).paths,
        )
    if isinstance(decoder, linen.Module):
        part = segment_of(decoder, inputs=segment.inputs)
        call = Call(decoder, segment.inputs, 0)

        def first(*inputs: PyTree) -> Nested:
            # Flax makes a cache as long as what its module is initialised with.
            key = jax.random.key(0)
            found = call(
                decoder.init, (key,), _zeros(inputs), train=False, **call.drawn(key)
            )
            kept = {**unfreeze({**cast("Mapping[str, PyTree]", found)})}
            return {k: x for k, x in kept.items() if k not in _NOT_CARRIED}

        return Made(part, first, _collection, {})

    if isinstance(decoder, Sliced):
        part, kinds = decoder
        return Made(
            part,
            lambda *inputs: part.init(jax.random.key(0))[1],
            lambda found: keep(found, kinds, inside=True),
            {},
        )

    def of_one_position(*inputs: PyTree) -> Nested:
        one = jax.tree.map(lambda x: jnp.zeros((x.shape[0], 1, *x.shape[2:])), inputs)
        typed = jax.tree.map(lambda x, like: x.astype(like.dtype), one, inputs)
        return decoder.init(jax.random.key(0), *typed)[1]

    return Made(decoder, of_one_position, _collection, {})


_NOT_CARRIED = ("params", "intermediates")


def _collection(found: Nested) -> Nested:
    """What linen keeps as the cache of a module."""
    return {k: x for k, x in found.items() if k == "cache"}


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _size_of(inputs: PyTree) -> tuple[int, int]:
    """The batch and the number of positions of inputs, or of their shapes."""
    sizes = {x.shape[:2] for x in jax.tree.leaves(inputs)}
    if len(sizes) != 1 or len(next(iter(sizes))) < 2:
        shapes = ", ".join(str(list(x.shape)) for x in jax.tree.leaves(inputs))
        raise ValueError(
            "a segment with a cache takes arrays [batch, positions, ...], of as many "
            f"positions each, got {shapes or 'none'}."
        )
    batch, length = sizes.pop()
    return batch, length


def _check_paths(own: Collection[Path] | None, params: Params) -> None:
    """Refuse a decoder that has not the parameters of its segment at their paths."""
    lacking = [p for p in by_path(params).paths if own is not None and p not in own]
    if own is not None and lacking:
        there = ", ".join(f"`{dotted(p)}`" for p in [*own][:3]) or "none"
        raise ValueError(
            f"`decoding` gives a module without a parameter at `{dotted(lacking[0])}`, "
            f"which the segment has (a number in it is a place in an nnx.List); it has "
            f"{there}. Of slices of one model `jsplit.split(..., decoding=)` makes what "
            "decodes."
        )


def _check_length(by_kind: Nested, length: int) -> None:
    """Refuse caches of Flax that no axis of a module says to be as long as asked."""
    # They write beyond their end without a word: the last position again and again.
    shapes = [x.shape for x in jax.tree.leaves(by_kind) if len(x.shape) > 1]
    if shapes and not any(length in shape for shape in shapes):
        raise ValueError(
            f"`length` is {length}, and no axis of the caches of `decoding` is so long: "
            f"{', '.join(str(list(s)) for s in shapes[:3])}. Give a function of (batch, "
            "length) that makes them."
        )


def _by_positions(
    at_once: Callable[..., tuple[PyTree, Nested]], held: Nested, inputs: Collection
) -> tuple[PyTree, Nested]:
    """Positions at once if the decoder takes them so, or one after the other."""
    _, count = _size_of(inputs)
    if count == 1:
        return at_once(held, *inputs)
    try:
        jax.eval_shape(at_once, held, *inputs)
    except Exception as error:
        refused = first_line(error)
    else:
        return at_once(held, *inputs)

    def one(held: Nested, piece: PyTree) -> tuple[Nested, PyTree]:
        pieces = jax.tree.map(lambda x: x[:, None], piece)
        output, held = at_once(held, *pieces)
        return held, jax.tree.map(lambda y: y[:, 0], output)

    rows = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tuple(inputs))
    try:
        held, outputs = jax.lax.scan(one, held, rows)
    except Exception as error:
        raise ValueError(
            f"what decodes takes neither {count} positions at once ({refused}) nor one "
            f"after the other ({first_line(error)})."
        ) from error
    return jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1), outputs), held
