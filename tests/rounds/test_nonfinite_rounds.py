"""Rounds whose steps leave what is not finite, and optimizers that need a number of all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
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


@pytest.mark.filterwarnings("ignore:`optimizer` of .* computes the update")
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


@pytest.mark.parametrize("name", ["splitfed 1", "fedavg", "alone"])
def test_clients_that_run_at_once_are_looked_at_too(name):
    make = {
        "splitfed 1": rounds.splitfed,
        "fedavg": lambda t, client, **o: rounds.fedavg(t, **o),
        "alone": lambda t, client, **o: rounds.alone(t, **o),
    }[name]
    algorithm = make(trainer(), "client", chunk=2)
    state, info = after(algorithm, [drawn()])
    assert well(info)
    with pytest.raises(jsplit.NotFinite, match=r"^step \d+ leaves"):
        algorithm.step(state, drawn(spoilt(13)))


def test_a_step_of_ones_own_is_taken_in_every_policy():
    """`trainer._replace(step=...)` is the user's, and what it keeps is kept."""
    plain = trainer()

    def still(state, batch, weight=None):
        new, info = plain.step(state, batch, weight)
        kept = {
            p: new.parties[p]._replace(params=state.parties[p].params)
            for p in new.parties
        }
        return new._replace(parties=kept), info

    algorithm = rounds.splitfed(plain._replace(step=still), "client")
    state = algorithm.init(1, drawn())
    new, _ = algorithm.step(state, drawn())
    # To rounding: it is an average of many times the same.
    assert difference(trees_of(new)[0], trees_of(state)[0]) < 1e-6


def test_what_a_later_step_replaces_is_refused_in_the_step_that_leaves_it():
    def apply(w, state, key, x, train=True):
        return x @ w, {"last": x.max(0) * 1e20} if train else state

    segment = jsplit.Segment(
        lambda key, x: (jnp.ones((3, 2)), {"last": jnp.zeros(3)}), apply, ("x",), "h"
    )
    top = jsplit.segment(lambda h: h.sum(-1), inputs=["h"], name="y")
    loss = lambda y, label: y - label  # noqa: E731
    made = jsplit.fused(jsplit.vanilla(segment, top, loss=loss), optax.sgd(0.1))
    x = np.ones((8, 3), np.float32)
    one = people([8]).round({"x": x, "label": np.zeros(8, np.float32)}, 0, batch=4)
    x[one.reads[0, 0, 0]] = 1e25
    algorithm = rounds.take_turns(made, "client")
    with pytest.raises(jsplit.NotFinite, match="^step 1 leaves.* statistics of `h`"):
        algorithm.step(algorithm.init(0, one), one)


def test_what_the_server_makes_of_finite_clients_is_refused_too():
    algorithm = rounds.fedavg(trainer(), server=optax.sgd(np.inf))
    state = algorithm.init(0, drawn())
    with pytest.raises(jsplit.NotFinite, match="^what the server makes of all clients"):
        algorithm.step(state, drawn())


def test_a_client_that_is_not_asked_may_hold_anything():
    algorithm = rounds.alone(trainer())
    state, _ = after(algorithm, [drawn()])
    client = state.parties["client"]
    spoilt_own = jax.tree.map(lambda x: x.at[1].set(np.nan), client.params)
    parties = {**state.parties, "client": client._replace(params=spoilt_own)}
    only = people([8, 12]).round(FIELDS, 0, batch=4, clients=1)
    while 1 in only.client:
        only = people([8, 12], seed=int(only.client[0]) + 7).round(
            FIELDS, 1, batch=4, clients=1
        )
    _, info = algorithm.step(state._replace(parties=parties), only)
    assert well(info)


def test_weights_of_a_round_are_looked_at_and_a_record_without_a_label_lowers_its_share():
    algorithm = rounds.splitfed(trainer(), "client")
    state = algorithm.init(0, drawn())
    refused(
        "`weight` of the round must hold weights from 0 on",
        lambda: algorithm.step(state, drawn()._replace(weight=-drawn().weight)),
    )
    # All of client 0's records lack a label: it has no part in the average.
    known = np.ones(len(FIELDS["label"]))
    known[np.unique(drawn().reads[0])] = 0
    counted = drawn().counting(known)
    assert counted.share[0] == 0 and counted.share[1] == drawn().share[1]
    refused(
        "no example counts",
        lambda: algorithm.evaluate(state, drawn().counting(0 * known)),
    )
    refused("one number for each of", lambda: drawn().counting(known[:3]))
