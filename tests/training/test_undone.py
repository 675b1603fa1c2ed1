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


def test_a_link_whose_noise_is_off_hides_no_field():
    def refusal(scale):
        link = jsplit.privacy.gaussian(clip=1.0, scale=scale)
        with pytest.raises(ValueError, match="raw field `x`"):
            begun = jsplit.fused(
                vanilla(jnp.tanh), optax.sgd(0.1), links={"h": (link, None)}
            )
            begun.init(0, {"x": X, "label": LABEL})

    refusal(0.0)
    with pytest.raises(pytest.fail.Exception):
        refusal(1.0)


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


def test_what_is_drawn_from_a_key_of_the_code_hides_nothing():
    key = jax.random.key(7)
    assert told(vanilla(lambda x: x @ jax.random.orthogonal(key, 4))) == ["is `x`"]
    signs = vanilla(lambda x: x * jax.random.rademacher(key, (4,), "float32"))
    assert told(signs) == ["is `x`"]
    assert "raw field `x`" in refused(signs)
    few = vanilla(lambda x: x @ jax.random.normal(key, (4, 2)))
    assert told(few) == [] and not refused(few)


PLACES = {
    "sorted": jnp.sort,
    "the two largest": lambda x: jax.lax.top_k(x, 2)[0],
    "rows in an order of their own": lambda x: x[jnp.argsort(x.sum(-1))],
    "turned or not": lambda x: jax.lax.cond(
        x.sum() > 0, lambda y: y, lambda y: y[:, ::-1], x
    ),
    "turned by a choice of its own": lambda x: jnp.where(x > 0, x, -x),
}


@pytest.mark.parametrize("name", PLACES)
def test_entries_that_are_somewhere_are_refused_and_are_a_part_to_views(name):
    assert told(vanilla(PLACES[name])) == ["has up to 4 of 4 entries of `x`"]
    assert "raw field `x`" in refused(vanilla(PLACES[name]))


WHOLE = {
    "nothing infinite": jnp.nan_to_num,
    "the same in both branches": lambda x: jax.lax.cond(
        x.sum() > 0, lambda y: y + 0, lambda y: y, x
    ),
    "a quotient of lines": jax.nn.soft_sign,
    "pieces of a quotient by a number": lambda x: jax.nn.elu(x / 4) * 4,
    "a product that rises": lambda x: x * jnp.abs(x),
    "turns that the code counts": lambda x: jax.lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 1.5), (0, x)
    )[1],
    "sizes and angles": lambda x: {
        "a": jnp.abs(jnp.fft.fft(x)),
        "b": jnp.angle(jnp.fft.fft(x)),
    },
    "sorted with ranks": lambda x: {
        "a": jnp.sort(x),
        "b": jnp.argsort(jnp.argsort(x)),
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_several_steps_leave_whole_is_found(name):
    assert told(vanilla(WHOLE[name])) == ["is `x`"]
    assert "raw field `x`" in refused(vanilla(WHOLE[name]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: {"a": x * x, "b": (1 + x) * (1 - x)},
        lambda x: x / (1 + x * x),
        lambda x: {
            "a": jnp.sort(x),
            "b": jnp.argsort(jnp.argsort(x, axis=0), axis=1),
        },
    ],
)
def test_what_does_not_tell_entries_apart_is_not_said_to(function):
    assert "is `x`" not in told(vanilla(function))


def test_bits_of_a_byte_are_the_byte_and_half_of_them_are_not():
    x = (np.arange(8).reshape(4, 2) * 37 % 256).astype("uint8")
    steps = jnp.arange(255)
    for function in (
        lambda x: jnp.unpackbits(x, axis=-1),
        lambda x: {"a": x >> 4, "b": x & 15},
        lambda x: x[..., None] > steps,
    ):
        assert told(vanilla(function), x) == ["is `x`"]
        assert "raw field `x`" in refused(vanilla(function), x)
    for function in (lambda x: x >> 1, lambda x: x[..., None] > steps[:128]):
        assert told(vanilla(function), x) == []
        assert not refused(vanilla(function), x)


def test_a_public_field_hides_no_other_one():
    def added(hidden, known):
        return hidden + known

    bottom = jsplit.segment(added, inputs=["x", "z"], name="h")
    head = jsplit.segment(summed, init=weight, inputs=["h"], name="output")
    topology = jsplit.vanilla(bottom, head, loss=loss, fields=["x", "z"], public=["z"])
    batch = {"x": X, "z": X[::-1], "label": LABEL}
    found = jsplit.privacy.views(topology, batch)
    assert [str(g) for g in found["server"].receives[0].gives] == ["is `x`"]
    with pytest.raises(ValueError, match="raw field `x`"):
        jsplit.fused(topology, optax.sgd(0.1)).init(0, batch)
    # That the public one crosses is said as well.
    shown = vanilla(lambda x: x, public="x")
    assert told(shown) == ["is `x`"]
