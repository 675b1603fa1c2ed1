"""One form of a state, one executor: loading and saving are inverse, turns are a party's own."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit.training.executor import CompiledWalk, InProcess, Recorder, jitted
from jsplit.training.kinds import LEARNED, Kind
from jsplit.training.nonfinite import hold
from jsplit.training.store import key_and_step, layout_of, load, save_back
from jsplit.training.walk import Name, Turn, Wire
from jsplit.training.walks import walks_of
from tests.helpers import make_problem


@pytest.fixture(scope="module")
def problem():
    return make_problem("u_shaped", "mlp", "nnx")


@pytest.fixture(scope="module")
def trainer(problem):
    links = {problem.topology.crossings[0].name: jsplit.compress.quantize(8)}
    return jsplit.messages(problem.topology, optax.adam(0.1), links=links)


def test_what_is_loaded_is_saved_back(problem, trainer):
    layout = layout_of(trainer.config)
    state = trainer.init(0, problem.batch)
    back = save_back(layout, load(layout, state, problem.batch))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert a is b


def test_a_state_is_what_its_parties_have_learned_with_one_key_and_step(
    problem, trainer
):
    layout = layout_of(trainer.config)
    state = trainer.init(0, problem.batch)
    first = next(iter(state.parties.values()))
    learned = {n: x for n, x in load(layout, state).items() if n.kind in LEARNED}
    assert {n[:2] for n in learned} <= {(p, k) for p in layout for k in LEARNED}
    back = save_back(layout, learned | key_and_step(layout, first.key, first.step))
    assert jax.tree.structure(back) == jax.tree.structure(state)


def test_without_a_batch_only_the_state_is_in_the_store(problem, trainer):
    layout = layout_of(trainer.config)
    state = trainer.init(0, problem.batch)
    kinds = {n.kind for n in load(layout, state)}
    assert not kinds & {Kind.VALUE, Kind.WEIGHT}


@pytest.mark.parametrize(
    "name", [Name("b", Kind.VALUE, "x"), Wire("activation", "x", "a", "b")]
)
def test_a_turn_that_reads_what_is_not_its_partys_is_not_compiled(name):
    turn = Turn("a", (), (name,), ())
    with pytest.raises(AssertionError, match="a turn of `a` reads"):
        CompiledWalk([turn], [])


def test_nothing_is_left_of_a_step_but_what_is_kept(problem, trainer):
    """Messages, vjps and batches are dropped after their last use, at every party."""
    walks, layout = walks_of(trainer.config), layout_of(trainer.config)
    store = load(layout, trainer.init(0, problem.batch), problem.batch)
    persistent = {n for n in store if n.kind in (*LEARNED, Kind.KEY, Kind.STEP)}
    hold(layout, store, trainer.config.nonfinite)
    walk = CompiledWalk(walks.train.turns(), walks.train.keep, jitted(donate=()))
    walk(store, InProcess())
    # A party without a loss reads no weights, which are `None` here.
    left = {n for n in store if n.kind != Kind.WEIGHT}
    assert left == persistent | walks.train.keep


def test_a_message_is_recorded_once_for_its_shapes():
    known = {}
    wire, value = Wire("activation", "h", "a", "b"), np.zeros((4, 3), np.float32)
    for _ in range(2):
        recorder = Recorder(known)
        recorder.send(wire, value)
        assert recorder.take(wire) is value
        assert [(m.name, m.kind, m.bytes) for m in recorder.messages] == [
            ("h", "activation", 48)
        ]
    assert len(known) == 1


def test_kinds_are_hashed_as_the_strings_that_they_are():
    assert Kind.__hash__ is str.__hash__
    assert {Kind.PARAMS: 1}["params"] == 1
