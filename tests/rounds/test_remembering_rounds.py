"""Links that remember, in rounds of micro-batches and through a restart."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from jsplit.compress import cast, error_feedback, quantize, temporal_differences
from tests.rounds.common import people
from tests.training.test_receiver_memory import DATA, RECORDS, topology

WHO = people([8, 8, 8])
LINKS = {
    # Of float32 to float32: what crosses is all of the difference.
    "differences": temporal_differences(cast("float32"), rows="row", records=RECORDS),
    "feedback": error_feedback(
        quantize(3, stochastic=False), rows="row", records=RECORDS
    ),
}


@cache
def algorithm(link=None, microbatches=1):
    links = None if link is None else {"h": LINKS[link]}
    trainer = jsplit.fused(
        topology(), optax.sgd(0.3), links=links, microbatches=microbatches
    )
    return rounds.splitfed(trainer, "client")


def drawn(number):
    return WHO.round(DATA, number, batch=4)


def run(algorithm, state, numbers):
    for number in numbers:
        state, _ = algorithm.step(state, drawn(number))
    return state


def first(algorithm):
    return algorithm.init(jax.random.key(1), drawn(0))


def weights(state):
    return [x for p in state.parties.values() for x in jax.tree.leaves(p.params)]


def test_differences_of_micro_batches_of_many_clients_are_the_plain_rounds():
    plain = algorithm()
    wanted = run(plain, first(plain), range(3))
    one = algorithm("differences", 2)
    found = run(one, first(one), range(3))
    for a, b in zip(weights(found), weights(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    moved = zip(weights(wanted), weights(first(plain)), strict=True)
    assert max(float(abs(a - b).max()) for a, b in moved) > 0.01


@pytest.mark.parametrize("link", LINKS)
def test_rounds_go_on_from_a_file_with_what_links_remember(link, tmp_path):
    one = algorithm(link, 2 if link == "differences" else 1)
    state = run(one, first(one), range(2))
    jsplit.save(tmp_path, state)
    again = jsplit.restore(tmp_path, first(one))
    ends = [run(one, start, [2]) for start in (state, again)]
    # Without what is remembered the round is another.
    fresh = first(one).parties
    parties = {p: x._replace(links=fresh[p].links) for p, x in state.parties.items()}
    ends.append(run(one, state._replace(parties=parties), [2]))
    kept, found, forgot = (jax.tree.leaves(x.parties["client"].params) for x in ends)
    for a, b in zip(kept, found, strict=True):
        np.testing.assert_array_equal(a, b)
    if link == "feedback":
        assert any(abs(a - b).max() > 1e-6 for a, b in zip(kept, forgot, strict=True))
