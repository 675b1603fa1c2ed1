"""A guard follows a run that goes back: of each step the last time it was done counts, once."""

from __future__ import annotations

import logging

import numpy as np
import optax
import pytest

from jsplit import party
from jsplit.party.compute.local import Local
from jsplit.party.guard_of_run import GuardOfRun, Hijacked
from tests.party.federation import agreed_for, checked, together
from tests.party.test_guard_of_run import GIVEN, LOGGER, STEPS, fields_of, problem

STOP = party.Guard(window=5, alone=3, policy="stop")
RNG = np.random.default_rng(0)
H = RNG.normal(size=(32, 8)).astype("float32")
FAIR = RNG.normal(size=(32, 8)).astype("float32")


class Crossing:
    """What carries the messages of one step: they are there."""

    def __init__(self, step):
        self.step = step
        self.there = self.wait = lambda *_: True

    def send(self, micro, wire, value): ...


@pytest.fixture
def guard():
    p = problem("vanilla")
    agreed = agreed_for(p, steps=9)
    return GuardOfRun(STOP, Local(agreed, "client", p.topology, optax.sgd(0.1)), 32)


def done(guard, steps, returned, checkpoint=1):
    for step in steps:
        at = guard.over(Crossing(step))
        for window in guard._windows:
            at.send(0, window.values.sent[0], H)
            at.send(0, window.values.returned[0], returned)
        guard.ended(step)
        if (step + 1) % checkpoint == 0:
            guard.saved(step + 1, 0)


def test_windows_that_are_done_again_are_counted_once(guard):
    guard.begin(0)
    done(guard, range(10), FAIR + 3, checkpoint=3)
    for back in (0, 6, 3):
        guard.begin(back)
        done(guard, range(back, 10), FAIR + 3, checkpoint=3)
    assert [(e.first, e.last) for e in guard.evidence] == [(0, 4), (5, 9)]
    # What was honest the first time is judged anew, so that nobody has it for free.
    guard.begin(3)
    done(guard, range(3, 10), FAIR, checkpoint=3)
    assert [e.suspicious for e in guard.evidence] == [True, False]
    guard.begin(3)
    with pytest.raises(Hijacked, match="3 windows in a row"):
        done(guard, range(3, 15), FAIR + 3, checkpoint=3)


def test_who_orders_all_back_before_a_window_is_full_is_judged_all_the_same(guard):
    with pytest.raises(Hijacked, match="steps 10 to 14"):
        for first in range(20):
            guard.begin(first)
            done(guard, range(first, first + 4), FAIR + 3)
    assert first == 11


def test_where_nothing_is_ever_judged_it_says_so_once(guard, caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        for _ in range(8):
            guard.begin(0)
            done(guard, range(4), FAIR, checkpoint=9)
    [said] = caplog.messages
    assert "in the last 15 steps could be judged" in said and not guard.evidence


def test_what_is_not_finite_is_warned_of_once_and_ends_no_row(guard, caplog):
    guard.begin(0)
    spoiled = (FAIR + 3).copy()
    spoiled[:, 0] = np.nan
    with caplog.at_level(logging.WARNING, LOGGER):
        done(guard, range(5), FAIR + 3)
        done(guard, range(5, 10), np.full_like(H, np.nan))
        done(guard, range(10, 15), spoiled)
        with pytest.raises(Hijacked, match="3 windows in a row"):
            done(guard, range(15, 20), FAIR + 3)
    [said] = caplog.messages
    assert "in 5 of steps 5 to 9 what came for `up` is not all finite" in said


@pytest.mark.slow
def test_a_party_that_goes_back_with_others_has_each_step_in_one_window(tmp_path):
    p, left = problem("vanilla"), ["server"]
    agreed, hub = agreed_for(p, steps=STEPS, checkpoint=3), party.MemoryTransport()

    class DiedError(Exception):
        pass

    def one(name):
        def on_step(metrics):
            if metrics.step == 8 and name in left:
                left.remove(name)
                raise DiedError

        while True:
            try:
                return party.run(
                    agreed,
                    name,
                    p.topology,
                    fields_of(p, name),
                    credentials=party.PlaintextWithoutIdentity(name),
                    optimizer=optax.adam(1e-2),
                    remind=0.2,
                    transport=hub,
                    checkpoint=tmp_path / name,
                    on_step=on_step,
                    guard=party.Guard(window=5),
                )
            except DiedError:
                continue

    found = checked(together(agreed.parties, one))
    assert not left and len(GIVEN) == 15
    windows = [(e.first, e.last) for e in found["client"].evidence]
    assert windows == [(0, 4), (5, 9), (10, 14)]
