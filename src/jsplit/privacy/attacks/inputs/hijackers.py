"""Networks of a feature-space hijacker: an encoder of its own, its decoder, and a discriminator.

As the authors' are: convolutions of an encoder and a decoder that are linear but for the
decoder's end, which keeps within the range of a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import log2
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import Params, Segment
from jsplit.privacy.attacks.inputs.networks import (
    Shape,
    are_pictures,
    conv,
    dense,
    draw,
    stateless,
)


class Hijackers(NamedTuple):
    """What a malicious server trains.

    Attributes:
        encoder: from a public record to an activation, a segment of one input.
        decoder: from an activation to a record.
        discriminator: from an activation to one number, [batch, 1].

    Example:
        >>> import jax, jsplit
        >>> from jsplit.privacy import Hijackers
        >>> def dense(a, b):
        ...     draw = lambda key, x: jax.random.normal(key, (a, b)) / a
        ...     return jsplit.segment(lambda w, x: x @ w, init=draw, inputs=["x"])
        >>> mine = Hijackers(dense(4, 2), dense(2, 4), dense(2, 1))
        >>> mine.encoder
        Segment(x -> ...)
    """

    encoder: Segment
    decoder: Segment
    discriminator: Segment


@cache
def hijackers_for(
    activation: Shape,
    record: Shape,
    width: int,
    data_range: tuple[float, float] | None = None,
    positive: bool = False,
) -> Hijackers:
    """The networks for an activation and a record of these shapes.

    Args:
        activation: shape of one.
        record: shape of one.
        width: channels of the first convolution; later ones have multiples.
        data_range: the smallest and the largest value of a record, in which a decoder
            of pictures ends; `None` for none.
        positive: whether an activation is never negative, as after a relu. An encoder
            of pictures is then never negative either.

    Returns:
        Convolutions where both are pictures, else dense layers.
    """
    if not are_pictures(activation, record):
        sizes = (8 * width,)
        return Hijackers(
            dense(sizes, activation),
            dense(sizes, record),
            dense((*sizes, *sizes), (1,)),
        )
    halvings = max(0, round(log2(record[0] / activation[0])))
    down = [(width * 2**n, 2) for n in range(halvings)] or [(width, 1)]
    # As wide as what the encoder had at that size; the other way round.
    back = [(width * 2**n, 2) for n in reversed(range(halvings))] or [(2 * width, 1)]
    last = record[2] if len(record) == 3 else 1
    return Hijackers(
        _convolutions([*down, (activation[2], 1)], activation, positive),
        _transposed(back, last, record, data_range),
        critic([(2 * width, 2), (4 * width, 2)]),
    )


def _with_channel(x: jax.Array) -> jax.Array:
    return x if x.ndim == 4 else x[..., None]


def _weights(key: jax.Array, channels: Sequence[int]) -> list:
    keys = jax.random.split(key, len(channels))
    pairs = zip(keys, channels, channels[1:], strict=False)
    return [(draw(k, (3, 3, a, b)), jnp.zeros(b)) for k, a, b in pairs]


def _convolutions(
    layers: Sequence[tuple[int, int]], shape: Shape, positive: bool
) -> Segment:
    """A linear encoder of layers (channels, stride), fitted to a shape."""

    def init(key: jax.Array, x: jax.Array) -> Params:
        x = _with_channel(x)
        return _weights(key, [x.shape[3], *(width for width, _ in layers)])

    def apply(params: Params, x: jax.Array) -> jax.Array:
        h = _with_channel(x)
        # A bottom can be trained to give what a linear map gives, in a tenth of the steps
        # that it takes for one with bends.
        for (weight, bias), (_, stride) in zip(params, layers, strict=True):
            h = conv(h, weight, stride) + bias
        h = jax.nn.relu(h) if positive else h
        size = (len(h), *shape)
        # A bottom that pads otherwise, or halves an odd number, is of another size.
        return h if h.shape == size else jax.image.resize(h, size, "linear")

    return stateless(init, apply)


def _transposed(
    layers: Sequence[tuple[int, int]],
    last: int,
    record: Shape,
    data_range: tuple[float, float] | None,
) -> Segment:
    """A decoder of layers (channels, how many times as high and wide), within a range."""

    def init(key: jax.Array, h: jax.Array) -> Params:
        return _weights(key, [h.shape[3], *(width for width, _ in layers), last])

    def apply(params: Params, h: jax.Array) -> jax.Array:
        x = h
        for (weight, bias), (_, times) in zip(params, layers, strict=False):
            form = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_transpose(
                x, weight, (times, times), "SAME", dimension_numbers=form
            )
            x = x + bias
        weight, bias = params[-1]
        x = conv(x, weight) + bias
        if data_range is not None:
            low, high = data_range
            x = low + (high - low) * (jnp.tanh(x) + 1) / 2
        size = (len(x), *record[:2], last)
        x = x if x.shape == size else jax.image.resize(x, size, "linear")
        return x.reshape(len(x), *record)

    return stateless(init, apply)


def critic(layers: Sequence[tuple[int, int]]) -> Segment:
    """A discriminator of layers (channels, stride), without an end that saturates."""

    def features(params: Params, h: jax.Array) -> jax.Array:
        for (weight, bias), (_, stride) in zip(params, layers, strict=True):
            h = jax.nn.leaky_relu(conv(h, weight, stride) + bias)
        return h.reshape(len(h), -1)

    def init(key: jax.Array, h: jax.Array) -> Params:
        inner, end = jax.random.split(key)
        weights = _weights(inner, [h.shape[3], *(width for width, _ in layers)])
        numbers = jax.eval_shape(features, weights, h).shape[1]
        return {"layers": weights, "end": draw(end, (numbers, 1))}

    def apply(params: Params, h: jax.Array) -> jax.Array:
        return features(params["layers"], h) @ params["end"]

    return stateless(init, apply)
