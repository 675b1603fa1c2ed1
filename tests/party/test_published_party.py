"""Published models over the network in one process: as `messages`, bit for bit."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jsplit
from tests.helpers import ADAPTED, make_problem
from tests.party.federation import Small, agreed_for, bits, checked, train_in_memory
from tests.slicing.test_published import CASES, published_topology
from tests.training.test_scanned import problem as scanned

SLOW = pytest.mark.slow
MODELS = [
    "GNN",
    *(pytest.param(n, marks=SLOW) for n in ("BERT of HF", "T5X", "mnist", "lm1b")),
    pytest.param("nnx", id=f"{ADAPTED}-nnx", marks=SLOW),
    pytest.param("linen", id=f"{ADAPTED}-linen", marks=SLOW),
    pytest.param("function", id=f"{ADAPTED}-function"),
    pytest.param(("vanilla", "nnx"), id="scanned layers cut in the middle"),
    pytest.param(("u_shaped", "linen"), id="scanned layers of linen", marks=SLOW),
]


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_trains_over_a_network_as_in_one_process(name):
    if isinstance(name, tuple):
        problem = scanned(*name)
        topology, batch = problem.topology, problem.batch
    elif name in CASES:
        _, topology, batch = published_topology(CASES[name])
    else:
        problem = make_problem(ADAPTED, "lora", name)
        topology, batch = problem.topology, problem.batch
    problem = Small(topology, jax.tree.map(np.asarray, batch))
    rates = dict.fromkeys(topology.parties, optax.adam(0.01))
    agreed = agreed_for(problem, steps=2)
    results = checked(train_in_memory(agreed, problem, rates))
    trainer = jsplit.messages(topology, rates)
    state = trainer.init(jax.random.key(3), problem.batch)
    for _ in range(2):
        state, _ = trainer.step(state, problem.batch)
    for party, own in state.parties.items():
        assert bits(results[party].state) == bits(own), party
