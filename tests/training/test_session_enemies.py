"""Sessions in one process among threads, steps that use states up, and caches that are shared."""

from __future__ import annotations

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.training import sessions

WIDTH = 3
X = np.random.default_rng(0).normal(size=(1, 4, WIDTH)).astype(np.float32)
BATCH = {"x": X, "label": X}


def trained(start=None, apply=None, **options):
    """A server that sums all that came, from a first state that is learned."""

    def zeros(params, state, h):
        return jnp.zeros((h.shape[0], WIDTH), h.dtype)

    def onward(params, state, total, h):
        sums = total[:, None] + h.cumsum(1)
        return params["first"] + sums, sums[:, -1]

    sums = jsplit.segment(
        lambda p, h: p["first"] + h.cumsum(1),
        init=lambda key, h: {"first": jnp.ones((1, WIDTH))},
        inputs=["h"],
        name="y",
    )
    head = jsplit.segment(lambda x: x * x + x, inputs=["x"], name="h")
    topology = jsplit.vanilla(
        jsplit.with_cache(head, False),
        jsplit.with_cache(sums, jsplit.Cache(start or zeros, apply or onward)),
        loss=optax.squared_error,
    )
    trainer = jsplit.messages(topology, optax.sgd(0.1), **options)
    return trainer, trainer.init(0, BATCH)


CONSTANT = jnp.zeros((1, WIDTH))


def first_state(params, state, h):
    return params["first"]


def from_first(params, state, total, h):
    sums = total[:, None] + h.cumsum(1)
    return sums, sums[:, -1]


def twice(params, state, h):
    one = jnp.zeros((h.shape[0], WIDTH), h.dtype)
    return one, one


def of_both(params, state, both, h):
    one, other = both
    sums = (one + other)[:, None] + h.cumsum(1)
    half = sums[:, -1] / 2
    return params["first"] + sums, (half, half)


@pytest.mark.parametrize(
    ("start", "apply"),
    [
        (first_state, from_first),
        (lambda params, state, h: CONSTANT, None),
        (twice, of_both),
    ],
    ids=["a parameter", "a constant", "one array in two places"],
)
def test_an_empty_cache_is_nobody_elses(start, apply):
    """A call donates it, and with it would go what the state, or the user, has yet."""
    trainer, state = trained(start, apply)
    for _ in range(2):
        with jsplit.session(trainer, state, length=4) as session:
            pieces = (X[:, :2], X[:, 2:3], X[:, 3:])
            found = np.concatenate([session({"x": x}) for x in pieces], 1)
        np.testing.assert_allclose(found, 1 + (X * X + X).cumsum(1), rtol=1e-5)
    assert not any(x.is_deleted() for x in (CONSTANT, *jax.tree.leaves(state)))


def test_calls_of_several_threads_come_one_after_the_other():
    """Each adds what it was given itself, and none is refused."""
    trainer, state = trained()
    failed, calls = [], 40
    with jsplit.session(trainer, state, length=2 + 4 * calls) as session:
        session({"x": np.zeros((1, 2, WIDTH), np.float32)})

        def work(i):
            try:
                for _ in range(calls):
                    session({"x": np.full((1, 1, WIDTH), i, np.float32)})
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        last = session({"x": np.zeros((1, 1, WIDTH), np.float32)})
    assert not failed and session.position == 3 + 3 * calls
    np.testing.assert_array_equal(last[0, 0], 1 + calls * (2 + 6))


def test_a_session_that_is_closed_amid_a_call_stays_closed():
    """The call is computed to its end, and no call comes after it."""
    there, gate = threading.Event(), threading.Event()

    def wait(x):
        there.set()
        gate.wait(60)
        return np.asarray(x)

    def waiting(params, state, total, h):
        like = jax.ShapeDtypeStruct(h.shape, h.dtype)
        h = jax.pure_callback(wait, like, h, vmap_method="sequential")
        sums = total[:, None] + h.cumsum(1)
        return params["first"] + sums, sums[:, -1]

    trainer, state = trained(apply=waiting)
    session, found = jsplit.session(trainer, state, length=9), []
    asking = threading.Thread(
        target=lambda: found.append(np.asarray(session({"x": X})))
    )
    asking.start()
    assert there.wait(60)
    closing = threading.Thread(target=session.close)
    closing.start()
    gate.set()
    closing.join(60)
    asking.join(60)
    session.close()
    assert found[0].shape == X.shape
    with pytest.raises(ValueError, match="the session is over"):
        session({"x": X[:, :1]})


def test_a_state_that_a_step_has_used_up_is_refused_by_its_cause():
    trainer, state = trained(donate=True, nonfinite="allow")
    with jsplit.session(trainer, state, length=9) as session:
        session({"x": X})
        trainer.step(state, BATCH)
        with pytest.raises(ValueError, match="this state is used up: a step"):
            session({"x": X[:, :1]})


def test_programs_are_shared_by_equal_sizes_and_those_unused_longest_go(monkeypatch):
    monkeypatch.setattr(sessions, "KEPT", 2)
    trainer, state = trained()

    def ask(positions, length):
        with jsplit.session(trainer, state, length=length) as session:
            session({"x": X[:, :positions]})
        return sessions._PROGRAMS[trainer.predict].walks

    ask(2, 9)  # is compared with the segment, by a program of its own
    walks = ask(3, 9)
    [*_, last] = walks.values()
    kept = weakref.ref(last.programs[-1].function)
    # Sums are as large whatever the length: no other program.
    assert ask(3, 8).values()[-1] is last and len(walks) == 2
    del last
    ask(4, 9)
    ask(1, 9)
    gc.collect()
    assert len(walks) == 2 and kept() is None
