"""Clients that train in turn are one client with the same batches."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit import rounds
from tests.helpers import CONFIGURATIONS, FLAX, make_problem, some
from tests.oracles import adam, difference, momentum, optimizers, reference
from tests.rounds.common import (
    CLIENTS,
    KERNELS,
    after,
    batches_of,
    far,
    first,
    people,
    steps_of,
    trees_of,
)

EVERY = [
    (c, "cnn", FLAX[i % 2], KERNELS[i // 2 % 2]) for i, c in enumerate(CONFIGURATIONS)
]
EVERY += some(
    product(CONFIGURATIONS, ("residual", "transformer"), FLAX, KERNELS[:1]),
    lambda i: False,
)


@pytest.mark.parametrize(("configuration", "kind", "flax", "kernels"), EVERY)
def test_turns_with_hand_off_are_the_whole_model_on_the_same_batches(
    configuration, kind, flax, kernels
):
    """Parameters, statistics and optimizer states go from client to client, as if there
    were one (Gupta and Raskar).
    """
    problem = make_problem(configuration, kind, flax, batch=24)
    drawn = [
        people([8, 4, 12], seed=3).round(problem.batch, i, batch=4) for i in range(2)
    ]
    trainer = jsplit.fused(
        problem.topology, optimizers(problem.topology, momentum), kernels=kernels
    )
    state, _ = after(rounds.take_turns(trainer, CLIENTS[configuration]), drawn)
    params, statistics, _ = reference(
        problem, momentum, [b for r in drawn for b in batches_of(r, problem.batch)]
    )
    found = trees_of(state)
    assert (
        difference(found[0], params) < 1e-5 and difference(found[1], statistics) < 1e-5
    )


@pytest.mark.parametrize("handoff", ["peer", "server"])
def test_turns_hold_in_double_precision_with_adam(handoff):
    with jax.enable_x64(True):
        problem = make_problem("vanilla", "cnn", "nnx", batch=24)
        drawn = [people([8, 4, 12]).round(problem.batch, i, batch=4) for i in range(2)]
        trainer = jsplit.messages(problem.topology, optimizers(problem.topology, adam))
        state, _ = after(rounds.take_turns(trainer, "client", handoff=handoff), drawn)
        params, statistics, _ = reference(
            problem, adam, [b for r in drawn for b in batches_of(r, problem.batch)]
        )
        assert max(map(difference, trees_of(state), (params, statistics))) < 1e-9


@pytest.mark.parametrize("kernels", KERNELS)
def test_turns_of_ragged_clients_train_on_every_record_and_on_nothing_else(
    mlp, kernels
):
    problem, batch = mlp
    drawn = [
        people([5, 19, 1, 15]).round(batch, i, batch=8, epochs=2) for i in range(2)
    ]
    assert all(
        sorted(
            np.concatenate(
                [b["label"] for b in batches_of(r, {"label": np.arange(40)})]
            )
        )
        == sorted([*range(40)] * 2)
        for r in drawn
    )
    trainer = jsplit.fused(problem.topology, momentum(0.1), kernels=kernels)
    expected = steps_of(
        trainer, [b for r in drawn for b in batches_of(r, batch)], first(batch)
    )
    state, _ = after(rounds.take_turns(trainer, "client"), drawn)
    assert far(state, expected) < 1e-5
    assert int(state.parties["client"].step) == 2 * int(drawn[0].steps.sum())


def test_without_hand_off_each_client_has_a_bottom_of_its_own(mlp):
    """As trained by hand: the client's state is put away after its turn, the server goes on."""
    problem, batch = mlp
    drawn = [people([8, 16, 16]).round(batch, i, batch=8) for i in range(3)]
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    state, _ = after(rounds.take_turns(trainer, "client", handoff="none"), drawn)
    now = trainer.init(jax.random.key(1), first(batch))
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731
    own = {k: copy(now.parties["client"]) for k in range(3)}
    for r in drawn:
        for k in range(3):
            here = own[k]._replace(step=now.parties["server"].step)
            now = jsplit.TrainState(
                {"client": copy(here), "server": now.parties["server"]}
            )
            for s in range(r.steps[k]):
                now, _ = trainer.step(
                    now, {n: x[r.reads[k, s]] for n, x in batch.items()}
                )
            own[k] = copy(now.parties["client"])
    assert (
        difference(state.parties["server"].params, now.parties["server"].params) < 1e-5
    )
    for k in range(3):
        mine = jax.tree.map(lambda x, k=k: x[k], state.parties["client"].params)
        assert difference(mine, own[k].params) < 1e-5


def test_examples_may_have_any_weights(mlp):
    problem, batch = mlp
    drawn = people([40]).round(batch, 0, batch=8)
    drawn = drawn._replace(
        weight=np.random.default_rng(0)
        .uniform(0.5, 2, drawn.weight.shape)
        .astype(np.float32)
    )
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    state, _ = after(rounds.take_turns(trainer, "client"), [drawn])
    expected = trainer.init(jax.random.key(1), first(batch))
    for rows, weight in zip(drawn.reads[0], drawn.weight[0], strict=True):
        expected, _ = trainer.step(
            expected, {n: x[rows] for n, x in batch.items()}, weight
        )
    assert far(state, expected) < 1e-6
