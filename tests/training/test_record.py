"""A step that is recorded tells what crossed, and trains as it would have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.compress import cast, quantize
from tests.helpers import CONFIGURATIONS, make_problem
from tests.training.common import INTERPRETERS, X, both, close, dense, learned, refused

UP = ("activation", "smashed", "client", "server")
DOWN = ("cotangent", "smashed", "server", "client")
LABEL = np.arange(8) % 3
BATCH = {"x": X, "label": LABEL}


def vanilla(**options):
    tanh = jsplit.segment(
        lambda w, x: jnp.tanh(x @ w),
        init=lambda key, x: jax.random.normal(key, (4, 5)),
        inputs=["x"],
    )
    # Weights that are no multiples of one another: else cotangents were all zeros.
    top = jsplit.segment(
        lambda w, h: h @ w,
        init=lambda key, h: jax.random.normal(key, (5, 3)),
        inputs=["h"],
    )
    return jsplit.vanilla(
        tanh,
        top,
        loss=optax.softmax_cross_entropy_with_integer_labels,
        **options,
    )


def same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def recorded_steps(trainer, steps=2, batch=BATCH, **options):
    recording = jsplit.record(trainer, **options)
    state, told = recording.init(0, batch), []
    for _ in range(steps):
        state, recorded = recording.step(state, batch)
        told.append(recorded)
    return state, told


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_what_is_recorded_is_the_same_in_both_interpreters(configuration):
    problem = make_problem(configuration, "mlp", "nnx")
    links = {c.name: cast(jnp.bfloat16) for c in problem.topology.crossings}
    found = []
    for make in INTERPRETERS.values():
        trainer = make(problem.topology, optax.sgd(0.1), links=links)
        state, told = recorded_steps(trainer, 2, problem.batch, gradients=True)
        found.append((learned(state), [t[1:] for t in told]))
    close(*found, tolerance=1e-2)
    assert list(found[0][1][0][0]) == list(found[1][1][0][0])
    # As many messages as the topology has.
    backward = [c for c in problem.topology.crossings if c.returns]
    count = len(problem.topology.crossings) + len(backward)
    assert len(found[0][1][0][0]) == count


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("gradients", [False, True])
@both
def test_a_recorded_step_leaves_the_bits_of_the_plain_one(
    interpreter, gradients, microbatches
):
    options = {"links": {"smashed": quantize(8)}, "microbatches": microbatches}
    trainer = INTERPRETERS[interpreter](vanilla(), optax.adam(0.1), **options)
    state, infos = trainer.init(0, BATCH), []
    for _ in range(3):
        state, info = trainer.step(state, BATCH)
        infos.append(info)
    kept, told = recorded_steps(trainer, 3, gradients=gradients)
    same_bits(learned(state), learned(kept))
    same_bits([i.losses for i in infos], [t.info.losses for t in told])
    assert [i.messages for i in infos] == [t.info.messages for t in told]


@both
def test_values_and_cotangents_are_those_of_calculus(interpreter):
    trainer = INTERPRETERS[interpreter](vanilla(), optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    _, recorded = jsplit.record(trainer, gradients=True).step(state, BATCH)
    bottom = state.parties["client"].params["smashed"]
    top = state.parties["server"].params["output"]
    h = jnp.tanh(X @ bottom)

    def loss(h, top):
        logits = h @ top
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABEL).mean()

    by_h, by_top = jax.grad(loss, (0, 1))(h, top)
    by_bottom = jax.grad(lambda w: loss(jnp.tanh(X @ w), top))(bottom)
    close(recorded.crossed[UP], jsplit.Crossed(h, h))
    close(recorded.crossed[DOWN].value, by_h)
    assert np.abs(by_h).max() > 0.01
    close(recorded.gradients["server"]["output"], by_top)
    close(recorded.gradients["client"]["smashed"], by_bottom)


@both
def test_the_payload_is_what_crossed_and_the_value_what_it_decodes_to(interpreter):
    links = {"smashed": (cast(jnp.float16), None)}
    trainer = INTERPRETERS[interpreter](vanilla(), optax.sgd(0.1), links=links)
    state = trainer.init(0, BATCH)
    _, recorded = jsplit.record(trainer).step(state, BATCH)
    up = recorded.crossed[UP]
    h = jnp.tanh(X @ state.parties["client"].params["smashed"])
    assert up.payload.dtype == jnp.float16
    same_bits(up.value, up.payload.astype(jnp.float32))
    close(up.payload, h.astype(jnp.float16), 1e-3)
    assert not np.array_equal(up.value, h)


@both
def test_micro_batches_are_recorded_as_the_whole_batch_is(interpreter):
    weight = np.array([1, 2, 0, 1, 1, 3, 1, 1], np.float32)
    found = {}
    for count in (1, 4):
        trainer = INTERPRETERS[interpreter](
            vanilla(), optax.sgd(0.1), microbatches=count
        )
        recording = jsplit.record(trainer, gradients=True)
        _, recorded = recording.step(recording.init(0, BATCH), BATCH, weight)
        found[count] = recorded
    whole, parts = found[1], found[4]
    # Who stands in for an example that counts for nothing depends on the batch.
    counts = weight > 0
    for at in (UP, DOWN):
        close(whole.crossed[at].value[counts], parts.crossed[at].value[counts])
    close(whole.gradients, parts.gradients)
    assert parts.crossed[DOWN].payload.shape == (4, 2, 5)
    close(parts.crossed[DOWN].payload.reshape(8, 5) / 4, parts.crossed[DOWN].value)
    if interpreter == "messages":
        assert len(parts.info.messages) == 8


@both
def test_a_link_of_several_micro_batches_is_recorded_message_by_message(interpreter):
    links = {"smashed": quantize(4)}
    trainer = INTERPRETERS[interpreter](
        vanilla(), optax.sgd(0.1), microbatches=2, links=links
    )
    _, [recorded] = recorded_steps(trainer, 1)
    up = recorded.crossed[UP]
    assert up.value.shape == (8, 5)
    assert all(x.shape[0] == 2 for x in jax.tree.leaves(up.payload))
    whole = jsplit.messages(vanilla(), optax.sgd(0.1), microbatches=2, links=links)
    _, info = whole.step(whole.init(0, BATCH), BATCH)
    sent = [m.bytes for m in info.messages if m.kind == "activation"]
    assert sum(x.nbytes for x in jax.tree.leaves(up.payload)) == sum(sent)


def test_numbers_that_are_exchanged_are_recorded_too():
    optimizer = optax.chain(jsplit.clip_by_global_norm(0.3), optax.sgd(0.1))
    found = []
    for make in INTERPRETERS.values():
        trainer = make(vanilla(), optimizer, microbatches=2, nonfinite="skip")
        _, [recorded] = recorded_steps(trainer, 1, gradients=True)
        found.append(recorded[1:3])
    close(*found)
    crossed, gradients = found[0]
    norms = {k.sender: v.value for k, v in crossed.items() if k.name == "squared norms"}
    assert {k.kind for k in crossed} == {"activation", "cotangent", "scalar"}
    squares = [sum(jnp.sum(x**2) for x in g.values()) for g in gradients.values()]
    assert any(np.allclose(x.ravel()[0], sum(squares)) for x in norms.values())


def test_it_is_pure_within_jit_scan_and_vmap():
    trainer = jsplit.record(jsplit.fused(vanilla(), optax.sgd(0.1)), gradients=True)
    state = trainer.init(0, BATCH)
    one, told = recorded_steps(jsplit.fused(vanilla(), optax.sgd(0.1)), 2)
    # Pieces of an `Info` that JAX has no type for are not there in `fused`.
    scanned, many = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: trainer.step(s, BATCH), s, length=2)
    )(state)
    close(learned(scanned), learned(one))
    close(many.crossed[UP].value, jnp.stack([t.crossed[UP].value for t in told]))
    several = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    _, mapped = jax.vmap(lambda s: trainer.step(s, BATCH))(several)
    close(mapped.crossed[DOWN].value[1], told[0].crossed[DOWN].value)


@both
def test_an_array_that_does_not_cross_is_none_and_no_zeros(interpreter):
    two = jsplit.segment(
        lambda w, x: {"read": x @ w, "unread": x @ w},
        init=lambda key, x: jnp.ones((4, 3)),
        inputs=["x"],
    )
    one = jsplit.segment(
        lambda w, h: h["read"] @ w, init=lambda key, h: jnp.ones((3, 3)), inputs=["h"]
    )
    topology = jsplit.vanilla(
        two, one, loss=optax.softmax_cross_entropy_with_integer_labels
    )
    trainer = INTERPRETERS[interpreter](topology, optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    _, recorded = jsplit.record(trainer).step(state, BATCH)
    seen = trainer.predict(state, {"x": X}, at="smashed")["smashed"]
    for value in (recorded.crossed[UP].payload, recorded.crossed[UP].value, seen):
        assert value["unread"] is None
        close(value["read"], X.sum(-1, keepdims=True).repeat(3, 1))


@both
def test_under_a_loss_scale_cotangents_have_it_and_gradients_do_not(interpreter):
    told = {}
    for scale in (None, 64.0):
        trainer = INTERPRETERS[interpreter](vanilla(), optax.sgd(0.1), loss_scale=scale)
        _, [told[scale]] = recorded_steps(trainer, 1, gradients=True)
    close(told[64.0].crossed[DOWN].value, 64 * told[None].crossed[DOWN].value)
    close(told[64.0].gradients, told[None].gradients)


def test_what_cannot_be_recorded_is_refused():
    trainer = jsplit.fused(vanilla(), optax.sgd(0.1))
    refused("records already", lambda: jsplit.record(jsplit.record(trainer)))
    refused("got int", lambda: jsplit.record(3))
    own = trainer._replace(step=lambda *a: trainer.step(*a))
    refused("another step", lambda: jsplit.record(own))
    refused(
        "another step", lambda: jsplit.record(own._replace(step=jax.jit(trainer.step)))
    )
    refused(
        "records what crosses",
        lambda: jsplit.rounds.take_turns(jsplit.record(trainer), client="client"),
    )


# Looking at the cut in inference.


@both
def test_at_a_cut_is_what_the_receiver_decodes_of_what_the_segment_gives(interpreter):
    problem = make_problem("u_shaped", "mlp", "linen")
    links = {"up": cast(jnp.float16)}
    trainer = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1), links=links)
    state = trainer.init(0, problem.batch)
    fields = {f: x for f, x in problem.batch.items() if f != "label"}
    node, own = problem.topology.node["up"], state.parties["client"]
    value, _ = node.segment.apply(
        own.params["up"], own.state["up"], None, *fields.values(), train=False
    )
    outputs = trainer.predict(state, fields)
    sink = problem.topology.sinks[0]
    seen = trainer.predict(state, fields, at=["up", "down", sink])
    assert set(seen) == {"up", "down", sink}
    close(seen["up"], value.astype(jnp.float16).astype(jnp.float32), 1e-3)
    same_bits(seen["up"], seen["up"].astype(jnp.float16).astype(jnp.float32))
    close(seen[sink], outputs[sink])


@both
def test_a_value_of_several_receivers_is_given_by_receiver(interpreter):
    problem = make_problem("multitask", "mlp", "nnx")
    trainer = INTERPRETERS[interpreter](
        problem.topology, optax.sgd(0.1), links={"left": quantize(3)}
    )
    state = trainer.init(0, problem.batch)
    fields = {f: x for f, x in problem.batch.items() if "label" not in f}
    seen = trainer.predict(state, fields, at="left")["left"]
    assert set(seen) == {"server0", "server1"}
    # Each message rounds with draws of its own.
    assert not np.array_equal(seen["server0"], seen["server1"])


@both
def test_a_value_that_only_a_loss_elsewhere_reads_can_be_looked_at(interpreter):
    topology = jsplit.Topology(
        [
            jsplit.Node("h", dense(["x"]), "client"),
            jsplit.Loss(
                "loss",
                optax.softmax_cross_entropy_with_integer_labels,
                "server",
                ["h", "label"],
            ),
        ],
        {"client": ["x"], "server": ["label"]},
    )
    trainer = INTERPRETERS[interpreter](topology, optax.sgd(0.1))
    seen = trainer.predict(trainer.init(0, BATCH), {"x": X}, at="h")
    close(seen["h"], X.sum(-1, keepdims=True).repeat(3, 1) * 0.1)


def test_only_what_crosses_and_outputs_can_be_looked_at():
    problem = make_problem("u_shaped", "mlp", "linen")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    fields = {f: x for f, x in problem.batch.items() if f != "label"}
    for at in ("label", *fields, 3, ["up", "nothing"]):
        with pytest.raises(ValueError, match="there are up, down"):
            trainer.predict(state, fields, at=at)
    refused("names nothing", lambda: trainer.predict(state, fields, at=[]))


def test_over_clients_the_cut_is_that_of_the_client_asked_for():
    trainer = jsplit.fused(vanilla(), optax.sgd(0.1))
    alone = jsplit.rounds.alone(trainer)
    people = jsplit.population.grouped(list("abababab")).round(BATCH, 0)
    state, _ = alone.step(alone.init(0, people), people)
    seen = [
        alone.predict(state, {"x": X}, client=c, at="smashed")["smashed"] for c in "ab"
    ]
    close(
        seen[1], trainer.predict(state.client("b"), {"x": X}, at="smashed")["smashed"]
    )
    assert not np.allclose(*seen)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_cotangents_that_a_link_sees_unscaled_are_recorded_by_both_interpreters(
    microbatches,
):
    link = jsplit.stateless(
        lambda value, key: value + jax.random.normal(key, value.shape),
        lambda payload, like: payload,
        secret=True,
    )
    topology, batch, found = _linked_topology(), _linked_batch(), []
    for make in (jsplit.fused, jsplit.messages):
        trainer = make(
            topology,
            optax.sgd(0.1),
            links={"h": (None, link)},
            loss_scale=64.0,
            microbatches=microbatches,
        )
        state = trainer.init(0, batch, secrets={"server": jax.random.key(7)})
        _, recorded = jsplit.record(trainer).step(state, batch)
        found.append(recorded.crossed["cotangent", "h", "server", "client"])
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    # The receiver multiplies again, so that its gradients are scaled as all are.
    assert float(jnp.std(found[0].value)) > 20


def _linked_topology():
    client = jsplit.segment(
        lambda w, x: x * w, init=lambda key, x: jnp.ones(3), inputs=["x"], name="h"
    )
    server = jsplit.segment(
        lambda w, h: h @ w, init=lambda key, h: jnp.ones(3), inputs=["h"], name="y"
    )
    return jsplit.vanilla(client, server, loss=lambda y, label: (y - label) ** 2)


def _linked_batch():
    x = np.linspace(-1, 1, 600, dtype=np.float32).reshape(200, 3)
    return {"x": x, "label": np.ones(200, np.float32)}
