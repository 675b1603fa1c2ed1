"""Whatever is claimed of random chains of operations holds in numbers, too."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.ad_checkpoint import checkpoint_name

from jsplit.jaxprs.proving.affine import of_entries
from jsplit.jaxprs.proving.facts import Atom, Fact
from jsplit.jaxprs.proving.given import Numbers
from jsplit.jaxprs.proving.interpreting import interpret
from jsplit.jaxprs.proving.spanning import told
from jsplit.privacy.viewing.observing import given_away

RECORDS, SIZE = 2, 6
ORDER = np.random.default_rng(0).permutation(SIZE)
MATRIX = jnp.asarray(np.random.default_rng(1).normal(size=(SIZE, SIZE)), "float32")
COLUMN = jnp.linspace(0.5, 2, SIZE)
SQUARES = COLUMN @ COLUMN

# Each keeps [records, 6], so that any may follow any.
INVERTIBLE = {
    "scale": lambda x: x * 1.5,
    "shift": lambda x: x - 0.25,
    "flip": lambda x: x[:, ::-1],
    "permute": lambda x: x[:, ORDER],
    "roll": lambda x: jnp.roll(x, 2, -1),
    "turn": lambda x: x.reshape(-1, 2, 3).transpose(0, 2, 1).reshape(-1, 6),
    "by column": lambda x: x * COLUMN,
    "negate": lambda x: -x,
    "sinh": lambda x: jnp.sinh(x / 4),
    "tanh": lambda x: jnp.tanh(x / 8) * 8,
    "cube": lambda x: (x + 0.1) ** 3 / 8,
    "residual": lambda x: x + jnp.tanh(x),
    "sums": lambda x: jnp.cumsum(x, -1) / 4,
    "matrix": lambda x: x @ MATRIX / 2,
    "and back": lambda x: jnp.pad(x, ((0, 0), (1, 1)))[:, 1:-1],
    "stack": lambda x: jnp.stack([x[:, :3], x[:, 3:]], 1).reshape(-1, 6),
    "unstack": lambda x: jnp.stack(jnp.unstack(x, axis=1)[::-1], 1),
    "put": lambda x: jnp.zeros_like(x).at[:, ORDER].set(x),
    "sum and difference": lambda x: jnp.concatenate(
        [x[:, :3] + x[:, 3:], x[:, :3] - x[:, 3:]], 1
    ),
    "sum in place": lambda x: x.at[:, 0].set(x.sum(-1)),
    "neighbours": lambda x: x + jnp.pad(x, ((0, 0), (1, 0)))[:, :-1] / 2,
    "leaky": lambda x: jax.nn.leaky_relu(x, 0.5),
    "softplus": lambda x: jax.nn.softplus(x / 4) * 4,
    "elu": lambda x: jax.nn.elu(x / 4) * 4,
    "put slice": lambda x: jax.lax.dynamic_update_slice(x, x[:, 1:2] * 2, (0, 1)),
}
LOSSY = {
    "sum": lambda x: x.sum(-1, keepdims=True) + jnp.zeros(SIZE),
    "max": lambda x: x.max(-1, keepdims=True) + jnp.zeros(SIZE),
    "relu": lambda x: jnp.maximum(x, 0),
    "absolute": jnp.abs,
    "square": lambda x: x * x,
    "centre": lambda x: x - x.mean(-1, keepdims=True),
    "over records": lambda x: x - x.mean(0),
    "crop": lambda x: jnp.where(jnp.arange(SIZE) < 4, x, 0),
    "mirror": lambda x: x + x[:, ::-1],
    "difference": lambda x: x - x * 2 + x,
    "sort": lambda x: jnp.sort(x, -1),
    "sign": jnp.sign,
    "put over": lambda x: x.at[:, :2].set(0),
    "put twice": lambda x: jnp.zeros_like(x).at[:, ORDER // 2].add(x),
    "either": lambda x: jnp.where(x < 0, x + 1, x),
    "parts": lambda x: jnp.real(jax.lax.complex(x[:, ::-1] * 0, x)),
    "rank one": lambda x: x @ jnp.ones((SIZE, SIZE)),
    "rank one in 32 bits": lambda x: x @ jnp.outer(MATRIX[0], MATRIX[1]),
    "no mean": lambda x: x @ (jnp.eye(SIZE) - jnp.outer(COLUMN, COLUMN) / SQUARES),
}
ALL = INVERTIBLE | LOSSY


def chain(names):
    def function(x):
        for name in names:
            x = ALL[name](x)
        return x

    return function


def claimed(function):
    """How many entries of a record are claimed, and whether without conditions."""
    shape = (RECORDS, SIZE)
    field = frozenset([Atom("field", "x")])
    ids = np.arange(RECORDS * SIZE).reshape(shape)
    x = Fact(shape, np.dtype("float32"), field, field, ids, slope=1)
    x = replace(x, affine=of_entries(ids))
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, "float32"))
    facts = interpret(closed, [x])
    numbers = Numbers({"x": 0}, {"x": RECORDS * SIZE})
    found = given_away(facts, numbers, "x", RECORDS)
    if found is None:
        return 0, True
    return found.entries, not (found.some or found.rounded or found.up_to)


def rank(function):
    """How many numbers of a record its result moves with, beside the other record."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(2).normal(size=(RECORDS, SIZE)))
        full = jax.jacobian(lambda own: function(x.at[0].set(own))[0])(x[0])
        scale = np.linalg.norm(full, axis=0, keepdims=True)
        return np.linalg.matrix_rank(full / np.where(scale, scale, 1), tol=1e-9)


chains = st.lists(st.sampled_from(sorted(INVERTIBLE)), min_size=1, max_size=4)
quick = settings(max_examples=14, deadline=None, derandomize=True)


@quick
@given(chains)
def test_a_chain_that_can_be_undone_is_found_unless_it_mixes_twice(names):
    count, surely = claimed(chain(names))
    assert rank(chain(names)) == SIZE
    # What follows a mixture is followed no further than by entries and by all of them.
    mixing = ("sums", "matrix", "sum and difference", "sum in place", "neighbours")
    mixes = [i for i, n in enumerate(names) if n in mixing]
    if not mixes or (len(mixes) == 1 and mixes[0] == len(names) - 1):
        assert (count, surely) == (SIZE, True)


@quick
@given(chains, st.sampled_from(sorted(LOSSY)), chains)
def test_a_chain_with_a_step_that_loses_is_not_claimed(before, lossy, after):
    count, surely = claimed(chain([*before, lossy, *after]))
    assert count < SIZE or not surely


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=4))
def test_no_more_entries_are_claimed_than_the_result_moves_with(names):
    count, surely = claimed(chain(names))
    assert not surely or count <= rank(chain(names))


def test_sums_of_the_same_factors_and_of_other_numbers_are_other_sums():
    factors = np.array([1.0, 0, 0, 1])
    assert not told(factors.reshape(1, 4))[[0, 3]].any()
    assert told(factors.reshape(2, 2)).tolist() == [True, True]


# Whatever moves entries has a rule, by whichever primitive a release of JAX does it.
MOVING = {
    "append": lambda x: jnp.append(x, x[:, :1], 1),
    "array": lambda x: jnp.array([x[0], x[1]]),
    "array_split": lambda x: jnp.array_split(x, 4, 1),
    "asarray": jnp.asarray,
    "at add": lambda x: x.at[:, 0].add(1.0),
    "at set": lambda x: jnp.zeros((RECORDS, 8)).at[:, 1:7].set(x),
    "barrier": jax.lax.optimization_barrier,
    "bitcast": lambda x: jax.lax.bitcast_convert_type(x, "int32"),
    "block": lambda x: jnp.block([[x, x]]),
    "broadcast": lambda x: jnp.broadcast_to(x, (2, *x.shape)),
    "bytes": lambda x: jax.lax.bitcast_convert_type(x, "uint8"),
    "checkpoint name": lambda x: checkpoint_name(x, "a"),
    "column stack": lambda x: jnp.column_stack([*x.T]),
    "complex": lambda x: jax.lax.complex(x[:, :3], x[:, 3:]),
    "concatenate": lambda x: jnp.concatenate([x, 2 * x], 1),
    "conj": lambda x: jnp.conj(1j * x),
    "copy": jnp.copy,
    "device": jax.device_put,
    "diagonal": lambda x: jax.vmap(jnp.diag)(x),
    "dstack": lambda x: jnp.dstack([x, x]),
    "fftshift": jnp.fft.fftshift,
    "flip": lambda x: jnp.flip(x, 1),
    "gather": lambda x: jnp.take(x, ORDER, 1),
    "hstack": lambda x: jnp.hstack([x, x]),
    "imag": lambda x: jnp.imag(jax.lax.complex(x * 0, x)),
    "between": lambda x: jnp.concatenate([x[:, :2], x[:, :1] * 0, x[:, 2:]], 1),
    "iterate": lambda x: [*x],
    "moveaxis": lambda x: jnp.moveaxis(x, 0, 1),
    "pad reflect": lambda x: jnp.pad(x, ((0, 0), (1, 1)), mode="reflect"),
    "pad wrap": lambda x: jnp.pad(x, ((0, 0), (1, 1)), mode="wrap"),
    "ravel": jnp.ravel,
    "real": lambda x: jnp.real(x.astype("complex64")),
    "repeat": lambda x: jnp.repeat(x, 2, 1),
    "resize": lambda x: jax.image.resize(x, (4, 12), "nearest"),
    "rot90": jnp.rot90,
    "slices": lambda x: jax.lax.dynamic_update_slice(jnp.zeros((2, 8)), x, (0, 1)),
    "split": lambda x: jax.lax.split(x, (2, 4), 1),
    "squeeze": lambda x: x[:, None].squeeze(1),
    "stack": lambda x: jnp.stack([x, x**2], 1),
    "tile": lambda x: jnp.tile(x, (1, 3)),
    "transpose": lambda x: x.T,
    "triangles": lambda x: (jnp.tril(x), jnp.triu(x)),
    "unstack": lambda x: jnp.unstack(x, axis=1),
    "vmap": lambda x: jax.vmap(lambda r: r[::-1])(x),
    "vstack": lambda x: jnp.vstack([x, x]),
    "where": lambda x: jnp.where(jnp.arange(6) < 9, x, 0.0),
    # Entry by entry: what is undone by a function of the same kind.
    "acosh": jnp.arccosh,
    "log2": jnp.log2,
    "power": lambda x: x**1.5,
    "power of": lambda x: 0.5**x,
    "cumlogsumexp": lambda x: jax.lax.cumlogsumexp(x, 1),
}


@pytest.mark.parametrize("name", MOVING)
def test_whatever_moves_entries_is_known(name):
    shape = (RECORDS, SIZE)
    field = frozenset([Atom("field", "x")])
    ids = np.arange(RECORDS * SIZE).reshape(shape)
    x = Fact(shape, np.dtype("float32"), field, field, ids, slope=1)
    closed = jax.make_jaxpr(MOVING[name])(jax.ShapeDtypeStruct(shape, "float32"))
    results = interpret(closed, [x])
    given = np.unique(np.concatenate([f.given() for f in results]))
    assert len(given) == RECORDS * SIZE
    assert not any(f.some or f.key for f in results)
