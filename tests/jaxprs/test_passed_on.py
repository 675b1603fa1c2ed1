"""Results that are arguments as they came: exactly those, through calls, loops and axes."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp

from jsplit.jaxprs.passed_on import passed_on


def in_scan(a, b, x):
    def turn(carry, layer):
        kept, now = carry
        return (kept, jnp.tanh(now @ layer)), (layer, layer * 2)

    (kept, _), (same, other) = lax.scan(turn, (b, x), a)
    return same, other, kept


def in_while(a, b, x):
    def turn(carry):
        i, kept, now = carry
        return i + 1, kept, now @ a[0] + b

    i, kept, now = lax.while_loop(lambda carry: carry[0] < 3, turn, (0, a, x))
    return kept, now, b


def swapped_in_turn(a, b, x):
    c, d = lax.fori_loop(0, 3, lambda i, pair: (pair[1], pair[0]), (b, x))
    return a, c, d


def in_branches(a, b, x):
    return lax.cond(x.sum() > 0, lambda: (a, b, x), lambda: (a, b * 2, x))


def in_calls(a, b, x):
    pass_on = jax.checkpoint(jax.jit(lambda a, b: (b, a)))
    b, a = pass_on(a, b)
    same = jax.custom_jvp(lambda x: x)
    same.defjvps(lambda tangent, _, x: tangent)
    return a, b, same(x)


def moved_and_back(a, b, x):
    def turn(carry, layer):
        return jnp.tanh(carry @ layer), layer

    _, layers = lax.scan(turn, x, jnp.moveaxis(a, 2, 0))
    return jnp.moveaxis(layers, 0, 2), b.T.T, x.T


@pytest.mark.parametrize(
    "function, numbers",
    [
        (lambda a, b, x: (a, x, b), [0, 2, 1]),
        (lambda a, b, x: (a * 1, b + 0, x.astype("float16")), [None, None, None]),
        (in_scan, [0, None, 1]),
        (in_while, [0, None, 1]),
        (swapped_in_turn, [0, None, None]),
        (in_branches, [0, None, 2]),
        (in_calls, [0, 1, 2]),
        (moved_and_back, [0, 1, None]),
    ],
)
def test_results_are_arguments_exactly_where_they_came_through_unchanged(
    function, numbers
):
    closed = jax.make_jaxpr(function)(
        *(jnp.ones(s) for s in [(3,) * 3, (3, 3), (3,) * 2])
    )
    assert passed_on(closed) == numbers
