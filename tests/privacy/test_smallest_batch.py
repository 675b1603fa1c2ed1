"""Below a number of records no cotangent is sent: refused by shape, zeros where weights are 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.privacy import marvell, smallest_batch
from tests.party.federation import agreed_for, small, train_in_memory
from tests.privacy.defended import (
    ALGORITHMS,
    BATCH,
    INTERPRETERS,
    PEOPLE,
    encode,
    equal,
    pair,
    parameters,
    trained,
    trainer,
)
from tests.training.common import refused

both = pytest.mark.parametrize("interpreter", INTERPRETERS)


@both
def test_a_batch_that_is_large_enough_is_the_plain_run_and_a_smaller_one_is_refused(
    interpreter,
):
    make = INTERPRETERS[interpreter]
    plain = parameters(trained(trainer(make)))
    for n in (1, 32):
        one = trainer(make, {"h": (None, smallest_batch(n))})
        assert equal(parameters(trained(one)), plain)
    few = trainer(make, {"h": (None, smallest_batch(33))})
    refused("refuses to send cotangents of a batch of 32", lambda: trained(few))


@both
def test_fewer_records_that_count_are_answered_by_zeros_and_enough_are_as_ever(
    interpreter,
):
    make = INTERPRETERS[interpreter]
    one = trainer(make, {"h": (None, smallest_batch(8))})
    state = one.init(0, BATCH)
    first = parameters(state)
    for count, learns in ((7, False), (8, True)):
        weight = (np.arange(32) < count).astype(np.float32)
        after, info = one.step(state, BATCH, weight=weight)
        assert equal(after.parties["client"].params, first["client"]) != learns
        assert np.isfinite(info.loss)
        # Who has the labels learns from them all the same.
        assert not equal(after.parties["server"].params, first["server"])


def test_a_record_counts_once_in_however_many_arrays_it_has_a_cotangent():
    some = (np.arange(8) < 4)[:, None] * np.ones((8, 2), np.float32)
    for value in ({"a": some, "b": some}, {"a": 0 * some, "b": some}):
        assert (encode(smallest_batch(4), value)["b"] == some).all()
        assert not encode(smallest_batch(5), value)["b"].any()


def test_micro_batches_are_what_is_sent_and_so_what_is_counted():
    one = jsplit.fused(
        pair(),
        optax.sgd(0.1),
        links={"h": (None, smallest_batch(17))},
        microbatches=2,
    )
    refused("a batch of 16", lambda: one.step(one.init(0, BATCH), BATCH))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_rounds_the_batch_of_a_client_is_counted(algorithm):
    drawn = PEOPLE.round(BATCH, 0, batch=8)

    def after(n):
        made = ALGORITHMS[algorithm](
            trainer(jsplit.fused, {"h": (None, smallest_batch(n))})
        )
        return made.step(made.init(0, drawn), drawn)

    after(8)
    refused("`smallest_batch(9)` refuses", lambda: after(9))


def test_over_the_network_an_agreement_on_fewer_records_is_refused():
    jsplit.compress.register("smallest_batch", smallest_batch, replace=True)
    problem = small("pair")
    agreed = agreed_for(problem, steps=2, links={"h": [None, "smallest_batch(8)"]})
    results = train_in_memory(agreed, problem)
    assert all(isinstance(r, party.Result) for r in results.values()), results
    # A party that would have to send says no before anything is sent, and so do all
    # who know what the link is.
    agreed = agreed_for(problem, steps=2, links={"h": [None, "smallest_batch(9)"]})
    for found in train_in_memory(agreed, problem).values():
        assert isinstance(found, ValueError)
        assert "refuses to send cotangents of a batch of 8" in str(found)


def test_a_nan_is_not_taken_for_nothing_and_noise_comes_after():
    g = jnp.zeros((4, 2)).at[0, 0].set(jnp.nan)
    assert jnp.isnan(encode(smallest_batch(1), g)).any()
    link = jsplit.chain(smallest_batch(2), marvell(1.0))
    few = jnp.zeros((4, 2)).at[0].set(1.0)
    own = {"label": jnp.array([0, 1, 0, 1]), "marvell_scale": jnp.float32(1)}
    sent, _ = link.encode(link.init(few), few, jax.random.key(0), own)
    assert (sent == 0).all()
    refused("`records` must be a positive integer", lambda: smallest_batch(0))
