"""What nobody reads of a value does not cross, nor a cotangent that is zero or of no use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.training.common import both, close, learned, refused, train

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
BATCH = {"x": X, "label": np.arange(8, dtype="int32") % 2}
ENTROPY = optax.softmax_cross_entropy_with_integer_labels


def mixed(w, x):
    """A value of which each leaf is read in another way, or not at all."""
    h = jnp.tanh(x @ w)
    return {
        "gate": jnp.sin(h),
        "h": h,
        "ids": jnp.argmax(h, -1),
        "mask": (x[:, :1] > 0).astype("float32"),
        "skip": 2 * h,
    }


def head(w, v):
    """Compares `gate`, multiplies by `mask`, and reads neither `ids` nor `skip`."""
    return (v["h"] * v["mask"] + (v["gate"] > 0)) @ w


def filled(rows, columns):
    return lambda key, *_: jax.random.normal(key, (rows, columns))


def part(fn, rows, columns, *inputs):
    return jsplit.segment(fn, init=filled(rows, columns), inputs=inputs)


def pair(top=head):
    return jsplit.vanilla(part(mixed, 3, 4, "x"), part(top, 4, 2, "v"), loss=ENTROPY)


def crossed(info):
    """By kind, sender and receiver, the bytes of each message."""
    return [(m.kind[0], m.sender, m.receiver, m.bytes) for m in info.messages]


def test_only_what_is_read_crosses_and_only_cotangents_of_use_come_back():
    trainer = jsplit.messages(pair(), optax.sgd(0.1))
    state, (info,) = train(trainer, BATCH, steps=1)
    # Up `gate`, `h` and `mask`. Back only that of `h`: a comparison has no derivative,
    # and the mask does not depend on parameters.
    up, down = 8 * (4 + 4 + 1) * 4, 8 * 4 * 4
    assert crossed(info) == [
        ("a", "client", "server", up),
        ("c", "server", "client", down),
    ]
    # In inference one form of the message.
    assert crossed(trainer.evaluate(state, BATCH)) == crossed(info)[:1]


@both
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("backward", ["residuals", "recompute"])
def test_training_is_that_of_the_whole(interpreter, microbatches, backward):
    make = {"fused": jsplit.fused, "messages": jsplit.messages}[interpreter]
    options = {"microbatches": microbatches, "backward": backward}
    trainer = make(pair(), optax.sgd(0.1), **options)
    start = trainer.init(jax.random.key(0), BATCH)
    params = {p: x.params for p, x in start.parties.items()}
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)

    def loss(params):
        v = mixed(*jax.tree.leaves(params["client"]), X)
        y = head(*jax.tree.leaves(params["server"]), v)
        return ENTROPY(y, BATCH["label"]).mean()

    for _ in range(3):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    state, _ = train(trainer, BATCH)
    close({p: x.params for p, x in state.parties.items()}, params, 1e-5)


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("linked", [False, True])
def test_costs_are_the_messages(microbatches, linked):
    topology = pair()
    name = topology.crossings[0].name
    links = {name: jsplit.compress.quantize(8)} if linked else {}
    options = {"links": links, "microbatches": microbatches}
    trainers = [
        f(topology, optax.sgd(0.1), **options) for f in (jsplit.messages, jsplit.fused)
    ]
    (one, infos), (other, _) = (train(t, BATCH, steps=2) for t in trainers)
    cost = jsplit.cost(topology, BATCH, optimizer=optax.sgd(0.1), **options)
    assert cost.messages == infos[0].messages == infos[1].messages
    close(learned(one), learned(other))


def test_a_link_is_given_what_crosses_and_its_memory_has_that_form():
    seen = []

    def init(like):
        seen.append(jax.tree.structure(like))
        return jax.tree.map(jnp.zeros_like, like)

    def encode(state, value, key):
        total = jax.tree.map(jnp.add, state, value)
        return value, total

    link = jsplit.Link(init, encode, lambda payload, like: payload)
    topology = pair()
    trainer = jsplit.fused(
        topology, optax.sgd(0.1), links={topology.crossings[0].name: link}
    )
    state, _ = train(trainer, BATCH)
    whole = {"gate": 0, "h": 0, "ids": None, "mask": 0, "skip": None}
    back = {"gate": None, "h": 0, "ids": None, "mask": None, "skip": None}
    assert {*seen} == {jax.tree.structure(whole), jax.tree.structure(back)}
    (memory,) = state.parties["client"].links.values()
    assert memory["h"].shape == (8, 4) and memory["skip"] is None


def test_each_reader_gets_what_it_reads_and_one_that_only_compares_gives_nothing_back():
    nodes = [
        jsplit.Node("v", part(mixed, 3, 4, "x"), "client", ["x"]),
        jsplit.Node("a", part(lambda w, v: v["h"] @ w, 4, 2, "v"), "one", ["v"]),
        jsplit.Node(
            "b", part(lambda w, v: (v["skip"] > 0) @ w, 4, 2, "v"), "two", ["v"]
        ),
        jsplit.Loss("of a", ENTROPY, "one", ["a", "label"]),
        jsplit.Loss("of b", ENTROPY, "two", ["b", "label"]),
    ]
    holds = {"client": ["x"], "one": ["label"], "two": ["label"]}
    topology = jsplit.Topology(nodes, holds)
    _, (info,) = train(jsplit.messages(topology, optax.sgd(0.1)), BATCH, steps=1)
    size = 8 * 4 * 4
    assert sorted(crossed(info)) == [
        ("a", "client", "one", size),
        ("a", "client", "two", size),
        ("c", "one", "client", size),
        ("c", "two", "client", 0),
    ]


def test_what_only_an_unread_part_of_a_later_value_needs_does_not_cross():
    """Through a U: the tail reads one part of what the body gives."""
    body = part(lambda w, v: {"used": v["h"] @ w, "not": v["skip"] + 1}, 4, 4, "v")
    tail = part(lambda w, z: z["used"] @ w, 4, 2, "z")
    topology = jsplit.u_shaped(part(mixed, 3, 4, "x"), body, tail, loss=ENTROPY)
    _, (info,) = train(jsplit.messages(topology, optax.sgd(0.1)), BATCH, steps=1)
    assert [m.bytes for m in info.messages] == [8 * 4 * 4] * 4


def read_late(w, v, train):
    return v["h"] @ w if train else (v["h"] + v["skip"]) @ w


def watched(w, v):
    jax.debug.callback(lambda x: None, v["skip"])
    return v["h"] @ w


def test_what_inference_alone_or_an_effect_reads_crosses_too():
    def init(key, v):
        return {"w": jax.random.normal(key, (4, 2))}, {}

    def apply(params, state, key, v, train=True):
        return read_late(params["w"], v, train), state

    late = jsplit.Segment(init, apply, ("v",), "y")
    for top in (late, part(watched, 4, 2, "v")):
        topology = jsplit.vanilla(part(mixed, 3, 4, "x"), top, loss=ENTROPY)
        trainer = jsplit.messages(topology, optax.sgd(0.1))
        state, (info,) = train(trainer, BATCH, steps=1)
        assert [m.bytes for m in info.messages] == [2 * 8 * 4 * 4, 8 * 4 * 4]


def test_a_loss_elsewhere_gets_only_the_part_that_it_reads():
    def loss(v, label):
        return ENTROPY(v["h"], label)

    nodes = [
        jsplit.Node("v", part(mixed, 3, 4, "x"), "client", ["x"]),
        jsplit.Loss("loss", loss, "server", ["v", "label"]),
    ]
    topology = jsplit.Topology(nodes, {"client": ["x"], "server": ["label"]})
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state, (info,) = train(trainer, BATCH, steps=1)
    assert [m.bytes for m in info.messages] == [8 * 4 * 4] * 2
    # What stays with its party stays whole.
    assert (
        trainer.predict(state, {"x": X})["v"].keys()
        == mixed(jnp.ones((3, 4)), X).keys()
    )


def test_a_value_of_one_array_is_not_looked_into():
    """Every segment is traced as often as before."""
    traced = []

    def top(w, h):
        traced.append(1)
        return (h > 0) @ w

    topology = jsplit.vanilla(
        part(lambda w, x: x @ w, 3, 4, "x"), part(top, 4, 2, "h"), loss=ENTROPY
    )
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    traced.clear()
    _, info = trainer.step(state, BATCH)
    assert len(traced) == 1
    assert [m.bytes for m in info.messages] == [8 * 4 * 4] * 2


def test_a_segment_that_does_not_run_is_named_as_ever():
    topology = pair(lambda w, v: v["h"] @ w @ w)
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    refused("does not run on", lambda: trainer.init(0, BATCH))


def test_what_is_read_may_depend_on_the_shape_of_a_batch():
    def top(w, v):
        return (v["h"] + v["skip"] if len(v["h"]) > 4 else v["h"]) @ w

    trainer = jsplit.messages(pair(top), optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    sizes = []
    for size in (8, 4, 8):
        state, info = trainer.step(state, {f: x[:size] for f, x in BATCH.items()})
        sizes.append(info.messages[0].bytes // size)
    assert sizes == [32, 16, 32]
