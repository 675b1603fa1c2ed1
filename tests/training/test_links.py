"""Links in training: the simulation does what a wire does, and the record says what crossed."""

from __future__ import annotations

from itertools import cycle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.compress import cast, quantize
from tests.helpers import (
    CONFIGURATIONS,
    FLAX,
    cross_entropy,
    make_problem,
)
from tests.training.common import INTERPRETERS, X, close, dense, learned, train

LINKED = [(c, "mlp", f) for c, f in zip(CONFIGURATIONS, cycle(FLAX), strict=False)] + [
    ("vertical", "residual", "linen")
]


@pytest.mark.parametrize(("configuration", "kind", "flax"), LINKED)
def test_with_a_link_on_every_crossing_fused_equals_messages(configuration, kind, flax):
    problem = make_problem(configuration, kind, flax)
    links = {c.name: quantize(6) for c in problem.topology.crossings}
    first, *others = links
    links[first] = (jsplit.chain(cast(jnp.bfloat16), quantize(5)), cast(jnp.bfloat16))
    states = [
        train(
            make(problem.topology, optax.sgd(0.1, momentum=0.9), links=links),
            problem.batch,
            4,
        )[0]
        for make in INTERPRETERS.values()
    ]
    close(*map(learned, states))
    plain = train(
        jsplit.fused(problem.topology, optax.sgd(0.1, momentum=0.9)), problem.batch, 4
    )[0]
    with pytest.raises(AssertionError):  # the links did something
        close(learned(states[0]), learned(plain))


def test_a_link_changes_what_crosses_and_the_record_says_so():
    problem = make_problem("vanilla", "mlp", "nnx")
    links = {"smashed": (quantize(8), None)}
    _, infos = train(
        jsplit.messages(problem.topology, optax.sgd(0.1), links=links), problem.batch, 1
    )
    up, down = infos[0].messages
    assert up == (
        "smashed",
        "activation",
        "client",
        "server",
        ((64,), (8, 1)),
        (jnp.uint8, jnp.bfloat16),
        8 * 8 + 8 * 2,
        96 + (8 + 8) + (8 + 16),
    )
    assert down == (
        "smashed",
        "cotangent",
        "server",
        "client",
        (8, 8),
        jnp.float32,
        8 * 8 * 4,
        96 + (8 + 16),
    )
    trainer = jsplit.messages(
        problem.topology, optax.sgd(0.1), links={"smashed": cast(jnp.bfloat16)}
    )
    assert {
        (m.shape, str(m.dtype)) for m in train(trainer, problem.batch, 1)[1][0].messages
    } == {((8, 8), "bfloat16")}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_crossing_is_one_message_and_one_back(configuration):
    problem = make_problem(configuration, "mlp", "nnx")
    _, infos = train(
        jsplit.messages(problem.topology, optax.sgd(0.1)), problem.batch, 1
    )
    went = sorted(
        (m.name, m.sender, m.receiver)
        for m in infos[0].messages
        if m.kind == "activation"
    )
    back = sorted(
        (m.name, m.receiver, m.sender)
        for m in infos[0].messages
        if m.kind == "cotangent"
    )
    assert went == back == sorted(tuple(c[:3]) for c in problem.topology.crossings)


def test_integers_cross_without_a_cotangent():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, image):
            value = jsplit.cut({"h": self.a(image), "mask": image > 0}, "smashed")
            return self.b(value["h"] * value["mask"].any(axis=1, keepdims=True))

    x, label = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), np.arange(8) % 3
    segments = jsplit.split(Net(nnx.Rngs(0)), x)
    topology = jsplit.vanilla(
        segments["smashed"], segments["output"], loss=cross_entropy
    )
    states, infos = [], []
    for make in INTERPRETERS.values():
        state, infos = train(
            make(topology, optax.sgd(0.1)), {"image": x, "label": label}
        )
        states.append(learned(state))
    assert infos[-1].messages[0].dtype == (jnp.float32, jnp.bool_)
    assert infos[-1].messages[1].dtype == jnp.float32
    close(*states)


def error_feedback():
    """Rounds to whole numbers, and adds what it rounded off to the next message."""

    def encode(memory, value, key):
        value = jax.tree.map(jnp.add, memory, value)
        rounded = jax.tree.map(jnp.round, value)
        return rounded, jax.tree.map(jnp.subtract, value, rounded)

    zeros = lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)  # noqa: E731
    return jsplit.Link(zeros, encode, lambda payload, like: payload)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_link_with_memory_keeps_it_from_message_to_message_in_every_interpreter(
    microbatches,
):
    topology = jsplit.vanilla(
        dense(["x"]), dense(), loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )
    batch, runs = {"x": 4 * X, "y": X[:, :3]}, []
    for make in INTERPRETERS.values():
        trainer = make(
            topology,
            optax.sgd(0.01),
            links={"smashed": (error_feedback(), None)},
            microbatches=microbatches,
        )
        state, _ = train(trainer, batch, 4)
        runs.append((learned(state), state.parties["client"].links))
        (memory,) = state.parties["client"].links.values()
        assert memory.shape == (8 // microbatches, 3) and jnp.abs(memory).max() > 0
        for size in (8, 5):  # in inference the memory starts anew, at any batch size
            fields = {"x": batch["x"][:size]}
            predicted = trainer.predict(state, fields)["output"]
            h = jnp.round(fields["x"] @ state.parties["client"].params["smashed"])
            close(predicted, h @ state.parties["server"].params["output"])
    close(*runs)


def test_a_link_sees_values_and_cotangents_in_the_same_structure():
    seen = []

    def encode(value, key):
        seen.append(jax.tree.map(jnp.shape, value))
        return value

    link = jsplit.stateless(encode, lambda payload, like: payload)
    bottom = jsplit.segment(
        lambda w, x: {"h": x @ w, "which": x.argmax(1)},
        init=lambda key, x: jnp.ones((4, 3)),
        inputs=["x"],
    )
    top = jsplit.segment(lambda v: v["h"] * v["which"][:, None], inputs=["v"])
    topology = jsplit.vanilla(
        bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )
    train(
        jsplit.messages(topology, optax.sgd(0.1), links={"smashed": link}),
        {"x": X, "y": X[:, :3]},
        1,
    )
    assert seen == [{"h": (8, 3), "which": (8,)}, {"h": (8, 3), "which": None}]
