"""The caches of Flax's own attention, where a module that decodes has none yet.

`nnx.view(module, decode=True, batch_size=b, max_length=n)` leaves those of an attention
empty in Flax 0.12, whose attributes are there from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import jax.numpy as jnp
from flax import nnx

from jsplit.core.checks import shown
from jsplit.core.paths import Nested

Decoder = TypeVar("Decoder")
WholeDecoding = Callable[[int, int], nnx.Module]
"""Gives the whole model that decodes, for a batch and a length."""


def with_attention_caches(decoder: Decoder, batch: int, length: int) -> Decoder:
    """Give each attention of a module that decodes and has no cache an empty one.

    Args:
        decoder: a module of nnx, or anything else, which is given back as it is.
        batch: how many sequences go side by side.
        length: the most positions that they will have.

    Returns:
        The module, or one with the same arrays and caches beside.
    """
    if not isinstance(decoder, nnx.Module) or not [*_empty(decoder)]:
        return decoder
    # Another module of the same arrays: that of the user may be of any size later.
    made = nnx.merge(*nnx.split(decoder))
    for layer in _empty(made):
        dtype = layer.dtype or layer.param_dtype or jnp.float32
        layer.init_cache((batch, length, layer.in_features), dtype)
        _stack(layer)
    return made


_AXES = 3
"""Axes of the weights of the queries: of what comes in, of heads, and of each head's."""


def _stack(layer: nnx.MultiHeadAttention) -> None:
    """Caches for each of some layers that are run by a scan, along their first axes."""
    kernel = layer.query.kernel.get_value()
    layers = kernel.shape[: kernel.ndim - _AXES]
    if not layers:
        return
    for cache in (layer.cached_key, layer.cached_value, layer.cache_index):
        if cache is not None:
            own = cache.get_value()
            cache.set_value(jnp.zeros((*layers, *own.shape), own.dtype))


def _empty(module: nnx.Module) -> list[nnx.MultiHeadAttention]:
    """Its attentions that decode and have no cache."""
    layers = (layer for _, layer in nnx.iter_modules(module))
    return [
        layer
        for layer in layers
        if isinstance(layer, nnx.MultiHeadAttention)
        and layer.decode
        and layer.cached_key is None
    ]


def check_decoding(decoding: object) -> None:
    """Refuse what gives no whole model that decodes.

    Raises:
        ValueError: naming `decoding`.
    """
    if isinstance(decoding, nnx.Module) or not callable(decoding):
        raise ValueError(
            "`decoding` must be a function of (batch, length) that gives the whole model "
            f"as an nnx module that decodes, got {shown(decoding)}."
        )


def decoder_of(
    decoding: WholeDecoding, batch: int, length: int
) -> tuple[nnx.Module, Nested]:
    """The whole model that decodes, with its caches, and these by their paths.

    Raises:
        ValueError: naming `decoding`, if it gives no module of nnx.
    """
    whole = decoding(batch, length)
    if not isinstance(whole, nnx.Module):
        raise ValueError(
            "`decoding` must give an nnx module, of which parts are cut as of the model "
            f"itself, got {shown(whole)}; of another kind each part is given its own, by "
            "jsplit.with_cache."
        )
    whole = with_attention_caches(whole, batch, length)
    return whole, cast("Nested", nnx.to_pure_dict(nnx.state(whole, nnx.Cache)))
