"""Rounds of clients that have a tied weight: handed over, averaged and shared as one leaf."""

from __future__ import annotations

import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests import tied
from tests.oracles import difference
from tests.rounds.common import after, batches_of, far, first, people, steps_of

MOMENTUM = optax.sgd(0.1, momentum=0.9)


@pytest.fixture(scope="module")
def shaped():
    """The split trainer, the whole one, and a round of three clients with a batch each."""
    given = tied.data(24)
    model = tied.plain()
    made = tied.parts(model, given["tokens"][:8]).values()
    split = jsplit.fused(jsplit.u_shaped(*made, loss=tied.loss), MOMENTUM)
    topology = jsplit.whole(model, loss=tied.loss, party="client")
    whole = jsplit.fused(topology, MOMENTUM)
    return split, whole, given, people([8, 8, 8]).round(given, 0, batch=8)


def test_a_tied_weight_is_handed_over_as_the_whole_model_is(shaped):
    split, whole, given, drawn = shaped
    state, _ = after(rounds.take_turns(split, "client"), [drawn])
    expected = steps_of(whole, batches_of(drawn, given), first(given))
    assert far(state, expected) < 1e-5


def test_a_tied_weight_is_averaged_as_the_whole_model_is(shaped):
    """SplitFed averages the server's halves too, so it is FedAvg of the whole."""
    split, whole, given, drawn = shaped
    state, _ = after(rounds.splitfed(split, "client", version=1), [drawn])
    expected, _ = after(rounds.fedavg(whole), [drawn])
    assert far(state, expected) < 1e-5


def test_in_parallel_what_own_tied_weights_move_adds_up_to_what_a_shared_one_does(
    shaped,
):
    """After one step from one start: each client's gradient is of its own records."""
    split, _, given, drawn = shaped
    start = jsplit.variables(split.init(1, first(given)))[0]["embed"]["embedding"]

    def moved(bottoms, client):
        state, _ = after(rounds.parallel(split, "client", bottoms=bottoms), [drawn])
        if client is None:
            return jsplit.variables(state)[0]["embed"]["embedding"] - start
        of = [jsplit.variables(state, k)[0]["embed"]["embedding"] for k in client]
        return sum(own - start for own in of)

    shared = moved("shared", None)
    assert difference(moved("own", range(3)), shared) < 1e-5
    assert float(np.abs(shared).max()) > 1e-4
