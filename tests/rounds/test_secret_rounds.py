"""Secrets of many clients: each has its own, which no algorithm shares, averages or repeats."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests.training.common import refused
from tests.training.test_secret import SIGMA, echoed, noisy, pair, seen

ROWS = np.random.default_rng(0).normal(size=(128, 8)).astype(np.float32)
FIELDS = {"x": ROWS, "y": ROWS[:, :1]}
PEOPLE = jsplit.population.grouped(["north", "south"] * 64)
ALGORITHMS = {
    "alone": rounds.alone,
    "take_turns": lambda t: rounds.take_turns(t, "client"),
    "splitfed": lambda t: rounds.splitfed(t, "client"),
    "fedavg": rounds.fedavg,
    "parallel": lambda t: rounds.parallel(t, "client"),
    "large_batch_sgd": rounds.large_batch_sgd,
    "on_host": lambda t: rounds.on_host(rounds.alone(t)),
}
every = pytest.mark.parametrize("name", ALGORITHMS)


def trainer():
    """Of it the server keeps a mean: clients that step together are one batch to it."""
    links = {"smashed": (noisy(), noisy(0.01))}
    topology = pair(kept=lambda h: h.mean(0))
    return jsplit.fused(topology, optax.sgd(0.1), links=links)


def drawn(batch=32):
    return PEOPLE.round(FIELDS, 0, batch=batch)


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), a, b))


@every
def test_each_client_has_a_secret_of_its_own_that_rounds_leave_alone(name, tmp_path):
    algorithm = ALGORITHMS[name](trainer())
    state = algorithm.init(0, drawn())
    secrets = {p: x.secret for p, x in state.parties.items()}
    rows = [jax.random.key_data(s).tolist() for s in secrets.values()]
    assert len({tuple(r) for s in rows for r in s}) == 4
    after, _ = algorithm.step(state, drawn())
    for party, own in after.parties.items():
        assert (own.secret == secrets[party]).all()
        for number, client in enumerate(("north", "south")):
            alone = after.client(client).parties[party].secret
            assert alone == secrets[party][number]
    # A round that is replayed from a checkpoint repeats its bits.
    jsplit.save(tmp_path, state)
    other = algorithm.init(0, drawn())
    assert not same(algorithm.step(other, drawn())[0], after)
    back = jsplit.restore(tmp_path, other)
    assert same(algorithm.step(back, drawn())[0], after)


@every
def test_two_evaluations_draw_different_noise_unless_they_are_given_one_key(name):
    algorithm = ALGORITHMS[name](trainer())
    state = algorithm.init(0, drawn())
    losses = [float(algorithm.evaluate(state, drawn()).loss) for _ in range(2)]
    assert losses[0] != losses[1]
    key = jax.random.key(1)
    given = [
        float(algorithm.evaluate(state, drawn(), noise=key).loss) for _ in range(2)
    ]
    assert given[0] == given[1]
    outputs = [
        algorithm.predict(state, {"x": ROWS}, client="south", **options)["y_hat"]
        for options in ({}, {}, {"noise": key}, {"noise": key})
    ]
    assert (outputs[0] != outputs[1]).any() and (outputs[2] == outputs[3]).all()


def test_a_client_alone_draws_what_its_trainer_draws():
    one = trainer()
    algorithm = rounds.alone(one)
    round = drawn(batch=64)
    state = algorithm.init(0, round)
    after, _ = algorithm.step(state, round)
    for number in range(2):
        assert round.reads[number].shape == (1, 64)
        batch = {f: x[round.reads[number, 0]] for f, x in FIELDS.items()}
        mine = state.client(number)
        # Steps are numbered through the round, client after client.
        step = jnp.int32(number)
        parties = {p: x._replace(step=step) for p, x in mine.parties.items()}
        mine, _ = one.step(jsplit.TrainState(parties), batch)
        found = after.client(number)
        np.testing.assert_allclose(seen(found), seen(mine), atol=1e-6)


def test_batches_of_one_client_and_clients_of_one_round_draw_different_noise():
    noises = []
    topology = echoed(noises)
    made = jsplit.fused(topology, {}, links={"smashed": noisy()})
    algorithm = rounds.alone(made)
    ones = {"x": np.ones((128, 8), np.float32), "y": np.ones((128, 8), np.float32)}
    round = PEOPLE.round(ones, 0, batch=32)
    state = algorithm.init(0, round)
    info = algorithm.evaluate(state, round)
    everyone = noises[0].reshape(4, -1)
    alike = np.corrcoef(everyone) - np.eye(4)
    assert np.abs(alike).max() < 5 / np.sqrt(everyone.shape[1])
    # The metric reads the very values of which the losses are.
    np.testing.assert_allclose(info.loss, ((noises[0] - 1) ** 2).mean(), rtol=1e-5)
    assert abs(np.std(noises[0]) / SIGMA - 1) < 5 / np.sqrt(2 * everyone.size)


def test_clients_that_step_together_each_draw_from_their_own_secret():
    """The server sees of all the mean of what each client's trainer would have sent."""
    one = trainer()
    algorithm = rounds.parallel(one, "client")
    round = drawn(batch=64)
    state = algorithm.init(0, round)
    after, _ = algorithm.step(state, round)
    views = []
    for number in range(2):
        batch = {f: x[round.reads[number, 0]] for f, x in FIELDS.items()}
        views.append(seen(one.step(state.client(number), batch)[0]))
    np.testing.assert_allclose(seen(after), np.mean(views, axis=0), atol=1e-6)
    assert np.abs(views[0] - views[1]).max() > 1e-3


def test_an_evaluation_within_a_program_must_be_given_a_key():
    algorithm = rounds.alone(trainer())
    state = algorithm.init(0, drawn())
    refused(
        "`noise` must be given within jit, vmap or scan",
        lambda: jax.jit(lambda s: algorithm.evaluate(s, drawn()).loss)(state),
    )


def test_rounds_take_secrets_of_ones_own_one_for_each_client():
    algorithm = rounds.alone(trainer())
    keys = jax.random.split(jax.random.key(7), 4)
    given = {"client": keys[:2], "server": keys[2:]}
    states = [jsplit.with_secrets(algorithm.init(0, drawn()), given) for _ in range(2)]
    assert same(*(algorithm.step(s, drawn())[0] for s in states))
    twice = {"client": keys[jnp.array([0, 0])]}
    refused("two that are the same", lambda: jsplit.with_secrets(states[0], twice))
    refused(
        "must be key<fry>[2]",
        lambda: jsplit.with_secrets(states[0], {"client": keys[0]}),
    )
