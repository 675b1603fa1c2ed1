"""Only segments and losses that are shown to keep records apart are taken to do so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.privacy.guarantees.rows import mixing

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(6, 4)).astype("float32")
TOKENS = RNG.normal(size=(6, 5, 4)).astype("float32")
IDS = RNG.integers(0, 4, size=(6, 5))
LABEL = np.arange(6) % 3


def squares(y, label):
    return (y.reshape(len(y), -1).sum(-1) - label) ** 2


def segment(fn, of=jnp.eye):
    return jsplit.segment(lambda w, x: fn(w, x), init=lambda key, x: of(4))


def said(bottom, x, loss=squares, top=None):
    top = top or jsplit.segment(lambda h: h)
    return mixing(jsplit.vanilla(bottom, top, loss=loss), {"x": x, "label": LABEL}, 10)


def product(w, x):
    return x @ w


def attention(w, x):
    h = x.reshape(*x.shape[:2], 2, 2)
    return jax.nn.dot_product_attention(h, h, h).reshape(x.shape) @ w


def recurrent(w, x):
    def cell(h, t):
        return jnp.tanh(h + t @ w), h

    return jax.lax.scan(cell, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[0]


APART = {
    "attention": (attention, TOKENS),
    "recurrence": (recurrent, TOKENS),
    "embedding": (lambda w, i: w[i].mean(1), IDS),
    "each alone": (lambda w, x: jax.vmap(lambda r: jax.nn.softmax(r @ w))(x), TOKENS),
    "one after another": (lambda w, x: jax.lax.map(lambda r: r.sum() * w, x), TOKENS),
    "rows of all": (lambda w, x: (x.reshape(-1, 4) @ w).reshape(x.shape), TOKENS),
    "tokens first": (lambda w, x: (x.transpose(1, 0, 2) @ w).swapaxes(0, 1), TOKENS),
    "sorted": (lambda w, x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1), TOKENS),
    "part set": (lambda w, x: x.at[:, 0].add(x[:, 1]) @ w, TOKENS),
    "recomputed": (jax.checkpoint(lambda w, x: nnx.gelu(x @ w)), ROWS),
    "pooled": (lambda w, x: nnx.avg_pool(x, (2,)) @ w, TOKENS),
    "a loop": (lambda w, x: jax.lax.fori_loop(0, 2, lambda i, h: h @ w, x), ROWS),
}


@pytest.mark.parametrize("case", APART)
def test_layers_of_one_record_each_are_shown_to_keep_records_apart(case):
    fn, x = APART[case]
    assert said(segment(fn), x) == {}


def pairs(w, x):
    half = len(x) // 2
    return jnp.concatenate([x[:half] - x[half : 2 * half], x[half:]]) @ w


def slid(w, x):
    """Each row and the next one, looked up at its own number."""
    numbers = jax.lax.GatherDimensionNumbers((1, 2), (), (0,))
    return jax.lax.gather(x, jnp.arange(len(x))[:, None], numbers, (2, 4))


MIXES = {
    "the largest": lambda w, x: (x / jnp.abs(x).max()) @ w,
    "all behind it": lambda w, x: jnp.cumsum(x[::-1], 0)[::-1] @ w,
    "the mean in one row": lambda w, x: x.at[0].set(x.mean(0)) @ w,
    "pairs": pairs,
    "a gate of 0": lambda w, x: x + 0 * w[0, 1] * x.mean(0) + w[0, 1] * x.mean(0),
    "a rare mean": lambda w, x: (x + jax.nn.relu(x.mean(0) - 3)) @ w,
    "a branch not taken": lambda w, x: jax.lax.cond(
        w[0, 0] > 5, lambda: x + x.mean(0), lambda: x
    ),
    "the batch of training alone": lambda w, x: x - x.mean(0) if len(x) == 10 else x,
    "what is carried on": lambda w, x: jax.lax.scan(
        lambda c, r: (c + r, c), jnp.zeros_like(x[0]), x
    )[1],
    "the next row": slid,
    "all pairs": lambda w, x: x @ x.T,
    "folded": lambda w, x: x.reshape(x.shape[::-1]).T,
}


@pytest.mark.parametrize("case", MIXES)
def test_what_mixes_records_in_any_way_is_not_taken_to_keep_them_apart(case):
    """Also where no record of the batch, or no parameter as drawn, shows it."""
    assert "smashed" in said(segment(MIXES[case]), ROWS)


def test_what_mixes_only_in_inference_or_in_what_comes_back_is_found():
    def apply(params, state, key, x, train=True):
        return (x if train else x - x.mean(0)), state

    assert "smashed" in said(
        jsplit.Segment(lambda key, x: ({}, {}), apply, ("x",)), ROWS
    )

    @jax.custom_vjp
    def back(h):
        return h

    back.defvjp(lambda h: (h, None), lambda _, c: (c + c.mean(0),))
    top = jsplit.segment(lambda h: back(h))
    assert set(said(segment(product), ROWS, top=top)) == {"output"}


PICKED = {
    "integers": optax.softmax_cross_entropy_with_integer_labels,
    "by number": lambda y, label: -jax.nn.log_softmax(y)[jnp.arange(len(y)), label],
    "by record": lambda y, label: jax.vmap(lambda a, b: -jax.nn.log_softmax(a)[b])(
        y, label
    ),
    "a mean": lambda y, label: jnp.mean((y.sum(-1) - label) ** 2),
}


@pytest.mark.parametrize("case", PICKED)
def test_losses_of_a_record_s_own_label_are_shown_to_keep_records_apart(case):
    assert said(segment(product), ROWS, PICKED[case]) == {}


def test_a_loss_that_compares_records_is_found():
    def contrast(y, label):
        return optax.softmax_cross_entropy(y @ y.T, jnp.eye(len(y)))

    def shared(y, label):
        return squares(y, label) / label.sum()

    for loss in (contrast, shared):
        assert set(said(segment(product), ROWS, loss)) == {"loss"}
