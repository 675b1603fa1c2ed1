"""The chain rule of an answer, checked from what its receiver knows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit import guarding
from tests.training.common import refused

# One program: op by op, each shape of each operation is compiled for itself.
chain_rule = jax.jit(guarding.chain_rule)


def draws(*shapes, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def test_of_an_affine_answer_the_cosine_is_one():
    u, w, b, gave = draws((16, 5), (5, 7), (7,), (16, 7))
    assert np.isclose(chain_rule(u, gave @ w.T, u @ w + b, gave), 1, atol=1e-5)
    # Far from the origin the differences are the same.
    far = u + 100
    assert np.isclose(chain_rule(far, gave @ w.T, far @ w, gave), 1, atol=1e-3)


def test_it_is_the_cosine_of_first_order_changes_over_pairs():
    u, w, gave = draws((6, 4), (4, 3), (6, 3))
    received, pull = jax.vjp(lambda u: jnp.tanh(u @ w), u)
    [returned] = pull(gave)
    u, w, gave, received, returned = map(np.asarray, (u, w, gave, received, returned))
    ours, theirs = [], []
    for i in range(6):
        for j in range(6):
            ours.append(float(gave[i] @ (received[j] - received[i])))
            theirs.append(float(returned[i] @ (u[j] - u[i])))
    cosine = np.dot(ours, theirs) / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert np.isclose(chain_rule(u, returned, received, gave), cosine, atol=1e-5)


def test_of_a_cotangent_of_something_else_it_is_about_zero():
    found, cosine = [], chain_rule
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shapes = ((64, 16), (16, 8), (64, 8), (64, 16))
        u, w, gave, other = (rng.normal(size=s).astype("float32") for s in shapes)
        found.append(float(cosine(u, other, u @ w, gave)))
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(20)
    assert np.std(found) < 0.1
    # And of the honest one turned round it is the opposite.
    u, w, gave = draws((16, 5), (5, 7), (16, 7))
    assert np.isclose(chain_rule(u, -gave @ w.T, u @ w, gave), -1, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20])
def test_the_scale_of_cotangents_does_not_matter(scale):
    u, w, gave = draws((16, 5), (5, 7), (16, 7))
    assert np.isclose(
        chain_rule(u, scale * (gave @ w.T), u @ w, scale * gave), 1, atol=1e-5
    )
    assert np.isclose(chain_rule(u, scale * (gave @ w.T), u @ w, gave), 1, atol=1e-5)


def test_zeros_show_nothing_and_something_for_zeros_is_no_derivative():
    u, w, gave = draws((8, 5), (5, 7), (8, 7))
    zeros = jnp.zeros_like
    assert np.isnan(chain_rule(u, zeros(u), u @ w, gave))
    assert np.isnan(chain_rule(u[:1], u[:1], (u @ w)[:1], gave[:1]))
    assert chain_rule(u, u, u @ w, zeros(gave)) == 0


def test_values_may_be_trees_and_have_integers():
    u, w, gave = draws((8, 4), (4, 3), (8, 3))
    tree = {"a": u[:, :2].reshape(8, 1, 2), "b": u[:, 2:], "ids": jnp.arange(8)}
    back = gave @ w.T
    returned = {"a": back[:, :2].reshape(8, 1, 2), "b": back[:, 2:]}
    assert np.isclose(chain_rule(tree, returned, u @ w, gave), 1, atol=1e-5)


def test_arrays_that_do_not_fit_are_refused():
    u, d = jnp.ones((8, 3)), jnp.ones((8, 2))
    refused("`returned` must be of the shapes", lambda: chain_rule(u, d, d, d))
    refused("`gave` must be of the shapes", lambda: chain_rule(u, u, d, u))
    refused("of the 8 records", lambda: chain_rule(u, u, d[:4], d[:4]))
    refused("`sent` must have floating", lambda: chain_rule(jnp.arange(8), u, d, d))
    refused("got none in", lambda: chain_rule({}, u, d, d))
