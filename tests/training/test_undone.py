"""`init` refuses what can be undone, and views name it: the two say the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import Loss, Node, Topology

X = np.linspace(-1, 1, 16, dtype="float32").reshape(4, 4)
LABEL = np.linspace(0, 1, 4, dtype="float32")
EYE = jnp.eye(4)[:, jnp.array([2, 0, 3, 1])]


def summed(w, *h):
    leaves = [x.astype("float32") for x in jax.tree.leaves(h)]
    return sum(w * x.reshape(len(x), -1).sum(-1) for x in leaves)


def weight(key, *h):
    return jnp.ones(())


def loss(output, label):
    return (output - label) ** 2


def vanilla(function, **more):
    bottom = jsplit.segment(function, inputs=["x"], name="h")
    head = jsplit.segment(summed, init=weight, inputs=["h"], name="output")
    return jsplit.vanilla(bottom, head, loss=loss, **more)


def refused(topology, x=X):
    batch = {"x": x, "label": LABEL}
    try:
        jsplit.fused(topology, optax.sgd(0.1)).init(0, batch)
    except ValueError as error:
        return str(error)
    return ""


def told(topology, x=X):
    found = jsplit.privacy.views(topology, {"x": x, "label": LABEL})
    return [str(g) for t in found.together if t.parties == ("server",) for g in t.gives]


GIVES = {
    "tanh": jnp.tanh,
    "selu": jax.nn.selu,
    "permuted by a matrix": lambda x: x @ EYE,
    "in a loop": lambda x: jax.lax.map(lambda row: row * 2, x),
    "in turns": lambda x: jax.lax.fori_loop(
        0, 4, lambda i, kept: kept.at[:, i].set(x[:, i]), jnp.zeros_like(x)
    ),
    "size and sign": lambda x: {"a": jnp.abs(x), "b": jnp.sign(x)},
    "norm and direction": lambda x: {
        "a": jnp.linalg.norm(x, axis=-1),
        "b": x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    },
}
KEEPS = {
    "size": jnp.abs,
    "a rectified layer of the code": lambda x: jnp.abs(x @ EYE),
    "what floats do not bear": lambda x: (x + 1e30) - 1e30,
}


@pytest.mark.parametrize("name", GIVES)
def test_what_views_say_is_the_field_is_refused_unless_it_is_public(name):
    assert told(vanilla(GIVES[name])) == ["is `x`"]
    assert "raw field `x`" in refused(vanilla(GIVES[name]))
    assert not refused(vanilla(GIVES[name], public="x"))


@pytest.mark.parametrize("name", KEEPS)
def test_what_views_do_not_say_is_accepted(name):
    assert told(vanilla(KEEPS[name])) == []
    assert not refused(vanilla(KEEPS[name]))


def test_two_values_that_cross_to_one_party_are_looked_at_together():
    size = jsplit.segment(jnp.abs, inputs=["x"], name="a")
    sign = jsplit.segment(jnp.sign, inputs=["x"], name="b")
    head = jsplit.segment(summed, init=weight, inputs=["a", "b"], name="output")
    last = [
        Node("output", head, "server"),
        Loss("loss", loss, "server", ["output", "label"]),
    ]
    nodes = [Node("a", size, "lab"), Node("b", sign, "lab"), *last]
    both = Topology(nodes, {"lab": ["x"], "server": ["label"]})
    assert told(both) == ["is `x`"]
    assert "`a` and `b` cross from `lab` to `server` and together give" in refused(both)
    # To two parties they do, and if these pool, they have it.
    one = jsplit.segment(summed, init=weight, inputs=["a"], name="one")
    head = jsplit.segment(summed, init=weight, inputs=["one", "b"], name="output")
    apart = [
        *nodes[:2],
        Node("one", one, "far"),
        Node("output", head, "server"),
        last[1],
    ]
    topology = Topology(apart, {"lab": ["x"], "server": ["label"], "far": []})
    assert not refused(topology)
    found = jsplit.privacy.views(topology, {"x": X, "label": LABEL})
    by_set = {t.parties: [str(g) for g in t.gives] for t in found.together}
    assert by_set["server",] == by_set["far",] == []
    pooled = next(gives for p, gives in by_set.items() if {*p} == {"far", "server"})
    assert pooled == ["is `x`"]


def test_both_rectified_halves_of_a_learned_layer_are_accepted():
    def layer(w, x):
        return {"a": jax.nn.relu(x @ w), "b": jax.nn.relu(-(x @ w))}

    learned = jsplit.segment(
        layer, init=lambda key, x: jnp.ones((4, 4)), inputs=["x"], name="h"
    )
    head = jsplit.segment(summed, init=weight, inputs=["h"], name="output")
    assert not refused(jsplit.vanilla(learned, head, loss=loss))


def test_products_of_whole_numbers_that_wrap_around_are_no_field():
    x = np.arange(16, dtype="int32").reshape(4, 4)
    for function in (lambda x: x * 2**20, lambda x: x**3, lambda x: x * 2**6 * 2**6):
        assert told(vanilla(function), x) == []
        assert not refused(vanilla(function), x)
    assert told(vanilla(lambda x: x * 1000), x) == ["is `x`"]
    assert "raw field `x`" in refused(vanilla(lambda x: x * 1000), x)


def test_a_one_hot_narrower_than_the_class_numbers_is_a_part():
    x = np.arange(16, dtype="int32").reshape(4, 4) % 9
    narrow, wide = (vanilla(lambda x, n=n: jax.nn.one_hot(x, n)) for n in (2, 8))
    assert told(narrow, x) == ["has up to 4 of 4 entries of `x`"]
    assert told(wide, x) == ["is `x`"]


def test_a_column_of_few_bits_does_not_tell_which_row_it_is():
    def looked_up(dtype, width):
        bottom = jsplit.segment(
            lambda w, x: w[x],
            init=lambda key, x: jax.random.normal(key, (9000, width), dtype),
            inputs=["x"],
            name="h",
        )
        head = jsplit.segment(summed, init=weight, inputs=["h"], name="output")
        return jsplit.vanilla(bottom, head, loss=loss)

    x = np.arange(16, dtype="int32").reshape(4, 4)
    few = "has up to 4 of 4 entries of `x` up to parameters of `h`"
    assert told(looked_up("bfloat16", 1), x) == [few]
    assert told(looked_up("bfloat16", 8), x) == ["is `x` up to parameters of `h`"]
