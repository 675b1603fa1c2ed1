"""What is averaged over clients, and what stays each client's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit import rounds
from jsplit.rounds import averages
from tests.helpers import cross_entropy, make_problem
from tests.oracles import difference, momentum, optimizers
from tests.rounds.common import (
    KERNELS,
    after,
    batches_of,
    far,
    first,
    people,
    steps_of,
)


def test_averages_are_weighted_means():
    """One step takes each client's only parameter to the mean of its records; the
    average of 1 and 3 is 2, not 0.75.
    """
    segment = jsplit.Segment(
        lambda key, x: ({"w": jnp.zeros(())}, {}),
        lambda p, s, k, x, train=True: (p["w"] - x, s),
        ("x",),
        "gap",
    )
    half = jsplit.Loss("loss", lambda gap: jnp.square(gap) / 2, "client", ["gap"])
    trainer = jsplit.fused(
        jsplit.Topology(
            [jsplit.Node("gap", segment, "client"), half], {"client": ["x"]}
        ),
        optax.sgd(1.0),
    )
    for values, sizes, expected in (
        ([1, 3], [1, 1], 2),
        ([1, 3, 3, 3], [1, 3], 2.5),
        ([1, 1, 3, 5, 5, 5], [2, 1, 3], 20 / 6),
    ):
        fields = {"x": np.array(values, np.float32)}
        for chunk in (None, 1, 2):
            state, _ = after(
                rounds.fedavg(trainer, chunk=chunk),
                [people(sizes).round(fields, 0, batch=None)],
            )
            assert (
                abs(float(state.parties["client"].params["gap"]["w"]) - expected) < 1e-6
            )


def test_splitfed_with_one_local_step_of_sgd_is_large_batch_sgd(mlp):
    problem, batch = mlp
    drawn = [people([5, 19, 1, 15]).round(batch, i, batch=None) for i in range(3)]
    trainer = jsplit.fused(problem.topology, optimizers(problem.topology, optax.sgd))
    one, _ = after(rounds.splitfed(trainer, "client", version=1), drawn)
    other, _ = after(rounds.large_batch_sgd(trainer), drawn)
    assert far(one, other) < 1e-5


@pytest.mark.parametrize("kernels", KERNELS)
def test_fedavg_with_one_client_is_local_training(kernels):
    problem = make_problem("vanilla", "cnn", "linen", batch=24)
    drawn = people([24]).round(problem.batch, 0, batch=8)
    trainer = jsplit.fused(problem.topology, momentum(0.1), kernels=kernels)
    state, _ = after(rounds.fedavg(trainer), [drawn])
    assert (
        far(
            state,
            steps_of(trainer, batches_of(drawn, problem.batch), first(problem.batch)),
        )
        < 1e-5
    )


def test_splitfed_1_is_fedavg_and_its_server_optimizer_of_rate_one_is_the_average(mlp):
    problem, batch = mlp
    drawn = [people([5, 19, 1, 15]).round(batch, i, batch=8) for i in range(2)]
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    plain, _ = after(rounds.fedavg(trainer), drawn)
    assert far(after(rounds.splitfed(trainer, "client"), drawn)[0], plain) == 0
    assert (
        far(after(rounds.fedavg(trainer, server=optax.sgd(1.0)), drawn)[0], plain)
        < 1e-6
    )
    heavy, _ = after(rounds.fedavg(trainer, server=optax.sgd(1.0, momentum=0.9)), drawn)
    assert far(heavy, plain) > 1e-3


def test_splitfed_2_trains_the_server_in_turn_and_averages_bottoms(mlp):
    problem, batch = mlp
    r = people([8, 24, 8]).round(batch, 0, batch=8)
    trainer = jsplit.fused(problem.topology, optimizers(problem.topology, optax.sgd))
    state, _ = after(rounds.splitfed(trainer, "client", version=2), [r])
    start = trainer.init(jax.random.key(1), first(batch))
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731
    server, bottoms = copy(start.parties["server"]), []
    for k in range(3):
        now = jsplit.TrainState(
            {"client": copy(start.parties["client"]), "server": server}
        )
        for s in range(r.steps[k]):
            now, _ = trainer.step(now, {n: x[r.reads[k, s]] for n, x in batch.items()})
        server, bottoms = (
            now.parties["server"],
            [*bottoms, now.parties["client"].params],
        )
    mean = jax.tree.map(lambda a, b, c: (8 * a + 24 * b + 8 * c) / 40, *bottoms)
    assert difference(state.parties["server"].params, server.params) < 1e-5
    assert difference(state.parties["client"].params, mean) < 1e-5


def test_splitfed_3_shares_the_server_and_no_bottom(mlp):
    """A client that did not take part has the bottom it had; the server's average is
    that of version 1.
    """
    problem, batch = mlp
    pop = people([8, 24, 8])
    drawn = pop.round(batch, 0, batch=8, clients=2)
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    algorithm = rounds.splitfed(trainer, "client", version=3)
    start = algorithm.init(jax.random.key(1), drawn)
    before = jax.tree.map(jnp.copy, start.parties["client"].params)
    state, _ = algorithm.step(start, drawn)
    assert (
        difference(
            state.parties["server"].params,
            after(rounds.splitfed(trainer, "client"), [drawn])[0]
            .parties["server"]
            .params,
        )
        < 1e-6
    )
    (idle,) = {0, 1, 2} - set(drawn.client.tolist())
    moved = [
        difference(
            *(
                jax.tree.map(lambda x, k=k: x[k], t)
                for t in (before, state.parties["client"].params)
            )
        )
        > 1e-4
        for k in range(3)
    ]
    assert moved == [k != idle for k in range(3)]


@pytest.mark.parametrize("statistics", ["averaged", "own"])
def test_statistics_of_batchnorm_are_averaged_or_each_client_s_own(statistics):
    problem = make_problem("vanilla", "cnn", "nnx", batch=24)
    drawn = people([8, 16]).round(problem.batch, 0, batch=8)
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state, _ = after(rounds.fedavg(trainer, statistics=statistics), [drawn])
    each, _ = after(rounds.alone(trainer), [drawn])
    mean = jax.tree.map(
        lambda x: (8 * x[0] + 16 * x[1]) / 24, each.parties["client"].state
    )
    found, expected = (
        state.parties["client"].state,
        mean if statistics == "averaged" else each.parties["client"].state,
    )
    assert difference(found, expected) < 1e-5
    other, _ = after(rounds.large_batch_sgd(trainer, statistics=statistics), [drawn])
    shape = jax.tree.leaves(other.parties["client"].state)[0].shape
    assert (len(shape) == 2) == (statistics == "own")


@pytest.mark.parametrize("moments", ["fresh", "averaged", "own"])
def test_optimizer_states_are_fresh_averaged_or_each_client_s_own(mlp, moments):
    problem, batch = mlp
    drawn = [people([8, 32]).round(batch, i, batch=8) for i in range(2)]
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    state, _ = after(rounds.fedavg(trainer, moments=moments), drawn[:1])
    each, _ = after(rounds.alone(trainer), drawn[:1])
    trace, traces = (s.parties["server"].optimizer[0].trace for s in (state, each))
    if moments == "own":
        assert difference(trace, traces) < 1e-6
    if moments == "averaged":
        assert (
            difference(trace, jax.tree.map(lambda x: (x[0] + 4 * x[1]) / 5, traces))
            < 1e-5
        )
    if moments == "fresh":
        assert not any(np.any(x) for x in jax.tree.leaves(trace))


class Counted(nnx.Module):
    """Statistics with integers, booleans and a key among them, which have no mean."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones((3, 2)))
        self.seen = nnx.BatchStat(jnp.int32(0))
        self.any = nnx.BatchStat(jnp.array(False))

    def __call__(self, x):
        self.seen[...] = self.seen[...] + (x > 0).sum().astype("int32")
        self.any[...] = self.any[...] | (x > 2).any()
        return x @ self.weight[...]


def listed(drawn, order):
    """The same round with its clients listed in another order."""
    parts = {n: getattr(drawn, n)[order] for n in ("reads", "weight", "steps", "share")}
    return drawn._replace(**parts)


def arrays_of(state):
    plain = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(state)
    ]
    return [np.asarray(x) for x in plain]


@pytest.mark.parametrize(
    ("moments", "chunk"), [("fresh", 1), ("fresh", 2), ("averaged", 2), ("own", 1)]
)
def test_no_number_depends_on_the_order_in_which_clients_are_listed(moments, chunk):
    """Clients of unlike data take unlike many steps; what is each one's own lies
    where it lies in the list.
    """
    rng = np.random.default_rng(0)
    fields = {
        "x": rng.normal(size=(24, 3)).astype("float32"),
        "label": rng.integers(0, 2, 24).astype("int32"),
    }
    low = jsplit.segment(Counted(), inputs="x", name="smashed")
    high = jsplit.segment(
        lambda w, smashed: smashed @ w,
        init=lambda key, smashed: jnp.eye(2),
        inputs="smashed",
        name="output",
    )
    topology = jsplit.vanilla(low, high, loss=cross_entropy)
    rate = optax.exponential_decay(0.1, 1, 0.9)
    noisy = optax.chain(optax.adam(rate), optax.add_noise(0.0, 0.5, jax.random.key(3)))
    trainer = jsplit.fused(topology, {"client": optax.adam(rate), "server": noisy})
    drawn = [people([3, 14, 7]).round(fields, i, batch=2) for i in range(2)]
    make = {
        "splitfed 1": lambda: rounds.splitfed(
            trainer, "client", moments=moments, chunk=chunk
        ),
        "splitfed 3": lambda: rounds.splitfed(
            trainer, "client", version=3, moments=moments, chunk=chunk
        ),
    }
    if moments == "own":  # which these have no choice of: once is enough
        make["parallel"] = lambda: rounds.parallel(trainer, "client", bottoms="shared")
    orders = ([0, 1, 2], [1, 2, 0], [2, 0, 1])
    for algorithm in [f() for f in make.values()]:
        states = [after(algorithm, [listed(r, o) for r in drawn])[0] for o in orders]
        for order, state in zip(orders[1:], states[1:], strict=True):
            for party, own in state.parties.items():
                for part, found in own._asdict().items():
                    expected = getattr(states[0].parties[party], part)
                    rows = (party, part) in state.clients.own
                    pairs = zip(arrays_of(found), arrays_of(expected), strict=True)
                    for x, y in pairs:
                        y = y[order] if rows else y
                        assert x.dtype == y.dtype
                        if np.issubdtype(x.dtype, np.inexact):
                            assert np.allclose(x, y, rtol=2e-5, atol=1e-6)
                        else:
                            assert np.array_equal(x, y)


def test_of_integers_the_largest_is_taken_and_of_those_who_did_not_run_none():
    def combined(*trees, share):
        start = {"n": jnp.int32(7), "b": jnp.array(True), "x": jnp.float32(0.1)}
        many = jax.tree.map(lambda *x: jnp.stack(x), *trees)
        one = averages.zero_sums(start)
        for tree, s in zip(trees, share, strict=True):
            one = averages.add_clients(one, tree, jnp.float32(s), start)
        both = averages.add_clients(
            averages.zero_sums(start), many, jnp.float32(share), start
        )
        found = [
            averages.mean_of(x, jnp.float32(sum(share)), start) for x in (one, both)
        ]
        assert all(map(np.array_equal, *map(jax.tree.leaves, found)))
        return jax.tree.map(lambda x: x.item(), found[0])

    few = {"n": jnp.int32(2), "b": jnp.array(False), "x": jnp.float32(0.1)}
    more = {"n": jnp.int32(5), "b": jnp.array(True), "x": jnp.float32(0.1)}
    # A count may fall below what it started from; a number that nobody changed
    # keeps every bit.
    tenth = float(np.float32(0.1))
    assert combined(more, few, share=[1, 20]) == {"n": 5, "b": True, "x": tenth}
    assert combined(more, few, share=[0, 20]) == {"n": 2, "b": False, "x": tenth}
    assert combined(more, few, share=[0, 0]) == {"n": 7, "b": True, "x": tenth}


@pytest.mark.parametrize("moments", ["fresh", "averaged"])
def test_the_best_loss_so_far_begins_with_infinity_and_becomes_a_number(moments):
    problem = make_problem("vanilla", "mlp", "nnx", batch=40)
    optimizer = jsplit.with_loss(
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    )
    trainer = jsplit.fused(problem.topology, optimizer)
    algorithm = rounds.splitfed(trainer, "client", moments=moments)
    drawn = people([8, 12]).round(problem.batch, 0, batch=4)
    state, _ = after(algorithm, [drawn, drawn])
    leaves = jax.tree.leaves([p.optimizer for p in state.parties.values()])
    assert not any(np.isnan(x).any() for x in leaves)


@pytest.mark.parametrize("several", [False, True])
def test_a_client_of_share_0_may_have_anything(several):
    tree, share = {"w": jnp.full(3, jnp.nan)}, jnp.zeros(())
    before = {"w": jnp.ones(3)}
    if several:
        tree, share = (
            {"w": jnp.stack([tree["w"], 3 * jnp.ones(3)])},
            jnp.array([0.0, 2.0]),
        )
    sums = averages.add_clients(averages.zero_sums(before), tree, share, before)
    found = averages.mean_of(sums, share.sum(), before)
    assert np.array_equal(found["w"], [3.0] * 3 if several else [1.0] * 3)
