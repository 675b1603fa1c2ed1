"""A party that waits has begun its next step as far as it can be begun, and the numbers
are the same as if it had not.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.party.compute.local import Local
from tests.party import federation
from tests.party.federation import Others, agreed_for, bits, checked, layer, train


def frozen_head(trainable=False):
    """A U shape whose first segment does not learn; its party also has the last."""
    head = dataclasses.replace(layer(["x"], "up"), trainable=trainable)
    topology = jsplit.u_shaped(
        head,
        layer(["up"], "down"),
        layer(["down"], "y", 1),
        loss=lambda y, label: (y - label) ** 2,
    )
    rng = np.random.default_rng(0)
    shapes = {"x": (8, 3), "label": (8, 1)}
    return federation.Small(
        topology, {f: rng.normal(size=s).astype(np.float32) for f, s in shapes.items()}
    )


def steps_of(problem, micros, late, steps=3):
    """What happened at the client in some steps, what it sent, and its last state."""
    local = Local(
        agreed_for(problem, steps=steps, microbatches=micros),
        "client",
        problem.topology,
        optax.adam(0.1),
    )
    others = Others(local, len(problem.batch["x"]) // micros, late)

    def batches(step):
        others.log.append(("batch", step, 0))
        return {f: x + step for f, x in problem.batch.items()}

    state, first = local.init(problem.batch), local.walk.programs[0]

    def counted(*args):
        others.log.append(
            (
                "forward",
                int(args[first.reads.index(local.layout["client"].step)]),
                0,
            )
        )
        return first.function(*args)

    local.walk.programs[0] = first._replace(function=counted)
    for step in range(steps):
        state, _ = local.step(state, batches, step, others)
        state = state._replace(step=jnp.int32(step + 1))
    return others.log, others.sent, state


@pytest.mark.parametrize("micros", [1, 2])
def test_what_does_not_change_is_computed_for_the_next_step_before_a_party_waits(
    micros,
):
    problem = frozen_head()
    log, sent, state = steps_of(problem, micros, late=True)
    for step in range(2):
        before = log[: log.index(("wait", step, 0))]
        assert before.count(("batch", step + 1, 0)) == 1
        assert before.count(("forward", step + 1, 0)) == micros
        assert ("send", step + 1, 0) not in before  # it is held until its step
    assert [x for x in log if x[0] == "batch"] == [("batch", s, 0) for s in range(3)]
    assert log.count(("forward", 1, 0)) == micros
    prompt, same, last = steps_of(problem, micros, late=False)
    assert ("wait", 0, 0) not in prompt and prompt[:2] == [
        ("batch", 0, 0),
        ("forward", 0, 0),
    ]
    assert bits(state) == bits(last)
    assert sorted(x[0].tobytes() for x in sent) == sorted(x[0].tobytes() for x in same)


def test_what_learns_waits_for_its_step_and_only_the_batch_is_there_before():
    log, _, _ = steps_of(frozen_head(trainable=True), 1, late=True)
    before = log[: log.index(("wait", 0, 0))]
    assert ("batch", 1, 0) in before and ("forward", 1, 0) not in before


def test_who_goes_back_forgets_what_it_did_ahead_and_a_bad_batch_fails_in_its_own_step():
    problem = frozen_head()
    local = Local(
        agreed_for(problem, steps=4), "client", problem.topology, optax.adam(0.1)
    )
    asked = []

    def given(name, bad=None):
        def batches(step):
            asked.append((name, step))
            if step == bad:
                raise OSError("no such batch")
            return problem.batch

        return batches

    old, new, state = given("old"), given("new", bad=2), local.init(problem.batch)
    local.step(jax.tree.map(jnp.copy, state), old, 0, Others(local, 8, late=True))
    again, _ = local.step(
        jax.tree.map(jnp.copy, state), new, 0, Others(local, 8, late=True)
    )
    assert asked == [("old", 0), ("old", 1), ("new", 0), ("new", 1)]
    other = jax.tree.map(jnp.copy, again)  # the same values, but not what was read
    after, _ = local.step(other, new, 1, Others(local, 8, late=True))
    assert asked[4:] == [("new", 1), ("new", 2)]
    with pytest.raises(OSError, match="no such batch"):
        local.step(after, new, 2, Others(local, 8, late=True))
    assert asked[6:] == [("new", 2)]


@pytest.mark.parametrize("micros", [1, 2])
def test_over_the_network_a_frozen_head_gives_what_it_gives_in_one_process(micros):
    problem = frozen_head()
    results = checked(train(agreed_for(problem, steps=5, microbatches=micros), problem))
    trainer = jsplit.messages(
        problem.topology, federation.optimizers(problem.topology), microbatches=micros
    )
    state = trainer.init(3, problem.batch)
    for _ in range(5):
        state, _ = trainer.step(state, problem.batch)
    assert all(bits(r.state) == bits(state.parties[p]) for p, r in results.items())


def test_what_others_wait_for_comes_before_what_only_its_party_needs():
    """At a server that could learn from one micro-batch or answer the next, the answer
    comes first.
    """
    problem = federation.small("pair")
    local = Local(
        agreed_for(problem, steps=2, microbatches=4),
        "server",
        problem.topology,
        optax.sgd(0.1),
    )
    others, state = Others(local, 2, late=False), local.init(problem.batch)
    order = []
    turn = local.walk.turn

    def noted(t, store, at, micro):
        order.append((t, micro))
        turn(t, store, at, micro)

    local.walk.turn = noted
    local.step(state, lambda step: {"label": problem.batch["label"]}, 0, others)
    assert order == [(0, m) for m in range(4)] + [(1, m) for m in range(4)]


@pytest.mark.parametrize("micros", [1, 2])
def test_who_needs_two_messages_waits_for_each_that_is_not_there(micros):
    problem = federation.small("vertical")
    local = Local(
        agreed_for(problem, steps=1, microbatches=micros),
        "server",
        problem.topology,
        optax.sgd(0.1),
    )
    others = Others(local, 8 // micros, late=True)
    local.step(
        local.init({}), lambda step: {"label": problem.batch["label"]}, 0, others
    )
    assert [x[0] for x in others.log].count("wait") == 2 * micros
