"""What a party records over a network is its own messages, as one process records them."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import traffic_of, watch
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    optimizers,
    own_of,
    small,
    train_in_memory,
)

STEPS = 3


def noisy():
    """Secret noise; a link that sees cotangents without the loss scale."""
    return jsplit.stateless(
        lambda value, key: value + 0.1 * jax.random.normal(key, value.shape),
        lambda payload, like: payload,
        secret=True,
    )


jsplit.compress.register("recorded_noise", noisy, replace=True)


def recorded(agreed, problem, **options):
    """Results, and by party and step what it recorded."""
    told: list = []
    results = checked(train_in_memory(agreed, problem, record=told.append, **options))
    found = {p: [r for r in told if r.party == p] for p in problem.topology.parties}
    return results, {p: sorted(r, key=lambda one: one.step) for p, r in found.items()}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert bits(one) == bits(other)


@pytest.mark.parametrize(
    ("configuration", "micros"),
    [("pair", 2), pytest.param("vertical", 1, marks=pytest.mark.slow)],
)
def test_each_party_records_its_own_messages_of_one_process_and_no_others(
    configuration, micros
):
    """With links, a scale that moves, a number that all exchange, and micro-batches."""
    scale = jsplit.DynamicScale(initial=8.0, interval=2)
    problem = small(configuration)
    first = problem.topology.crossings[0].name
    rates = {
        p: optax.chain(jsplit.clip_by_global_norm(0.3), o)
        for p, o in optimizers(problem.topology).items()
    }
    agreed = agreed_for(
        problem,
        steps=STEPS,
        links={first: ["quantize(8)", "recorded_noise()"]},
        microbatches=micros,
        norms=["global norm"],
        loss_scale=scale,
        nonfinite="skip",
    )
    results, found = recorded(agreed, problem, rates=rates, norms=True)
    trainer = jsplit.messages(
        problem.topology,
        rates,
        links={first: (jsplit.compress.quantize(8), noisy())},
        microbatches=micros,
        loss_scale=scale,
    )
    recording = jsplit.record(trainer, norms=True)
    state = recording.init(3, problem.batch)
    secret = {"server": results["server"].state.secret}
    state = start = jsplit.with_secrets(state, secret)
    for step in range(STEPS):
        state, one = recording.step(state, problem.batch)
        for name, records in found.items():
            mine = {at: x for at, x in one.crossed.items() if name in at[2:]}
            assert mine
            assert records[step].step == step
            same(dict(records[step].crossed), mine)
            same(records[step].fields, own_of(problem, name))
            same(records[step].norms, one.norms[name])
            assert records[step].hyperparams == {}
    for name, result in results.items():
        same(result.state, state.parties[name])
    batches = [problem.batch] * STEPS
    for name in problem.topology.parties:
        _, seen = watch(recording, start, batches, name)
        mine = traffic_of(found[name], name)
        assert mine.step.tolist() == seen.step.tolist()
        same(mine[2:], seen[2:])
        # In what another recorded there is nothing of the fields that the other holds.
        assert mine.fields.keys() == own_of(problem, name).keys()
        others = {p for at in found[name][0].crossed for p in at[2:]} - {name}
        assert all(not traffic_of(found[name], p).fields for p in others)


def test_with_a_staleness_what_one_sends_is_what_the_other_receives():
    problem = small("pair")
    agreed = agreed_for(problem, steps=4, staleness=2, checkpoint=4)
    results, found = recorded(agreed, problem, norms=True)
    plain = checked(train_in_memory(agreed, problem))
    for name, result in results.items():
        same(result.state, plain[name].state)
        assert [r.step for r in found[name]] == [0, 1, 2, 3]
    client, server = (traffic_of(found[p], p) for p in problem.topology.parties)
    same(client.sent, server.received)
    same(client.returned, server.gave)
    assert np.abs(client.returned["h"]).max() > 1e-3
    assert all(r.norms.gradient["h"] > 0 for r in found["client"])


def test_norms_over_a_network_are_told_in_records_alone():
    problem = small("pair")
    agreed = agreed_for(problem, steps=1)
    with pytest.raises(ValueError, match="give `record` too"):
        checked(train_in_memory(agreed, problem, norms=True))
