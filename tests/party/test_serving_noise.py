"""Secret noise of a serving party: none of it is shared by values that differ."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import optax

import jsplit
from jsplit import party
from jsplit.party.serving.course import Course
from jsplit.party.serving.served import Brought
from tests.party.federation import layer

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
BATCH = {"x": X, "label": np.zeros((2, 1), np.float32)}


def noisy(size):
    def encode(value, key):
        return value + size * jax.random.normal(key, value.shape)

    return jsplit.stateless(encode, lambda payload, like: payload, secret=True)


jsplit.compress.register("noise_of_who_serves", noisy, replace=True)


@cache
def trained():
    topology = jsplit.u_shaped(
        layer(["x"], "h"),
        layer(["h"], "b"),
        layer(["b"], "y", 1),
        loss=optax.squared_error,
    )
    trainer = jsplit.messages(topology, optax.sgd(0.1), links={"b": noisy(1)})
    state = trainer.init(0, BATCH)
    return topology, state, trainer.step(state, BATCH)[0]


def agreed_on(size):
    return party.agreement(
        trained()[0],
        BATCH,
        steps=4,
        addresses={"server": "server:1"},
        links={"b": f"noise_of_who_serves({size})"},
    )


def sent(x, size=1, state=None):
    """What the server sends of a call, and what it would send without noise."""
    topology, first, _ = trained()
    own = (first if state is None else state).parties["server"]
    brought = Brought(agreed_on(size), "server", topology, None, own, None, {})
    course = Course(brought.part("client", sequence=False), 2, 0)
    found = []
    course.start(len(x), {})
    course.arrive(0, [x])
    assert course.kin is None, "noise is drawn of one session's own words"
    assert course.advance(lambda place, arrays: found.extend(arrays))
    whole = topology.node["b"].segment.apply(
        own.params["b"], own.state["b"], None, x, train=False
    )[0]
    return found[0], np.asarray(whole)


def test_two_models_of_one_training_and_two_agreements_share_no_noise():
    """Of two answers with one noise the difference would be that of what is hidden."""
    _, first, later = trained()
    secrets = [s.parties["server"].secret for s in (first, later)]
    assert secrets[0] == secrets[1], "one training, one secret"
    noises = []
    for size, state in ((1, first), (1, later), (2, first)):
        got, whole = sent(X, size, state)
        noises.append((got - whole) / size)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(noises[one] - noises[other]).max() > 0.1


def test_the_same_question_is_sent_the_same_noise_and_another_one_other():
    got, _ = sent(X)
    np.testing.assert_array_equal(got, sent(X)[0])
    nearly, whole = sent(X + 1e-6)
    assert np.abs((nearly - whole) - (got - sent(X)[1])).max() > 0.1
