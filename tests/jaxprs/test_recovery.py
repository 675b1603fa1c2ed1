"""What several values give together, and what they do not, by the rules of a program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jsplit.jaxprs.flat import flatten
from jsplit.jaxprs.proving.recovery import Recovery
from jsplit.jaxprs.proving.terms import Terms


def norm(x):
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


TOLD = {
    "size and sign": lambda x: (jnp.abs(x).T, jnp.sign(x.T)),
    "square and sign": lambda x: (x * x, x > 0),
    "floor and rest": lambda x: (jnp.floor(x), x - jnp.floor(x)),
    "both rectified": lambda x: (jax.nn.relu(x), jax.nn.relu(-x)),
    "above and below": lambda x: (jnp.maximum(x, 0.5), jnp.minimum(x, 0.5)),
    "norm and direction": lambda x: (norm(x)[:, 0], x / jnp.maximum(norm(x), 1e-6)),
    "standardised": lambda x: (
        x.mean(-1),
        x.std(-1),
        (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True),
    ),
    "log_softmax": lambda x: (jax.nn.log_softmax(x), jax.nn.logsumexp(x, -1)),
    "cos and sin": lambda x: (jnp.cos(x), jnp.sin(x)),
    "sorted beside places": lambda x: (jnp.sort(x, -1), jnp.argsort(x, -1)),
    "largest beside places": lambda x: lax.top_k(x, 4),
    "halves": lambda x: (*jnp.split(jnp.abs(x), 2, 1), jnp.sign(x)),
    "in a loop": lambda x: lax.map(lambda r: (jnp.abs(r), jnp.sign(r)), x),
    "carried": lambda x: lax.scan(lambda h, _: (jnp.tanh(h), None), x, length=3)[0],
    "sums of a loop": lambda x: lax.scan(lambda h, r: (h + r, h + r), jnp.zeros(4), x)[
        1
    ],
    "complex parts": lambda x: lax.complex(jnp.abs(x), jnp.sign(x)),
}
NOT_TOLD = {
    "size": jnp.abs,
    "size off centre": lambda x: jnp.abs(x - 0.01),
    "two even powers": lambda x: (x * x, x**4, jnp.abs(x)),
    "other signs": lambda x: (jnp.abs(x[:, :2]), jnp.sign(x)[:, 2:]),
    "sign of the mean": lambda x: (jnp.abs(x), jnp.sign(x.mean(-1))),
    "some signs": lambda x: (jnp.abs(x), jnp.sign(x)[:, :2]),
    "with a gap": lambda x: (jax.nn.relu(x - 1), jax.nn.relu(-x)),
    "sign elsewhere": lambda x: (jnp.abs(x), x > 1),
    "direction": lambda x: x / norm(x),
    "log_softmax": jax.nn.log_softmax,
    "masked": lambda x: (x * (x[:, ::-1] > 0), x[:, ::-1] > 0),
    "mirrored sum": lambda x: (x[:, :2] + x[:, :2].T, x[:, 2:] - x[:, 2:].T),
    "last sum of a loop": lambda x: lax.scan(
        lambda h, r: (h + r, None), jnp.zeros(4), x
    )[0],
    "flat in 32 bits": lambda x: jnp.tanh(1e6 * x),
    "gone in 32 bits": lambda x: (x + 1e30) - 1e30,
    "sorted": lambda x: jnp.sort(x, -1),
    "some of the largest": lambda x: lax.top_k(x, 2),
    "sin": jnp.sin,
    "silu": jax.nn.silu,
}
WHOLE = {
    "quotient and remainder": lambda x: (x // 5, x % 5),
    "half and parity": lambda x: (x // 2, x & 1),
    "size and sign": lambda x: (jnp.abs(x), jnp.sign(x)),
}
NOT_WHOLE = {
    "quotient": lambda x: x // 5,
    "remainder": lambda x: x % 5,
    "beyond its bits": lambda x: x * 2**20,
    "a power": lambda x: (x**3, x * 2**20),
}


def closed(function, dtype="float32", rounding=False):
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((2, 4), dtype))
    flat = flatten(closed, calls=True)
    terms = Terms()
    x = terms.start(flat.invars[0])
    terms.add(flat)
    sent = [t for v in flat.outvars if (t := terms.term(v)) is not None]
    return Recovery(terms, sent, rounding), x


def tells(function, dtype="float32", rounding=False):
    found, x = closed(function, dtype, rounding)
    return found.has(x)


@pytest.mark.parametrize("name", TOLD)
def test_values_that_can_be_undone_together_give_the_field(name):
    assert tells(TOLD[name])


@pytest.mark.parametrize("name", NOT_TOLD)
def test_values_that_cannot_be_undone_together_do_not(name):
    assert not tells(NOT_TOLD[name])


def test_whole_numbers_are_told_by_what_differs_for_each():
    assert {n: tells(f, "int32") for n, f in WHOLE.items()} == dict.fromkeys(
        WHOLE, True
    )
    not_told = {n: tells(f, "int32") for n, f in NOT_WHOLE.items()}
    assert not_told == dict.fromkeys(NOT_WHOLE, False)


def test_what_is_rounded_is_known_rounded_alone():
    def function(x):
        return jnp.abs(x).astype("bfloat16"), jnp.sign(x)

    assert not tells(function)
    assert tells(function, rounding=True)


def test_the_largest_entries_beside_their_places_are_a_part():
    found, x = closed(lambda x: lax.top_k(x, 2))
    assert x in found.partly and not found.has(x)


def test_what_is_told_differs_in_numbers_wherever_the_field_does():
    """And what is not told is the same for two fields that differ, where one is at hand."""
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    other = x.copy()
    other[0, 0] = -x[0, 0]
    for name, function in TOLD.items():
        pairs = zip(*(jax.tree.leaves(function(v)) for v in (x, other)), strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs), name
    for name in ("size", "two even powers", "sorted"):
        turned = x[:, ::-1] if name == "sorted" else other
        pairs = zip(
            *(jax.tree.leaves(NOT_TOLD[name](v)) for v in (x, turned)), strict=True
        )
        assert all(np.array_equal(a, b) for a, b in pairs), name
