"""Losses that take weights, and losses that are sums divided by a constant."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import population, rounds
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    layer,
    small,
    train_in_memory,
)
from tests.training.common import INTERPRETERS, both, close

PAIR = small("pair")
WEIGHT = np.array([1, 2, 0, 3, 1, 0.5, 0, 2], "f")
FULL = np.where(WEIGHT > 0, WEIGHT, 1.0).astype("f")
BOTTOM, TOP = PAIR.topology.segments


def distances(x):
    square = jnp.sum((x[:, None] - x[None]) ** 2, -1)
    # The root has no gradient at 0, where an example meets itself.
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def correlation(x, h, weight):
    """A distance correlation of weighted records; of an integer one is as many."""
    weight = jnp.ones(len(x)) if weight is None else weight
    share = weight / weight.sum()

    def centred(d):
        row = d @ share
        return d - row[:, None] - row[None] + share @ row

    a, b = centred(distances(x)), centred(distances(h))
    mean = lambda c: share @ c @ share  # noqa: E731
    return mean(a * b) / jnp.sqrt(mean(a * a) * mean(b * b) + 1e-9)


def error(y, label):
    return jnp.sum((y - label) ** 2, -1)


def with_correlation(factor=0.5, fn=correlation, per=None):
    return PAIR.topology.add(
        jsplit.Penalty("leak", fn, "client", ["x", "h"], factor, per=per)
    )


def forward(params, batch):
    h = BOTTOM.segment.apply(params["client"]["h"], {}, None, batch["x"])[0]
    return h, TOP.segment.apply(params["server"]["y"], {}, None, h)[0]


def gradient(trainer, batch, weight=None):
    """What a step of rate 1 takes off the parameters, and its loss."""
    state = trainer.init(3, batch)
    new, info = trainer.step(state, batch, weight)
    parts = [{p: x.params for p, x in s.parties.items()} for s in (state, new)]
    return jax.tree.map(jnp.subtract, *parts), info


def start(batch=PAIR.batch):
    state = jsplit.fused(PAIR.topology, optax.sgd(1.0)).init(3, batch)
    return {p: x.params for p, x in state.parties.items()}


def whole_gradient(objective, batch=PAIR.batch):
    """Of a function of (x, h, y, label), by the parameters of both."""

    def of(params):
        h, y = forward(params, batch)
        return objective(batch["x"], h, y, batch["label"])

    value, found = jax.value_and_grad(of)(start())
    return found, value


@both
@pytest.mark.parametrize("weight", [None, FULL])
def test_a_penalty_that_takes_weights_is_that_of_the_whole_model(interpreter, weight):
    trainer = INTERPRETERS[interpreter](with_correlation(), optax.sgd(1.0))
    found, info = gradient(trainer, PAIR.batch, weight)
    share = np.full(8, 1 / 8) if weight is None else weight / weight.sum()

    def objective(x, h, y, label):
        return share @ error(y, label) + 0.5 * correlation(x, h, weight)

    expected, value = whole_gradient(objective)
    close(found, expected, 1e-5)
    close(info.loss, value)
    state = trainer.init(3, PAIR.batch)
    close(trainer.evaluate(state, PAIR.batch, weight).loss, value)


def test_the_gradient_of_a_weighted_penalty_is_its_finite_difference():
    trainer = jsplit.fused(with_correlation(2.0), optax.sgd(1.0))
    found, _ = gradient(trainer, PAIR.batch, WEIGHT)
    state = trainer.init(3, PAIR.batch)
    own = state.parties["client"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = rng.normal(size=own.params["h"][0].shape).astype("f")

        def at(t, way=way):
            moved = own._replace(params={"h": [own.params["h"][0] + t * way]})
            there = state._replace(parties={**state.parties, "client": moved})
            return float(trainer.evaluate(there, PAIR.batch, WEIGHT).loss)

        slope = (at(0.01) - at(-0.01)) / 0.02
        assert slope == pytest.approx(
            float(np.sum(found["client"]["h"][0] * way)), rel=0.01, abs=1e-3
        )


@both
def test_a_weight_of_2_is_a_record_twice(interpreter):
    weight = np.array([1, 2, 1, 3, 1, 1, 1, 1], "f")
    twice = jax.tree.map(lambda x: np.repeat(x, weight.astype(int), 0), PAIR.batch)
    trainer = INTERPRETERS[interpreter](with_correlation(), optax.sgd(1.0))
    found, info = gradient(trainer, PAIR.batch, weight)
    expected, other = gradient(trainer, twice)
    close(found, expected, 1e-5)
    close(info.loss, other.loss)


@both
@pytest.mark.parametrize("per", [None, 4.0])
def test_a_record_of_weight_0_may_hold_anything(interpreter, per):
    trainer = INTERPRETERS[interpreter](with_correlation(per=per), optax.sgd(1.0))
    expected, info = gradient(trainer, PAIR.batch, WEIGHT)
    for wrong in (np.nan, np.inf, 7.0):
        spoilt = {n: x.copy() for n, x in PAIR.batch.items()}
        for x in spoilt.values():
            x[WEIGHT == 0] = wrong
        found, other = gradient(trainer, spoilt, WEIGHT)
        assert bits(found) == bits(expected) and bits(other.loss) == bits(info.loss)
    # Nor does it move anything: it is as if it were not there.
    there = WEIGHT > 0
    rest = jax.tree.map(lambda x: x[there], PAIR.batch)
    alone, other = gradient(trainer, rest, WEIGHT[there])
    close(expected, alone, 1e-5)
    close(info.loss, other.loss)


@both
def test_a_batch_in_which_nothing_counts_has_no_loss_and_no_gradient(interpreter):
    divides = lambda x, h, weight: jnp.mean(h) / weight.sum()  # noqa: E731
    topology = with_correlation(
        fn=lambda x, h, weight: (
            0.0 * jnp.mean(h) if weight is None else divides(x, h, weight)
        )
    )
    trainer = INTERPRETERS[interpreter](topology, optax.sgd(1.0))
    found, info = gradient(trainer, PAIR.batch, np.zeros(8))
    assert info.loss == 0 and all(not x.any() for x in jax.tree.leaves(found))


@both
def test_of_micro_batches_each_gets_its_own_weights(interpreter):
    """And counts as often as its examples do, of mean 1 in each."""
    trainer = INTERPRETERS[interpreter](
        with_correlation(), optax.sgd(1.0), microbatches=2
    )
    found, info = gradient(trainer, PAIR.batch, FULL)
    share, halves = FULL / FULL.sum(), (slice(0, 4), slice(4, 8))

    def objective(x, h, y, label):
        parts = [
            share[s].sum() * correlation(x[s], h[s], jnp.asarray(FULL[s]))
            for s in halves
        ]
        return share @ error(y, label) + 0.5 * sum(parts)

    expected, value = whole_gradient(objective)
    close(found, expected, 1e-5)
    close(info.loss, value)


def seen(log):
    def fn(x, h, weight):
        if weight is not None:
            jax.debug.callback(lambda w: log.append(np.asarray(w)), weight)
        return jnp.mean(h**2)

    return fn


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_that_a_loss_is_given_have_mean_1(parts):
    log = []
    topology = with_correlation(fn=seen(log))
    trainer = jsplit.fused(topology, optax.sgd(1.0), microbatches=parts)
    jax.block_until_ready(gradient(trainer, PAIR.batch, 10 * FULL))
    jax.effects_barrier()
    got = {x.tobytes(): x for x in log}.values()
    assert {len(x) for x in got} == {8 // parts}
    assert len(got) == parts
    for x in got:
        assert x.mean() == pytest.approx(1, abs=1e-6)


def test_parties_give_weights_to_losses_and_divide_by_constants_as_messages_does():
    topology = jsplit.Topology(
        [
            *PAIR.topology.segments,
            jsplit.Loss("loss", error, "server", ["y", "label"], per=4),
            jsplit.Penalty("leak", correlation, "client", ["x", "h"], 0.5, per=5.0),
        ],
        PAIR.topology.holds,
    )
    problem = PAIR._replace(topology=topology)
    rates = {"client": optax.adam(0.05), "server": optax.adam(0.1)}

    def data(problem, name):
        own = problem.topology.holds[name]
        return {f: PAIR.batch[f] for f in own} | {"counts": WEIGHT}

    for parts in (1, 2):
        agreed = agreed_for(problem, steps=3, weight="counts", microbatches=parts)
        assert [x["per"] for x in agreed.said["losses"]] == [4.0, 5.0]
        results = checked(train_in_memory(agreed, problem, rates, data))
        trainer = jsplit.messages(topology, rates, microbatches=parts)
        state = trainer.init(3, PAIR.batch)
        for _ in range(3):
            state, _ = trainer.step(state, PAIR.batch, WEIGHT)
        for name, own in state.parties.items():
            assert bits(results[name].state) == bits(own), (parts, name)
    assert "per" not in agreed_for(PAIR).said["losses"][0]


def constant(per, factor=1.0):
    loss = jsplit.Loss("loss", error, "server", ["y", "label"], factor, per=per)
    return jsplit.Topology([*PAIR.topology.segments, loss], PAIR.topology.holds)


@both
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_constant_divides_the_sum_over_examples(interpreter, parts, weight):
    trainer = INTERPRETERS[interpreter](
        constant(64, 3.0), optax.sgd(1.0), microbatches=parts
    )
    found, info = gradient(trainer, PAIR.batch, weight)
    counts = np.ones(8, "f") if weight is None else weight

    def objective(x, h, y, label):
        return 3.0 * jnp.sum(counts * error(y, label)) / 64

    expected, value = whole_gradient(objective)
    close(found, expected, 1e-5)
    close(info.loss, value)
    # What is measured is of examples: the mean, of whatever size a batch was.
    state = trainer.init(3, PAIR.batch)
    mean = counts @ error(forward(start(), PAIR.batch)[1], PAIR.batch["label"])
    measured = trainer.evaluate(state, PAIR.batch, weight)
    close(measured.losses["loss"], mean / counts.sum())


@both
@pytest.mark.parametrize("parts", [1, 2])
def test_with_a_constant_what_else_is_in_a_batch_changes_nothing_of_a_record(
    interpreter, parts
):
    """As private training must have it: the sum of two batches' gradients is that of both."""
    trainer = INTERPRETERS[interpreter](
        constant(64), optax.sgd(1.0), microbatches=parts
    )
    first = np.arange(8) < 3
    both, _ = gradient(trainer, PAIR.batch, np.ones(8))
    each = [gradient(trainer, PAIR.batch, w)[0] for w in (first, ~first)]
    close(both, jax.tree.map(jnp.add, *each), 1e-5)
    mean = INTERPRETERS[interpreter](PAIR.topology, optax.sgd(1.0))
    both, _ = gradient(mean, PAIR.batch, np.ones(8))
    each = [gradient(mean, PAIR.batch, w)[0] for w in (first, ~first)]
    assert (
        abs(
            each[0]["server"]["y"][0]
            + each[1]["server"]["y"][0]
            - both["server"]["y"][0]
        ).max()
        > 0.01
    )


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("weight", [None, FULL])
def test_one_number_of_weighted_examples_stands_for_their_sum(parts, weight):
    mean = lambda x, h, weight: (  # noqa: E731
        jnp.mean(h**2) if weight is None else jnp.mean(jnp.mean(h**2, -1) * weight)
    )
    each = lambda x, h: jnp.mean(h**2, -1)  # noqa: E731
    found, expected = (
        gradient(
            jsplit.fused(
                with_correlation(fn=fn, per=16), optax.sgd(1.0), microbatches=parts
            ),
            PAIR.batch,
            weight,
        )
        for fn in (mean, each)
    )
    close(found[0], expected[0], 1e-5)
    close(found[1].loss, expected[1].loss)


def drawn(number, sizes=(4, 4), batch=2):
    names = ["north"] * sizes[0] + ["south"] * sizes[1]
    return population.grouped(names).round(PAIR.batch, number, batch=batch)


@pytest.mark.parametrize("sizes", [(4, 4), (5, 3)])
@pytest.mark.parametrize("per", [None, 6.0])
def test_rounds_of_one_client_after_the_other_are_its_steps(sizes, per):
    """Ragged batches have weights, of which each step's loss is given its own."""
    topology = with_correlation(per=per)
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    algorithm, plan = rounds.take_turns(trainer, "client"), drawn(0, sizes)
    state, info = algorithm.step(algorithm.init(3, plan), plan)
    one = trainer.init(3, {n: x[:2] for n, x in PAIR.batch.items()})
    for k, steps in enumerate(plan.steps):
        for s in range(steps):
            batch = {n: x[plan.reads[k, s]] for n, x in PAIR.batch.items()}
            one, last = trainer.step(one, batch, plan.weight[k, s])
    for name, own in one.parties.items():
        close(state.parties[name].params, own.params, 1e-5)
    assert np.isfinite(info.loss)


@pytest.mark.parametrize("sizes", [(4, 4), (5, 3)])
@pytest.mark.parametrize("per", [None, 6.0])
def test_of_clients_that_step_together_each_is_given_its_own_weights(sizes, per):
    trainer = jsplit.fused(with_correlation(per=per), optax.sgd(1.0))
    algorithm = rounds.parallel(trainer, "client", bottoms="shared")
    # Of batches of four: one of three and an empty place counts less.
    plan = drawn(0, sizes, batch=4)
    one = plan._replace(steps=np.minimum(plan.steps, 1))
    state = algorithm.init(3, one)
    new, info = algorithm.step(state, one)
    reads, weight = one.reads[:, 0], jnp.asarray(one.weight[:, 0])
    flat = reads.reshape(-1)

    def objective(x, h, y, label):
        share = weight.reshape(-1) / weight.sum()
        leaks = [correlation(x[r], h[r], w) for r, w in zip(reads, weight, strict=True)]
        of = weight.sum(1) / (weight.sum() if per is None else per)
        return share @ error(y[flat], label[flat]) + 0.5 * sum(
            o * leak for o, leak in zip(of, leaks, strict=True)
        )

    expected, value = whole_gradient(objective)
    found = {
        p: jax.tree.map(jnp.subtract, x.params, new.parties[p].params)
        for p, x in state.parties.items()
    }
    close(found, expected, 1e-5)
    close(info.loss, value)


def test_class_numbers_of_a_loss_that_takes_weights_must_be_in_range():
    def entropy(h, label, weight):
        each = optax.softmax_cross_entropy_with_integer_labels(h, label)
        return jnp.mean(each if weight is None else each * weight)

    top = layer(["h"], "y", 3)
    topology = jsplit.vanilla(BOTTOM.segment, top, loss=entropy)
    batch = {"x": PAIR.batch["x"], "label": np.zeros(8, np.int32)}
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    state = trainer.init(3, batch)
    trainer.step(state, batch, FULL)
    # JAX takes the last class for it, so that all stays finite.
    wrong = batch | {"label": np.array([0, 0, -1, 0, 0, 0, -1, 0], np.int32)}
    for weight in (None, FULL):
        with pytest.raises(jsplit.NotFinite, match="class numbers? .*`loss`"):
            trainer.step(state, wrong, weight)
    # They are left out, so they may be any.
    trainer.step(state, wrong, WEIGHT)


def test_who_takes_weights_is_told_by_a_parameter_that_is_no_input():
    def takes(fn, inputs=("x", "h")):
        return jsplit.Loss("leak", fn, "client", inputs).takes_weight

    assert takes(correlation) and takes(lambda x, h, *, weight=None: 0.0)
    assert takes(jax.jit(correlation)) and takes(
        partial(lambda a, x, h, weight: 0.0, 1)
    )
    # A field called so, a number of its own, and whatever has none.
    assert not takes(correlation, ("x", "h", "counts"))
    assert not takes(lambda x, h, weight=2.0: 0.0)
    assert not takes(partial(correlation, weight=np.ones(8)))
    assert not takes(lambda x, h, **more: 0.0) and not takes(lambda weight, h: 0.0)
    assert not takes(jnp.add) and not takes(max)


def test_a_loss_of_weight_0_takes_weights_too():
    topology = with_correlation(factor=0)
    for make in INTERPRETERS.values():
        trainer = make(topology, optax.sgd(1.0))
        _, info = gradient(trainer, PAIR.batch, FULL)
        h, _ = forward(start(), PAIR.batch)
        expected = correlation(PAIR.batch["x"], h, jnp.asarray(FULL))
        close(info.losses["leak"], expected)
        measured = trainer.evaluate(trainer.init(3, PAIR.batch), PAIR.batch, FULL)
        close(measured.losses["leak"], expected)


@both
@pytest.mark.parametrize(
    ("fn", "per", "weight", "why"),
    [
        (
            lambda x, h: jnp.mean(h),
            None,
            FULL,
            "number for each, .8., or take `weight`",
        ),
        (lambda x, h: jnp.mean(h), 4, None, "with `per` its examples are summed up"),
        (
            lambda x, h, weight: jnp.mean(h, -1),
            None,
            None,
            "takes `weight`, so it must",
        ),
        (
            lambda x, h, weight: jnp.mean(h, -1),
            None,
            FULL,
            "takes `weight`, so it must",
        ),
        (lambda x, h, weight: 1, None, FULL, "must return a floating array, got int"),
    ],
)
def test_what_a_loss_returns_must_fit_what_it_takes(interpreter, fn, per, weight, why):
    with pytest.raises(ValueError, match=f"loss `leak`.*{why}"):
        trainer = INTERPRETERS[interpreter](
            with_correlation(fn=fn, per=per), optax.sgd(1.0)
        )
        gradient(trainer, PAIR.batch, weight)


@pytest.mark.parametrize("per", [0, -1.0, np.nan, np.inf, "64", True])
def test_a_constant_that_divides_is_positive_and_finite(per):
    with pytest.raises(ValueError, match="loss `loss`: `per` must be positive and fin"):
        constant(per)


def test_a_penalty_on_parameters_has_no_examples_to_sum_up():
    penalty = jsplit.Penalty("decay", optax.tree.norm, "client", ["h.params"], per=64)
    with pytest.raises(
        ValueError, match="loss `decay`: `per` is of a sum over examples"
    ):
        jsplit.fused(PAIR.topology.add(penalty), optax.sgd(0.1))
