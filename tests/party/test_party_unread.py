"""Over a network too, what nobody reads does not cross: the agreement says so."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    train_in_memory,
    undisturbed,
)
from tests.training.test_unread import BATCH, ENTROPY, X, head, mixed, part

STEPS = 3


class Problem:
    """The pair of which not all is read."""

    topology = jsplit.vanilla(
        part(mixed, 3, 4, "x"), part(head, 4, 2, "v"), loss=ENTROPY
    )
    batch = BATCH


def test_parties_send_what_messages_sends_and_learn_the_same():
    agreed = agreed_for(Problem, steps=STEPS)
    up, down = (
        "activation {} from client to server",
        "cotangent {} from server to client",
    )
    name = Problem.topology.crossings[0].name
    assert agreed.unread == {
        "server": {
            up.format(name): ["ids", "skip"],
            down.format(name): ["gate", "skip"],
        },
        "client": {down.format(name): ["mask"]},
    }
    assert agreed["format"] == "jsplit agreement 3"
    trainer = jsplit.messages(Problem.topology, optax.sgd(0.1))
    _, info = trainer.step(trainer.init(0, BATCH), BATCH)
    sent = [jax.tree.leaves(agreed.value(wire, 8)) for wire in agreed.wires]
    assert [sum(x.size * x.dtype.itemsize for x in one) for one in sent] == [
        m.bytes for m in info.messages
    ]

    results = checked(train_in_memory(agreed, Problem))
    for name, state in undisturbed(Problem, STEPS).items():
        assert bits(results[name].state) == bits(state), name


def test_a_file_says_what_does_not_cross_and_is_read_back(tmp_path):
    agreed = agreed_for(Problem)
    assert party.read(party.write(tmp_path / "agreement.json", agreed)) == agreed
    everything = agreed.replace(unread={})
    assert everything["format"] == "jsplit agreement 3"
    assert everything.schema != agreed.schema


@pytest.mark.parametrize(
    ("unread", "message"),
    [
        (["v"], "`unread` must say by party and by message"),
        ({"server": {}}, "`unread` must say by party and by message"),
        ({"server": {"activation smashed": ["ids"]}}, "neither sends nor gets"),
        ({"server": {"activation {} from client to server": ["no"]}}, "which has"),
    ],
)
def test_what_cannot_be_left_out_is_refused(unread, message):
    name = Problem.topology.crossings[0].name
    if isinstance(unread, dict):
        unread = {
            p: {label.format(name): x for label, x in own.items()}
            for p, own in unread.items()
        }
    with pytest.raises(ValueError, match=message):
        agreed_for(Problem).replace(unread=unread)


def test_a_segment_that_needs_what_does_not_cross_is_refused_by_name():
    agreed = agreed_for(Problem)
    top = part(lambda w, v: (v["h"] + v["skip"]) @ w, 4, 2, "v")
    nodes = [n.name for n in Problem.topology.segments]
    with pytest.raises(ValueError, match="the segments of `server` need `skip`"):
        party.run(
            agreed,
            "server",
            {nodes[1]: top, "loss": ENTROPY},
            lambda step: {"label": BATCH["label"]},
            credentials=party.PlaintextWithoutIdentity("server"),
            optimizer=optax.sgd(0.1),
            transport=party.MemoryTransport(),
        )


def test_of_a_party_whose_segments_are_not_there_everything_is_read():
    name = Problem.topology.crossings[0].name
    value = jax.eval_shape(mixed, np.ones((3, 4), "float32"), X)
    stranger = party.foreign(name, "client", inputs="x")
    topology = jsplit.vanilla(stranger, part(head, 4, 2, "v"), loss=ENTROPY)
    told = agreed_for(Problem)
    agreed = party.agreement(
        topology, BATCH, steps=3, addresses=told.addresses, values={name: value}
    )
    assert agreed.unread == {"server": told.unread["server"]}
    server = party.foreign("output", "server", inputs=[name])
    topology = jsplit.vanilla(part(mixed, 3, 4, "x"), server, loss=ENTROPY)
    agreed = party.agreement(topology, BATCH, steps=3, addresses=told.addresses)
    assert agreed.unread == {"client": told.unread["client"]}
