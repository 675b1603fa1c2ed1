"""NoPeek: it lowers the distance correlation at the cut, switched off it is the plain run."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.privacy import distance_correlation, nopeek
from tests.party.federation import (
    Small,
    agreed_for,
    bits,
    checked,
    small,
    train_in_memory,
    undisturbed,
)
from tests.privacy.defended import (
    ALGORITHMS,
    BATCH,
    INTERPRETERS,
    PEOPLE,
    equal,
    pair,
    parameters,
    trained,
    trainer,
)
from tests.training.common import refused

STRENGTH = jsplit.Strength("nopeek", 5.0)
both = pytest.mark.parametrize("interpreter", INTERPRETERS)


def guarded(weight=STRENGTH, **options):
    return pair().add(nopeek("x", "h", "client", weight, **options))


def at_the_cut(state):
    return np.tanh(BATCH["x"] @ np.asarray(state.parties["client"].params["h"]))


@both
def test_it_lowers_the_correlation_and_at_0_it_is_the_plain_run(interpreter):
    make = INTERPRETERS[interpreter]
    one = trainer(make, topology=guarded())
    with_it, without = trained(one, steps=30), trained(trainer(make), steps=30)
    before, after = (
        float(distance_correlation(BATCH["x"], at_the_cut(s)))
        for s in (without, with_it)
    )
    assert after < before - 0.1
    off = trained(one, steps=30, strengths={"nopeek": 0.0})
    assert equal(parameters(off), parameters(without))


def test_its_value_and_gradient_are_those_of_the_correlation_and_nothing_crosses():
    one = trainer(jsplit.messages, topology=guarded())
    plain = trainer(jsplit.messages)
    state, info = one.step(one.init(0, BATCH), BATCH)
    other, _ = plain.step(plain.init(0, BATCH), BATCH)
    first = one.init(0, BATCH).parties["client"].params["h"]

    def value(w):
        return distance_correlation(BATCH["x"], jax.numpy.tanh(BATCH["x"] @ w))

    np.testing.assert_allclose(info.losses["nopeek"], value(first), rtol=1e-5)
    # One step of SGD at rate 0.1 takes off 0.1 times the gradients of both losses.
    moved = other.parties["client"].params["h"] - state.parties["client"].params["h"]
    np.testing.assert_allclose(moved, 0.1 * 5 * jax.grad(value)(first), atol=2e-6)
    # What the server learns in a step of the same activations is the same.
    assert equal(state.parties["server"].params, other.parties["server"].params)
    costs = [jsplit.cost(t, BATCH) for t in (guarded(), pair())]
    assert costs[0].messages == costs[1].messages


@both
def test_a_record_of_weight_2_is_that_record_twice_and_of_weight_0_is_none(interpreter):
    make = INTERPRETERS[interpreter]
    one = trainer(make, topology=guarded())
    weight = np.ones(32, np.float32)
    weight[3], weight[5] = 2, 0
    again = [*range(32), 3]
    again.remove(5)
    twice = {n: x[again] for n, x in BATCH.items()}
    state = one.init(0, BATCH)
    _, weighted = one.step(state, BATCH, weight=weight)
    _, repeated = one.step(state, twice)
    np.testing.assert_allclose(
        weighted.losses["nopeek"], repeated.losses["nopeek"], rtol=1e-5
    )
    _, plain = one.step(state, BATCH)
    assert abs(plain.losses["nopeek"] - repeated.losses["nopeek"]) > 1e-4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_rounds_it_is_computed_of_each_client_and_at_0_is_the_plain_round(algorithm):
    drawn = PEOPLE.round(BATCH, 0, batch=8)

    def after(topology, weight=None):
        made = ALGORITHMS[algorithm](trainer(jsplit.fused, topology=topology))
        state = made.init(0, drawn)
        if weight is not None:
            state = jsplit.set_hyperparams(state, {"nopeek": weight})
        return parameters(made.step(state, drawn)[0])

    plain, off, on = after(pair()), after(guarded(), 0.0), after(guarded())
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(off), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not equal(on, plain)


def test_over_the_network_it_is_the_run_in_one_process():
    made = small("pair")
    topology = made.topology.add(nopeek("x", "h", "client", STRENGTH))
    problem = Small(topology, made.batch)
    results = checked(train_in_memory(agreed_for(problem, steps=3), problem))
    for p, own in undisturbed(problem, 3).items():
        assert bits(results[p].state) == bits(own), p
    alone = undisturbed(made, 3)
    assert bits(results["client"].state.params) != bits(alone["client"].params)
    assert isinstance(results["client"], party.Result)


def test_what_would_make_records_show_more_is_refused():
    refused("`weight` must be", lambda: nopeek("x", "h", "client", -1.0))
    refused("nopeek", lambda: pair().add(nopeek("label", "h", "client", 1.0)))
    corrected = jsplit.fused(guarded(1.0, corrected=True), optax.sgd(0.1))
    _, info = corrected.step(corrected.init(0, BATCH), BATCH)
    h = at_the_cut(corrected.init(0, BATCH))
    wanted = distance_correlation(BATCH["x"], h, corrected=True)
    np.testing.assert_allclose(info.losses["nopeek"], wanted, rtol=1e-5)
