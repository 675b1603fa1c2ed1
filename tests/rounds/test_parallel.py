"""Clients that step together are one large batch, or follow the mean's gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests.helpers import CONFIGURATIONS, cross_entropy, make_problem, some
from tests.oracles import adam, difference, momentum, optimizers
from tests.rounds.common import (
    CLIENTS,
    FEEDBACK,
    KERNELS,
    after,
    far,
    first,
    people,
    steps_of,
)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_parallel_with_shared_bottoms_is_one_large_batch(configuration):
    problem = make_problem(
        configuration,
        "transformer" if configuration == "u_shaped" else "mlp",
        "nnx",
        batch=24,
    )
    if (
        configuration == "u_shaped"
    ):  # dropout draws for each client, so there is none here
        problem = make_problem(configuration, "mlp", "linen", batch=24)
    drawn = people([8, 8, 8]).round(problem.batch, 0, batch=4)
    trainer = jsplit.fused(problem.topology, optimizers(problem.topology, momentum))
    state, info = after(
        rounds.parallel(trainer, CLIENTS[configuration], bottoms="shared"), [drawn] * 2
    )
    large = [
        {n: x[drawn.reads[:, s].reshape(-1)] for n, x in problem.batch.items()}
        for s in range(2)
    ] * 2
    assert far(state, steps_of(trainer, large, first(problem.batch))) < 1e-5


@pytest.mark.parametrize(
    "make",
    [lambda t: rounds.parallel(t, "client", bottoms="shared"), rounds.large_batch_sgd],
)
def test_of_ragged_clients_the_large_batch_is_what_they_have(mlp, make):
    problem, batch = mlp
    drawn = people([5, 19, 1, 15]).round(batch, 0, batch=8)
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    state, info = after(make(trainer), [drawn] * 2)
    large = []
    for s in range(drawn.steps.max()):
        real = (drawn.weight[:, s] > 0) & (s < drawn.steps)[:, None]
        large.append({n: x[drawn.reads[:, s][real]] for n, x in batch.items()})
    assert far(state, steps_of(trainer, large * 2, first(batch))) < 1e-5
    assert list(info.examples) == [5, 19, 1, 15]


def test_global_batches_are_those_of_training_in_one_place(mlp):
    """GPSL: the batches are of one size however the records fall on clients, and each
    record comes once.
    """
    problem, batch = mlp
    drawn = people([5, 19, 1, 15]).global_batches(batch, 0, batch=16)
    assert drawn.weight.sum((0, 2)).tolist() == [16, 16, 8]
    assert sorted(drawn.reads[drawn.weight > 0]) == [*range(40)]
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    state, _ = after(rounds.parallel(trainer, "client", bottoms="shared"), [drawn])
    large = [
        {n: x[drawn.reads[:, s][drawn.weight[:, s] > 0]] for n, x in batch.items()}
        for s in range(3)
    ]
    assert far(state, steps_of(trainer, large, first(batch))) < 1e-5


def test_parallel_with_own_bottoms_follows_the_gradient_of_the_mean_over_all_examples(
    mlp,
):
    problem, batch = mlp
    low, high = problem.topology.segments
    drawn = people([8, 24, 8]).round(batch, 0, batch=None)
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    algorithm = rounds.parallel(trainer, "client")
    start, (state, _) = (
        algorithm.init(jax.random.key(1), drawn),
        after(algorithm, [drawn]),
    )

    def loss(bottoms, top):
        found = []
        for k, n in enumerate([8, 24, 8]):
            here = drawn.reads[k, 0, :n]
            mine = jax.tree.map(lambda x, k=k: x[k], bottoms)
            h, _ = low.segment.apply(mine, {}, None, batch["image"][here], train=False)
            y, _ = high.segment.apply(top, {}, None, h, train=False)
            found.append(cross_entropy(y, batch["label"][here]))
        return jnp.concatenate(found).mean()

    parts = [
        start.parties[p].params[n.name] for p, n in (("client", low), ("server", high))
    ]
    grads = jax.grad(loss, (0, 1))(*parts)
    found = [
        state.parties[p].params[n.name] for p, n in (("client", low), ("server", high))
    ]
    assert (
        difference(found, jax.tree.map(lambda p, g: p - 0.1 * g, parts, list(grads)))
        < 1e-5
    )


def test_a_client_without_a_batch_left_takes_no_step(mlp):
    problem, batch = mlp
    pop = people([8, 24, 8])
    trainer = jsplit.fused(problem.topology, adam(0.1))
    algorithm = rounds.parallel(trainer, "client")
    drawn = pop.round(batch, 0, batch=8)
    state, _ = after(algorithm, [drawn])
    counts = state.parties["client"].optimizer[0].count
    assert (
        counts.tolist() == [1, 3, 1]
        and int(state.parties["server"].optimizer[0].count) == 3
    )


def test_a_client_without_an_example_in_a_step_takes_none(mlp):
    problem, batch = mlp
    drawn = people([2, 38]).global_batches(batch, 0, batch=8)
    algorithm = rounds.parallel(
        jsplit.fused(problem.topology, optax.adam(0.01)), "client", bottoms="own"
    )
    state, _ = after(algorithm, [drawn])
    taken = (drawn.weight.sum(-1) > 0).sum(-1)
    assert (
        taken[0] <= 2
        and state.parties["client"].optimizer[0].count.tolist() == taken.tolist()
    )


TOGETHER = [
    ("u_shaped", "cnn", "own"),
    ("u_shaped", "cnn", "shared"),
    ("vanilla", "cnn", "own"),
]
TOGETHER += [
    ("vertical", "residual", "own"),
    ("vertical", "residual", "shared"),
    ("multihop", "transformer", "own"),
]


@pytest.mark.parametrize(
    ("configuration", "kind", "bottoms"),
    some(TOGETHER, lambda i: i == 0),
)
def test_clients_that_step_together_are_computed_alike_in_either_kernels(
    configuration, kind, bottoms
):
    """With dropout, BatchNorm and several edges over a cut; random links, some with
    memory; losses and penalties of clients' own; and clients that take fewer steps, or
    have fewer records in one, than others.
    """
    problem = make_problem(configuration, kind, "linen", batch=24)
    mine = CLIENTS[configuration]
    first = problem.topology.segments[0]
    decay = jsplit.Penalty(
        "decay",
        lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)),
        first.party,
        [f"{first.name}.params"],
        0.1,
    )
    topology = jsplit.Topology([*problem.topology.nodes, decay], problem.topology.holds)
    links = {
        c.name: jsplit.chain(FEEDBACK, jsplit.compress.quantize(4))
        for c in topology.crossings
    }
    drawn = [
        people([3, 12, 9], seed=2).round(problem.batch, i, batch=4, clients=2)
        for i in range(2)
    ]
    (one, told), (two, said) = (
        after(rounds.parallel(trainer, mine, bottoms=bottoms), drawn)
        for trainer in (
            jsplit.fused(
                topology, optimizers(topology, momentum), links=links, kernels=kernels
            )
            for kernels in KERNELS
        )
    )
    for p, own in one.parties.items():
        for x, y in zip(own[:4], two.parties[p][:4], strict=True):
            assert difference(jax.tree.leaves(x), jax.tree.leaves(y)) < 1e-5
    assert told.losses.keys() == said.losses.keys() and all(
        abs(told.losses[n] - said.losses[n]) < 1e-5 for n in told.losses
    )


@pytest.mark.parametrize("bottoms", ["own", "shared"])
def test_what_the_server_does_not_read_crosses_for_no_client(bottoms):
    """So a link with a memory has one of what crosses, as for one client."""

    def two(w, x):
        return {"a": x @ w, "b": 2 * (x @ w)}

    low = jsplit.segment(
        two, init=lambda key, x: jnp.ones((3, 2)), inputs="x", name="smashed"
    )
    high = jsplit.segment(
        lambda v, h: h["a"] @ v,
        init=lambda key, h: jnp.ones(2),
        inputs="smashed",
        name="y",
    )
    seen = []

    def encode(memory, value, key):
        seen.append(len(jax.tree.leaves(value)))
        return value, jax.tree.map(jnp.add, memory, value)

    link = jsplit.Link(
        lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
        encode,
        lambda payload, like: payload,
    )
    topology = jsplit.vanilla(low, high, loss=lambda y, label: (y - label) ** 2)
    trainer = jsplit.fused(topology, optax.sgd(0.01), links={"smashed": (link, None)})
    rng = np.random.default_rng(0)
    fields = {
        "x": rng.normal(size=(24, 3)).astype("float32"),
        "label": rng.normal(size=24).astype("float32"),
    }
    drawn = people([8, 8, 8]).round(fields, 0, batch=4)
    algorithm = jsplit.rounds.parallel(trainer, "client", bottoms=bottoms)
    _, info = algorithm.step(algorithm.init(0, drawn), drawn)
    assert np.isfinite(info.loss) and {*seen} == {1}
