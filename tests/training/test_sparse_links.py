"""Links that send few numbers of each record: which, how many bytes, and what is left out."""

from __future__ import annotations

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit.compress import randomized_top_k, top_k
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    optimizers,
    small,
    train_in_memory,
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

X = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)


def through(link, value, key=0, state=None):
    state = link.init(jax.typeof(value)) if state is None else state
    payload, state = link.encode(state, value, jax.random.key(key))
    return link.decode(payload, jax.typeof(value)), payload, state


@pytest.mark.parametrize("k", [1, 3, 19])
def test_the_largest_of_each_record_arrive_and_zeros_for_all_others(k):
    got, payload, _ = through(top_k(k), jnp.asarray(X))
    rows = X.reshape(6, -1)
    wanted = np.zeros_like(rows)
    for i, row in enumerate(rows):
        places = np.argsort(-np.abs(row))[:k]
        wanted[i, places] = row[places]
    assert (np.asarray(got).reshape(6, -1) == wanted).all()
    assert payload.values.shape == payload.places.shape == (6, k)


def test_what_is_no_longer_than_k_is_sent_as_it_is_and_so_are_integers():
    value = {"few": jnp.ones((6, 3)), "mask": jnp.ones((6, 9), bool), "none": None}
    link = top_k(3)
    like = jax.eval_shape(lambda: value)
    payload, _ = link.encode(link.init(like), value, jax.random.key(0))
    assert (payload["few"] == 1).all() and payload["mask"].dtype == bool
    for k in (20, 21):
        got, _, _ = through(top_k(k), jnp.asarray(X))
        assert (got == X).all()


@pytest.mark.parametrize("link", [top_k(2), randomized_top_k(2, 0.3)])
def test_a_nan_is_never_left_out(link):
    value = jnp.asarray(X).at[2, 1, 1].set(jnp.nan)
    got, _, _ = through(link, value)
    assert jnp.isnan(got[2, 1, 1]) and int(jnp.isnan(got).sum()) == 1


@pytest.mark.parametrize(
    ("numbers", "dtype"), [(256, "uint8"), (257, "uint16"), (70_000, "uint32")]
)
def test_places_are_as_narrow_as_they_can_be(numbers, dtype):
    value = jnp.zeros((1, numbers)).at[0, -1].set(1.0)
    got, payload, _ = through(top_k(1), value)
    assert payload.places.dtype == dtype and (got == value).all()


def test_randomized_draws_have_the_probabilities_of_the_paper():
    k, alpha, count = 2, 0.3, 20_000
    value = jnp.array([[5.0, 4.0, 0.3, 0.2, 0.1]])
    link = randomized_top_k(k, alpha)
    keys = jax.random.split(jax.random.key(0), count)
    got = jax.vmap(lambda key: link.encode((), value, key)[0].places)(keys)
    got = np.sort(np.asarray(got)[:, 0], axis=1)
    chance = np.array([(1 - alpha) / 2] * 2 + [alpha / 3] * 3)
    for a, b in [(0, 1), (0, 2), (2, 4)]:
        # One after the other, in either order.
        wanted = sum(
            chance[i] * chance[j] / (1 - chance[i]) for i, j in permutations((a, b))
        )
        assert abs((got == (a, b)).all(1).mean() - wanted) < 5 / np.sqrt(count)


def test_error_feedback_sends_what_was_left_out_and_loses_nothing():
    link = top_k(3, error_feedback=True)
    value, state, total = jnp.asarray(X), None, 0
    for step in range(12):
        got, _, state = through(link, value, step, state)
        total = total + got
    assert state is not None
    [rest] = state.rest
    np.testing.assert_allclose(total + rest, 12 * X, rtol=1e-4, atol=1e-4)
    # Of 20 numbers each has its turn; without it the same three are sent for ever.
    assert (np.asarray(total) != 0).mean() > 0.6
    refused(
        "batches must have one size",
        lambda: link.encode(state, value[:1], jax.random.key(0)),
    )


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize(
    "link",
    [
        top_k(5),
        randomized_top_k(5, 0.2),
        randomized_top_k(2, 0.0),
        top_k(2, error_feedback=True),
    ],
)
def test_bytes_are_as_costed_and_k_of_all_numbers_is_the_plain_run(interpreter, link):
    make = INTERPRETERS[interpreter]
    links = {"h": (link, link)}
    state = trained(trainer(make, links))
    plain = trained(trainer(make))
    whole = link.encode(
        link.init(jnp.ones((32, 5))), jnp.ones((32, 5)), jax.random.key(0)
    )
    whole = len(jax.tree.leaves(whole[0])) == 1
    assert equal(parameters(state), parameters(plain)) == whole
    found = jsplit.cost(pair(), BATCH, links=links).messages
    counted = [m.bytes for m in found if m.name == "h"]
    # Five numbers of four bytes, or two numbers of four bytes and their two places.
    assert counted == [32 * (20 if whole else 2 * (4 + 1))] * 2
    if interpreter == "messages":
        one = trainer(make, links)
        _, info = one.step(one.init(0, BATCH), BATCH)
        assert [m.bytes for m in info.messages if m.name == "h"] == counted


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rounds_run_with_it_and_a_memory_for_each_client(algorithm):
    drawn = PEOPLE.round(BATCH, 0, batch=16)
    links = {"h": (randomized_top_k(2), top_k(2, error_feedback=True))}
    made = ALGORITHMS[algorithm](trainer(jsplit.fused, links))
    state = made.init(0, drawn)
    after, info = made.step(state, drawn)
    assert np.isfinite(info.loss).all()
    assert not equal(parameters(after), parameters(state))


def test_an_agreement_can_name_it_and_over_the_network_it_is_the_run_in_one_process():
    problem = small("pair")
    links = {"h": ["randomized_top_k(2)", "top_k(1)"]}
    agreed = agreed_for(problem, steps=3, links=links)
    results = checked(train_in_memory(agreed, problem))
    made = {"h": (randomized_top_k(2), top_k(1))}
    one = jsplit.messages(problem.topology, optimizers(problem.topology), links=made)
    state = one.init(3, problem.batch)
    for _ in range(3):
        state, _ = one.step(state, problem.batch)
    for p, own in state.parties.items():
        assert bits(results[p].state) == bits(own), p


def test_what_is_no_number_of_places_is_refused():
    for bad in (0, -1, 2.5, True, "2"):
        refused("`k` must be a positive integer", lambda bad=bad: top_k(bad))
    for bad in (-0.1, 1.0, None, True, np.nan):
        refused("`alpha` must lie", lambda bad=bad: randomized_top_k(2, bad))
