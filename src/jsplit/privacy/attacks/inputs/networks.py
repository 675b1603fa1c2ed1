"""Networks of an adversary: from an activation to a record, to one class, to one number.

Written as plain functions, so that no defence waits for a framework. What a caller brings
instead is a `Segment` of one input.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil, prod

import jax
import jax.numpy as jnp

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import first_line

Shape = tuple[int, ...]
WIDTH = 32  # channels of convolutions


def draw(key: jax.Array, shape: Shape) -> jax.Array:
    """Weights by He's rule, the last axis being that of outputs."""
    fan = prod(shape[:-1])
    return jax.random.normal(key, shape) * jnp.sqrt(2 / fan)


def conv(h: jax.Array, weight: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution that keeps the size but for its stride, [batch, h, w, channels]."""
    form = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(
        h, weight, strides, "SAME", dimension_numbers=form
    )


def stateless(init, apply) -> Segment:
    """A segment of one input from `init(key, h)` and `apply(params, h)`."""

    def first(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        return init(key, *inputs), {}

    def run(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        return apply(params, *inputs), state

    return Segment(first, run)


# Cached, so that a second attack of the same shapes is the same compiled program.
@cache
def dense(sizes: Sequence[int], shape: Shape) -> Segment:
    """Dense layers with relu between, and one layer beside them, of a flattened input.

    Where few pairs are known, the one layer beside is what generalises.

    Args:
        sizes: of the layers within, a tuple.
        shape: of one output.

    Returns:
        A segment of one input.
    """

    def init(key: jax.Array, h: jax.Array) -> Params:
        widths = [prod(h.shape[1:]), *sizes, prod(shape)]
        keys = jax.random.split(key, len(widths))
        pairs = zip(keys, widths, widths[1:], strict=False)
        layers = [(draw(k, (a, b)), jnp.zeros(b)) for k, a, b in pairs]
        return {"layers": layers, "beside": jnp.zeros((widths[0], widths[-1]))}

    def apply(params: Params, h: jax.Array) -> jax.Array:
        x = flat = h.reshape(len(h), -1)
        layers = params["layers"]
        for number, (weight, bias) in enumerate(layers, start=1):
            x = x @ weight + bias
            x = jax.nn.relu(x) if number < len(layers) else x
        return (x + flat @ params["beside"]).reshape(len(h), *shape)

    return stateless(init, apply)


@cache
def pictures(activation: Shape, record: Shape, width: int = WIDTH) -> Segment:
    """Convolutions at the size of the activation, the last of which makes several pixels each.

    Args:
        activation: shape of one, height, width and channels.
        record: shape of one picture, with channels or without.
        width: channels within.

    Returns:
        A segment of one input.

    References:
        Shi et al., `Real-time single image super-resolution using an efficient
        sub-pixel convolutional neural network <https://arxiv.org/abs/1609.05158>`_,
        2016.
    """
    high, wide = record[:2]
    last = record[2] if len(record) == 3 else 1
    times = max(ceil(high / activation[0]), ceil(wide / activation[1]))

    def init(key: jax.Array, h: jax.Array) -> Params:
        channels = [activation[2], width, width, last * times**2]
        keys = jax.random.split(key, len(channels))
        pairs = zip(keys, channels, channels[1:], strict=False)
        return [(draw(k, (3, 3, a, b)), jnp.zeros(b)) for k, a, b in pairs]

    def apply(params: Params, h: jax.Array) -> jax.Array:
        x = h
        for number, (weight, bias) in enumerate(params, start=1):
            x = conv(x, weight) + bias
            x = jax.nn.relu(x) if number < len(params) else x
        size, (a, b) = len(x), activation[:2]
        x = x.reshape(size, a, b, times, times, last).swapaxes(2, 3)
        x = x.reshape(size, a * times, b * times, last)[:, :high, :wide]
        return x.reshape(size, *record)

    return stateless(init, apply)


def are_pictures(activation: Shape, record: Shape) -> bool:
    """Whether activations are pictures of channels, of pictures."""
    return len(activation) == 3 and len(record) in (2, 3) and min(record[:2]) > 1


def decoder_for(activation: Shape, record: Shape) -> Segment:
    """The decoder for an activation and a record of these shapes.

    Args:
        activation: shape of one.
        record: shape of one.

    Returns:
        Convolutions where both are pictures, else dense layers.
    """
    if are_pictures(activation, record):
        return pictures(activation, record)
    width = min(1024, max(128, 2 * prod(record)))
    return dense((width, width), record)


def checked(name: str, network: Segment, h: jax.Array, output: Shape) -> Segment:
    """Refuse a network of a caller's that does not give one output for each record.

    Args:
        name: of the argument, for the error.
        network: a segment of one input.
        h: its input, [records, ...].
        output: the shape of one output.

    Returns:
        The network.

    Raises:
        ValueError: if it has statistics, or gives another shape.
    """
    params, state = jax.eval_shape(network.init, jax.random.key(0), h)
    if jax.tree.leaves(state):
        raise ValueError(
            f"`{name}` must have no statistics, as BatchNorm has them: they would be "
            "those of public records."
        )

    def run(params: Params, h: jax.Array) -> PyTree:
        return network.apply(params, {}, None, h, train=False)[0]

    try:
        found = jax.eval_shape(run, params, h)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must read an input {h.shape}, and raised {first_line(error)}"
        ) from error
    got = getattr(found, "shape", None)
    if got != (len(h), *output):
        raise ValueError(
            f"`{name}` must give {(len(h), *output)} of an input {h.shape}, got {got}."
        )
    return network
