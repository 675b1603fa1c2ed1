"""Tokens count over clients as they do in one batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import population, rounds
from tests.training.common import close
from tests.training.test_entry_weights import (
    BATCH,
    MASK,
    PER_TOKEN,
    masked,
    params_of,
    topology,
)

TRAINER = jsplit.fused(topology(PER_TOKEN), optax.sgd(1.0))
PEOPLE = population.Population((np.array([0, 3]), np.array([1, 2])), ("a", "b"))
DRAWN = PEOPLE.round(BATCH, 0, batch=2)


def test_a_large_batch_of_clients_is_the_mean_of_all_their_tokens():
    drawn = DRAWN.counting(MASK)
    assert drawn.weight.shape == (2, 1, 2, 6)
    # Who has more tokens counts more where clients are averaged.
    assert drawn.share.tolist() == [MASK[[0, 3]].sum(), MASK[[1, 2]].sum()]
    algorithm = rounds.large_batch_sgd(TRAINER)
    state = algorithm.init(0, drawn)
    start = params_of(TRAINER.init(0, BATCH))
    value, gradient = jax.value_and_grad(masked)(start, BATCH, MASK)
    close(algorithm.evaluate(state, drawn).loss, value, 1e-5)
    before = algorithm.predict(state, {"tokens": BATCH["tokens"]})["logits"]
    state, info = algorithm.step(state, drawn)
    close(info.loss, value, 1e-5)
    after = algorithm.predict(state, {"tokens": BATCH["tokens"]})["logits"]
    moved = jax.tree.map(lambda p, g: p - g, start, gradient)
    close(after, jnp.tanh(moved["smashed"][BATCH["tokens"]]) @ moved["logits"], 1e-5)
    assert np.abs(np.asarray(after - before)).max() > 1e-3


@pytest.mark.parametrize("make", [rounds.take_turns, rounds.splitfed])
def test_of_one_client_a_step_is_that_of_its_tokens(make):
    drawn = PEOPLE.pooled().round(BATCH, 0, batch=4).counting(MASK)
    algorithm = make(TRAINER, "client")
    state = algorithm.init(0, drawn)
    _, info = algorithm.step(state, drawn)
    start = params_of(TRAINER.init(0, BATCH))
    close(info.loss, masked(start, BATCH, MASK), 1e-5)


def test_counts_that_do_not_fit_are_refused():
    twice = DRAWN.counting(MASK).counting(np.array([1, 1, 0, 1]))
    np.testing.assert_array_equal(
        twice.weight, DRAWN.counting(MASK * [[1], [1], [0], [1]]).weight
    )
    with pytest.raises(ValueError, match=r"has \[5\] entries .* weights of \[6\]"):
        DRAWN.counting(MASK).counting(MASK[:, :5])
