"""A party that does something else: others see the same, or it is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.training.common import INTERPRETERS, X, both, close, dense, refused, train

BATCH = {"x": X, "label": np.arange(8) % 3, "public": X[::-1].copy()}
HONEST = {f: BATCH[f] for f in ("x", "label")}
entropy = optax.softmax_cross_entropy_with_integer_labels


def layer(inputs, size=4, name=None):
    return jsplit.segment(
        lambda w, x: jnp.tanh(x @ w),
        init=lambda key, x: jax.random.normal(key, (x.shape[1], size)),
        inputs=list(inputs),
        name=name,
    )


def vanilla():
    return jsplit.vanilla(layer(["x"]), layer(["h"], 3), loss=entropy)


def u_shaped():
    return jsplit.u_shaped(
        layer(["x"], name="up"),
        layer(["up"], name="down"),
        dense(["down"]),
        loss=entropy,
    )


def own(h, public):
    """A loss of the attacker's own: the values are to look like its own records."""
    return ((h - public) ** 2).mean(-1)


def hijacked(topology, **more):
    """An attacker at the server, which answers the client's loss with nothing."""
    [value] = [c.name for c in topology.crossings if c.sender == "client"]
    loss = jsplit.Loss("own", own, "server", [value, "public"])
    nodes = [
        jsplit.Node(n.name, n.segment, "server", n.inputs, detached=[value])
        for n in topology.segments
        if n.party == "server" and value in n.reads
    ]
    keeps = [n for n in nodes if any(c.name == n.name for c in topology.crossings)]
    return topology.replace("server", keeps, losses=[loss], holds="public"), value


@pytest.mark.parametrize("configuration", [vanilla, u_shaped])
@both
def test_a_server_trains_the_client_by_a_loss_of_its_own(interpreter, configuration):
    honest = configuration()
    attack, value = hijacked(honest)
    trainer = INTERPRETERS[interpreter](attack, optax.sgd(0.5))
    start = trainer.init(0, BATCH)
    # The client cannot tell from its first state either.
    same = jsplit.fused(honest, optax.sgd(0.5)).init(0, HONEST).parties["client"]
    close(start.parties["client"].params, same.params)

    state, info = trainer.step(start, BATCH)
    weight = start.parties["client"].params[value]

    def loss(w):
        return own(jnp.tanh(X @ w), BATCH["public"]).mean()

    moved = weight - 0.5 * jax.grad(loss)(weight)
    close(state.parties["client"].params[value], moved)
    assert np.allclose(info.losses["own"], loss(weight))
    # It works: the values come to look like the attacker's records.
    later, infos = train(trainer, BATCH, 30)
    assert infos[-1].losses["own"] < 0.7 * infos[0].losses["own"]


@pytest.mark.parametrize("configuration", [vanilla, u_shaped])
def test_others_send_and_get_messages_of_the_same_shapes(configuration):
    honest = configuration()
    attack, _ = hijacked(honest)
    assert set(attack.crossings) == set(honest.crossings)
    found = []
    for topology, batch in ((honest, HONEST), (attack, BATCH)):
        trainer = jsplit.messages(topology, optax.sgd(0.1))
        _, info = trainer.step(trainer.init(0, batch), batch)
        found.append(sorted(info.messages, key=str))
    assert found[0] == found[1]


def test_what_others_hold_and_do_is_the_same():
    honest = u_shaped()
    attack, _ = hijacked(honest)
    theirs = [[n for n in t.nodes if n.party == "client"] for t in (honest, attack)]
    assert theirs[0] == theirs[1]
    assert attack.holds["client"] == honest.holds["client"]
    assert attack.instead_of is honest and attack != honest
    decay = jsplit.Penalty("decay", optax.tree.norm, "client", "up.params")
    assert attack.add(decay).replace("client").instead_of is honest
    assert [*honest.replace("client").nodes] == [*honest.nodes]


def test_by_default_a_party_does_what_it_did_and_may_look_on():
    honest = vanilla()
    assert honest.replace("server") == honest
    head = jsplit.Node("guess", layer(["smashed"], 3), "server", detached="smashed")
    curious = honest.replace("server", [honest.node["output"], head], losses=None)
    curious = curious.replace(
        "server",
        losses=[
            *honest.losses,
            jsplit.Loss("guessed", entropy, "server", ["guess", "label"]),
        ],
    )
    plain = train(jsplit.fused(honest, optax.sgd(0.1)), HONEST)[0]
    seen = train(jsplit.fused(curious, optax.sgd(0.1)), HONEST)[0]
    close(plain.parties["client"].params, seen.parties["client"].params)
    assert "guess" in seen.parties["server"].params


def test_a_value_that_others_wait_for_must_come():
    loss = jsplit.Loss("own", lambda h: h.mean(-1), "server", "up")
    # The client's tail reads it, so there is no such topology.
    refused("reads `down`", lambda: u_shaped().replace("server", [], losses=[loss]))


@pytest.mark.parametrize(
    ("message", "replace"),
    [
        ("must be one of client, server", {"party": "nobody"}),
        ("got `h` of `client`", {"nodes": [jsplit.Node("h", dense(["x"]), "client")]}),
        (
            "`nodes` must hold Node, got Loss",
            {"nodes": [jsplit.Loss("l", max, "server", "h")]},
        ),
        (
            "`losses` must hold Loss or Metric, got Node",
            {"losses": [jsplit.Node("h", dense(["x"]), "server")]},
        ),
        ("`nodes` must be a list", {"nodes": 3}),
        # No longer read by anything that trains: no cotangent comes back.
        (
            "no cotangent of `smashed` from `client` to `server` comes back",
            {
                "nodes": [
                    jsplit.Node(
                        "output", dense(["smashed"]), "server", detached="smashed"
                    )
                ],
            },
        ),
        (
            "`smashed` from `client` to `server` crosses no more",
            {"nodes": [], "losses": [jsplit.Loss("l", abs, "server", "label")]},
        ),
    ],
)
def test_what_cannot_be_done_unseen_is_refused(message, replace):
    refused(message, lambda: vanilla().replace(**{"party": "server", **replace}))


def test_a_message_that_was_not_sent_before_is_refused():
    honest = vanilla()
    more = jsplit.Node("more", dense(["x"]), "client")
    topology = honest.add(more)
    spy = jsplit.Loss("spy", abs, "server", "more", weight=0)
    refused(
        "`more` from `client` to `server` did not cross before",
        lambda: topology.replace("server", losses=[*honest.losses, spy]),
    )
    detached = jsplit.decoupled(honest, "smashed", dense(["smashed"]), loss=entropy)
    own_loss = jsplit.Loss("l", jnp.sum, "server", "smashed")
    refused(
        "a cotangent of `smashed` from `client` to `server` comes back, which did not",
        lambda: detached.replace("server", [], losses=[own_loss]),
    )


@both
def test_another_shape_is_refused_where_a_trainer_is_begun(interpreter):
    honest = u_shaped()
    wide = jsplit.Node("down", layer(["up"], 5), "server")
    attack = honest.replace("server", [wide])
    trainer = INTERPRETERS[interpreter](attack, optax.sgd(0.1))
    refused(
        "the activation of `down` from `server` to `client` was float32[8,4], it is "
        "float32[8,5]",
        lambda: trainer.init(0, HONEST),
    )


def test_asking_for_more_of_a_value_is_refused():
    two = jsplit.segment(
        lambda w, x: {"a": x @ w, "b": x @ (2 * w)},
        init=lambda key, x: jnp.ones((4, 3)),
        inputs=["x"],
    )
    a = jsplit.segment(
        lambda w, h: h["a"] @ w, init=lambda key, h: jnp.ones((3, 3)), inputs=["h"]
    )
    honest = jsplit.vanilla(two, a, loss=entropy)
    greedy = jsplit.Loss(
        "own", lambda h: (h["a"] + h["b"]).mean(-1), "server", "smashed"
    )
    attack = honest.replace("server", losses=[*honest.losses, greedy])
    refused(
        "`smashed` from `client` to `server` was float32[8,3], it is float32[8,3] and",
        lambda: jsplit.fused(attack, optax.sgd(0.1)).init(0, HONEST),
    )


def test_another_exchange_of_numbers_is_refused():
    # The loss was the client's alone; now the server has a part of it to tell.
    attack, _ = hijacked(u_shaped())
    optimizer = {"client": jsplit.with_loss(optax.sgd(0.1)), "server": optax.sgd(0.1)}
    trainer = jsplit.fused(attack, optimizer)
    refused("the scalar of `loss` from `server`", lambda: trainer.init(0, BATCH))


@both
def test_sums_of_all_parties_go_the_way_that_they_went(interpreter):
    honest = u_shaped()
    attack, _ = hijacked(honest)
    optimizer = optax.chain(jsplit.clip_by_global_norm(1.0), optax.sgd(0.1))
    make = INTERPRETERS[interpreter]
    found = []
    for topology, batch in ((honest, HONEST), (attack, BATCH)):
        trainer = make(topology, optimizer, nonfinite="skip")
        trainer = jsplit.record(trainer)
        _, recorded = trainer.step(trainer.init(0, batch), batch)
        found.append(jax.tree.map(jnp.shape, recorded.crossed))
    assert found[0] == found[1]
    assert {"squared norms", "faults"} <= {at.name for at in found[0]}


def test_without_what_the_original_reads_nothing_is_proved():
    attack, _ = hijacked(vanilla())
    trainer = jsplit.fused(attack, optax.sgd(0.1))
    without = {f: x for f, x in BATCH.items() if f != "label"}
    refused("lacks the field `label`", lambda: trainer.init(0, without))


def test_rounds_and_copies_compare_too():
    bad = u_shaped().replace(
        "server", [jsplit.Node("down", layer(["up"], 5), "server")]
    )
    # As pickle and copy make one.
    make, args = bad.__reduce__()
    for topology in (bad, make(*args)):
        trainer = jsplit.fused(topology, optax.sgd(0.1))
        relay = jsplit.rounds.take_turns(trainer, client="client")
        people = jsplit.population.everyone(8, clients=2).round(HONEST, 0)
        refused("was float32", lambda relay=relay: relay.init(0, people))


def test_an_attacker_trains_many_clients_too():
    attack, _ = hijacked(vanilla())
    relay = jsplit.rounds.take_turns(
        jsplit.fused(attack, optax.sgd(0.5)), client="client"
    )
    people = jsplit.population.everyone(8, clients=2)
    drawn = [people.round(BATCH, number, epochs=5) for number in range(2)]
    state, first = relay.step(relay.init(0, drawn[0]), drawn[0])
    _, last = relay.step(state, drawn[1])
    assert last.losses["own"] < first.losses["own"]
