"""Whatever is claimed of random chains of operations holds in numbers, too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jsplit.privacy.viewing.facts import Atom, Fact
from jsplit.privacy.viewing.interpreting import interpret

RECORDS, SIZE = 2, 6
ORDER = np.random.default_rng(0).permutation(SIZE)
MATRIX = jnp.asarray(np.random.default_rng(1).normal(size=(SIZE, SIZE)), "float32")
COLUMN = jnp.linspace(0.5, 2, SIZE)

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
    "rank one": lambda x: x @ jnp.ones((SIZE, SIZE)),
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
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, "float32"))
    (fact,) = interpret(closed, [x])
    given = fact.given()
    assert not given.size or {*given} <= {*range(RECORDS * SIZE)}
    return len(given) // RECORDS, not (fact.some or fact.rounded or fact.key)


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
    mixes = [i for i, n in enumerate(names) if n in ("sums", "matrix")]
    if not mixes or (len(mixes) == 1 and mixes[0] == len(names) - 1):
        assert (count, surely) == (SIZE, True)


@quick
@given(chains, st.sampled_from(sorted(LOSSY)), chains)
def test_a_chain_with_a_step_that_loses_is_not_claimed(before, lossy, after):
    count, surely = claimed(chain([*before, lossy, *after]))
    assert count < SIZE or not surely


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=4))
def test_no_more_entries_are_claimed_than_the_result_moves_with(names):
    count, surely = claimed(chain(names))
    assert not surely or count <= rank(chain(names))
