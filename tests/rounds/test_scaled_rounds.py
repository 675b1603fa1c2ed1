"""A dynamic loss scale in rounds: it goes where memories of links go."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests.oracles import difference
from tests.rounds.common import after, batches_of, people, steps_of

DRAW = np.random.default_rng(0)
FIELDS = {
    "x": DRAW.normal(size=(12, 4)).astype(np.float32),
    "label": DRAW.normal(size=(12, 2)).astype(np.float32),
}
DYNAMIC = jsplit.DynamicScale(2.0**22, interval=3)
SIZES = [8, 4]


def scaled(scale: object = DYNAMIC, compute=jnp.float16):
    def part(name, inputs, shape):
        one = jsplit.segment(
            lambda w, h: jnp.tanh(h @ w),
            init=lambda *_: jnp.linspace(-0.5, 0.5, shape[0] * shape[1]).reshape(shape),
            inputs=inputs,
            name=name,
        )
        return jsplit.mixed_precision(one, compute)

    def error(y, label):
        return ((y - label) ** 2).sum(-1)

    topology = jsplit.vanilla(
        part("h", ["x"], (4, 3)), part("y", ["h"], (3, 2)), loss=error
    )
    # One that only measures: a round evaluates by another trainer then.
    seen = jsplit.Loss("seen", error, "server", ["y", "label"], weight=0)
    topology = replace(topology, nodes=(*topology.nodes, seen))
    return jsplit.fused(topology, optax.sgd(0.1, momentum=0.9), loss_scale=scale)


def drawn(batch=4):
    return [people(SIZES).round(FIELDS, r, batch=batch) for r in range(3)]


def learned(state):
    return [p.params for p in state.parties.values()]


def scales(state):
    return {n: p.links["loss scale"].scale.tolist() for n, p in state.parties.items()}


def test_in_turns_the_scale_goes_from_client_to_client_as_with_one_trainer():
    trainer, rounds_ = scaled(), drawn()
    state, _ = after(rounds.take_turns(trainer, "client"), rounds_)
    batches = [b for r in rounds_ for b in batches_of(r, FIELDS)]
    alone = steps_of(trainer, batches, batches[0])
    assert scales(state) == scales(alone) and scales(alone)["client"] < 2.0**22
    assert difference(learned(state), learned(alone)) < 1e-6


@pytest.mark.parametrize("chunk", [1, 2])
def test_where_halves_are_averaged_each_client_keeps_its_scale(chunk):
    trainer, rounds_ = scaled(), drawn()
    algorithm = rounds.splitfed(trainer, "client", chunk=chunk)
    state, _ = after(algorithm, rounds_)
    found = scales(state)
    # The client with more steps is further down; the server has one for each.
    assert found["client"] == found["server"] and len({*found["client"]}) == 2
    losses = algorithm.evaluate(state, rounds_[0]).losses
    assert losses["seen"] == losses["loss"]


def test_clients_that_step_together_have_a_fixed_scale_alone():
    with pytest.raises(ValueError, match="`trainer` has a dynamic `loss_scale`"):
        rounds.parallel(scaled(), "client")
    found = []
    for scale in (None, 2.0**12):
        made = rounds.parallel(scaled(scale, jnp.float32), "client", bottoms="shared")
        found.append(learned(after(made, drawn())[0]))
    assert difference(*found) == 0
