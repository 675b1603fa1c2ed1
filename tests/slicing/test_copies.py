"""A frozen weight that several parties read is copied to each, if the user says so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit

tokens = np.arange(12, dtype="int32").reshape(2, 6) % 9
batch = {"tokens": tokens, "label": tokens[:, 0]}


def model(p, tokens):
    h = jsplit.cut(jnp.tanh(p["table"][tokens] @ p["low"]), "h")
    return (jnp.tanh(h @ p["high"]) @ p["table"].T).mean(1)


def init(key, *inputs):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"table": (9, 4), "low": (4, 4), "high": (4, 4)}
    return {
        n: jax.random.normal(k, s)
        for k, (n, s) in zip(keys, shapes.items(), strict=True)
    }


def loss(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def parts(**options):
    return jsplit.split(model, tokens, init=init, **options)


def trained(topology, steps=3):
    trainer = jsplit.fused(topology, optax.adam(0.1))
    state = trainer.init(0, batch)
    for _ in range(steps):
        state, _ = trainer.step(state, batch)
    return trainer, state


FROZEN = {"trainable": ["low", "high"]}


def test_two_parties_with_copies_train_as_the_whole_with_a_frozen_weight():
    split = parts(**FROZEN, copies=True)
    assert not split["h"].tied and not split["output"].tied
    _, state = trained(jsplit.vanilla(*split.values(), loss=loss))
    for party, node in (("client", "h"), ("server", "output")):
        own = state.parties[party]
        table = own.params[node]["table"]
        np.testing.assert_array_equal(table, init(None)["table"])
        # Adam's moments: of what is trained alone.
        assert sum(x.shape == (4, 4) for x in jax.tree.leaves(own.optimizer)) == 2
    whole = jsplit.segment(model, init=init, inputs=["tokens"], **FROZEN)
    _, other = trained(jsplit.whole(whole, batch, loss=loss))
    ours, theirs = jsplit.variables(state)[0], jsplit.variables(other)[0]
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_weights_of_copies_load_again_and_are_one_model():
    trainer, state = trained(
        jsplit.vanilla(*parts(**FROZEN, copies=True).values(), loss=loss)
    )
    params, statistics = jsplit.variables(state)
    params = params | {"table": 2 * params["table"]}
    new = jsplit.load_variables(trainer.init(1, batch), params, statistics)
    for own, node in zip(new.parties.values(), ("h", "output"), strict=True):
        np.testing.assert_array_equal(own.params[node]["table"], params["table"])
    merged = jsplit.variables(new)[0]
    assert merged.keys() == params.keys()


def test_a_frozen_tied_weight_is_refused_across_parties_with_what_to_do():
    with pytest.raises(
        ValueError, match=r"freeze it, .*`jsplit.split\(.*copies=True\)`"
    ):
        jsplit.vanilla(*parts(**FROZEN).values(), loss=loss)


def test_copies_are_of_frozen_weights_alone():
    with pytest.raises(
        ValueError, match="`copies` is for frozen weights, .*`trainable`"
    ):
        parts(copies=True)
    assert [t.dotted for t in parts(trainable="table", copies=True)["output"].tied] == [
        "table"
    ]


class Table(nnx.Variable):
    """Frozen, since it is no parameter."""


class Frozen(nnx.Module):
    def __init__(self, rngs):
        self.table = Table(jax.random.normal(rngs.params(), (9, 4)))
        self.low, self.high = (nnx.Linear(4, 4, rngs=rngs) for _ in range(2))

    def __call__(self, tokens):
        h = jsplit.cut(jnp.tanh(self.low(self.table[...][tokens])), "h")
        return (jnp.tanh(self.high(h)) @ self.table[...].T).mean(1)


def test_a_variable_that_no_call_changes_is_copied_too():
    whole = Frozen(nnx.Rngs(0))
    with pytest.raises(ValueError, match="`table` is tied across a cut.*`copies=True`"):
        jsplit.split(whole, tokens)
    split = jsplit.split(whole, tokens, copies=True)
    topology = jsplit.vanilla(*split.values(), loss=loss)
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(0, batch)
    output = trainer.predict(state, {"tokens": tokens})["output"]
    np.testing.assert_allclose(output, whole(tokens), rtol=1e-5, atol=1e-6)
    assert jsplit.variables(state)[1]["table"].shape == (9, 4)
