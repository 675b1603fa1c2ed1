"""Links: what arrives is what was sent, as exactly as the link says, and in no more bytes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit.compress import cast, quantize
from jsplit.compress.quantizing import pack, unpack

VALUE = {
    "h": jax.random.normal(jax.random.key(0), (16, 9)),
    "mask": jnp.arange(16) % 2 == 0,
    "ids": jnp.arange(16),
}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def crossing(link, value, key):
    payload, _ = link.encode(link.init(shapes(value)), value, key)
    return link.decode(payload, shapes(value))


def through(link, value, key=0):
    # One program: op by op, each shape of each operation is compiled for itself.
    return jax.jit(lambda v, k: crossing(link, v, k))(value, jax.random.key(key))


def size(link, value):
    payload, _ = link.encode(link.init(shapes(value)), value, jax.random.key(0))
    return sum(x.nbytes for x in jax.tree.leaves(payload))


LINKS = {
    "identity": jsplit.identity,
    "cast": cast(jnp.bfloat16),
    "fp8": cast(jnp.float8_e4m3fn),
    "quantize8": quantize(8),
    "quantize3": quantize(3),
    "nearest": quantize(8, stochastic=False),
    "chain": jsplit.chain(cast(jnp.bfloat16), quantize(4)),
}


@pytest.mark.parametrize("name", LINKS)
def test_what_arrives_has_the_shape_of_what_was_sent_and_integers_are_untouched(name):
    got = through(LINKS[name], VALUE)
    assert shapes(got) == shapes(VALUE)
    assert (got["mask"] == VALUE["mask"]).all() and (got["ids"] == VALUE["ids"]).all()


@pytest.mark.parametrize("name", LINKS)
def test_a_link_gives_the_same_under_jit(name):
    plain, jitted = (
        crossing(LINKS[name], VALUE, jax.random.key(0)),
        through(LINKS[name], VALUE),
    )
    assert jnp.allclose(plain["h"], jitted["h"], atol=1e-6)


def test_the_identity_changes_nothing():
    assert (through(jsplit.identity, VALUE)["h"] == VALUE["h"]).all()


def test_a_chain_of_one_is_that_link_and_a_chain_is_its_parts_in_turn():
    link = cast(jnp.bfloat16)
    assert jsplit.chain(link) is link
    both = jsplit.chain(link, quantize(8, stochastic=False))
    assert (
        through(both, VALUE)["h"]
        == through(
            quantize(8, stochastic=False),
            jax.tree.map(
                lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, VALUE
            ),
        )["h"]
    ).all()


def test_cast_rounds_and_a_second_crossing_changes_nothing():
    once = through(cast(jnp.bfloat16), VALUE)
    assert (once["h"] == VALUE["h"].astype(jnp.bfloat16).astype(jnp.float32)).all()
    assert (through(cast(jnp.bfloat16), once)["h"] == once["h"]).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantisation_is_off_by_less_than_one_level(bits):
    whole = {"axis": None}
    got, top = through(quantize(bits, **whole), VALUE)["h"], 2 ** (bits - 1) - 1
    level = jnp.abs(VALUE["h"]).max() / top
    assert jnp.abs(got - VALUE["h"]).max() <= level * 1.001
    assert (
        jnp.abs(
            through(quantize(bits, **whole, stochastic=False), VALUE)["h"] - VALUE["h"]
        ).max()
        <= level / 2 * 1.001
    )


def test_quantisation_is_unbiased():
    x = {"h": jnp.linspace(-1, 1, 41)}
    draws = jax.jit(jax.vmap(lambda key: crossing(quantize(3), x, key)["h"]))(
        jax.random.split(jax.random.key(1), 4000)
    )
    level = 1 / 3
    assert jnp.abs(draws.mean(0) - x["h"]).max() < 5 * level / 2 / np.sqrt(
        4000
    )  # five standard errors


def test_the_largest_number_and_zero_arrive_exactly():
    got = through(quantize(8, axis=None), {"h": jnp.array([0.0, -3.0, 1.0])})["h"]
    assert got[0] == 0 and got[1] == -3.0
    assert (through(quantize(4), {"h": jnp.zeros(5)})["h"] == 0).all()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_quantisation_does_not_hide_what_is_not_finite(bad):
    assert jnp.isnan(through(quantize(8), {"h": jnp.array([1.0, bad])})["h"]).all()


@pytest.mark.parametrize(("bits", "expected"), [(8, 144), (4, 72), (3, 54), (2, 36)])
def test_bytes_are_those_of_the_bits(bits, expected):
    one_scale = quantize(bits, axis=None)
    assert size(one_scale, VALUE["h"]) == expected + 4  # and one float32 scale
    assert size(quantize(bits), VALUE["h"]) == expected + 16 * 2  # one for each record
    assert size(cast(jnp.bfloat16), VALUE["h"]) == 288


@pytest.mark.parametrize(
    ("bits", "count"), [*((bits, 37) for bits in range(2, 9)), (3, 1), (3, 64)]
)
def test_packing_and_unpacking_are_inverse(bits, count):
    levels = jnp.asarray(
        np.random.default_rng(bits).integers(0, 2**bits, count), jnp.uint8
    )
    packed = pack(levels, bits)
    assert packed.size == -(-count * bits // 8)
    assert (unpack(packed, bits, count) == levels).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_scale_for_each_token_keeps_one_outlier_from_taking_all_levels(bits):
    """As language models have one at their first token."""
    h = jax.random.normal(jax.random.key(0), (4, 64, 96)) * 6
    spoiled = h.at[:, 0, 3].set(24247.0)
    fine, coarse = (
        through(quantize(bits, axis=axis, stochastic=False), spoiled)[:, 1:]
        for axis in (-1, None)
    )
    # A level of each token's own, halved by rounding; the scale may be the 128th larger.
    level = jnp.abs(h[:, 1:]).max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (jnp.abs(fine - h[:, 1:]) <= level / 2 * 1.009).all()
    assert (coarse == 0).mean() > 0.9
    kept = through(quantize(bits, stochastic=False), spoiled)[:, 0, 3]
    assert jnp.abs(kept / 24247.0 - 1).max() < 1 / 2 ** (bits - 1)


def test_what_is_not_finite_spoils_the_numbers_of_its_scale_alone():
    h = VALUE["h"].at[3, 2].set(jnp.nan).at[5, 0].set(jnp.inf)
    bad = jnp.isnan(through(quantize(4), h))
    assert (bad.all(1) == jnp.isin(jnp.arange(16), jnp.array([3, 5]))).all()
    assert bad.sum() == 2 * 9


@pytest.mark.parametrize(
    ("axis", "scales"), [(-1, 30), ((1, 2), 2), (0, 105), (None, 1), ((0, 1, 2, 3), 1)]
)
def test_a_scale_is_shared_along_its_axes(axis, scales):
    h = jax.random.normal(jax.random.key(0), (2, 3, 5, 7))
    payload, _ = quantize(8, axis=axis).encode((), h, jax.random.key(0))
    assert payload.scale.size == (scales if axis != (1, 2) else 2 * 7)
    assert jnp.abs(through(quantize(8, axis=axis), h) - h).max() < 0.05


def test_wrong_arguments_are_refused():
    for axis in (1.5, "x", (), True):
        with pytest.raises(ValueError, match="`axis` must be an integer, a tuple"):
            quantize(8, axis=axis)
    with pytest.raises(
        ValueError, match=r"`axis` of `quantize` is \(2,\), and a value"
    ):
        through(quantize(8, axis=2), VALUE["h"])
    for bits in (9, 2.5):
        with pytest.raises(
            ValueError, match=f"`bits` must be an integer in 2..8, got {bits}"
        ):
            quantize(bits)
    with pytest.raises(ValueError, match="`dtype` must be a floating dtype, got None"):
        cast(None)
    with pytest.raises(ValueError, match="`dtype` must be a floating dtype, got int8"):
        cast(jnp.int8)
