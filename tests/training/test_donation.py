"""A state in hand stays valid, unless a trainer is told to donate it; then it says so."""

from __future__ import annotations

import signal

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import rounds
from tests.helpers import make_problem
from tests.rounds.common import first, people
from tests.training.common import INTERPRETERS, both, close, learned

PROBLEM = make_problem("vanilla", "mlp", "nnx")
BATCH = PROBLEM.batch
USED = "this state is used up"


@both
def test_a_state_in_hand_stays_valid(interpreter):
    trainer = INTERPRETERS[interpreter](PROBLEM.topology, optax.adam(0.1))
    best = trainer.init(0, BATCH)
    state = best
    for _ in range(3):
        state, _ = trainer.step(state, BATCH)
    before = trainer.evaluate(best, BATCH).loss
    assert before > trainer.evaluate(state, BATCH).loss
    again, _ = trainer.step(best, BATCH)
    once, _ = trainer.step(trainer.init(0, BATCH), BATCH)
    close(learned(again), learned(once), 0)


@both
def test_an_interrupted_loop_goes_on_with_the_state_in_hand(interpreter):
    trainer = INTERPRETERS[interpreter](PROBLEM.topology, optax.sgd(0.1, momentum=0.9))
    state = trainer.init(0, BATCH)
    plain = state
    state, _ = trainer.step(state, BATCH)  # compiled

    def interrupt(number, frame):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        # Again and again, so that some fall into the midst of a step.
        while interrupted < 5:
            signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.0007 * interrupted)
            try:
                while True:
                    state, _ = trainer.step(state, BATCH)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    state, info = trainer.step(state, BATCH)
    assert np.isfinite(info.loss)
    count = int(state.parties["client"].step)
    for _ in range(count):
        plain, _ = trainer.step(plain, BATCH)
    close(learned(state), learned(plain), 0)


@both
def test_a_used_up_state_says_so_wherever_it_is_read(interpreter, tmp_path):
    trainer = INTERPRETERS[interpreter](
        PROBLEM.topology, optax.adam(0.1), nonfinite="skip", donate=True
    )
    state = trainer.init(0, BATCH)
    whole = jsplit.variables(state)
    new, _ = trainer.step(state, BATCH)
    trees = [t for p in state.parties.values() for t in p.params.values()]
    readings = {
        "step": lambda: trainer.step(state, BATCH),
        "evaluate": lambda: trainer.evaluate(state, BATCH),
        "predict": lambda: trainer.predict(state, PROBLEM.fields),
        "save": lambda: jsplit.save(tmp_path / "no", state),
        "variables": lambda: jsplit.variables(state),
        "merge": lambda: jsplit.merge(*trees),
        "load_variables": lambda: jsplit.load_variables(state, *whole),
        "export": lambda: jsplit.export(PROBLEM.topology, state, PROBLEM.fields),
    }
    for name, read in readings.items():
        with pytest.raises(ValueError, match=USED) as error:
            read()
        assert "`donate=False`" in str(error.value), name
    assert not (tmp_path / "no").exists()
    # The weights put together before, and the state that the step gave back, are there.
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(whole))
    jsplit.save(tmp_path / "yes", new)
    # Of a used-up state shapes are left, which is all that this reads of it.
    restored = jsplit.restore(tmp_path / "yes", state)
    close(learned(restored), learned(new), 0)


def test_a_used_up_state_of_rounds_says_so_too(tmp_path):
    trainer = jsplit.fused(
        PROBLEM.topology, optax.sgd(0.1), nonfinite="allow", donate=True
    )
    algorithm = rounds.splitfed(trainer, "client")
    drawn = people([4, 4]).round(BATCH, 0, batch=4)
    state = algorithm.init(0, drawn)
    algorithm.step(state, drawn)
    for read in (
        lambda: algorithm.step(state, drawn),
        lambda: algorithm.run(state, [drawn, drawn]),
        lambda: algorithm.evaluate(state, drawn),
        lambda: algorithm.predict(state, first(PROBLEM.fields, 2)),
        lambda: state.client(0),
        lambda: jsplit.save(tmp_path, state),
        lambda: jsplit.save(tmp_path, state, client=0),
        lambda: jsplit.variables(state),
    ):
        with pytest.raises(ValueError, match=USED):
            read()


def test_rounds_keep_the_state_in_hand():
    trainer = jsplit.fused(PROBLEM.topology, optax.sgd(0.1))
    algorithm = rounds.take_turns(trainer, "client")
    drawn = people([4, 4]).round(BATCH, 0, batch=4)
    state = algorithm.init(0, drawn)
    new, _ = algorithm.step(state, drawn)
    again, _ = algorithm.step(state, drawn)
    close(learned(again), learned(new), 0)
