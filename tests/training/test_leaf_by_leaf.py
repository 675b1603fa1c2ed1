"""An optimizer that computes one leaf from others is told of, whoever has written it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.jaxprs.dependence import dependence
from jsplit.training.leaf_by_leaf import mixed_leaves
from tests.training.common import X, dense

WEIGHTS = {"a": {"w": jnp.ones((2, 3))}, "b": {"v": jnp.ones(3), "z": jnp.ones(2)}}
LOSS = {"value": jnp.float32(1)}


def mixed(optimizer):
    able = optax.with_extra_args_support(optimizer)
    memory = able.init(WEIGHTS)
    closed = jax.make_jaxpr(lambda w, m: able.update(w, m, w, **LOSS))(WEIGHTS, memory)
    return mixed_leaves(closed.jaxpr, WEIGHTS, len(jax.tree.leaves(memory)))


def later():
    """What a user may write: leaf by leaf now, and by what all were in the next step."""

    def update(updates, memory, params=None):
        size = sum(jnp.abs(x).sum() for x in jax.tree.leaves(updates))
        return jax.tree.map(lambda x: x / memory, updates), jnp.maximum(memory, size)

    return optax.GradientTransformation(lambda params: jnp.ones(()), update)


def looped():
    """Each leaf by a loop of its own within one; and a branch on a count."""

    def update(updates, count, params=None):
        scaled = jax.lax.fori_loop(
            0, 2, lambda _, tree: jax.tree.map(lambda x: x / 2, tree), updates
        )
        found = jax.lax.cond(
            count > 3, lambda t: t, lambda t: jax.tree.map(jnp.negative, t), scaled
        )
        return found, count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), int), update)


APART = {
    "adam": optax.adam(0.1),
    "lamb": optax.lamb(0.1),
    "multi": optax.MultiSteps(optax.adam(0.1), 2),
    "plateau": optax.contrib.reduce_on_plateau(),
    "looped": looped(),
}
MIXING = {
    "norm": optax.normalize_by_update_norm(),
    "normalize": optax.contrib.normalize(),
    "prodigy": optax.contrib.prodigy(1.0),  # whose first steps are of each leaf alone
    "dadapt": optax.contrib.dadapt_adamw(1.0),
    "dog": optax.contrib.dog(1.0),
    "mechanize": optax.contrib.mechanize(optax.sgd(0.1)),
    "if finite": optax.apply_if_finite(optax.sgd(0.1), 3),
    "polyak": optax.polyak_sgd(),
    "later": later(),
}


@pytest.mark.parametrize("name", APART)
def test_what_works_leaf_by_leaf_is_known_to(name):
    assert mixed(APART[name]) is None


@pytest.mark.parametrize("name", MIXING)
def test_what_computes_a_leaf_from_others_is_known_to(name):
    assert mixed(MIXING[name]) == ("a.w", "b.z")


def test_results_of_loops_and_branches_have_reads_of_their_own():
    def program(a, b, c, n):
        one, many = jax.lax.scan(lambda h, x: (h + x, x * 2), a, b)
        after = jax.lax.while_loop(
            lambda v: v[0] < n, lambda v: (v[1], v[1] + 1), (a, c)
        )
        return one, many, *after, jax.lax.cond(n > 0, lambda: a, lambda: c)

    x = jnp.ones(())
    closed = jax.make_jaxpr(program)(x, jnp.ones(3), x, x)
    found = dependence(closed.jaxpr, [1, 2, 4, 8])
    assert found == [1 | 2, 2, 1 | 4 | 8, 1 | 4 | 8, 1 | 4 | 8]


def scaled(name, reads):
    def init(key, x):
        return {"s": jnp.ones(()), "t": jnp.ones(())}

    return jsplit.segment(
        lambda p, x: x * p["s"] + p["t"], init=init, inputs=[reads], name=name
    )


def square(y, label):
    return (y[:, 0] - label) ** 2


def at_client(optimizer):
    return {"client": optimizer, "server": optax.sgd(0.1)}


def test_parties_are_warned_of_what_mixes_their_leaves():
    batch = {"x": X, "label": np.zeros(len(X), "float32")}
    both = jsplit.vanilla(scaled("h", "x"), scaled("y", "h"), loss=square)
    with pytest.warns(UserWarning, match=r"of `h\.s` from others too, as `h\.t`"):
        jsplit.fused(both, at_client(optax.contrib.prodigy(1.0))).init(0, batch)
    with pytest.warns(UserWarning, match="has optax.flatten"):
        jsplit.fused(both, optax.flatten(optax.sgd(0.1))).init(0, batch)
    jsplit.fused(both, optax.adam(0.1)).init(0, batch)
    # One leaf each, of the two of the model.
    single = jsplit.vanilla(dense(["x"], "h"), dense(["h"], "y"), loss=square)
    with pytest.warns(UserWarning, match="`client` computes .* `h` from all leaves"):
        jsplit.fused(single, at_client(optax.normalize_by_update_norm())).init(0, batch)
    # All is at one party: that is the whole model's.
    nodes = [
        jsplit.Node("h", dense(["x"]), "one"),
        jsplit.Loss("loss", lambda h: (h**2).mean(-1), "one", ["h"]),
    ]
    alone = jsplit.Topology(nodes, {"one": ["x"]})
    jsplit.fused(alone, optax.contrib.prodigy(1.0)).init(0, {"x": X})
