"""Many clients: what each algorithm over rounds equals, in numbers."""

from __future__ import annotations

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import population, rounds
from jsplit.jaxprs.convolutions import in_parts
from tests.helpers import CONFIGURATIONS, FLAX, cross_entropy, make_problem, some
from tests.oracles import RATES, adam, difference, momentum, optimizers, reference

LOOPS = ("compiled", "python")
CLIENTS = {
    "vanilla": "client",
    "u_shaped": "client",
    "vertical": ("lab", "clinic"),
    "extended_vanilla": ("lab", "clinic"),
    "multitask": ("lab", "clinic"),
    "multihop": ("one", "two"),
}


def trees_of(state):
    """Parameters and statistics of all parties as those of the whole model."""
    return [
        jsplit.merge(
            *(t for p in state.parties.values() for t in getattr(p, kind).values())
        )
        for kind in ("params", "state")
    ]


def far(a, b):
    return max(map(difference, trees_of(a), trees_of(b)))


def people(sizes, seed=0):
    """A population in which client after client has so many records."""
    ends = np.cumsum(sizes)
    return population.Population(
        tuple(np.arange(e - n, e) for e, n in zip(ends, sizes, strict=True)),
        tuple(map(str, sizes)),
        seed,
    )


def batches_of(drawn, fields):
    """Every batch of a round in its order, without what only fills it up."""
    for k, count in enumerate(drawn.steps):
        for s in range(count):
            real = drawn.reads[k, s][drawn.weight[k, s] > 0]
            yield {n: x[real] for n, x in fields.items()}


def steps_of(trainer, batches, example):
    state = trainer.init(jax.random.key(1), example)
    for batch in batches:
        state, info = trainer.step(state, batch)
    return state


def after(algorithm, drawn, key=1):
    state = algorithm.init(jax.random.key(key), drawn[0])
    for r in drawn:
        state, info = algorithm.step(state, r)
    return state, info


FEEDBACK = jsplit.Link(
    lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
    lambda memory, value, key: (
        (sent := jax.tree.map(jnp.add, value, memory)),
        jax.tree.map(lambda x: 0.1 * x, sent),
    ),
    lambda payload, like: payload,
)
"""A link with a memory: a tenth of what was sent is sent once more."""


@pytest.fixture(scope="module")
def mlp():
    problem = make_problem("vanilla", "mlp", "nnx", batch=40)
    return problem, problem.batch


def first(batch, count=8):
    return {n: x[:count] for n, x in batch.items()}


# Turns.

EVERY = [
    (c, "cnn", FLAX[i % 2], LOOPS[i // 2 % 2]) for i, c in enumerate(CONFIGURATIONS)
]
EVERY += some(
    product(CONFIGURATIONS, ("residual", "transformer"), FLAX, LOOPS[:1]),
    lambda i: False,
)


@pytest.mark.parametrize(("configuration", "kind", "flax", "loop"), EVERY)
def test_turns_with_hand_off_are_the_whole_model_on_the_same_batches(
    configuration, kind, flax, loop
):
    """Parameters, statistics and optimizer states go from client to client, as if there
    were one (Gupta and Raskar).
    """
    problem = make_problem(configuration, kind, flax, batch=24)
    drawn = [
        people([8, 4, 12], seed=3).round(problem.batch, i, batch=4) for i in range(2)
    ]
    trainer = jsplit.fused(problem.topology, optimizers(problem.topology, momentum))
    state, _ = after(
        rounds.take_turns(trainer, CLIENTS[configuration], loop=loop), drawn
    )
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


@pytest.mark.parametrize("loop", LOOPS)
def test_turns_of_ragged_clients_train_on_every_record_and_on_nothing_else(mlp, loop):
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
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    expected = steps_of(
        trainer, [b for r in drawn for b in batches_of(r, batch)], first(batch)
    )
    state, _ = after(rounds.take_turns(trainer, "client", loop=loop), drawn)
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


# Together.


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


# Averages.


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


@pytest.mark.parametrize("loop", LOOPS)
def test_fedavg_with_one_client_is_local_training(loop):
    problem = make_problem("vanilla", "cnn", "linen", batch=24)
    drawn = people([24]).round(problem.batch, 0, batch=8)
    trainer = jsplit.fused(problem.topology, momentum(0.1))
    state, _ = after(rounds.fedavg(trainer, loop=loop), [drawn])
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


# All of them.

ALGORITHMS = {
    "turns": lambda t, **o: rounds.take_turns(t, "client", **o),
    "turns, own bottoms": lambda t, **o: rounds.take_turns(
        t, "client", handoff="none", **o
    ),
    "parallel": lambda t, **o: rounds.parallel(t, "client", **o),
    "parallel, shared": lambda t, **o: rounds.parallel(
        t, "client", bottoms="shared", **o
    ),
    "splitfed 1": lambda t, **o: rounds.splitfed(t, "client", **o),
    "splitfed 2": lambda t, **o: rounds.splitfed(t, "client", version=2, **o),
    "splitfed 3": lambda t, **o: rounds.splitfed(
        t, "client", version=3, statistics="own", moments="own", **o
    ),
    "fedavg": lambda t, **o: rounds.fedavg(t, server=optax.adam(0.01), **o),
    "large batch": rounds.large_batch_sgd,
    "centralized": rounds.centralized,
    "alone": rounds.alone,
}
AT_ONCE = ("splitfed 1", "splitfed 3", "fedavg", "alone")


@pytest.mark.parametrize("name", some(ALGORITHMS, lambda i: i % 2 == 0))
def test_however_its_loops_run_an_algorithm_gives_the_same_numbers(name):
    """Compiled or in Python, all clients at once or some, round by round or many in one program."""
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
    options = [{"loop": "compiled"}, {"loop": "python"}]
    options += [{"loop": "compiled", "chunk": 1}] if name in AT_ONCE else []
    states = [after(ALGORITHMS[name](trainer, **o), drawn)[0] for o in options]
    algorithm = ALGORITHMS[name](trainer, loop="compiled")
    many, infos = algorithm.run(algorithm.init(jax.random.key(1), drawn[0]), drawn)
    assert infos.loss.shape == (2,)
    for other in (*states[1:], many):
        for p, own in states[0].parties.items():
            for one, two in zip(own[:3], other.parties[p][:3], strict=True):
                assert difference(jax.tree.leaves(one), jax.tree.leaves(two)) < 1e-5


ONE_BY_ONE = [
    ("u_shaped", "cnn", "own"),
    ("u_shaped", "cnn", "shared"),
    ("vanilla", "cnn", "own"),
]
ONE_BY_ONE += [
    ("vertical", "residual", "own"),
    ("vertical", "residual", "shared"),
    ("multihop", "transformer", "own"),
]


@pytest.mark.parametrize(
    ("configuration", "kind", "bottoms"),
    some(ONE_BY_ONE, lambda i: i == 0),
)
def test_clients_that_step_together_may_be_called_one_by_one(
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
    trainer = jsplit.fused(topology, optimizers(topology, momentum), links=links)
    drawn = [
        people([3, 12, 9], seed=2).round(problem.batch, i, batch=4, clients=2)
        for i in range(2)
    ]
    (one, told), (two, said) = (
        after(rounds.parallel(trainer, mine, bottoms=bottoms, loop=loop), drawn)
        for loop in LOOPS
    )
    for p, own in one.parties.items():
        for x, y in zip(own[:4], two.parties[p][:4], strict=True):
            assert difference(jax.tree.leaves(x), jax.tree.leaves(y)) < 1e-5
    assert told.losses.keys() == said.losses.keys() and all(
        abs(told.losses[n] - said.losses[n]) < 1e-5 for n in told.losses
    )


def test_weight_gradients_of_convolutions_may_be_summed_part_by_part():
    """And nothing else of a program changes; 150 examples are three parts."""
    weight, image = (
        jnp.ones((3, 3, 2, 5)),
        jax.random.normal(jax.random.key(0), (150, 8, 6, 2)),
    )
    how = {
        "window_strides": (2, 1),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }

    def loss(weight, image):
        return jnp.sum(
            jnp.sin(jax.lax.conv_general_dilated(image, weight, **how)) ** 2
        ), image

    function = jax.value_and_grad(loss, (0, 1), has_aux=True)
    convolutions = str(jax.make_jaxpr(in_parts(function))(weight, image)).count(
        "conv_general_dilated"
    )
    assert (
        convolutions
        == str(jax.make_jaxpr(function)(weight, image)).count("conv_general_dilated")
        + 2
    )
    for a, b in zip(
        *(
            jax.tree.leaves(jax.jit(f)(weight, image))
            for f in (function, in_parts(function))
        ),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


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
    traced.clear()
    for i in range(1, 10):
        state, _ = algorithm.step(state, PEOPLE.round(batch, i, batch=8, shuffled=True))
    assert not traced


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_memory_of_a_link_is_each_client_s_own_unless_all_is_carried(name):
    algorithm, batch, _ = built(name)
    state, _ = after(algorithm, [PEOPLE.round(batch, 0, batch=8)])
    shape = state.parties["client"].links["activation smashed to server"].shape
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
            lambda: rounds.alone(trainer, loop="fast"),
            "`loop` must be one of auto, compiled, python",
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
    with pytest.raises(ValueError, match="`client` must be one of 0 to 1, got 7"):
        algorithm.predict(state, {"image": batch["image"]}, client=7)
    with pytest.raises(ValueError, match="`client` must say whose"):
        algorithm.predict(state, problem.fields)
    with pytest.raises(ValueError, match="of equal shapes"):
        algorithm.run(state, [drawn, people([16, 24]).round(batch, 1, batch=8)])


# Losses of one's own, and gradients that are late.


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
