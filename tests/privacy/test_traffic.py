"""What a party has seen: its own fields and messages, of all steps, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.compress import cast
from jsplit.privacy import traffic_of, watch
from tests.helpers import make_problem
from tests.training.common import INTERPRETERS, both, close, learned, refused


def batches(problem, count=3):
    """Batches of different records."""
    found = []
    for i in range(count):
        order = np.roll(np.arange(8), i)
        found.append({f: np.asarray(x)[order] for f, x in problem.batch.items()})
    return found


def problem_of(configuration):
    return make_problem(configuration, "mlp", "linen")


@both
def test_it_is_what_crossed_laid_step_by_step_and_training_is_the_same(interpreter):
    problem = problem_of("vanilla")
    trainer = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1))
    state = start = trainer.init(0, problem.batch)
    [field] = problem.topology.holds["client"]
    ups, sets, recording = [], batches(problem), jsplit.record(trainer)
    for batch in sets:
        state, recorded = recording.step(state, batch)
        ups.append(recorded.crossed["activation", "smashed", "client", "server"].value)
    after, seen = watch(recording, start, sets, "server")
    close(learned(after), learned(state))
    assert np.array_equal(seen.step, np.repeat([0, 1, 2], 8))
    np.testing.assert_allclose(
        seen.received["smashed"], jnp.concatenate(ups), rtol=1e-6
    )
    np.testing.assert_array_equal(
        seen.fields["label"], np.concatenate([b["label"] for b in sets])
    )
    later, mine = watch(recording, after, sets[:1], "client")
    assert mine.step.tolist() == [3] * 8
    assert int(later.parties["client"].step) == 4
    assert list(mine.fields) == [field]


def test_a_party_gets_nothing_that_is_not_its_own():
    problem = problem_of("multihop")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    _, seen = watch(trainer, trainer.init(0, problem.batch), batches(problem), "two")
    assert [*seen.received] == ["hop1"] and [*seen.gave] == ["hop1"]
    assert [*seen.sent] == ["hop2"] and [*seen.returned] == ["hop2"]
    assert seen.fields == {}


@pytest.mark.parametrize("configuration", ["vanilla", "u_shaped", "vertical"])
def test_what_one_sends_another_receives(configuration):
    problem = problem_of(configuration)
    links = {c.name: cast(jnp.bfloat16) for c in problem.topology.crossings}
    trainer = jsplit.messages(problem.topology, optax.sgd(0.1), links=links)
    state = trainer.init(0, problem.batch)
    _, recorded = jsplit.record(trainer).step(state, problem.batch)
    seen = {p: traffic_of(recorded, p) for p in problem.topology.parties}
    for party, own in seen.items():
        sends = {c.name for c in problem.topology.crossings if c.sender == party}
        gets = {c.name for c in problem.topology.crossings if c.receiver == party}
        # Of the whole record, which has all parties' messages, only its own.
        assert {*own.sent} == sends and {*own.received} == gets
    for c in problem.topology.crossings:
        pairs = [(seen[c.sender].sent, seen[c.receiver].received)]
        pairs.append((seen[c.receiver].gave, seen[c.sender].returned))
        for gives, gets in pairs:
            np.testing.assert_array_equal(gives[c.name], gets[c.name])


def test_a_value_of_several_receivers_has_a_name_for_each():
    problem = problem_of("multitask")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    _, seen = watch(trainer, state, [problem.batch], "lab")
    assert set(seen.sent) == {"left to server0", "left to server1"}
    assert set(seen.returned) == {"left from server0", "left from server1"}
    _, other = watch(trainer, state, [problem.batch], "server0")
    assert set(other.received) == {"left", "right"}


def test_examples_that_do_not_count_are_no_records_of_it():
    problem = problem_of("vanilla")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    weight = np.array([1, 0, 2, 0, 1, 1, 1, 0], np.float32)
    _, seen = watch(trainer, state, [(problem.batch, weight), problem.batch], "server")
    assert seen.step.tolist() == [0] * 5 + [1] * 8
    label = np.asarray(problem.batch["label"])
    np.testing.assert_array_equal(seen.fields["label"][:5], label[weight > 0])
    assert seen.received["smashed"].shape[0] == 13
    fields = {f: x for f, x in problem.batch.items() if f != "label"}
    own = trainer.predict(state, fields, at="smashed")["smashed"]
    # Of the same records, then: the bottom has no statistics of the batch.
    np.testing.assert_allclose(
        np.asarray(seen.received["smashed"][:5]),
        np.asarray(own)[weight > 0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_steps_of_a_scan_are_steps_and_not_records():
    problem = problem_of("vanilla")
    trainer = jsplit.record(jsplit.fused(problem.topology, optax.sgd(0.1)))
    state, told = trainer.init(0, problem.batch), []
    sets = batches(problem, 2)
    stacked = jax.tree.map(lambda *x: np.stack(x), *sets)
    _, many = jax.lax.scan(trainer.step, state, stacked)
    for batch in sets:
        state, recorded = trainer.step(state, batch)
        told.append(recorded)
    one, other = traffic_of(many, "server"), traffic_of(told, "server")
    assert one.step.tolist() == other.step.tolist() == [0] * 8 + [1] * 8
    close(one.gave, other.gave)


def test_what_does_not_fit_is_refused():
    problem = problem_of("vanilla")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    _, recorded = jsplit.record(trainer).step(state, problem.batch)
    refused("`party` must be one", lambda: traffic_of(recorded, "nobody"))
    refused("`recorded` must be", lambda: traffic_of([], "server"))
    refused("`recorded` must be", lambda: traffic_of([recorded.info], "server"))
    refused(
        "`steps` must be of the 1", lambda: traffic_of(recorded, "server", steps=[1, 2])
    )
    short = {"label": np.zeros(3, np.int32)}
    refused("3", lambda: traffic_of(recorded, "server", fields=[short]))
    refused("no batch", lambda: watch(trainer, state, [], "server"))
    refused("one of client, server", lambda: watch(trainer, state, [], "nobody"))
    refused(
        "one number for each of the 8",
        lambda: traffic_of(recorded, "server", weights=[np.ones(3)]),
    )
