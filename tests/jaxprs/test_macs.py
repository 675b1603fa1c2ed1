"""Multiply-accumulates are those of the closed forms, forward and back."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from jsplit.jaxprs.macs import count, macs


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def conv(w, x, **options):
    return jax.lax.conv_general_dilated(
        x, w, **{"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    )


def scanned(w, x):
    return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=5)[0]


def recurrent(w, u, x):
    step = lambda h, t: (jnp.tanh(h @ w + t @ u), None)  # noqa: E731
    return jax.lax.scan(step, jnp.zeros((4, 8)), x)[0]


@jax.custom_vjp
def own(w, x):
    return x @ w


own.defvjp(lambda w, x: (x @ w, (w, x)), lambda kept, g: (kept[1].T @ g, g @ kept[0].T))


def attend(q, k, v):
    return jnp.einsum(
        "bhqk,bkhd->bqhd", jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k)), v
    )


# function, arguments, which of them are trained, multiply-accumulates forward and back
CASES = {
    "dense": (
        lambda w, x: x @ w,
        (shape(6, 5), shape(4, 6)),
        (0, 1),
        4 * 6 * 5,
        2 * 4 * 6 * 5,
    ),
    "dense, of a raw input": (
        lambda w, x: x @ w,
        (shape(6, 5), shape(4, 6)),
        (0,),
        4 * 6 * 5,
        4 * 6 * 5,
    ),
    "batched": (
        lambda w, x: jnp.einsum("bij,bjk->bik", x, w),
        (shape(3, 6, 5), shape(3, 4, 6)),
        (0, 1),
        360,
        720,
    ),
    "convolution": (
        partial(conv, window_strides=(1, 1), padding="SAME"),
        (shape(3, 3, 8, 16), shape(2, 10, 12, 8)),
        (0, 1),
        2 * 10 * 12 * 16 * 9 * 8,
        2 * 2 * 10 * 12 * 16 * 9 * 8,
    ),
    "strided convolution": (
        partial(conv, window_strides=(2, 2), padding="SAME"),
        (shape(3, 3, 8, 16), shape(2, 10, 12, 8)),
        (0, 1),
        2 * 5 * 6 * 16 * 9 * 8,
        2 * 2 * 5 * 6 * 16 * 9 * 8,
    ),
    "convolution without padding": (
        partial(conv, window_strides=(1, 1), padding="VALID"),
        (shape(3, 3, 8, 16), shape(2, 10, 12, 8)),
        (0, 1),
        2 * 8 * 10 * 16 * 9 * 8,
        2 * 8 * 10 * 16 * 9 * 8 + 2 * 10 * 12 * 16 * 9 * 8,
    ),
    "strided convolution of an odd image": (
        partial(conv, window_strides=(2, 2), padding="SAME"),
        (shape(3, 3, 1, 1), shape(1, 7, 7, 1)),
        (0, 1),
        144,
        144 + 10 * 10,
    ),
    "dilated convolution": (
        partial(
            conv,
            window_strides=(1, 2),
            padding=((2, 1), (0, 3)),
            rhs_dilation=(2, 1),
            lhs_dilation=(1, 2),
        ),
        (shape(3, 2, 2, 4), shape(2, 9, 7, 2)),
        (0, 1),
        None,
        None,
    ),
    "grouped convolution": (
        partial(conv, window_strides=(1, 1), padding="SAME", feature_group_count=4),
        (shape(3, 3, 2, 16), shape(2, 10, 12, 8)),
        (0, 1),
        2 * 10 * 12 * 16 * 9 * 2,
        2 * 2 * 10 * 12 * 16 * 9 * 2,
    ),
    "attention": (
        attend,
        (shape(2, 5, 3, 4),) * 3,
        (0, 1, 2),
        2 * 2 * 3 * 5 * 5 * 4,
        2 * 2 * 2 * 3 * 5 * 5 * 4,
    ),
    "scan": (scanned, (shape(6, 6), shape(4, 6)), (0, 1), 5 * 4 * 36, 2 * 5 * 4 * 36),
    "recurrent network": (
        recurrent,
        (shape(8, 8), shape(5, 8), shape(6, 4, 5)),
        (0, 1),
        6 * 4 * 8 * 13,
        6 * 4 * 8 * (16 + 5),
    ),
    "a derivative of its own": (own, (shape(6, 5), shape(4, 6)), (0, 1), 120, 240),
    "jit in jit": (
        jax.jit(lambda w, x: jax.jit(jnp.matmul)(x, w)),
        (shape(6, 5), shape(4, 6)),
        (0, 1),
        120,
        240,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_counts_are_the_closed_forms(name):
    fn, arguments, trained, forward, backward = CASES[name]
    jaxpr = jax.make_jaxpr(fn)(*arguments).jaxpr
    counted = count(jaxpr.eqns, [jaxpr.invars[i] for i in trained])
    forward, backward = counted if forward is None else (forward, backward)
    assert macs(jaxpr) == forward and counted == (forward, backward)

    def pull(*arguments):
        _, vjp = jax.vjp(
            lambda *free: fn(
                *[
                    free[trained.index(i)] if i in trained else a
                    for i, a in enumerate(arguments)
                ]
            ),
            *[arguments[i] for i in trained],
        )
        return vjp(jax.tree.map(jnp.ones_like, fn(*arguments)))

    # what the derivative really computes: forward (once more for its ones) and backward
    assert macs(jax.make_jaxpr(pull)(*arguments).jaxpr) == 2 * forward + backward


def test_a_recomputed_region_counts_its_forward_pass_once_more():
    def layer(w, x):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    def gradient(f):
        return macs(
            jax.make_jaxpr(jax.grad(lambda w, x: f(w, x).sum()))(
                shape(6, 6), shape(4, 6)
            ).jaxpr
        )

    dense = 4 * 36
    assert gradient(layer) == 2 * dense + 3 * dense  # the raw input needs no cotangent
    assert (
        gradient(jax.checkpoint(layer)) == gradient(layer) + 2 * dense
    )  # the derivative of tanh needs its output


def test_the_costliest_branch_counts_and_the_body_of_a_while_once():
    branches = lambda p, w, x: jax.lax.cond(p, lambda: x @ w @ w, lambda: x @ w)  # noqa: E731
    jaxpr = jax.make_jaxpr(branches)(
        jax.ShapeDtypeStruct((), bool), shape(6, 6), shape(4, 6)
    ).jaxpr
    assert macs(jaxpr) == 2 * 4 * 36
    loop = lambda w, x: jax.lax.while_loop(lambda h: h.sum() < 9, lambda h: h @ w, x)  # noqa: E731
    assert macs(jax.make_jaxpr(loop)(shape(6, 6), shape(4, 6)).jaxpr) == 4 * 36


class LinenAttention(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.MultiHeadDotProductAttention(2, qkv_features=8)(x)


def test_flax_layers_cost_what_their_sizes_say():
    b, t, d = 3, 5, 8
    projections, scores = 4 * b * t * d * d, 2 * b * t * t * d
    module, x = LinenAttention(), shape(b, t, d)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert (
        macs(jax.make_jaxpr(module.apply)(variables, x).jaxpr) == projections + scores
    )
    attention = nnx.MultiHeadAttention(2, d, decode=False, rngs=nnx.Rngs(0))
    assert macs(jax.make_jaxpr(lambda x: attention(x))(x).jaxpr) == projections + scores
    layer = nnx.Conv(4, 6, (3, 3, 3), strides=2, rngs=nnx.Rngs(0))
    assert (
        macs(jax.make_jaxpr(lambda x: layer(x))(shape(2, 8, 8, 8, 4)).jaxpr)
        == 2 * 4**3 * 6 * 27 * 4
    )
    grown = nnx.ConvTranspose(
        4, 6, (2, 2), strides=2, rngs=nnx.Rngs(0)
    )  # no work for the zeros between its inputs
    assert (
        macs(jax.make_jaxpr(lambda x: grown(x))(shape(2, 5, 5, 4)).jaxpr)
        == 2 * 5 * 5 * 4 * 6 * 4
    )
