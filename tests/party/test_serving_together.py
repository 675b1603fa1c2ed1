"""Sessions that wait at a server are computed in one run, and each is as if it were alone."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.serving import lanes, part, waiting
from jsplit.party.serving.waiting import WaitingRoom
from tests.party.federation import LONG
from tests.party.serving import Serving, summing
from tests.party.test_serving import lm

WIDTH, LENGTH = 4, 12


def attending():
    """A client that embeds tokens, and a server that looks back: a cache of keys, and a place."""
    table = jnp.asarray(np.random.default_rng(1).normal(size=(9, WIDTH)), "float32")

    def init(key, h):
        return jax.random.normal(key, (WIDTH, WIDTH))

    def looked_back(weights, keys, h, start):
        seen = jnp.arange(keys.shape[1]) <= start + jnp.arange(h.shape[1])[:, None]
        scores = jnp.einsum("btd,bsd->bts", h @ weights, keys)
        return jax.nn.softmax(jnp.where(seen, scores, -1e9)) @ keys + start

    def at_once(weights, h):
        places = jnp.arange(h.shape[1])[:, None]
        return looked_back(weights, h, h, 0) + places

    def start(params, state, h):
        return jnp.zeros(h.shape, h.dtype), jnp.int32(0)

    def apply(weights, state, held, h):
        keys, index = held
        keys = jax.lax.dynamic_update_slice(keys, h, (0, index, 0))
        places = jnp.arange(h.shape[1])[:, None]
        output = looked_back(weights, keys, h, index) + places
        return output, (keys, index + h.shape[1])

    embed = jsplit.segment(lambda tokens: table[tokens], inputs=["tokens"], name="h")
    server = jsplit.segment(at_once, init=init, inputs=["h"], name="y")
    server = jsplit.with_cache(server, jsplit.Cache(start, apply))
    return jsplit.vanilla(
        jsplit.with_cache(embed, False), server, loss=optax.squared_error
    )


TOKENS = np.random.default_rng(0).integers(0, 9, (6, LENGTH)).astype(np.int32)
BATCH = {"tokens": TOKENS[:2, :3], "label": np.zeros((2, 3, WIDTH), np.float32)}


@cache
def trained():
    topology = attending()
    trainer = jsplit.messages(topology, {"server": optax.sgd(0.1)})
    return topology, trainer, trainer.init(0, BATCH)


@cache
def alone(row, pieces):
    """What a sequence gives in one process, in these pieces."""
    _, trainer, state = trained()
    with jsplit.session(trainer, state, length=LENGTH) as session:
        return pieces_of(session, row, pieces)


def pieces_of(session, row, pieces):
    found, at = [], 0
    for count in pieces:
        found.append(session({"tokens": TOKENS[row : row + 1, at : at + count]}))
        at += count
    return np.concatenate(found, 1)


def serving(topology=None, state=None, **limits):
    topology = trained()[0] if topology is None else topology
    state = trained()[2] if state is None else state
    agreed = party.agreement(topology, BATCH, steps=4, addresses={"server": "server:1"})
    return Serving(agreed, topology, state.parties, names=["server"], server=limits)


@pytest.fixture
def runs(monkeypatch):
    """How many sessions each run had."""
    found, real = [], lanes.Lanes.run

    def run(self, place, at, given):
        found.append(len(at))
        return real(self, place, at, given)

    monkeypatch.setattr(lanes.Lanes, "run", run)
    return found


def at_once(sessions, work):
    """What some sessions give, each in a thread of its own."""
    found, failed = {}, []

    def one(i):
        try:
            found[i] = work(sessions[i], i)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(sessions))]
    [t.start() for t in threads]
    [t.join(LONG) for t in threads]
    assert not failed, failed
    return [found[i] for i in range(len(sessions))]


# Prompts of several lengths, and a long piece in the middle, which is computed alone.
PIECES = [(2, 1, 1, 1, 1), (4, 1, 1, 1), (3, 1, 2, 1, 1), (2, 1, 1), (5, 1, 1)]


@pytest.mark.parametrize("count", [2, 5])
def test_sessions_of_one_run_are_each_as_alone(count, runs):
    """To 1e-6 in float32, each at its own place in its own cache; of 5 some lanes are empty."""
    with serving(batch_wait=0.2) as server, server.ask(length=LENGTH) as first:
        sessions = [first, *(first.another() for _ in range(count - 1))]
        found = at_once(sessions, lambda s, i: pieces_of(s, i, PIECES[i]))
    for i, got in enumerate(found):
        np.testing.assert_allclose(got, alone(i, PIECES[i]), rtol=1e-6, atol=1e-6)
    assert max(runs) >= count - 1 and {s.begun for s in sessions} == {1}
