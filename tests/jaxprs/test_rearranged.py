"""Which values are an input's own entries, by proof; and what is not called so."""

import jax
import jax.numpy as jnp
import pytest

from jsplit.jaxprs.flat import flatten
from jsplit.jaxprs.rearranged import rearranged


@jax.custom_jvp
def turned(x):
    return x[:, ::-1]


turned.defjvp(lambda given, along: (turned(*given), turned(*along)))


@jax.custom_vjp
def twice_and(x, y):
    return x * 2, y


twice_and.defvjp(lambda x, y: (twice_and(x, y), None), lambda kept, g: g)


def row_by_row(x):
    return jax.lax.map(lambda row: (row * jnp.array([1.0, 2.0, 3.0]))[::-1], x)


def turned_in_turns(x):
    return jax.lax.scan(lambda h, _: (-h, None), x, None, length=3)[0]


def shifted_by_hand(x):
    return jnp.zeros_like(x).at[:, 1:].set(x[:, :-1])


RAW = {
    "itself": lambda x: x * 1,
    "moved": lambda x: jnp.flip(x, 1).T.reshape(3, -1),
    "some entries": lambda x: x[:, 1:],
    "shifted right": lambda x: jnp.pad(x, ((0, 0), (1, 0)))[:, :-1],
    "a picture scaled": lambda x: (x / 255.0 - 0.5) / jnp.array([0.1, 0.2, 0.3]),
    "half as precise": lambda x: x.astype("bfloat16"),
    "row numbers": lambda x: jnp.where(x < 0, x + 7, x),
    "one-hot": lambda x: jax.nn.one_hot(x, 7),
    "beside others": lambda x: jnp.concatenate([x, jnp.ones_like(x)], 1),
    "under a derivative of its own": turned,
    "columns in another order": lambda x: x[:, jnp.array([2, 0, 1])],
    "sorted": lambda x: jnp.sort(x, 1),
    "as bits": lambda x: jax.lax.bitcast_convert_type(x, "int32") ^ 5,
    "itself twice": lambda x: x + x,
    "wavelengths": lambda x: x / 10_000.0 ** (jnp.arange(3.0) / 3),
    "frequencies": lambda x: x[..., None] * (2 * jnp.exp(-jnp.arange(4) / 4)),
    "to the power of 1": lambda x: x**1,
    "but for NaN": lambda x: jnp.where(jnp.isnan(x), 0.0, x * 2),
    "in finite numbers": lambda x: jnp.nan_to_num(x / 255),
    "shifted by hand": shifted_by_hand,
    "in a loop over records": row_by_row,
    "through the turns of a loop": turned_in_turns,
    "in both branches": lambda x: jax.lax.cond(True, lambda x: x, lambda x: -x, x),
    "one of two results": lambda x: twice_and(x, 1.0)[0],
    "row numbers within bounds": lambda x: jnp.maximum(x, 0),
    "with another number for padding": lambda x: jnp.where(x == 0, 5, x),
}
NOT = {
    "a mask": lambda x: x > 0,
    "another mask": lambda x: x == 0,
    "a mask of zeros": lambda x: x == jnp.zeros_like(x),
    "a sum": lambda x: x.sum(1),
    "times what may be 0": lambda x: x * jnp.array([0.0, 1.0, 1.0]),
    "divided, with a rest": lambda x: x // 2,
    "what it divides": lambda x: 1.0 / x,
    "cut off": jax.nn.relu,
    "whole numbers of halves": lambda x: (x / 2.0).astype("int32"),
    "looked up": lambda x: jnp.ones((7, 2))[x],
    "its shape": jnp.ones_like,
    "the other of two results": lambda x: twice_and(x, jnp.ones((2, 3)))[1],
    "carried from zeros": lambda x: jax.lax.scan(
        lambda h, row: (h + row, h), jnp.zeros(3, "int32"), x
    )[1],
    "in one branch": lambda x: jax.lax.cond(True, lambda x: x, jnp.ones_like, x),
    "cut off by hand": lambda x: jnp.where(x > 0, x, 0.0),
}


def found(function, dtype):
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((2, 3), dtype))
    flat = flatten(closed)
    return rearranged(flat, {flat.invars[0]: "x"}).get(flat.outvars[0])


def dtype_of(name):
    whole = name not in ("what it divides", "cut off", "cut off by hand")
    return "int32" if whole else "float32"


@pytest.mark.parametrize("name", RAW)
def test_entries_that_are_moved_shifted_or_scaled_are_raw(name):
    whole = ("row numbers", "one-hot", "row numbers within bounds")
    dtype = (
        "int32" if name in (*whole, "with another number for padding") else "float32"
    )
    assert found(RAW[name], dtype) == "x"


@pytest.mark.parametrize("name", NOT)
def test_what_loses_something_is_not_called_raw(name):
    assert found(NOT[name], dtype_of(name)) is None
