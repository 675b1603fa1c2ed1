"""Clients that take turns over the network: the same bits as the whole trained on the same batches, whoever has which."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jsplit
from federation import agreed_for, bits, checked, optimizers, small, together, trust_of
from helpers import make_problem
from jsplit import party
from jsplit.party.records import places_of
from jsplit.party.turns import Turns

ORDER = [("north", 2), ("south", 3), ("west", 1)]
COUNTS = {"north": 20, "south": 9, "west": 12}


def problem_of(configuration, model="mlp"):
    """A problem, its roles that are played in turn, and each client's records of all fields."""
    problem = small("pair") if configuration == "small" else make_problem(configuration, model, "nnx")
    roles = [p for p in problem.topology.parties if not p.startswith("server")]
    rng = np.random.default_rng(1)
    rows = {c: rng.integers(0, 8, n) for c, n in COUNTS.items()}
    records = {c: {f: np.asarray(x)[r] for f, x in problem.batch.items()} for c, r in rows.items()}
    return problem, roles, records


def turns_of(roles, handoff, **given):
    return party.turns({c: {r: f"{c} {r}" for r in roles} for c in COUNTS}, ORDER, handoff, **given)


def work_of(problem, agreed, records, **options):
    """What each party does: it trains on its own records, and the server has its fields of each client."""
    trust, rates, holds = trust_of(agreed.parties), optimizers(problem.topology), problem.topology.holds

    def work(p):
        role, client = agreed.turns.role[p], agreed.turns.client_of(p)
        own = {c: {f: x for f, x in fields.items() if f in holds.get(role, ())} for c, fields in records.items()}
        ids = {c: [f"{c} {i}" for i in range(COUNTS[c])] for c in COUNTS}
        if client is not None:
            own, ids = own[agreed.turns.names[client]], ids[agreed.turns.names[client]]
        if not holds.get(role):
            own = ids = None
        given = {k: v(p) if callable(v) else v for k, v in options.items()}
        return party.run(
            agreed, p, problem.topology, own, ids=ids, optimizer=rates[role], credentials=trust[p], remind=0.5, **given
        )  # fmt: skip

    return work


def in_order(ids):
    return np.array(sorted(range(len(ids)), key=lambda i: f"str:{ids[i]}"))


def expected(problem, roles, records, steps, handoff, micros=1, links=None):
    """The whole, trained on the same batches: the state of the last client's turn, or each client's own."""
    trainer = jsplit.messages(problem.topology, optimizers(problem.topology), microbatches=micros, links=links)
    state = trainer.init(3, problem.batch)
    mine = {c: {r: state.parties[r] for r in roles} for c in COUNTS}
    copies = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)  # noqa: E731 - steps donate
    taken, step, losses = dict.fromkeys(COUNTS, 0), 0, []
    while step < steps:
        for client, count in ORDER:
            for _ in range(min(count, steps - step)):
                order = in_order([f"{client} {i}" for i in range(COUNTS[client])])
                rows = order[places_of(taken[client], COUNTS[client], 8, 3)]
                if handoff == "none":
                    own = {r: x._replace(step=jnp.int32(step)) for r, x in copies(mine[client]).items()}
                    state = jsplit.TrainState({**state.parties, **own})
                state, info = trainer.step(state, {f: x[rows] for f, x in records[client].items()})
                mine[client] = copies({r: state.parties[r] for r in roles})
                taken[client], step = taken[client] + 1, step + 1
                losses.append(float(info.loss))
    return state, mine, losses


@pytest.mark.parametrize(
    ("configuration", "model", "handoff", "listens", "micros"),
    [
        ("vanilla", "residual", "peer", ["server", "south client"], 1),
        ("u_shaped", "mlp", "server", ["server", "south client"], 2),
        ("vertical", "mlp", "none", ["server"], 1),
        ("small", "mlp", "peer", ["server"], 1),
        pytest.param("vertical", "residual", "peer", ["server"], 2, marks=pytest.mark.slow),
        pytest.param("u_shaped", "residual", "none", ["server"], 1, marks=pytest.mark.slow),
        pytest.param("extended_vanilla", "mlp", "peer", ["server"], 1, marks=pytest.mark.slow),
        pytest.param("multitask", "mlp", "server", ["server0"], 1, marks=pytest.mark.slow),
    ],
)
def test_clients_in_turns_train_as_the_whole_does_on_the_same_batches(configuration, model, handoff, listens, micros):
    problem, roles, records = problem_of(configuration, model)
    steps, who = 10, turns_of(roles, handoff)
    listens = [p for p in listens if p.startswith("server") or p.removeprefix("south ") in roles]
    agreed = agreed_for(problem, steps=steps, turns=who, listens=listens, microbatches=micros, checkpoint=4)
    results = checked(together(agreed.parties, work_of(problem, agreed, records)))
    state, mine, losses = expected(problem, roles, records, steps, handoff, micros)
    for p, result in results.items():
        role, client = agreed.turns.role[p], agreed.turns.client_of(p)
        if client is None or handoff != "none":  # in the end all clients have what the last has learned
            assert bits(result.state) == bits(state.parties[role]), p
        else:
            own = mine[agreed.turns.names[client]][role]._replace(step=jnp.int32(steps))
            assert bits(result.state) == bits(own), p
    if len(problem.topology.losses) == 1:
        at = problem.topology.losses[0].party
        if at in results:
            assert results[at].losses["loss"] == losses
        else:
            each = [results[agreed.turns.player(at, c)].losses["loss"] for c in range(3)]
            assert list(map(len, each)) == [agreed.turns.steps_of(c, steps) for c in range(3)]
            assert sorted(sum(each, [])) == sorted(losses)
