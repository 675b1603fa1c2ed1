"""Tied weights, and what is carried or public, over a network: as in one process."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import command, party
from tests import tied
from tests.party.federation import agreed_for, bits, checked, train_in_memory


class Given(NamedTuple):
    topology: jsplit.Topology
    batch: dict


def test_a_party_with_a_tied_weight_trains_over_a_network_as_in_one_process():
    batch = tied.data()
    made = tied.parts(tied.plain(), batch["tokens"]).values()
    problem = Given(jsplit.u_shaped(*made, loss=tied.loss), batch)
    rates = dict.fromkeys(problem.topology.parties, optax.adam(0.01))
    agreed = agreed_for(problem, steps=3)
    assert "embedding" not in str(agreed)
    same_as_messages(agreed, problem, rates)


def same_as_messages(agreed, problem, rates):
    results = checked(train_in_memory(agreed, problem, rates))
    trainer = jsplit.messages(problem.topology, rates)
    state = trainer.init(jax.random.key(3), problem.batch)
    for _ in range(3):
        state, _ = trainer.step(state, problem.batch)
    for name, own in state.parties.items():
        assert bits(results[name].state) == bits(own), name


def language_model(p, tokens, places):
    """The padding goes around both cuts, the places are no secret, the table is tied."""
    real = (tokens > 0)[..., None]
    h = jsplit.cut(jnp.tanh(p["e"][tokens]) * real, "up")
    h = jsplit.cut(jnp.tanh(h @ p["a"] + p["t"][places]) * real, "down")
    return (h * real).mean(1) @ p["e"].T


def carried() -> Given:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, (4, 6)).astype("int32")
    batch = {"tokens": tokens, "places": np.tile(np.arange(6, dtype="int32"), (4, 1))}

    def init(key, *inputs):
        shapes = {"e": (9, 4), "a": (4, 4), "t": (6, 4)}
        return {n: jax.random.normal(jax.random.key(1), s) for n, s in shapes.items()}

    made = jsplit.split(
        language_model, batch, init=init, around="carry", public=["places"]
    ).values()
    topology = jsplit.u_shaped(*made, loss=tied.loss, public=["places"])
    return Given(topology, batch | {"label": tokens[:, 0]})


def test_what_crosses_is_shown_of_a_mask_no_cotangent(tmp_path, capsys):
    file = party.write(tmp_path / "agreed.json", agreed_for(carried(), steps=3))
    assert command.main(["show", str(file)]) == 0
    said = capsys.readouterr().out
    up = 'up to server: {"mask of tokens": "bool[batch,6]", "up": "float32[batch,6,4]"}'
    assert f"activation {up}" in said
    assert 'cotangent up to client: {"up": "float32[batch,6,4]"}' in said


def test_what_is_carried_and_public_is_agreed_on_and_trains_as_in_one_process(tmp_path):
    problem = carried()
    agreed = agreed_for(problem, steps=3)
    assert agreed.public == ("places",)
    # The client made the mask, and does not get it back with `down`.
    assert {**agreed.carried} == {"up": ["mask of tokens"]}
    assert party.read(party.write(tmp_path / "agreed.json", agreed)) == agreed
    assert agreed.topology_of_strangers.public == ("places",)
    same_as_messages(
        agreed, problem, dict.fromkeys(problem.topology.parties, optax.adam(0.01))
    )


def refused(agreed, topology, batch, message):
    """The client takes no part, and says so before it meets anybody."""
    with pytest.raises(ValueError, match=message):
        party.run(
            agreed,
            "client",
            topology,
            lambda step: {f: batch[f] for f in topology.holds["client"]},
            credentials=party.PlaintextWithoutIdentity("client"),
            optimizer=optax.sgd(0.1),
            transport=party.MemoryTransport(),
        )


def test_who_holds_a_field_says_that_it_is_public_or_does_not_take_part():
    problem = carried()
    topology = jsplit.Topology(problem.topology.nodes, problem.topology.holds)
    message = "`public` of the agreement names the field `places`"
    refused(agreed_for(problem, steps=1), topology, problem.batch, message)


def test_a_party_refuses_to_hand_on_a_raw_field():
    relay = jsplit.segment(lambda x: x[:, ::-1], inputs=["x"], name="h")
    top = jsplit.segment(lambda h: h.sum(-1), inputs=["h"], name="y")
    topology = jsplit.vanilla(relay, top, loss=lambda y, label: (y - label) ** 2)
    x = np.ones((4, 3), "float32")
    agreed = agreed_for(Given(topology, {"x": x, "label": x[:, 0]}), steps=1)
    message = "`h` crosses from `client`.*raw field `x`"
    refused(agreed, topology, {"x": x}, message)
