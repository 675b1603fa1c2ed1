"""What every interpreter must do beside training: measure, predict, accumulate, add
penalties, refuse.
"""

from __future__ import annotations

from itertools import product
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit
from jsplit.compress import cast, quantize
from jsplit.core.base import node_key
from tests.helpers import (
    CONFIGURATIONS,
    FLAX,
    WEIGHTS,
    cross_entropy,
    make_problem,
    make_topology,
    some,
)

INTERPRETERS = {"fused": jsplit.fused, "messages": jsplit.messages}
both = pytest.mark.parametrize("interpreter", INTERPRETERS)


def close(a, b, tolerance=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.abs(np.asarray(x) - np.asarray(y)).max() <= tolerance * max(
            1.0, np.abs(np.asarray(y)).max()
        )


def train(trainer, batch, steps=3, key=0):
    state, infos = trainer.init(jax.random.key(key), batch), []
    for _ in range(steps):
        state, info = trainer.step(state, batch)
        infos.append(info)
    return state, infos


def learned(state):
    return {party: (p.params, p.state) for party, p in state.parties.items()}


# Links: the simulation does what a wire does.


LINKED = [(c, "mlp", f) for c, f in zip(CONFIGURATIONS, FLAX * 3, strict=True)] + [
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
        ((64,), ()),
        (jnp.uint8, jnp.float32),
        8 * 8 + 4,
        96 + (8 + 8) + 8,
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
    states = []
    for make in INTERPRETERS.values():
        state, infos = train(
            make(topology, optax.sgd(0.1)), {"image": x, "label": label}
        )
        states.append(learned(state))
    assert infos[-1].messages[0].dtype == (jnp.float32, jnp.bool_)
    assert infos[-1].messages[1].dtype == jnp.float32
    close(*states)


# Inference.


def whole_inference(problem, params, state):
    if isinstance(problem.whole, nnx.Module):
        model = nnx.clone(problem.whole)
        nnx.update(model, params)
        nnx.update(model, state)
        model.eval()
        return model(*problem.fields.values())
    return problem.whole.apply(
        {"params": params, **state}, *problem.fields.values(), train=False
    )


@pytest.mark.parametrize(
    ("configuration", "flax", "interpreter"),
    some(product(CONFIGURATIONS, FLAX, INTERPRETERS), lambda i: i % 4 == i // 4 % 4),
)
def test_prediction_and_evaluation_are_those_of_the_whole_model(
    configuration, flax, interpreter
):
    problem = make_problem(configuration, "cnn", flax)
    trainer = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1))
    state, _ = train(trainer, problem.batch, 1)
    expected = whole_inference(problem, *jsplit.variables(state))
    predicted = trainer.predict(state, problem.fields)
    expected = expected if configuration == "multitask" else {"output": expected}
    assert predicted.keys() == expected.keys()
    for name in expected:
        close(predicted[name], expected[name])
    info = trainer.evaluate(state, problem.batch)
    weights = WEIGHTS if configuration == "multitask" else {"output": 1.0}
    labels = {
        n: problem.batch["label" if n == "output" else f"label_{n}"] for n in weights
    }
    close(
        info.loss,
        sum(
            w * cross_entropy(expected[n], labels[n]).mean() for n, w in weights.items()
        ),
    )


@both
def test_evaluation_changes_nothing(interpreter):
    problem = make_problem("vanilla", "cnn", "nnx")
    trainer = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    before = jax.tree.map(lambda x: np.array(x), learned(state))
    first, second = (trainer.evaluate(state, problem.batch).loss for _ in range(2))
    assert first == second
    close(before, learned(state), 0)


# Losses and penalties.


def squares(params):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


@both
def test_a_penalty_on_a_client_s_parameters_is_weight_decay(interpreter):
    problem, rate, decay = make_problem("vanilla", "mlp", "nnx"), 0.1, 0.05
    topology = problem.topology.add(
        jsplit.Penalty("decay", squares, "client", ["smashed.params"], weight=decay / 2)
    )
    penalised, infos = train(
        INTERPRETERS[interpreter](topology, optax.sgd(rate)), problem.batch
    )
    decayed = {
        "client": optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate)),
        "server": optax.sgd(rate),
    }
    expected, _ = train(
        INTERPRETERS[interpreter](problem.topology, decayed), problem.batch
    )
    close(learned(penalised), learned(expected))
    assert set(infos[0].losses) == {"loss", "decay"}
    close(infos[0].loss, infos[0].losses["loss"] + decay / 2 * infos[0].losses["decay"])


class Sowing(linen.Module):
    """Sows a penalty on its activation anew at every call."""

    @linen.compact
    def __call__(self, image, train):
        h = linen.tanh(linen.Dense(8)(image))
        self.sow("losses", "activity", jnp.mean(h**2))
        h = linen.Dense(8)(h)
        return linen.Dense(3)(jsplit.cut(h, "smashed"))


@both
@pytest.mark.parametrize("backward", ["residuals", "recompute"])
def test_a_regulariser_sown_inside_a_client_s_segment_acts(interpreter, backward):
    x, label = np.linspace(-2, 2, 48, dtype=np.float32).reshape(8, 6), np.arange(8) % 3
    net, weight = Sowing(), 3.0
    variables = net.init(jax.random.key(0), x, train=True)
    segments = jsplit.split(net, x, variables=variables)
    topology = jsplit.vanilla(
        segments["smashed"], segments["output"], loss=cross_entropy
    )

    def total(state):
        return sum(jax.tree.leaves(state["losses"]))

    topology = topology.add(
        jsplit.Penalty("sown", total, "client", ["smashed.state"], weight)
    )
    trainer = INTERPRETERS[interpreter](topology, optax.sgd(0.1), backward=backward)
    state, _ = train(trainer, {"image": x, "label": label}, 5)

    def loss(params):
        logits, sown = net.apply({"params": params}, x, train=True, mutable=["losses"])
        return cross_entropy(logits, label).mean() + weight * sum(
            jax.tree.leaves(sown["losses"])
        )

    params = variables["params"]
    for _ in range(5):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    close(
        jsplit.merge(*(t for p in state.parties.values() for t in p.params.values())),
        params,
    )


@both
def test_a_penalty_between_a_field_and_an_activation_acts_before_the_cut(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")

    def alignment(image, smashed):
        return jnp.mean((image @ image.T - smashed @ smashed.T) ** 2)

    topology = problem.topology.add(
        jsplit.Penalty("leak", alignment, "client", ["image", "smashed"], 0.01)
    )
    state, _ = train(
        INTERPRETERS[interpreter](topology, optax.sgd(0.1)), problem.batch, 1
    )
    start = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1)).init(
        0, problem.batch
    )
    client, server = problem.topology.segments

    def loss(params):
        h, _ = client.segment.apply(
            params, {}, jax.random.key(0), problem.fields["image"]
        )
        logits, _ = server.segment.apply(
            start.parties["server"].params["output"], {}, jax.random.key(0), h
        )
        return cross_entropy(logits, problem.labels["label"]).mean() + 0.01 * alignment(
            problem.fields["image"], h
        )

    params = start.parties["client"].params["smashed"]
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    close(state.parties["client"].params["smashed"], expected)


@both
def test_a_node_that_reaches_no_loss_keeps_its_parameters(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")
    aside = jsplit.segment(
        lambda w, h: h @ w, init=lambda key, h: jnp.ones((8, 2)), inputs=["smashed"]
    )
    topology = problem.topology.add(jsplit.Node("aside", aside, "server"))
    trainer = INTERPRETERS[interpreter](topology, optax.sgd(0.1))
    state, _ = train(trainer, problem.batch)
    assert (state.parties["server"].params["aside"] == 1).all()
    assert trainer.predict(state, problem.fields).keys() == {"output", "aside"}
    close(
        state.parties["client"].params,
        train(jsplit.fused(problem.topology, optax.sgd(0.1)), problem.batch)[0]
        .parties["client"]
        .params,
    )


def dense(inputs=("h",), name=None):
    """`h @ w`, or of several inputs the sum of them, with weights of 0.1."""
    return jsplit.segment(
        lambda w, *h: sum(h) @ w,
        init=lambda key, h, *_: jnp.full((h.shape[1], 3), 0.1),
        inputs=list(inputs),
        name=name,
    )


X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def by_hand(*nodes, holds=("x",)):
    return jsplit.Topology(list(nodes), {"alice": list(holds)})


TWICE = {
    "node": (
        [jsplit.Node("o", dense(["h", "h"]), "bob")],
        lambda h: (2 * h @ jnp.full((3, 3), 0.1)) ** 2,
        "bob",
        ["o"],
    ),
    "loss": ([], lambda h: h * h, "bob", ["h", "h"]),
    "penalty": ([], lambda h: h * h, "alice", ["h", "h"]),
}


@both
@pytest.mark.parametrize("backward", ["residuals", "recompute"])
@pytest.mark.parametrize("reader", TWICE)
def test_a_value_that_is_read_twice_gets_both_cotangents(interpreter, backward, reader):
    nodes, whole, party, reads = TWICE[reader]
    fn = (
        (lambda a, b: (a * b).mean(-1))
        if len(reads) == 2
        else (lambda o: (o**2).mean(-1))
    )
    topology = by_hand(
        jsplit.Node("h", dense(["x"]), "alice"),
        *nodes,
        jsplit.Loss("loss", fn, party, reads),
    )
    state, _ = train(
        INTERPRETERS[interpreter](topology, optax.sgd(1.0), backward=backward),
        {"x": X},
        1,
    )
    expected = jax.grad(lambda w: whole(X @ w).mean())(jnp.full((4, 3), 0.1))
    close(0.1 - state.parties["alice"].params["h"], expected)


@both
def test_nodes_and_losses_may_have_the_names_of_parties(interpreter):
    topology = by_hand(
        jsplit.Node("h", dense(["x"]), "alice"),
        jsplit.Loss("alice", lambda h: (h**2).mean(-1), "bob", ["h"]),
        jsplit.Penalty("bob", lambda h: 10 * (h**2).mean(-1), "alice", ["h"]),
    )
    state, _ = train(INTERPRETERS[interpreter](topology, optax.sgd(1.0)), {"x": X}, 1)
    expected = jax.grad(lambda w: 11 * ((X @ w) ** 2).mean())(jnp.full((4, 3), 0.1))
    close(0.1 - state.parties["alice"].params["h"], expected)


# Optimizers and links that carry memory.


@both
@pytest.mark.parametrize("microbatches", [1, 2])
def test_an_optimizer_may_keep_the_parameters_themselves(interpreter, microbatches):
    topology = jsplit.vanilla(
        dense(["x"]), dense(), loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )
    batch, optimizer = {"x": X, "y": X[:, :3]}, optax.contrib.prodigy(1.0)
    state, _ = train(
        INTERPRETERS[interpreter](topology, optimizer, microbatches=microbatches),
        batch,
        3,
    )
    parts = [jnp.full((4, 3), 0.1), jnp.full((3, 3), 0.1)]
    memories = [optimizer.init(w) for w in parts]
    for _ in range(3):
        grads = jax.grad(
            lambda parts: ((X @ parts[0] @ parts[1] - batch["y"]) ** 2).mean()
        )(parts)
        for i in range(2):
            updates, memories[i] = optimizer.update(grads[i], memories[i], parts[i])
            parts[i] = parts[i] + updates
    close(
        [
            state.parties["client"].params["smashed"],
            state.parties["server"].params["output"],
        ],
        parts,
        1e-5,
    )


@both
def test_parameters_that_are_integers_stay_as_they_are(interpreter):
    table = jsplit.segment(
        lambda p, x: x @ p["w"] + p["n"],
        init=lambda key, x: {"w": jnp.full((4, 3), 0.1), "n": jnp.int32(7)},
        inputs=["x"],
    )
    topology = by_hand(
        jsplit.Node("h", table, "alice"),
        jsplit.Loss("loss", lambda h: (h**2).mean(-1), "alice", ["h"]),
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=5.0)
    )
    state, _ = train(INTERPRETERS[interpreter](topology, optimizer), {"x": X}, 2)
    params = state.parties["alice"].params["h"]
    assert (
        params["n"] == 7
        and params["n"].dtype == jnp.int32
        and (params["w"] != 0.1).all()
    )


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


# Micro-batches and precision.


@pytest.mark.parametrize(
    ("configuration", "interpreter"),
    some(product(CONFIGURATIONS, INTERPRETERS), lambda i: (i + i // 2) % 2),
)
def test_accumulated_micro_batches_equal_the_full_batch(configuration, interpreter):
    problem = make_problem(configuration, "mlp", "nnx")
    make = INTERPRETERS[interpreter]
    parts, infos = train(
        make(problem.topology, optax.adam(0.01), microbatches=4), problem.batch
    )
    full, expected = train(make(problem.topology, optax.adam(0.01)), problem.batch)
    close(learned(parts), learned(full), 1e-5)
    close([i.loss for i in infos], [i.loss for i in expected])


def test_micro_batches_give_the_same_in_every_interpreter_with_statistics_dropout_and_links():
    problem = make_problem("u_shaped", "cnn", "linen")
    options = {"links": {"up": quantize(8)}, "microbatches": 2}
    states = [
        train(make(problem.topology, optax.sgd(0.1), **options), problem.batch)[0]
        for make in INTERPRETERS.values()
    ]
    close(*map(learned, states))


@pytest.mark.parametrize(
    ("flax", "interpreter"),
    [
        ("nnx", "fused"),
        ("linen", "messages"),
        *[
            pytest.param(*x, marks=pytest.mark.slow)
            for x in (("linen", "fused"), ("nnx", "messages"))
        ],
    ],
)
def test_mixed_precision_is_that_of_the_whole_model(flax, interpreter):
    problem = make_problem("u_shaped", "residual", flax)
    narrow = jsplit.mixed_precision(problem.whole, variables=problem.variables)
    topology = make_topology("u_shaped", jsplit.split(narrow, *problem.fields.values()))
    state, infos = train(
        INTERPRETERS[interpreter](topology, optax.sgd(0.1)), problem.batch
    )
    assert {x.dtype for x in jax.tree.leaves(learned(state))} == {jnp.dtype("float32")}
    for m in infos[-1].messages:
        assert m.dtype == (jnp.bfloat16, jnp.bfloat16)

    params, statistics = narrow.init(jax.random.key(0), *problem.fields.values())

    def loss(params, statistics, key):
        logits, new = narrow.apply(params, statistics, key, *problem.fields.values())
        return cross_entropy(
            logits.astype(jnp.float32), problem.labels["label"]
        ).mean(), new

    for i in range(3):
        key = jax.random.fold_in(jax.random.key(0), i)
        (value, statistics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            params, statistics, key
        )
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    close(infos[-1].loss, value, 2e-2)  # one bfloat16 rounding is 2**-8
    merged = jsplit.merge(
        *(t for p in state.parties.values() for t in p.params.values())
    )
    close(merged, params, 2e-2)


# Compilation.


@both
@pytest.mark.parametrize("backward", ["residuals", "recompute"])
def test_every_function_is_traced_once_over_100_steps_and_again_for_a_new_batch_size(
    interpreter, backward
):
    traces = []

    def count(name):
        def apply(w, h):
            traces.append(name)
            return h * w["a"]

        return jsplit.segment(
            apply, init=lambda key, h: {"a": jnp.ones(())}, inputs=["h"]
        )

    def loss(h, label):
        traces.append("loss")
        return (h - label) ** 2

    topology = jsplit.u_shaped(
        count("head"), count("body"), count("tail"), loss=loss, fields=["image"]
    )
    trainer = INTERPRETERS[interpreter](
        topology, optax.adam(0.01), links={"up": cast(jnp.bfloat16)}, backward=backward
    )
    batch = {"image": np.ones(8, np.float32), "label": np.zeros(8, np.float32)}
    state = trainer.init(0, batch)
    traces.clear()
    state, _ = trainer.step(state, batch)
    assert sorted(traces) == ["body", "head", "loss", "tail"]
    for _ in range(99):
        state, _ = trainer.step(state, batch)
    assert len(traces) == 4
    smaller = {name: x[:3] for name, x in batch.items()}
    state, info = trainer.step(state, smaller)
    assert len(traces) == 8 and np.isfinite(info.loss)


@both
def test_a_new_batch_size_trains_as_the_whole_would(interpreter):
    problem, small = (
        make_problem("vertical", "cnn", "nnx"),
        make_problem("vertical", "cnn", "nnx", batch=5),
    )
    optimizer = optax.sgd(0.1)
    trainer = INTERPRETERS[interpreter](
        problem.topology, optimizer
    )  # split on a batch of 8, trained on 5
    other = INTERPRETERS[interpreter](small.topology, optimizer)
    close(
        learned(train(trainer, small.batch)[0]), learned(train(other, small.batch)[0])
    )


def test_the_caller_s_arrays_survive_training():
    problem = make_problem("vanilla", "cnn", "nnx")
    before = jax.tree.map(
        np.array, nnx.to_pure_dict(nnx.state(problem.whole, nnx.Param))
    )
    train(jsplit.fused(problem.topology, optax.sgd(0.1)), problem.batch)
    close(nnx.to_pure_dict(nnx.state(problem.whole, nnx.Param)), before, 0)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    problem = make_problem("vanilla", "cnn", "linen")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    one, two, other = (
        train(trainer, problem.batch, key=k)[1][-1].loss for k in (0, 0, 1)
    )
    assert one == two != other


def test_hand_made_segments_draw_different_dropout_masks():
    class Drop(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, h):
            return self.dropout(h)

    segments = [jsplit.segment(Drop(nnx.Rngs(0))) for _ in range(2)]
    masks = [
        s.apply({}, {}, node_key(jax.random.key(0), name, s), jnp.ones((4, 64)))[0]
        for name, s in zip(["bottom", "top"], segments, strict=True)
    ]
    assert (masks[0] != masks[1]).any()


# Bad input.


def refused(message, call):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_arguments_of_an_interpreter_are_refused_when_it_is_built():
    topology, sgd = make_problem("vanilla", "mlp", "nnx").topology, optax.sgd(0.1)
    for make in INTERPRETERS.values():
        refused(
            "`optimizer` has none for the party `server`",
            lambda: make(topology, {"client": sgd}),
        )
        refused(
            "names the party `sever`, which is not one of client, server",
            lambda: make(topology, {"sever": sgd}),
        )
        refused(
            "`optimizer` of `client` must be an optax optimizer, got float",
            lambda: make(topology, {"client": 0.1, "server": sgd}),
        )
        refused(
            "`links` names `smash`, which does not cross; there are smashed",
            lambda: make(topology, sgd, links={"smash": cast("float16")}),
        )
        refused(
            "`links` of `smashed` must be a Link or a pair",
            lambda: make(topology, sgd, links={"smashed": 8}),
        )
        refused(
            '`backward` must be "residuals" or "recompute"',
            lambda: make(topology, sgd, backward="none"),
        )
        refused(
            "`microbatches` must be a positive integer, got 0",
            lambda: make(topology, sgd, microbatches=0),
        )
        refused("`topology` must be a Topology, got dict", lambda: make({}, sgd))
        bare = jsplit.Topology(
            [n for n in topology.nodes if isinstance(n, jsplit.Node)], topology.holds
        )
        refused("`topology` has no loss", lambda: make(bare, sgd))


@both
def test_a_wrong_batch_is_refused_and_the_culprit_named(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")
    trainer = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1))
    image, label = problem.fields["image"], problem.labels["label"]
    state = trainer.init(0, problem.batch)
    wrong = {
        "the batch lacks the field `label`; it has image": {"image": image},
        "a field `lable`, which no party holds; there are image, label": {
            **problem.batch,
            "lable": label,
        },
        "batch axes differ: `image` has 8, `label` has 3 examples": {
            "image": image,
            "label": label[:3],
        },
        "the batch is empty": {"image": image[:0], "label": label[:0]},
        "`label` has no batch axis": {"image": image, "label": np.int32(1)},
        "`label` must be an array, got a list; make one by np.asarray": {
            "image": image,
            "label": label.tolist(),
        },
        "expects `image` as float32[8,6], got float32[8,5]": {
            "image": image[:, :5],
            "label": label,
        },
    }
    for message, batch in wrong.items():
        refused(message, lambda batch=batch: trainer.step(state, batch))
        refused(message, lambda batch=batch: trainer.init(0, batch))
        refused(message, lambda batch=batch: trainer.evaluate(state, batch))
    refused(
        "the batch lacks the field `image`",
        lambda: trainer.predict(state, {"label": label}),
    )
    accumulating = INTERPRETERS[interpreter](
        problem.topology, optax.sgd(0.1), microbatches=3
    )
    refused(
        "`microbatches` is 3, which does not divide the batch of 8",
        lambda: accumulating.init(0, problem.batch),
    )
    state, info = trainer.step(state, problem.batch)  # and nothing was lost
    assert np.isfinite(info.loss)


@both
def test_the_optimizer_state_of_another_trainer_is_refused(interpreter):
    problem, make = make_problem("vanilla", "mlp", "nnx"), INTERPRETERS[interpreter]
    adam = optax.adam(0.1)
    for own, other in ((adam, optax.sgd(0.1)), (optax.sgd(0.1), adam)):
        of = [
            make(problem.topology, {"client": adam, "server": server})
            for server in (own, other)
        ]
        state = of[1].init(0, problem.batch)
        refused(
            "the optimizer state of `server` is of another optimizer",
            lambda of=of, s=state: of[0].step(s, problem.batch),
        )
    refused(
        "`state` must be that of a trainer, a TrainState, got a dict",
        lambda: jsplit.variables({}),
    )


def test_a_batch_may_be_any_mapping_and_a_seed_any_integer():
    problem = make_problem("vanilla", "mlp", "nnx")
    for make in INTERPRETERS.values():
        trainer = make(problem.topology, optax.sgd(0.1))
        batch = MappingProxyType(problem.batch)
        state = trainer.init(np.int64(0), batch)
        assert (
            trainer.evaluate(state, batch).loss
            == trainer.step(trainer.init(0, problem.batch), batch)[1].loss
        )
        for batch, got in (((1, 2), "tuple"), (None, "NoneType")):
            refused(
                f"the batch must be a dictionary of fields, got {got}",
                lambda batch=batch: trainer.step(state, batch),
            )
        refused(
            "`key` must be a PRNG key or an integer seed, got NoneType",
            lambda: trainer.init(None, problem.batch),
        )
        keys = jax.random.split(jax.random.key(0), 2)
        refused(
            "`key` must be one PRNG key or an integer seed, got key",
            lambda keys=keys: trainer.init(keys, problem.batch),
        )
        words = {**problem.batch, "label": np.array(["a"] * 8)}
        refused(
            "field `label` of the batch must hold numbers, got <U1",
            lambda words=words: trainer.init(0, words),
        )
        refused(
            "field `label` of the batch holds no array",
            lambda: trainer.init(0, {**problem.batch, "label": None}),
        )


@both
def test_what_does_not_fit_together_is_refused_when_training_starts(interpreter):
    make, batch = INTERPRETERS[interpreter], {"x": X, "y": X[:, :3]}

    def vanilla(bottom, top):
        return jsplit.vanilla(
            bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
        )

    wide = jsplit.segment(
        lambda w, h: h @ w, init=lambda key, h: jnp.ones((5, 3)), inputs=["h"]
    )
    sgd = optax.sgd(0.1)
    refused(
        "node `output` at `server` does not run on `smashed` float32[8,3]: TypeError",
        lambda: make(vanilla(dense(["x"]), wide), sgd).init(0, batch),
    )
    grows = jsplit.Segment(
        lambda key, h: ({}, {}), lambda p, s, k, h, train=True: (h, {"n": h}), ("h",)
    )
    refused(
        "node `output` at `server`: `apply` must give back a state of the structure and dtypes it got",
        lambda: make(vanilla(dense(["x"]), grows), sgd).init(0, batch),
    )
    narrows = jsplit.Segment(
        lambda key, h: ({}, {"n": jnp.zeros(1)}),
        lambda p, s, k, h, train=True: (h, {"n": s["n"].astype(jnp.bfloat16)}),
        ("h",),
    )
    refused(
        "got {'n': 'bfloat16'}",
        lambda: make(vanilla(dense(["x"]), narrows), sgd).init(0, batch),
    )
    unmoded = jsplit.Segment(lambda key, h: ({}, {}), lambda p, s, k, h: (h, s), ("h",))
    refused(
        "TypeError", lambda: make(vanilla(dense(["x"]), unmoded), sgd).init(0, batch)
    )
    topology = vanilla(dense(["x"]), dense())
    for optimizer in (optax.lbfgs(), optax.contrib.reduce_on_plateau()):
        refused(
            "`optimizer` of `client` does not run on its parameters: TypeError",
            lambda optimizer=optimizer: make(
                topology, {"client": optimizer, "server": sgd}
            ).init(0, batch),
        )
    refused(
        "`optimizer` of `client` must be an optax optimizer, got dict",
        lambda: make(topology, {"client": {}, "server": sgd}),
    )
    refused(
        "`links` must be a dictionary by the names of values that cross, got Link",
        lambda: make(topology, sgd, links=quantize(8)),
    )
    halves = jsplit.stateless(
        lambda v, k: v.astype(jnp.bfloat16), lambda payload, like: payload
    )
    trainer = make(topology, sgd, links={"smashed": halves})
    state = trainer.init(0, batch)
    refused(
        "link of `smashed`: `decode` gives bfloat16[8,3] for the activation, expected float32[8,3]",
        lambda: trainer.step(state, batch),
    )
    other = make(vanilla(dense(["x"], name="h"), dense()), sgd)
    refused(
        "the state of `client` is of another trainer: it has the nodes",
        lambda: other.step(state, batch),
    )
    apart = make(
        jsplit.vanilla(
            dense(["x"]), dense(), loss=optax.l2_loss, label="y", client="clinic"
        ),
        sgd,
    )
    refused(
        "the state is of another trainer: it has the parties",
        lambda: apart.step(state, batch),
    )


@both
def test_integers_where_gradients_are_asked_are_refused(interpreter):
    bottom = jsplit.segment(
        lambda w, x: jnp.argmax(x @ w, axis=1),
        init=lambda key, x: jnp.ones((6, 4)),
        inputs=["image"],
    )
    top = jsplit.segment(
        lambda w, h: w[h], init=lambda key, h: jnp.ones((4, 3)), inputs=["h"]
    )
    trainer = INTERPRETERS[interpreter](
        jsplit.vanilla(bottom, top, loss=cross_entropy), optax.sgd(0.1)
    )
    batch = {"image": np.ones((8, 6), np.float32), "label": np.zeros(8, np.int32)}
    refused(
        "node `smashed` at `client` has parameters before it but passes on int32",
        lambda: trainer.init(0, batch),
    )


@both
def test_a_loss_that_is_no_number_is_refused(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")
    topology = problem.topology.add(
        jsplit.Loss(
            "hits", lambda z, y: z.argmax(1) == y, "server", ["output", "label"]
        )
    )
    trainer = INTERPRETERS[interpreter](topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    refused(
        "loss `hits`: `fn` must return a floating array, got bool[8]",
        lambda: trainer.step(state, problem.batch),
    )
