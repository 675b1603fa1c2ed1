"""Tables and other byte orders train as the arrays that they hold, in every interpreter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from tests.core.brought import FLOATS, Column, Table

N = 8
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y = np.arange(N, dtype=np.float32)
ARRAYS = {"x": X, "label": Y}
BROUGHT = {"x": Table(*[Column(c) for c in X.T]), "label": Column(Y, FLOATS)}
OTHERS = {"x": X.astype(">f4"), "label": np.ma.masked_array(Y, mask=[False] * N)}


def topology_of():
    low = jsplit.segment(
        lambda p, x: x @ p, init=lambda k, x: jnp.ones((3, 2)), inputs="x", name="h"
    )
    top = jsplit.segment(
        lambda p, h: h @ p, init=lambda k, h: jnp.ones(2) / 2, inputs="h", name="y"
    )
    return jsplit.vanilla(low, top, loss=lambda y, label: (y - label) ** 2)


def same(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [jsplit.fused, jsplit.messages])
def test_a_trainer_takes_tables_as_the_arrays_they_hold(make):
    trainer = make(topology_of(), optax.sgd(0.1))
    found = []
    for data, weight in (
        (ARRAYS, np.arange(N)),
        (BROUGHT, Column(list(range(N)))),
        (OTHERS, np.arange(N, dtype=">i4")),
    ):
        state, info = trainer.step(trainer.init(0, data), data, weight)
        losses = trainer.evaluate(state, data, weight).losses
        outputs = trainer.predict(state, {"x": data["x"]})
        params = [own.params for own in state.parties.values()]
        found.append((params, info.loss, losses, outputs))
    same(found[1], found[0])
    same(found[2], found[0])


def test_rounds_take_tables_as_the_arrays_they_hold():
    trainer = jsplit.fused(topology_of(), optax.sgd(0.1))
    relay = jsplit.rounds.take_turns(trainer, client="client")
    people = jsplit.population.iid(N, 2)
    found = []
    for data in (ARRAYS, BROUGHT):
        drawn = [people.round(data, number, batch=2) for number in range(2)]
        state, info = relay.run(relay.init(0, drawn[0]), drawn)
        outputs = relay.predict(state, {"x": data["x"]})
        found.append((info.loss, relay.evaluate(state, drawn[0]).loss, outputs))
    same(*found)


def test_parties_take_tables_and_columns_of_ids_as_what_they_hold():
    topology = topology_of()
    agreed = [
        party.agreement(
            topology,
            {"x": jax.ShapeDtypeStruct((4, 3), "float32"), "label": data},
            steps=4,
            addresses={"server": "localhost:8476"},
        )
        for data in (Y[:4], Column(Y[:4], FLOATS))
    ]
    assert agreed[0] == agreed[1]
    ids = [f"patient {i}" for i in range(N)]
    wanted = party.batches(agreed[0], ARRAYS, ids)
    for given in (np.array(ids)[:, None], Table(Column(ids)), iter(ids)):
        batch = party.batches(agreed[0], BROUGHT, given)
        for step in range(4):
            same(batch(step), wanted(step))


def test_programs_and_costs_take_tables_as_the_arrays_they_hold():
    topology = topology_of()
    state = jsplit.fused(topology, optax.sgd(0.1)).init(0, BROUGHT)
    exported = jsplit.export(topology, state, {"x": BROUGHT["x"]})
    assert exported["client"]["h"].call(X).shape == (N, 2)
    assert str(jsplit.cost(topology, BROUGHT)) == str(jsplit.cost(topology, ARRAYS))
