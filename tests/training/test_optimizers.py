"""Optimizers that need a number of all parties: one global norm, or the loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.helpers import CONFIGURATIONS, STAGES, make_problem
from tests.oracles import INTERPRETERS, difference
from tests.training.common import (
    NORM,
    X,
    both,
    by_hand,
    clipped,
    close,
    dense,
    learned,
    reference,
    refused,
    train,
    well,
)


def split_run(problem, interpreter, optimizer, steps=4, **options):
    trainer = INTERPRETERS[interpreter](problem.topology, optimizer, **options)
    state, infos = train(trainer, problem.batch, steps)
    trees = [t for p in state.parties.values() for t in p.params.values()]
    return jsplit.merge(*trees), jnp.stack([i.loss for i in infos]), infos


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_clipping_by_the_global_norm_is_that_of_the_whole_model(configuration):
    problem = make_problem(configuration, "mlp", "linen")
    *expected, norms = reference(problem, clipped(optax.clip_by_global_norm(NORM)), 4)
    assert max(norms) > 1.1 * NORM
    for interpreter in INTERPRETERS:
        *found, infos = split_run(
            problem, interpreter, clipped(jsplit.clip_by_global_norm(NORM))
        )
        assert max(map(difference, found, expected)) < 1e-5
    parties = {*STAGES[configuration].values()}
    said = {m.sender for m in infos[0].messages if m.kind == "scalar"}
    assert said == parties


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_clipping_by_the_global_norm_is_that_of_the_whole_model_in_double_precision(
    configuration,
):
    with jax.enable_x64(True):
        problem = make_problem(configuration, "mlp", "linen")
        *expected, _ = reference(problem, clipped(optax.clip_by_global_norm(NORM)), 3)
        optimizer = clipped(jsplit.clip_by_global_norm(NORM))
        for interpreter in INTERPRETERS:
            *found, _ = split_run(problem, interpreter, optimizer, 3)
            assert max(map(difference, found, expected)) < 1e-9, interpreter


@both
def test_clipping_is_of_the_mean_over_micro_batches(interpreter):
    problem = make_problem("vertical", "mlp", "linen")
    optimizer = clipped(jsplit.clip_by_global_norm(NORM))
    *whole, _ = split_run(problem, interpreter, optimizer)
    *parts, infos = split_run(problem, interpreter, optimizer, microbatches=2)
    assert max(map(difference, parts, whole)) < 1e-5
    # One exchange in a step, whatever the number of its parts.
    if interpreter == "messages":
        assert sum(m.kind == "scalar" for m in infos[0].messages) == 4


def test_what_is_within_the_norm_stays_as_it_is_bit_for_bit():
    problem = make_problem("vanilla", "mlp", "linen")
    plain = split_run(problem, "fused", clipped(optax.identity()))
    wide = split_run(problem, "fused", clipped(jsplit.clip_by_global_norm(1e6)))
    jax.tree.map(np.testing.assert_array_equal, plain[:2], wide[:2])


@pytest.mark.parametrize("parts", [1, 2])
def test_what_the_optimizers_exchange_is_costed(parts):
    problem = make_problem("extended_vanilla", "mlp", "linen")
    optimizer = dict.fromkeys(
        problem.topology.parties, clipped(jsplit.clip_by_global_norm(NORM))
    )
    optimizer["lab"] = optax.chain(
        optimizer["lab"], jsplit.with_loss(optax.contrib.reduce_on_plateau())
    )
    *_, infos = split_run(problem, "messages", optimizer, 1, microbatches=parts)
    cost = jsplit.cost(
        problem.topology, problem.batch, optimizer=optimizer, microbatches=parts
    )
    assert cost.messages == infos[0].messages
    assert {m.name for m in cost.messages if m.kind == "scalar"} == {
        "squared norms",
        "loss",
    }


VALUES = {
    "plateau": optax.chain(
        optax.sgd(0.1),
        optax.contrib.reduce_on_plateau(patience=0, cooldown=0, factor=0.5),
    ),
    "polyak": optax.polyak_sgd(max_learning_rate=0.5),
    "momo": optax.contrib.momo(0.5),
}


@pytest.mark.filterwarnings("ignore:`optimizer` of .* computes the update")
@pytest.mark.parametrize("name", VALUES)
def test_optimizers_that_need_the_loss_get_that_of_the_whole_model(name):
    """A party's are over its own parameters, with the loss of all."""
    problem = make_problem("multitask", "mlp", "linen")
    optimizer = jsplit.with_loss(VALUES[name])
    found = [split_run(problem, i, optimizer, 3) for i in INTERPRETERS]
    assert max(map(difference, found[0][:2], found[1][:2])) < 1e-5
    scalars = [m for m in found[1][2][0].messages if m.kind == "scalar"]
    assert {m.name for m in scalars} == {"loss"} and {m.bytes for m in scalars} == {4}
    # With the total by hand, in the place of each party's optimizer.
    value = found[0][1][0]
    state = jsplit.fused(problem.topology, optax.sgd(1.0)).init(
        jax.random.key(0), problem.batch
    )
    after, _ = jsplit.fused(problem.topology, optax.sgd(1.0)).step(state, problem.batch)
    trainer = jsplit.fused(problem.topology, optimizer)
    first = trainer.init(jax.random.key(0), problem.batch)
    once, _ = trainer.step(first, problem.batch)
    for party, own in state.parties.items():
        gradient = jax.tree.map(jnp.subtract, own.params, after.parties[party].params)
        able = VALUES[name]
        updates, _ = able.update(
            gradient, able.init(own.params), own.params, value=value
        )
        close(
            once.parties[party].params, optax.apply_updates(own.params, updates), 1e-5
        )


@pytest.mark.filterwarnings("ignore:`optimizer` of .* computes the update")
def test_a_party_that_computes_every_loss_has_its_value_without_a_message():
    problem = make_problem("vanilla", "mlp", "linen")
    optimizer = {"client": optax.sgd(0.1), "server": optax.polyak_sgd()}
    *found, infos = split_run(problem, "messages", optimizer, 2)
    assert np.isfinite(found[1]).all()
    assert not any(m.kind == "scalar" for m in infos[0].messages)
    refused(
        "`optimizer` of `client` needs the loss (`value`)",
        lambda: split_run(problem, "fused", optax.polyak_sgd(), 1),
    )


@both
def test_a_step_of_one_number_of_all_is_skipped_as_a_whole(interpreter):
    problem = make_problem("vanilla", "mlp", "linen")
    trainer = INTERPRETERS[interpreter](
        problem.topology, clipped(jsplit.clip_by_global_norm(NORM)), nonfinite="skip"
    )
    state, _ = trainer.step(trainer.init(0, problem.batch), problem.batch)
    bad = {**problem.batch, "image": np.full_like(problem.batch["image"], np.nan)}
    after, info = trainer.step(state, bad)
    assert not well(info)
    close(learned(after), learned(state), 0)


SGD = optax.sgd(0.1)
BOTH = jsplit.vanilla(
    dense(["x"], "h"), dense(["h"], "y"), loss=lambda y, label: y[:, 0]
)
BATCH = {"x": X, "label": X[:, 0]}


def started(optimizer):
    return lambda: jsplit.fused(BOTH, optimizer).init(0, BATCH)


def clip(name="global norm", norm=1.0):
    return jsplit.clip_by_global_norm(norm, name)


REFUSED = {
    "at one party": (
        {"client": clip(), "server": SGD},
        "must stand in the optimizer of each",
    ),
    "twice": (optax.chain(clip(), clip(), SGD), "more than once"),
    "in sequence": (optax.chain(clip("a"), clip("b"), SGD), "twice in sequence"),
    "in MultiSteps": (
        optax.MultiSteps(optax.chain(clip(), SGD), 2),
        "clip_by_global_norm stands where extra arguments of its update do not reach",
    ),
    "in inject_hyperparams": (
        optax.inject_hyperparams(lambda rate: optax.chain(clip(), optax.sgd(rate)))(
            0.1
        ),
        "as within optax.inject_hyperparams",
    ),
    "in apply_if_finite": (
        optax.apply_if_finite(optax.chain(clip(), SGD), 3),
        "clip_by_global_norm stands within an optimizer that runs it now and then",
    ),
    "lbfgs": (optax.lbfgs(), "`optimizer` of `client` needs `grad` and `value_fn`"),
    "line search": (
        optax.chain(SGD, optax.scale_by_backtracking_linesearch(3)),
        "evaluates the whole model within its update",
    ),
    "lookahead": (optax.lookahead(SGD, 2, 0.5), "cannot be optax's lookahead"),
    "private": (
        optax.contrib.differentially_private_aggregate(1.0, 0.1, key=0),
        "cannot be optax's differentially_private_aggregate",
    ),
    "the whole model's mask": (
        optax.masked(SGD, {"low": {"kernel": True}, "high": {"kernel": False}}),
        "`optimizer` of `client` does not run on its parameters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_no_party_can_have_is_refused_by_name(name):
    optimizer, why = REFUSED[name]
    refused(why, started(optimizer))


def test_arguments_of_clipping_are_checked():
    refused(
        "`max_norm` must be above 0, got -1", lambda: jsplit.clip_by_global_norm(-1)
    )
    refused("`max_norm` must be a number", lambda: jsplit.clip_by_global_norm("1"))
    refused("`name` must be a text", lambda: jsplit.clip_by_global_norm(1.0, ""))
    refused("`optimizer` must be an optax optimizer", lambda: jsplit.with_loss(0.1))


def test_two_norms_of_different_parameters_stand_side_by_side():
    """One clip for weights and one for biases, each over all parties."""
    problem = make_problem("vanilla", "mlp", "linen")

    def labels(tree):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "bias" if "bias" in str(path[-1]) else "weight", tree
        )

    def made(clip):
        parts = {n: clipped(clip(n)) for n in ("bias", "weight")}
        return optax.partition(parts, labels)

    *expected, _ = reference(problem, made(lambda n: optax.clip_by_global_norm(0.1)), 3)
    optimizer = made(lambda n: jsplit.clip_by_global_norm(0.1, n))
    for interpreter in INTERPRETERS:
        *found, _ = split_run(problem, interpreter, optimizer, 3)
        assert max(map(difference, found, expected)) < 1e-5


def test_outside_a_trainer_it_is_optax_s():
    gradient = {"w": jnp.arange(4.0), "v": jnp.ones(3)}
    ours, theirs = jsplit.clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)
    found, _ = ours.update(gradient, ours.init(gradient))
    expected, _ = theirs.update(gradient, theirs.init(gradient))
    close(found, expected, 1e-7)


@both
def test_all_gradients_of_0_stay_0_and_one_of_nan_is_refused(interpreter):
    still = by_hand(
        jsplit.Node("h", dense(["x"]), "alice"),
        jsplit.Loss("loss", lambda h: 0 * h.sum(-1), "alice", ["h"]),
    )
    trainer = INTERPRETERS[interpreter](still, optax.chain(clip(), SGD))
    state = trainer.init(0, {"x": X})
    new, info = trainer.step(state, {"x": X})
    assert well(info)
    close(learned(new), learned(state), 0)


def test_a_norm_of_one_party_among_several_is_warned_of_by_name():
    problem = make_problem("vanilla", "mlp", "nnx")
    own = clipped(optax.clip_by_global_norm(NORM))
    with pytest.warns(
        UserWarning, match="jsplit.clip_by_global_norm clips by the norm"
    ):
        jsplit.fused(problem.topology, own)
    # Of one party alone it is that of the whole model.
    whole = by_hand(
        jsplit.Node("h", dense(["x"]), "alice"),
        jsplit.Loss("loss", lambda h: (h**2).mean(-1), "alice", ["h"]),
    )
    jsplit.fused(whole, own)


def test_an_optimizer_is_given_what_it_knows_and_no_more():
    """`optax.contrib.sam` takes extra arguments, and refuses those of others."""
    problem = make_problem("vanilla", "mlp", "linen")
    sam = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2)
    _, info = train(jsplit.fused(problem.topology, sam), problem.batch, 2)
    assert np.isfinite(info[-1].loss)


def test_all_parties_clip_to_one_bound():
    problem = make_problem("vanilla", "mlp", "linen")
    rates = {
        party: clipped(jsplit.clip_by_global_norm(bound))
        for party, bound in zip(problem.topology.parties, (0.05, 1.0), strict=True)
    }
    refused(
        "must have one `max_norm` at all parties",
        lambda: jsplit.fused(problem.topology, rates),
    )
