"""How much each example counts, losses that are only measured, and nodes that learn
without teaching.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.helpers import CONFIGURATIONS, cross_entropy, make_problem
from tests.oracles import INTERPRETERS, difference


def trained(topology, batch, weight=None, *, interpreter="fused", steps=3, **options):
    trainer = INTERPRETERS[interpreter](
        topology, optax.sgd(0.1, momentum=0.9), **options
    )
    state, info = trainer.step(trainer.init(0, batch), batch, weight)
    for _ in range(steps - 1):
        state, info = trainer.step(state, batch, weight)
    return state, info, trainer


def params_of(state):
    return jsplit.merge(*(t for p in state.parties.values() for t in p.params.values()))


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_an_example_of_weight_zero_is_not_there(configuration, interpreter):
    """Five examples and three of weight 0, of whatever content, train as the five alone."""
    problem = make_problem(configuration, "mlp", "nnx")
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    five = {n: x[:5] for n, x in problem.batch.items()}
    full, info, trainer = trained(
        problem.topology, problem.batch, weight, interpreter=interpreter
    )
    short, other, _ = trained(problem.topology, five, interpreter=interpreter)
    assert difference(params_of(full), params_of(short)) < 1e-5
    assert abs(info.loss - other.loss) < 1e-5
    assert (
        abs(
            trainer.evaluate(full, problem.batch, weight).loss
            - trainer.evaluate(full, five).loss
        )
        < 1e-5
    )


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_weights_only_matter_relative_to_each_other_and_hold_over_micro_batches(
    interpreter,
):
    problem = make_problem("u_shaped", "mlp", "nnx")
    weight = np.array([1, 2, 0, 1, 0, 0, 3, 1], np.float32)
    twice = {
        n: np.repeat(x, weight.astype(int), axis=0) for n, x in problem.batch.items()
    }  # counts by repetition
    expected = params_of(trained(problem.topology, twice, interpreter=interpreter)[0])
    for options in ({}, {"microbatches": 2}, {"microbatches": 4}):
        found = trained(
            problem.topology,
            problem.batch,
            7 * weight,
            interpreter=interpreter,
            **options,
        )[0]
        assert difference(params_of(found), expected) < 1e-5


def test_weights_of_nothing_but_zeros_move_no_parameter():
    problem = make_problem("vanilla", "mlp", "nnx")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    before = params_of(trainer.init(0, problem.batch))
    state, info = trainer.step(
        trainer.init(0, problem.batch), problem.batch, np.zeros(8)
    )
    assert difference(params_of(state), before) == 0 and info.loss == 0


def test_weights_that_do_not_fit_are_refused():
    problem = make_problem("vanilla", "mlp", "nnx")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    with pytest.raises(
        ValueError, match="`weight` must hold one number for each of the 8 examples"
    ):
        trainer.step(state, problem.batch, np.ones(7))
    topology = jsplit.Topology(
        [n for n in problem.topology.nodes if isinstance(n, jsplit.Node)]
        + [
            jsplit.Loss(
                "whole",
                lambda y, t: cross_entropy(y, t).mean(),
                "server",
                ["output", "label"],
            )
        ],
        problem.topology.holds,
    )
    with pytest.raises(ValueError, match="loss `whole`: examples have weights"):
        jsplit.fused(topology, optax.sgd(0.1)).step(state, problem.batch, np.ones(8))


def test_a_penalty_on_parameters_takes_no_weights():
    problem = make_problem("vanilla", "mlp", "nnx")
    decay = jsplit.Penalty(
        "decay",
        lambda p: sum(jnp.vdot(x, x) for x in jax.tree.leaves(p)),
        "client",
        ["smashed.params"],
        0.1,
    )
    topology, ones = problem.topology.add(decay), np.ones(8, np.float32)
    states = [trained(topology, problem.batch, w)[0] for w in (None, ones)]
    assert difference(*map(params_of, states)) < 1e-6


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_a_loss_of_weight_zero_is_measured_and_changes_nothing(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")

    def correct(logits, label):
        return (jnp.argmax(logits, -1) == label).astype(jnp.float32)

    metric = jsplit.Loss("accuracy", correct, "server", ["output", "label"], weight=0)
    plain, without, _ = trained(
        problem.topology, problem.batch, interpreter=interpreter
    )
    state, info, trainer = trained(
        problem.topology.add(metric), problem.batch, interpreter=interpreter
    )
    assert (
        difference(params_of(state), params_of(plain)) == 0
        and info.loss == without.loss
    )
    logits = trainer.predict(state, problem.fields)["output"]
    accuracy = trainer.evaluate(state, problem.batch).losses["accuracy"]
    assert accuracy == np.mean(np.argmax(logits, -1) == problem.batch["label"])


def test_a_metric_on_another_party_s_value_brings_no_cotangent_back():
    problem = make_problem("vanilla", "mlp", "nnx")
    metric = jsplit.Loss(
        "norm", lambda h: jnp.linalg.norm(h, axis=-1), "auditor", ["smashed"], weight=0
    )
    crossings = problem.topology.add(metric).crossings
    assert [(c.receiver, c.returns) for c in crossings] == [
        ("server", True),
        ("auditor", False),
    ]
    with pytest.raises(ValueError, match="no loss"):
        jsplit.fused(
            jsplit.Topology(
                [*problem.topology.segments, metric], problem.topology.holds
            ),
            optax.sgd(0.1),
        )


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_a_detached_input_is_a_stopped_gradient(interpreter):
    """The server learns from the activation; the client learns from a loss of its own alone."""
    problem = make_problem("vanilla", "mlp", "nnx")
    bottom, top = problem.topology.segments
    local = jsplit.Penalty(
        "local",
        lambda h, x: jnp.square(h[:, :3] - x[:, :3]).mean(-1),
        "client",
        ["smashed", "image"],
    )
    nodes = [
        bottom,
        jsplit.Node(top.name, top.segment, top.party, top.inputs, detached=["smashed"]),
    ]
    topology = jsplit.Topology(
        [*nodes, *problem.topology.losses, local], problem.topology.holds
    )
    state, info, _ = trained(topology, problem.batch, interpreter=interpreter, steps=1)
    assert [c.returns for c in topology.crossings] == [False]
    if interpreter == "messages":
        assert [m.kind for m in info.messages] == ["activation"]
    start = jsplit.fused(topology, optax.sgd(0.1)).init(0, problem.batch)

    def loss(low, high):
        h, _ = bottom.segment.apply(
            low, {}, jax.random.key(0), problem.batch["image"], train=True
        )
        y, _ = top.segment.apply(
            high, {}, jax.random.key(0), jax.lax.stop_gradient(h), train=True
        )
        return (
            cross_entropy(y, problem.batch["label"]).mean()
            + jnp.square(h[:, :3] - problem.batch["image"][:, :3]).mean()
        )

    parts = [
        start.parties[p].params[n.name]
        for p, n in (("client", bottom), ("server", top))
    ]
    grads = jax.grad(loss, (0, 1))(*parts)
    expected = jsplit.merge(*jax.tree.map(lambda p, g: p - 0.1 * g, parts, list(grads)))
    assert difference(params_of(state), expected) < 1e-5


def test_a_detached_input_must_be_an_input():
    problem = make_problem("vanilla", "mlp", "nnx")
    top = problem.topology.segments[1]
    with pytest.raises(
        ValueError, match="`detached` names `nothing`, which is none of its inputs"
    ):
        jsplit.Node("top", top.segment, "server", ["smashed"], detached=["nothing"])


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_a_loss_gives_a_number_or_one_for_each_example(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")
    segments = [n.segment for n in problem.topology.segments]

    def loss(fn):
        topology = jsplit.vanilla(*segments, loss=fn)
        return trained(topology, problem.batch, interpreter=interpreter, steps=1)[
            1
        ].loss

    right = [jnp.mean, lambda x: x.mean(-1), lambda x: x.mean(-1, keepdims=True)]
    assert len({round(float(loss(lambda y, label, f=f: f(y))), 5) for f in right}) == 1
    for wrong in (lambda y: y, lambda y: y[:, :1] - y[None, :, 0], lambda y: y.mean(0)):
        with pytest.raises(
            ValueError,
            match="loss `loss`: `fn` must return a number, or one for each example, got float32",
        ):
            loss(lambda y, label, f=wrong: f(y))
