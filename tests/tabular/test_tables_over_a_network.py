"""Tables of other records, aligned by tags: a run over a network is as in one process."""

from __future__ import annotations

import numpy as np
import pytest

import jsplit
from jsplit import party
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    optimizers,
    small,
    together,
)

KEY = b"sixteen bytes or more"


@pytest.mark.slow
def test_aligned_by_tags_a_run_is_that_of_one_process_whatever_the_order_of_rows():
    problem, rng = small(), np.random.default_rng(0)
    topology, ids = problem.topology, np.array([f"s{i:02}" for i in range(24)])
    fields = {f: np.concatenate([x] * 3) for f, x in problem.batch.items()}
    rates, agreed = optimizers(topology), agreed_for(problem, steps=3)
    # Each party has another few of its own, and all have the first twenty.
    tables = {}
    for number, who in enumerate(topology.holds):
        rows = rng.permutation([*range(20), 20 + number])
        held = {f: fields[f][rows] for f in topology.holds[who]}
        tables[who] = jsplit.records({"id": ids[rows], **held}, id="id")
    tags = {who: party.tags(table, KEY) for who, table in tables.items()}
    transport = party.MemoryTransport()

    def work(name):
        own = party.align({**tags, name: tables[name]}, KEY).tables[name]
        return party.run(
            agreed,
            name,
            topology,
            {f: own[f] for f in topology.holds[name]},
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=rates.get(name),
            transport=transport,
            ids_key=KEY,
        )

    results = checked(together(agreed.parties, work))
    common = {f: x[:20] for f, x in fields.items()}
    batch = party.batches(agreed, common, ids[:20])
    trainer = jsplit.messages(topology, rates)
    state = trainer.init(3, problem.batch)
    for step in range(3):
        state, _ = trainer.step(state, batch(step))
    assert all(bits(r.state) == bits(state.parties[p]) for p, r in results.items())
