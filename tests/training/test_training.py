"""What every interpreter must do beside training: predict, evaluate, accumulate, trace once."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.compress import cast, quantize
from jsplit.core.keys import node_key
from tests.helpers import (
    CONFIGURATIONS,
    FLAX,
    WEIGHTS,
    cross_entropy,
    make_problem,
    make_topology,
    some,
)
from tests.training.common import (
    INTERPRETERS,
    X,
    both,
    by_hand,
    close,
    dense,
    learned,
    train,
)


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


@pytest.mark.filterwarnings("ignore:`optimizer` of .* computes the update")
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
            parts[i] = jnp.add(parts[i], updates)
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

    value = jnp.inf
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
