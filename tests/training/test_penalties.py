"""Several losses and penalties, and values that are read more than once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import jsplit
from tests.helpers import (
    cross_entropy,
    make_problem,
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
