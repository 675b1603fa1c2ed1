"""A tied weight over a network: its party alone knows of it, and trains as in one process."""

from __future__ import annotations

from typing import NamedTuple

import jax
import optax

import jsplit
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
    results = checked(train_in_memory(agreed, problem, rates))
    trainer = jsplit.messages(problem.topology, rates)
    state = trainer.init(jax.random.key(3), batch)
    for _ in range(3):
        state, _ = trainer.step(state, batch)
    for name, own in state.parties.items():
        assert bits(results[name].state) == bits(own), name
