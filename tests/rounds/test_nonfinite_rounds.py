"""Rounds whose steps leave what is not finite, and optimizers that need a number of all."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests.helpers import make_problem
from tests.oracles import difference
from tests.rounds.common import ALGORITHMS, after, far, people, trees_of
from tests.training.common import refused, well

PROBLEM = make_problem("vanilla", "mlp", "nnx", batch=40)
FIELDS = PROBLEM.batch
SOME = ("turns", "parallel", "splitfed 1", "large batch")
MANY = pytest.mark.parametrize("name", SOME)
WHO = people([8, 12])


def trainer(nonfinite="refuse", optimizer=None):
    optimizer = optax.sgd(0.1, momentum=0.9) if optimizer is None else optimizer
    return jsplit.fused(PROBLEM.topology, optimizer, nonfinite=nonfinite)


def drawn(fields=FIELDS, number=0):
    return WHO.round(fields, number, batch=4)


def spoilt(record, field="image", value=np.inf):
    fields = {n: x.copy() for n, x in FIELDS.items()}
    fields[field][record] = value
    return fields


@MANY
def test_a_round_with_a_step_that_is_not_finite_is_refused_with_its_number(name):
    algorithm = ALGORITHMS[name](trainer())
    state, _ = after(algorithm, [drawn()])
    with pytest.raises(jsplit.NotFinite, match=r"^step \d+ leaves") as error:
        algorithm.step(state, drawn(spoilt(13)))
    assert "the loss `loss` at `server`" in str(error.value)
    # The state in hand is that before the round.
    new, info = algorithm.step(state, drawn())
    assert well(info) and np.isfinite(info.loss)


def test_of_several_rounds_the_first_bad_step_is_named():
    """Client 0 takes steps 1 and 2, client 1 takes 3 to 5; record 13 is of its second."""
    algorithm = rounds.take_turns(trainer(), "client")
    bad = spoilt(13)
    state = algorithm.init(0, drawn())
    taken = np.asarray(drawn().reads)
    s = int(np.argwhere(taken[1] == 13)[0][0])
    expected = int(drawn().steps[0]) + s + 1
    with pytest.raises(jsplit.NotFinite, match=rf"^step {expected} leaves"):
        algorithm.run(state, [drawn(bad), drawn(bad)])
    # After a round that went well, its steps are counted.
    state, _ = algorithm.step(state, drawn())
    count = int(drawn().steps.sum())
    with pytest.raises(jsplit.NotFinite, match=rf"^step {count + expected} leaves"):
        algorithm.run(state, [drawn(bad), drawn(bad)])


@MANY
@pytest.mark.parametrize("late", [1, 2], ids=["last but one", "last"])
def test_a_step_whose_losses_are_finite_is_refused_for_what_it_keeps(name, late):
    """An update is infinite at one step: no loss shows it, or only that of the next one."""
    one = people([12]).round(FIELDS, 0, batch=4)
    last = int(one.steps[0])
    bad = last - 2 + late  # counted from 1
    rate = lambda count: jax.numpy.where(count == bad - 1, np.inf, 0.1)  # noqa: E731
    algorithm = ALGORITHMS[name](trainer(optimizer=optax.sgd(rate)))
    state = algorithm.init(0, one)
    with pytest.raises(jsplit.NotFinite, match=rf"^step {bad} leaves") as error:
        algorithm.step(state, one)
    assert "parameters of `smashed` at `client`" in str(error.value)
    assert ("the loss" in str(error.value)) == (late == 1)


@MANY
def test_rounds_skip_the_bad_steps_alone(name):
    algorithm = ALGORITHMS[name](trainer("skip"))
    state, info = after(algorithm, [drawn(spoilt(13))])
    assert not well(info) and int(info.finite.step) > 0
    for tree in trees_of(state):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
    first = algorithm.init(jax.random.key(1), drawn())
    assert (
        difference(trees_of(state)[0], trees_of(first)[0]) > 1e-4
        if name != "parallel"
        else True
    )
    assert well(algorithm.step(state, drawn())[1])


@pytest.mark.parametrize("name", ["turns", "parallel, shared", "large batch"])
def test_records_that_fill_up_ragged_clients_may_hold_anything(name):
    """What fills up the last batch of a client is read at weight 0."""
    ragged = people([5, 19, 1, 15]).round(FIELDS, 0, batch=8)
    algorithm = ALGORITHMS[name](trainer())
    expected, _ = after(algorithm, [ragged])
    # Somebody's record of which nobody in this round has any: the reads of weight 0.
    extra = {n: np.concatenate([x, x[:1]]) for n, x in FIELDS.items()}
    extra["image"][-1], extra["label"][-1] = np.nan, 99
    reads = np.where(ragged.weight > 0, ragged.reads, len(FIELDS["label"]))
    found, info = after(algorithm, [ragged._replace(fields=extra, reads=reads)])
    assert well(info)
    assert far(found, expected) < 1e-5
    measured = algorithm.evaluate(found, ragged._replace(fields=extra, reads=reads))
    assert np.isfinite(measured.loss)


@MANY
def test_an_evaluation_of_a_round_refuses_class_numbers_out_of_range(name):
    algorithm = ALGORITHMS[name](trainer())
    state = algorithm.init(0, drawn())
    with pytest.raises(jsplit.NotFinite, match="^the evaluation gives") as error:
        algorithm.evaluate(state, drawn(spoilt(13, "label", -1)))
    assert "the range of class numbers in the loss `loss` at `server`" in str(
        error.value
    )
    assert well(algorithm.evaluate(state, drawn()))


CLIP = optax.chain(jsplit.clip_by_global_norm(0.1), optax.sgd(0.2))


def test_splitfed_clips_each_client_s_step_by_its_own_global_norm():
    """With one client of one step a round is a step of the trainer."""
    one = people([40]).round(FIELDS, 0, batch=40)
    clipping = trainer(optimizer=CLIP)
    state, _ = after(rounds.splitfed(clipping, "client"), [one])
    plain = clipping.init(jax.random.key(1), FIELDS)
    batch = {n: x[one.reads[0, 0]] for n, x in FIELDS.items()}
    expected, _ = clipping.step(plain, batch)
    assert far(state, expected) < 1e-5
    # And it does clip.
    free = optax.chain(jsplit.clip_by_global_norm(1e9), optax.sgd(0.2))
    assert far(trainer(optimizer=free).step(plain, batch)[0], expected) > 1e-3
    for name in ("splitfed 3", "fedavg", "parallel, shared"):
        found, info = after(ALGORITHMS[name](clipping), [drawn()])
        assert np.isfinite(info.loss)


def test_where_clients_step_together_with_parameters_of_their_own_no_number_is_of_all():
    refused(
        "where each client has parameters of its own",
        lambda: rounds.parallel(trainer(optimizer=CLIP), "client"),
    )
    loss = jsplit.with_loss(optax.polyak_sgd())
    refused(
        "the optimizer of `client` needs the loss (`value`)",
        lambda: rounds.parallel(trainer(optimizer=loss), "client"),
    )
    _, info = after(
        rounds.parallel(trainer(optimizer=loss), "client", bottoms="shared"), [drawn()]
    )
    assert np.isfinite(info.loss)


def test_an_optimizer_of_averages_has_neither_norm_nor_loss():
    for server, why in (
        (CLIP, "`server` has jsplit.clip_by_global_norm"),
        (optax.polyak_sgd(), "`server` needs the loss (`value`)"),
    ):
        refused(why, lambda server=server: rounds.fedavg(trainer(), server=server))


@MANY
def test_a_step_that_is_left_out_counts_for_nothing_in_the_losses_of_its_round(name):
    algorithm = ALGORITHMS[name](trainer("skip"))
    state = algorithm.init(0, drawn())
    _, info = algorithm.step(state, drawn(spoilt(13)))
    assert not well(info)
    assert np.isfinite(info.loss) and all(np.isfinite(x) for x in info.losses.values())


def test_a_round_prints_no_record():
    said = repr(drawn(spoilt(3, value=7731773)))
    assert "7731773" not in said and "image" in said and "2 of 2 clients" in said
