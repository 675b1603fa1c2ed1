"""Every algorithm over rounds: however it runs, evaluated, interrupted, refused."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import population, rounds
from tests.helpers import cross_entropy, make_problem, some
from tests.oracles import difference, momentum
from tests.rounds.common import (
    ALGORITHMS,
    AT_ONCE,
    FEEDBACK,
    after,
    batches_of,
    far,
    first,
    people,
    steps_of,
)


@pytest.mark.parametrize("name", some(ALGORITHMS, lambda i: i % 2 == 0))
def test_however_it_is_computed_an_algorithm_gives_the_same_numbers(name):
    """One client at a time or two, round by round or many in one program, in either kernels."""
    problem = make_problem(
        "vanilla",
        "cnn" if name in ("turns, own bottoms", "splitfed 3") else "mlp",
        "nnx",
        batch=24,
    )
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    drawn = [
        people([3, 12, 9], seed=2).round(problem.batch, i, batch=4, clients=2)
        for i in range(2)
    ]
    options = [{}, *([{"chunk": 2}] if name in AT_ONCE else [])]
    states = [after(ALGORITHMS[name](trainer, **o), drawn)[0] for o in options]
    as_xla_does = jsplit.fused(problem.topology, momentum(0.1), kernels="xla")
    states.append(after(ALGORITHMS[name](as_xla_does), drawn)[0])
    algorithm = ALGORITHMS[name](trainer)
    many, infos = algorithm.run(algorithm.init(jax.random.key(1), drawn[0]), drawn)
    assert infos.loss.shape == (2,)
    for other in (*states[1:], many):
        for p, own in states[0].parties.items():
            for one, two in zip(own[:3], other.parties[p][:3], strict=True):
                assert difference(jax.tree.leaves(one), jax.tree.leaves(two)) < 1e-5


PEOPLE = people([5, 19, 1, 15])


@cache
def built(name):
    """An algorithm over a link with memory, compiled once for several tests; its data;
    a list that grows with every trace.
    """
    problem, traced = make_problem("vanilla", "mlp", "nnx", batch=40), []

    def loss(logits, label):
        traced.append(1)
        return cross_entropy(logits, label)

    counted = jsplit.Loss("loss", loss, "server", ["output", "label"])
    topology = jsplit.Topology(
        [*problem.topology.segments, counted], problem.topology.holds
    )
    trainer = jsplit.fused(topology, momentum(0.1), links={"smashed": (FEEDBACK, None)})
    return ALGORITHMS[name](trainer), problem.batch, traced


@pytest.mark.parametrize("name", some(ALGORITHMS, lambda i: i % 2))
def test_evaluation_is_by_client_and_overall(name):
    algorithm, batch, _ = built(name)
    drawn = PEOPLE.round(batch, 0, batch=8)
    state, _ = algorithm.step(algorithm.init(0, drawn), drawn)
    found = algorithm.evaluate(state, drawn)
    logits = [
        algorithm.predict(state, {"image": batch["image"][r]}, client=k)["output"]
        for k, r in enumerate(PEOPLE.records)
    ]
    each = [
        cross_entropy(y, batch["label"][r]).mean()
        for y, r in zip(logits, PEOPLE.records, strict=True)
    ]
    np.testing.assert_allclose(found.each["loss"], each, rtol=1e-5)
    np.testing.assert_allclose(
        found.loss, np.average(each, weights=PEOPLE.sizes), rtol=1e-5
    )
    assert found.examples.tolist() == [5, 19, 1, 15]
    test = algorithm.evaluate(
        state, population.everyone(12, clients=4).round(batch, 0, batch=8)
    )
    logits = [
        algorithm.predict(state, {"image": batch["image"][:12]}, client=k)["output"]
        for k in range(4)
    ]
    np.testing.assert_allclose(
        test.each["loss"],
        [cross_entropy(y, batch["label"][:12]).mean() for y in logits],
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_in_which_everybody_fails_changes_nothing(name):
    algorithm, batch, _ = built(name)
    drawn = PEOPLE.round(batch, 0, batch=8)
    before = jax.tree.map(jnp.copy, algorithm.init(0, drawn).parties["server"].params)
    state, _ = algorithm.step(
        algorithm.init(0, drawn),
        drawn._replace(steps=0 * drawn.steps, share=0 * drawn.share),
    )
    assert difference(before, state.parties["server"].params) == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rounds_of_one_shape_are_compiled_once(name):
    algorithm, batch, traced = built(name)
    state, _ = after(algorithm, [PEOPLE.round(batch, 0, batch=8)])
    shapes = jax.tree.map(jnp.shape, state)
    traced.clear()
    for i in range(1, 10):
        state, _ = algorithm.step(state, PEOPLE.round(batch, i, batch=8, shuffled=True))
    assert not traced
    assert jax.tree.map(jnp.shape, state) == shapes == first_shapes(algorithm, batch)


def first_shapes(algorithm, batch):
    """Shapes of a first state, of which a round changes none; nothing is compiled."""
    drawn = PEOPLE.round(batch, 0, batch=8)
    return jax.tree.map(jnp.shape, jax.eval_shape(lambda: algorithm.init(0, drawn)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_memory_of_a_link_is_each_client_s_own_unless_all_is_carried(name):
    algorithm, batch, _ = built(name)
    links = first_shapes(algorithm, batch).parties["client"].links
    shape = links["activation smashed to server"]
    assert shape == ((8, 8) if name in ("turns", "centralized") else (4, 8, 8))


@pytest.mark.parametrize("unfinished", ["keep", "discard"])
@pytest.mark.parametrize("name", ["turns", "splitfed 1", "parallel, shared"])
def test_a_client_that_fails_counts_as_far_as_it_got_or_not_at_all(
    mlp, name, unfinished
):
    problem, batch = mlp
    pop = people([16, 8, 16], seed=6)
    drawn = pop.round(batch, 0, batch=4, dropout=0.5, unfinished=unfinished)
    full = pop.round(batch, 0, batch=4)
    assert (drawn.steps < full.steps).any() and (drawn.steps == full.steps).any()
    assert np.allclose(drawn.share, np.array(pop.sizes) * drawn.steps / full.steps)
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state, _ = after(ALGORITHMS[name](trainer), [drawn])
    if name == "turns":
        assert (
            far(state, steps_of(trainer, batches_of(drawn, batch), first(batch))) < 1e-5
        )
    if unfinished == "discard":
        left = np.flatnonzero(drawn.steps)
        without = drawn._replace(
            **{
                n: getattr(full, n)[left]
                for n in ("reads", "weight", "client", "steps", "share")
            }
        )
        assert far(state, after(ALGORITHMS[name](trainer), [without])[0]) < 1e-5


@pytest.mark.parametrize("name", ["splitfed 3", "fedavg"])
def test_a_state_saved_and_restored_goes_on_bit_for_bit(mlp, name, tmp_path):
    """With what each client has of its own, and with the memory of the optimizer that
    applies averages.
    """
    problem, batch = mlp
    algorithm = ALGORITHMS[name](jsplit.fused(problem.topology, momentum(0.1)))
    drawn = [people([16, 24]).round(batch, i, batch=8) for i in range(2)]
    state, _ = algorithm.step(algorithm.init(0, drawn[0]), drawn[0])
    files = jsplit.save(tmp_path, state)
    back = jsplit.restore(tmp_path, algorithm.init(0, drawn[0]))
    assert len(files) == (4 if name == "fedavg" else 2) and type(back) is type(state)
    one, two = (algorithm.step(s, drawn[1])[0] for s in (state, back))
    leaves = [
        [
            *jax.tree.leaves([p[:4] for p in s.parties.values()]),
            *jax.tree.leaves(s.server),
        ]
        for s in (one, two)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def test_a_loss_may_be_one_number_where_every_batch_that_is_taken_is_full(mlp):
    """Also of unequal clients, some of which take fewer steps than others."""
    problem, batch = mlp
    whole = jsplit.Loss(
        "loss", lambda y, t: cross_entropy(y, t).mean(), "server", ["output", "label"]
    )
    topology = jsplit.Topology(
        [*problem.topology.segments, whole], problem.topology.holds
    )
    full, short = (
        people([8, 24, 8]).round(batch, 0, batch=8),
        people([8, 25, 7]).round(batch, 0, batch=8),
    )
    for make in (rounds.fedavg, partial(rounds.take_turns, client="client")):
        one, _ = after(make(jsplit.fused(topology, momentum(0.1))), [full])
        assert (
            far(
                one,
                after(make(jsplit.fused(problem.topology, momentum(0.1))), [full])[0],
            )
            < 1e-6
        )
        with pytest.raises(ValueError, match="examples have weights"):
            after(make(jsplit.fused(topology, momentum(0.1))), [short])


# What is refused.


def test_arguments_that_do_not_fit_are_refused(mlp):
    problem, batch = mlp
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    cases = [
        (
            lambda: rounds.take_turns(trainer, "nobody"),
            "`client` must be one or several of the parties client, server",
        ),
        (
            lambda: rounds.take_turns(trainer, "client", handoff="post"),
            "`handoff` must be one of peer, server, none",
        ),
        (
            lambda: rounds.splitfed(trainer, ["client", "server"]),
            "`client` names every party, client, server, so nobody",
        ),
        (
            lambda: rounds.splitfed(trainer, "client", version=4),
            "`version` must be one of 1, 2, 3",
        ),
        (
            lambda: rounds.splitfed(trainer, "client", version=2, chunk=2),
            "`chunk` and `mesh` are for clients",
        ),
        (
            lambda: rounds.fedavg(trainer, statistics="sum"),
            "`statistics` must be one of averaged, own",
        ),
        (lambda: rounds.fedavg(trainer, chunk=0), "`chunk` must be a positive integer"),
        (
            lambda: rounds.fedavg(trainer, server="adam"),
            "`server` must be an optax optimizer, got str",
        ),
        (
            lambda: rounds.parallel(trainer, "client", bottoms="some"),
            "`bottoms` must be one of own, shared",
        ),
        (
            lambda: rounds.alone(problem.topology),
            "`trainer` must be one of jsplit.fused or jsplit.messages, got Topology",
        ),
        (
            lambda: rounds.parallel(
                jsplit.fused(problem.topology, optax.sgd(0.1), microbatches=2), "client"
            ),
            "micro-batches",
        ),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    drawn, algorithm = (
        people([16, 24]).round(batch, 0),
        rounds.splitfed(trainer, "client", version=3),
    )
    state = algorithm.init(0, drawn)
    with pytest.raises(ValueError, match="`round` must be a Round"):
        algorithm.step(state, batch)
    with pytest.raises(
        ValueError,
        match="the round is of 3 clients, but the state is of 2; .* jsplit.population.everyone",
    ):
        algorithm.step(state, people([16, 20, 4]).round(batch, 0))
    with pytest.raises(ValueError, match="the round lacks the field `label`"):
        algorithm.step(state, drawn._replace(fields={"image": batch["image"]}))
    with pytest.raises(ValueError, match="`client` must be one of 0 to 1, .* got 7"):
        algorithm.predict(state, {"image": batch["image"]}, client=7)
    with pytest.raises(ValueError, match="`client` must say whose"):
        algorithm.predict(state, problem.fields)
    with pytest.raises(ValueError, match="of equal shapes"):
        algorithm.run(state, [drawn, people([16, 24]).round(batch, 1, batch=8)])
