"""Links that read their sender's own fields and values: the same in every interpreter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.training.common import INTERPRETERS, both, close, dense, refused

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
LABEL = (np.arange(8) % 2).astype(np.float32)
BATCH = {"x": X, "label": LABEL}


def pair(**options):
    return jsplit.vanilla(
        dense(["x"]), dense(), loss=lambda o, y: (o.mean(-1) - y) ** 2, **options
    )


def scaled(seen=None):
    """Multiplies each record's part by 1 more than its label."""

    def encode(value, key, own):
        if seen is not None:
            seen.append(jax.tree.map(jnp.shape, dict(own)))
        more = 1 if own["label"] is None else 1 + own["label"][:, None]
        return value * more

    return jsplit.stateless(encode, lambda payload, like: payload, reads=("label",))


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_cotangent_link_reads_labels_of_the_same_records(microbatches):
    """It equals a loss whose examples of label 1 count twice, at the client alone."""
    found = []
    for make in INTERPRETERS.values():
        trainer = make(
            pair(),
            optax.sgd(0.1),
            links={"smashed": (None, scaled())},
            microbatches=microbatches,
        )
        state = trainer.init(0, BATCH)
        first = state
        for _ in range(2):
            state, _ = trainer.step(state, BATCH)
        found.append(state.parties["client"].params)

    def step(params):
        def loss(w, v, share):
            o = (X @ w) @ v
            return (share * (o.mean(-1) - LABEL) ** 2).mean()

        w, v = params
        gw = jax.grad(loss)(w, v, 1 + LABEL)
        gv = jax.grad(loss, 1)(w, v, jnp.ones(8))
        return w - 0.1 * gw, v - 0.1 * gv

    params = (
        first.parties["client"].params["smashed"],
        first.parties["server"].params["output"],
    )
    for _ in range(2):
        params = step(params)
    for own in found:
        close(own["smashed"], params[0])


@both
def test_in_inference_a_link_is_told_no_label_and_an_evaluation_sends_what_predict_sends(
    interpreter,
):
    seen = []
    # In a U-shape the client has the labels, and its link could send them along.
    topology = jsplit.u_shaped(
        dense(["x"]), dense(), dense(), loss=lambda o, y: (o.mean(-1) - y) ** 2
    )
    trainer = INTERPRETERS[interpreter](
        topology, optax.sgd(0.0), links={"up": (scaled(seen), None)}
    )
    state = trainer.init(0, BATCH)
    trainer.step(state, BATCH)
    assert {"label": (8,)} in seen
    seen.clear()
    loss = trainer.evaluate(state, BATCH).loss
    output = trainer.predict(state, {"x": X})["output"]
    assert seen and all(own == {"label": None} for own in seen)
    close(loss, ((output.mean(-1) - LABEL) ** 2).mean())


@both
def test_a_link_reads_what_its_sender_computed_before_and_fields_that_nobody_else_reads(
    interpreter,
):
    def encode(value, key, own):
        if own["extra"] is not None:
            return value * 0 + own["extra"]
        return value if own["aside"] is None else value + own["aside"]

    link = jsplit.stateless(encode, lambda p, like: p, reads=("aside", "extra"))
    topology = jsplit.Topology(
        [
            jsplit.Node("aside", dense(["x"]), "client", ["x"]),
            jsplit.Node("h", dense(["x"]), "client", ["x"]),
            jsplit.Node("o", dense(["h"]), "server", ["h"]),
            jsplit.Loss(
                "loss", lambda o, y: (o.mean(-1) - y) ** 2, "server", ["o", "label"]
            ),
        ],
        {"client": ["x", "extra"], "server": ["label"]},
    )
    trainer = INTERPRETERS[interpreter](
        topology, optax.sgd(0.1), links={"h": (link, None)}
    )
    batch = BATCH | {"extra": np.full((8, 3), 7, np.float32)}
    state = trainer.init(0, batch)
    _, info = trainer.step(state, batch)
    v = state.parties["server"].params["o"]
    close(info.loss, (((batch["extra"] @ v).mean(-1) - LABEL) ** 2).mean())
    refused("the batch lacks the field `extra`", lambda: trainer.step(state, BATCH))
    # In inference the field is not needed, and the value is there.
    w = state.parties["client"].params
    close(trainer.predict(state, {"x": X})["o"], (X @ w["h"] + X @ w["aside"]) @ v)


def reading(*names, **options):
    return jsplit.stateless(
        lambda v, k, own: v, lambda p, like: p, reads=names, **options
    )


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (
            (reading("label"), None),
            "the link of the activation `smashed` reads `label`, which is no field and "
            "no node of `client`; it has `x`, `smashed`.",
        ),
        (
            (None, reading("x")),
            "the link of the cotangent `smashed` reads `x`, which is no field and no "
            "node of `server`; it has `label`, `output`.",
        ),
        # What was received is not its own: of it only that crosses which nodes read.
        ((None, reading("smashed")), "reads `smashed`, which is no field and no node"),
        (
            (reading()._replace(reads="x"), None),
            "`reads` of the link of the activation",
        ),
        ((reading("x", secret=1), None), "`secret` of the link of the activation"),
        ((reading("x")._replace(strengths=3), None), "`strengths` of the link"),
        ((reading("x", strengths={"x": 1.0}), None), "has `x` in `reads` and in"),
    ],
)
@both
def test_a_link_that_reads_what_its_sender_has_not_is_refused(
    interpreter, links, message
):
    make = INTERPRETERS[interpreter]
    refused(message, lambda: make(pair(), optax.sgd(0.1), links={"smashed": links}))


def test_a_value_that_is_computed_later_is_refused():
    topology = jsplit.u_shaped(
        dense(["x"]), dense(), dense(), loss=lambda o, y: (o.mean(-1) - y) ** 2
    )
    refused(
        "reads `output`, which `client` computes later",
        lambda: jsplit.fused(
            topology, optax.sgd(0.1), links={"up": (reading("output"), None)}
        ),
    )


def test_a_payload_whose_shape_depends_on_what_is_read_is_refused():
    """The receiver could not know it: it does not have what was read."""

    def encode(value, key, own):
        return value if own["label"] is None else jnp.concatenate([value, value])

    link = jsplit.stateless(encode, lambda p, like: p[: len(like)], reads=("label",))
    trainer = jsplit.messages(pair(), optax.sgd(0.1), links={"smashed": (None, link)})
    state = trainer.init(0, BATCH)
    refused("where nothing of label is there", lambda: trainer.step(state, BATCH))


def test_each_link_of_a_chain_is_told_what_it_asks_for_and_nothing_else():
    told = []

    def asking(*names, **strengths):
        def encode(value, key, *own):
            told.append(dict(*own))
            return value

        return jsplit.stateless(
            encode, lambda p, like: p, reads=names, strengths=strengths
        )

    chained = jsplit.chain(
        asking("label"),
        asking(sigma=2.0),
        jsplit.compress.quantize(8),
        asking("label", "x"),
    )
    assert chained.reads == ("label", "x") and chained.strengths == {"sigma": 2.0}
    own = {"label": jnp.float32(1), "x": None, "sigma": jnp.float32(3)}
    value = jnp.ones((4, 3))
    first = chained.init(value)
    told.clear()
    chained.encode(first, value, jax.random.key(0), own)
    assert told == [{"label": 1}, {"sigma": 3}, {"label": 1, "x": None}]


@both
def test_a_strength_is_told_as_an_array(interpreter):
    def encode(value, key, own):
        assert own["gain"].dtype == jnp.float32 and own["gain"].shape == ()
        return own["gain"] * value

    link = jsplit.stateless(encode, lambda p, like: p, strengths={"gain": 3.0})
    trainer = INTERPRETERS[interpreter](
        pair(), optax.sgd(0.1), links={"smashed": (link, None)}
    )
    state = trainer.init(0, BATCH)
    w, v = (next(iter(p.params.values())) for p in state.parties.values())
    close(trainer.predict(state, {"x": X})["output"], 3 * (X @ w @ v))


@pytest.mark.parametrize("algorithm", ["parallel", "splitfed"])
def test_in_rounds_a_link_is_told_each_clients_own_records(algorithm):
    """The same rounds with the labels in the loss give the same bottom."""
    make = getattr(jsplit.rounds, algorithm)
    rows = np.arange(16) % 8
    fields = {"x": X[rows], "label": LABEL[rows]}
    people = jsplit.population.grouped(["a", "b"] * 8)
    drawn = people.round(fields, 0)
    found = []
    for links in ({"smashed": (None, scaled())}, {}):
        trainer = jsplit.fused(pair(), optax.sgd(0.1), links=links)
        a = make(trainer, "client")
        state = a.init(0, drawn)
        found.append(a.step(state, drawn)[0].parties["client"].params["smashed"])
    assert not np.allclose(found[0], found[1])

    # By hand: clients a and b have labels 0 and 1 alone, so their gradients are
    # multiplied by 1 and by 2.
    w, v = np.full((4, 3), 0.1, "f"), np.full((3, 3), 0.1, "f")

    def gradient(w, which):
        x, y = fields["x"][which::2], fields["label"][which::2]
        return jax.grad(lambda w: (((x @ w @ v).mean(-1) - y) ** 2).mean())(w)

    grads = [gradient(w, k) * (1 + k) for k in range(2)]
    if algorithm == "parallel":
        # Each keeps its own, of one large batch.
        for k in range(2):
            close(found[0][k], w - 0.1 * grads[k] / 2, 1e-5)
    else:
        close(np.asarray(found[0]), w - 0.1 * (grads[0] + grads[1]) / 2, 1e-5)


def test_a_link_that_does_not_run_where_nothing_is_read_is_refused_by_name():
    link = jsplit.stateless(
        lambda v, k, own: v * own["label"][:, None], lambda p, like: p, reads=("label",)
    )
    trainer = jsplit.fused(pair(), optax.sgd(0.1), links={"smashed": (None, link)})
    state = trainer.init(0, BATCH)
    refused(
        "`encode` does not run for the cotangent where label is None",
        lambda: trainer.step(state, BATCH),
    )
