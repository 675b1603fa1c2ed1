"""Losses of a client's own, and gradients that are late."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests.helpers import cross_entropy
from tests.oracles import RATES, difference
from tests.rounds.common import after, people


def test_a_decoupled_client_learns_from_its_own_head_and_gets_nothing_back(mlp):
    problem, batch = mlp
    bottom, top = problem.topology.segments
    head = jsplit.segment(lambda h: 2.0 * h[:, :3], name="aux", inputs=["smashed"])
    topology = jsplit.decoupled(problem.topology, "smashed", head, loss=cross_entropy)
    assert [c.returns for c in topology.crossings] == [
        False
    ] and "label" in topology.holds["client"]
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    start = trainer.init(1, batch)
    low = jax.tree.map(jnp.copy, start.parties["client"].params["smashed"])
    state, info = trainer.step(start, batch)

    def local(low):
        h, _ = bottom.segment.apply(low, {}, None, batch["image"], train=False)
        return cross_entropy(2.0 * h[:, :3], batch["label"]).mean()

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, low, jax.grad(local)(low))
    assert difference(state.parties["client"].params["smashed"], expected) < 1e-5
    for make in (
        partial(rounds.take_turns, client="client"),
        partial(rounds.splitfed, client="client", version=1),
    ):
        pop = people([16, 24])
        state, info = after(
            make(trainer), [pop.round(batch, i, batch=8) for i in range(4)]
        )
        assert np.isfinite(info.loss) and info.each.keys() == {"loss", "smashed loss"}
    with pytest.raises(
        ValueError,
        match="`value` must be a value whose cotangent comes back, got 'output'; there are smashed",
    ):
        jsplit.decoupled(problem.topology, "output", head, loss=cross_entropy)
    with pytest.raises(ValueError, match="there are none"):
        jsplit.decoupled(topology, "smashed", head, loss=cross_entropy)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_stale_optimizer_applies_each_gradient_so_many_steps_later(steps):
    """Against delayed gradient descent written out: w[t + 1] = w[t] - rate *
    gradient(w[t - steps]).
    """
    gradient = jax.grad(lambda w: jnp.sum(jnp.cos(w) + w**2 / 3))
    path = [jnp.array([0.3, -1.2])]
    for t in range(12):
        path.append(path[t] - (0.2 * gradient(path[t - steps]) if t >= steps else 0))
    optimizer, w = jsplit.stale(optax.sgd(0.2), steps), path[0]
    memory = optimizer.init(w)
    for t in range(12):
        updates, memory = optimizer.update(gradient(w), memory, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, path[t + 1], rtol=1e-6)
    with pytest.raises(ValueError, match="`steps` must be a positive integer, got 0"):
        jsplit.stale(optax.sgd(0.2), 0)


def test_a_stale_server_trains_in_turns(mlp):
    problem, batch = mlp
    optimizer = {
        "client": optax.sgd(RATES[0]),
        "server": jsplit.stale(optax.adam(0.01), 2),
    }
    trainer = jsplit.fused(problem.topology, optimizer)
    drawn = [people([16, 24]).round(batch, i, batch=8) for i in range(4)]
    state, _ = after(rounds.take_turns(trainer, "client"), drawn)
    assert int(state.parties["server"].optimizer.inner[0].count) == 4 * 5 - 2
