"""Several runs as an axis of the state are the runs one by one, and one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from tests.helpers import make_problem
from tests.oracles import difference

SEEDS, RATES = (0, 1, 0), (0.1, 0.1, 0.02)


def test_runs_along_an_axis_are_the_runs_one_by_one():
    problem = make_problem("vanilla", "mlp", "linen")
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    trainer = jsplit.fused(problem.topology, adam)
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    states = jax.vmap(trainer.init, in_axes=(0, None))(keys, problem.batch)
    states = jsplit.set_hyperparams(states, {"learning_rate": jnp.array(RATES)})
    traced = []

    def one(state):
        traced.append(1)
        return trainer.step(state, problem.batch)

    step = jax.jit(jax.vmap(one), donate_argnums=0)
    for _ in range(3):
        states, infos = step(states)
    for i, (seed, rate) in enumerate(zip(SEEDS, RATES, strict=True)):
        state = jsplit.set_hyperparams(
            trainer.init(seed, problem.batch), {"learning_rate": rate}
        )
        for _ in range(3):
            state, info = trainer.step(state, problem.batch)
        assert abs(info.loss - infos.loss[i]) < 1e-5
        for party, own in state.parties.items():
            found = jax.tree.map(lambda x, i=i: x[i], states.parties[party])
            assert difference(found.params, own.params) < 1e-5
            assert int(found.step) == int(own.step) == 3
    assert len(traced) == 1
    assert np.ptp(np.asarray(infos.loss)) > 0
