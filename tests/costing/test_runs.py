"""What is predicted of a whole run is what its steps and hand-offs send and compute."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import runs
from jsplit.core.trees import frame_bytes, nbytes
from tests.helpers import make_problem


def step_bytes(cost):
    return sum(m.bytes + m.frame for m in cost.messages)


def weights_of(cost, *parties):
    """Parameters, statistics and optimizer state of some parties as one message each."""
    return sum(
        nbytes(s) + frame_bytes(s) for p in parties for s in [cost.state.parties[p][:3]]
    )


@pytest.fixture(scope="module")
def vanilla():
    problem = make_problem("vanilla", "cnn", "nnx")
    return problem, jsplit.cost(
        problem.topology, problem.batch, optimizer=optax.adam(0.1)
    )


@pytest.fixture(scope="module")
def messages_of(vanilla):
    """The messages of a step, by the size of its batch.

    Of a step that is traced and not run: `test_cost` compares with those of one that is run.
    """
    problem, _ = vanilla
    trainer, found = jsplit.messages(problem.topology, optax.sgd(0.1)), {}

    def step(batch):
        state, info = trainer.step(trainer.init(0, batch), batch)
        found[len(batch["label"])] = info.messages
        return state

    for n in (8, 4, 3):
        jax.eval_shape(step, {f: x[:n] for f, x in problem.batch.items()})
    return found


@pytest.mark.parametrize(
    ("handoff", "moves"), [("none", 0), ("peer", 1), ("server", 2)]
)
def test_a_run_in_turns_sends_what_its_steps_and_hand_offs_send(
    vanilla, messages_of, handoff, moves
):
    """Walked through step by step, with every message counted at its sender and at its receiver."""
    _, cost = vanilla
    records, epochs = [20, 8, 3], 2
    run = runs.take_turns(
        cost, records, client="client", epochs=epochs, handoff=handoff
    )
    weights, sent, received, server = (
        weights_of(cost, "client"),
        [0] * 3,
        [0] * 3,
        [0, 0],
    )
    turns = [k for _ in range(epochs) for k in range(3)]
    for t, k in enumerate(turns):
        for size in [8] * (records[k] // 8) + [records[k] % 8] * (records[k] % 8 > 0):
            for m in messages_of[size]:
                ends = (sent, received) if m.sender == "client" else (received, sent)
                ends[0][k] += m.bytes + m.frame
                server[m.sender == "client"] += m.bytes + m.frame
        if t < len(turns) - 1 and moves:
            sent[k], received[turns[t + 1]] = (
                sent[k] + weights,
                received[turns[t + 1]] + weights,
            )
            server = [x + weights * (moves == 2) for x in server]
    assert [(c.sent, c.received) for c in run.clients] == list(
        zip(sent, received, strict=True)
    )
    assert list(run.server[1:]) == server
    assert [c.steps for c in run.clients] == [2 * 3, 2 * 1, 2 * 1]
    assert sum(c.weights for c in run.clients) == 2 * (moves > 0) * weights * (
        len(turns) - 1
    )


def test_the_work_of_a_run_grows_with_records_and_epochs(vanilla):
    _, cost = vanilla
    run = runs.take_turns(cost, [16, 8], client="client", epochs=3)
    one = cost.parties["client"].work()
    assert [c.work.macs for c in run.clients] == [6 * one.macs, 3 * one.macs]
    assert run.server[0].macs == 9 * cost.parties["server"].work().macs
    more = runs.take_turns(
        cost, [16, 8], client="client", epochs=3, backward="recompute"
    )
    assert (
        more.clients[0].work.macs > run.clients[0].work.macs
        and more.clients[0].memory < run.clients[0].memory
    )


def test_clients_together_cost_what_they_do_in_turns_and_what_their_shared_halves_cost(
    vanilla,
):
    """The gradient up and the weights down in every step where they are summed, twice
    the half in a round where averaged.
    """
    _, cost = vanilla
    records, own = [20, 8, 3], cost.state.parties["client"]
    turns = runs.take_turns(cost, records, client="client", epochs=6, handoff="none")
    for run, size, times in (
        (runs.parallel(cost, records, client="client", epochs=6), 0, [0, 0, 0]),
        (
            runs.parallel(cost, records, client="client", epochs=6, bottoms="shared"),
            [own.params],
            [18, 6, 6],
        ),
        (
            runs.splitfed(cost, records, client="client", rounds=3, epochs=2),
            [own.params, own.state],
            [3, 3, 3],
        ),
        (
            runs.splitfed(
                cost, records, client="client", rounds=3, epochs=2, version=2
            ),
            [own.params, own.state],
            [3, 3, 3],
        ),
        (
            runs.splitfed(
                cost, records, client="client", rounds=3, epochs=2, version=3
            ),
            0,
            [0, 0, 0],
        ),
    ):
        size = nbytes(size) + frame_bytes(size) if size else 0
        more = [
            (b.sent - a.sent, b.received - a.received, b.weights)
            for a, b in zip(turns.clients, run.clients, strict=True)
        ]
        assert more == [(size * n, size * n, 2 * size * n) for n in times]
        assert [x[:3] + x[6:] for x in run.clients] == [
            x[:3] + x[6:] for x in turns.clients
        ]
        assert run.server == (
            turns.server[0],
            *(x + size * sum(times) for x in turns.server[1:]),
        )


def test_federated_averaging_moves_the_whole_model_twice_a_round(vanilla):
    _, cost = vanilla
    model = [(p.params, p.state) for p in cost.state.parties.values()]
    run = runs.fedavg(cost, [16, 5], rounds=3, epochs=2)
    size = nbytes(model) + frame_bytes(model)
    assert [(c.sent, c.received, c.weights) for c in run.clients] == [
        (3 * size, 3 * size, 6 * size)
    ] * 2
    assert run.server[1:] == (6 * size, 6 * size)
    assert run.clients[0].work.macs == 3 * 2 * 2 * cost.total.work().macs
    assert [c.steps for c in run.clients] == [12, 6]


def test_large_batch_sgd_moves_the_gradient_and_the_weights_in_every_step(vanilla):
    _, cost = vanilla
    gradient = [p.params for p in cost.state.parties.values()]
    run = runs.large_batch_sgd(cost, [16, 5], epochs=2)
    size = nbytes(gradient) + frame_bytes(gradient)
    assert [(c.steps, c.sent, c.received) for c in run.clients] == [
        (4, 4 * size, 4 * size),
        (2, 2 * size, 2 * size),
    ]


def test_who_sends_less_changes_where_the_formula_says():
    """Singh et al. 2019: without hand-off, 2 p q / K against 2 N; with it, eta N more
    for each move.
    """
    problem = make_problem("vanilla", "mlp", "nnx")
    cost = jsplit.cost(problem.topology, problem.batch)
    q = (
        2 * 8 * 4 + 2 * (96 + 8 + 16) / 8
    )  # bytes of one record's activation and cotangent, with a share of two frames
    model = [(p.params, p.state) for p in cost.state.parties.values()]
    n = 2 * (nbytes(model) + frame_bytes(model))
    for p, k in ((8 * 64, 8), (8 * 64, 64)):
        split = runs.take_turns(
            cost, [p // k] * k, client="client", handoff="none"
        ).mean["bytes"]
        assert (
            split == pytest.approx(p / k * q)
            and runs.fedavg(cost, [p // k] * k).mean["bytes"] == n
        )
    assert p / 8 * q > n > p / 64 * q  # the regimes lie on either side


def test_sites_of_several_parties_are_one_client():
    problem = make_problem("vertical", "mlp", "nnx")
    cost = jsplit.cost(problem.topology, problem.batch)
    run = runs.take_turns(cost, [8, 8], client=["lab", "clinic"])
    site = cost.parties["lab"].work() + cost.parties["clinic"].work()
    assert (
        run.clients[0].work == site
        and run.server[0].macs == 2 * cost.parties["server"].work().macs
    )
    assert run.clients[0].weights == weights_of(cost, "lab", "clinic")


def test_runs_are_tables_and_json(vanilla):
    _, cost = vanilla
    found = [
        runs.take_turns(cost, [8, 3], client="client"),
        runs.fedavg(cost, [8, 3], rounds=2),
    ]
    assert runs.table(found).splitlines()[1].startswith("split learning, hand-off peer")
    assert str(found[1]).splitlines()[1].startswith("federated averaging, 2 rounds")
    assert (
        json.loads(found[0].to_json())["clients"][0]["sent"] == found[0].clients[0].sent
    )


def test_wrong_runs_are_refused(vanilla):
    _, cost = vanilla
    wrong = {
        "`client` names the party `clinet`, which is not one of client, server": {
            "client": "clinet"
        },
        "`handoff` must be one of peer, server, none, got 'mail'": {
            "client": "client",
            "handoff": "mail",
        },
        "`epochs` must be a positive integer, got 0": {"client": "client", "epochs": 0},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            runs.take_turns(cost, [8], **options)
    with pytest.raises(
        ValueError, match="`bottoms` must be one of own, shared, got 'both'"
    ):
        runs.parallel(cost, [8], client="client", bottoms="both")
    with pytest.raises(ValueError, match="`version` must be one of 1, 2, 3, got 4"):
        runs.splitfed(cost, [8], client="client", version=4)
    for records in ([], [8, 0], [8.5], ["8"], 8, "88"):
        with pytest.raises(
            ValueError,
            match="`records` must list a positive integer for every client, got",
        ):
            runs.fedavg(cost, records)
    for client in ([], 3, ["client", "client"]):
        with pytest.raises(
            ValueError, match="`client` must be a party or several different ones, got"
        ):
            runs.take_turns(cost, [8], client=client)
    with pytest.raises(
        ValueError, match="`rounds` must be a positive integer, got 1.5"
    ):
        runs.fedavg(cost, [8], rounds=1.5)
    for call in (
        lambda: runs.fedavg(cost, [8], backward="x"),
        lambda: cost.figure("x"),
        lambda: cost.total.work("x"),
    ):
        with pytest.raises(
            ValueError, match='`backward` must be "residuals" or "recompute", got \'x\''
        ):
            call()
    problem = make_problem("vanilla", "mlp", "nnx")
    halves = jsplit.cost(problem.topology, problem.batch, microbatches=2)
    with pytest.raises(
        ValueError,
        match="`records` of 9 leave a last step of 1: `microbatches` is 2, which does not divide",
    ):
        runs.fedavg(halves, [9])


def test_records_may_be_any_integers(vanilla):
    _, cost = vanilla
    run = runs.fedavg(cost, np.array([8, 3]), rounds=np.int64(2))
    assert (
        run == runs.fedavg(cost, [8, 3], rounds=2)
        and json.loads(run.to_json())["clients"][0]["records"] == 8
    )
