"""A link that is for floating numbers: which others go beside them, and what is refused."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import jsplit
from jsplit.compress import (
    cast,
    error_feedback,
    low_rank,
    quantize,
    randomized_top_k,
    temporal_differences,
    top_k,
)

LINKS = {
    "cast": cast(jnp.bfloat16),
    "quantize": quantize(8),
    "top_k": top_k(2),
    "randomized_top_k": randomized_top_k(2),
    "low_rank": low_rank(2),
    "error_feedback": error_feedback(quantize(4)),
    "chain": jsplit.chain(cast(jnp.bfloat16), quantize(8)),
}
batch = {"x": np.eye(4, dtype="float32"), "label": np.ones((4, 4), "float32")}


def first_state(crossing, link):
    """Of a server that trains on what a client computes without a parameter."""
    bottom = jsplit.segment(crossing, inputs=["x"], name="h")
    top = jsplit.segment(
        lambda w, h: sum(jnp.abs(a).astype("float32") for a in jax.tree.leaves(h)) @ w,
        init=lambda key, h: jnp.ones((4, 4)),
        inputs=["h"],
    )
    topology = jsplit.vanilla(
        bottom, top, loss=lambda y, label: ((y - label) ** 2).mean(1), public=["x"]
    )
    trainer = jsplit.fused(topology, optax.sgd(0.1), links={"h": (link, None)})
    return jax.eval_shape(lambda: trainer.init(0, batch))


@pytest.mark.parametrize("link", LINKS.values(), ids=[*LINKS])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "complex64"])
def test_a_link_of_floats_is_refused_where_nothing_that_crosses_is_floating(
    link, dtype
):
    with pytest.raises(ValueError, match=f"activation `h` .* but {dtype}"):
        first_state(lambda x: jnp.tanh(x).astype(dtype), link)


def test_complex_numbers_are_not_sent_as_they_are_beside_floats_that_are_compressed():
    def both(x):
        return {"a": jnp.fft.fft(x), "b": jnp.cumsum(x, 1)}

    with pytest.raises(ValueError, match="sends complex numbers as they are"):
        first_state(both, quantize(8))
    parts = jsplit.stateless(
        lambda value, key: {"a": (value["a"].real, value["a"].imag), "b": value["b"]},
        lambda sent, like: {"a": sent["a"][0] + 1j * sent["a"][1], "b": sent["b"]},
    )
    first_state(both, parts)


def test_whole_numbers_and_masks_go_beside_floats_and_a_link_that_does_nothing_anywhere():
    first_state(lambda x: {"a": jnp.cumsum(x, 1), "mask": jnp.tanh(x) > 0}, quantize(8))
    for nothing in (jsplit.chain(), jsplit.chain(jsplit.chain(), jsplit.chain())):
        first_state(jnp.fft.fft, nothing)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "bfloat16", "float16"])
@pytest.mark.parametrize("link", [*LINKS.values(), "differences"], ids=[*LINKS, ""])
def test_every_link_takes_every_floating_dtype(link, dtype):
    own = ()
    if link == "differences":
        link = temporal_differences(quantize(4), rows="row", records=4)
        own = ({"row": jnp.arange(4)},)
    value = jnp.linspace(-2, 2, 16).reshape(4, 4).astype(dtype)

    @jax.eval_shape
    def came():
        payload, _ = link.encode(link.init(value), value, jax.random.key(0), *own)
        return link.decode(payload, jax.typeof(value))

    assert (came.shape, came.dtype) == (value.shape, value.dtype)
