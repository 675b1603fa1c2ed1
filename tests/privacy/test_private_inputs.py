"""DP-SGD gives each record a row of an input only where the program shows that it has one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap

import jsplit
from jsplit.privacy import private
from tests.training.common import refused

SIZE = 4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(SIZE, SIZE, 3)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
MASK = jnp.tril(jnp.ones((SIZE, SIZE), jnp.float32))
IDS = jnp.asarray(RNG.integers(0, SIZE, (SIZE, 2)))


def attend(w, x, mask):
    """A mask of tokens by tokens, in a batch of as many records as it has rows."""
    return (x @ w @ x.swapaxes(1, 2) * mask) @ x


def looked_up(w, ids, table):
    return table[ids] @ w


def rotated(w, x):
    """Positions that the program counts, which are numbers while it is traced."""
    return (x @ w) * jnp.cos(jnp.arange(x.shape[1]))[None, :, None] + x[
        jnp.arange(len(x)), 0
    ][:, None]


def segment(fn, *inputs):
    return jsplit.segment(fn, init=lambda key, *_: W, inputs=inputs, name="h")


def plain(made, **options):
    return private(made, clip=np.inf, scale=0, per=1.0, **options)


def gradients(made, *inputs):
    def fn(w, first):
        return (made.apply(w, {}, None, first, *inputs[1:])[0] ** 2).sum()

    return jax.jit(jax.grad(fn, (0, 1)))(W, inputs[0])


TABLES = {
    "mask": (attend, ("x", "mask"), (X, MASK)),
    "table": (looked_up, ("ids", "table"), (IDS, MASK[:, :3])),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_as_long_as_the_batch_is_refused_by_its_name(case):
    fn, names, inputs = TABLES[case]
    one = plain(segment(fn, *names))
    what = rf"`{case}` is not shown to have records.*fixed=.*records=\["
    with pytest.raises(ValueError, match=what):
        one.apply(W, {}, None, *inputs)
    # Inference has no records of its own, and computes what it always did.
    whole = segment(fn, *names)
    there, _ = one.apply(W, {}, None, *inputs, train=False)
    assert (there == whole.apply(W, {}, None, *inputs, train=False)[0]).all()


def test_what_is_named_by_records_is_mapped_and_the_rest_is_given_whole():
    whole = segment(attend, "x", "mask")
    named = plain(whole, records=["x"])
    for a, b in zip(gradients(named, X, MASK), gradients(whole, X, MASK), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)

    def of_mask(made):
        return jax.grad(lambda m: made.apply(W, {}, None, X, m)[0].sum())(MASK)

    np.testing.assert_allclose(of_mask(named), of_mask(whole), rtol=1e-5)


def test_a_segment_that_mixes_records_is_refused_and_one_of_records_is_not():
    mixing = plain(segment(lambda w, x: (x - x.mean(0)) @ w, "x"))
    with pytest.raises(ValueError, match="of that record alone.*`reduce_sum`"):
        gradients(mixing, X)
    # Of one record there is nothing to mix.
    gradients(mixing, X[:1])
    whole = segment(rotated, "x")
    for a, b in zip(gradients(plain(whole), X), gradients(whole, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@custom_vmap
def summed(x):
    """Alone it is what it is given; mapped it is the sum over what it is mapped over."""
    return x


@summed.def_vmap
def _(size, batched, x):
    return jnp.broadcast_to(x.sum(0), x.shape), True


def called(host, method):
    return lambda x: jax.pure_callback(
        lambda x: host(np.asarray(x)),
        *(jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        vmap_method=method,
    )


OVER_ALL = called(lambda x: np.broadcast_to(x.sum(0), x.shape), "broadcast_all")


def pulled_back(by):
    """The identity, with a pullback of one's own."""
    own = jax.custom_vjp(lambda x: x)
    own.defvjp(lambda x: (x, None), lambda _, g: (by(g),))
    return own


@pytest.mark.parametrize("records", [None, ["x"]])
@pytest.mark.parametrize("by", [summed, OVER_ALL])
def test_a_pullback_that_mixes_records_when_it_is_mapped_is_refused(by, records):
    # One record would change the clipped gradients of all others.
    own = pulled_back(by)
    evil = segment(lambda w, x: own(x @ w), "x")
    noisy = private(evil, clip=1.0, scale=1.0, per=1.0, records=records)
    for made in (noisy, plain(evil, records=records)):
        with pytest.raises(
            ValueError, match="in its pullback may read several records"
        ):
            gradients(made, X)
    # In inference nothing is pulled back.
    made.apply(W, {}, None, X, train=False)


def test_what_is_mapped_in_its_own_way_is_refused_also_if_records_are_named():
    forward = segment(lambda w, x: summed(x @ w), "x")
    with pytest.raises(ValueError, match="`custom_vmap_call` in it may read"):
        plain(forward, records=["x"]).apply(W, {}, None, X)


def test_a_pullback_of_one_record_at_a_time_is_mapped():
    halved = pulled_back(lambda g: g / 2)
    host = pulled_back(called(lambda g: g / 2, "sequential"))
    for own, records in ((halved, None), (halved, ["x"]), (host, ["x"])):
        whole = segment(lambda w, x, own=own: own(x @ w), "x")
        for a, b in zip(
            gradients(plain(whole, records=records), X),
            gradients(whole, X),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    # A function of the host may remember others, so the user must say that it does not.
    with pytest.raises(ValueError, match="`pure_callback` in its pullback"):
        gradients(plain(segment(lambda w, x: host(x @ w), "x")), X)


def test_records_must_name_inputs():
    whole = segment(attend, "x", "mask")
    for bad, message in (
        ("", "must be one of x, mask"),
        ([], "at least one"),
        (["y"], "must be one of x, mask, got 'y'"),
        ([1], "must be names"),
        (["x", "x"], "twice"),
    ):
        refused(message, lambda bad=bad: plain(whole, records=bad))
    bare = jsplit.Segment(lambda key, x: (W, {}), lambda *_: (X, {}))
    refused("have no names", lambda: plain(bare, records=["x"]))
