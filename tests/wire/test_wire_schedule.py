"""A table of steps counts what going through all steps counts, and a schedule is a value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.party.contract.turns import Turns, turns
from jsplit.wire.admission import accept_between
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.frames import frame_of
from jsplit.wire.rota import Rota
from jsplit.wire.schedule import Schedule
from jsplit.wire.session import Session
from jsplit.wire.steps import EVERY_STEP, Steps
from jsplit.wire.terms import Crossing, Terms

LAST = 60


@given(st.lists(st.integers(0, LAST - 1), min_size=0, max_size=12, unique=True))
def test_a_table_of_steps_counts_as_going_through_them_does(ends):
    """Stretches between ends that were drawn, every other one left out."""
    ends = sorted(ends)[: len(ends) // 2 * 2]
    stretches = list(zip(ends[::2], ends[1::2], strict=True))
    steps = Steps.of(stretches)
    there = [any(a <= s < b for a, b in stretches) for s in range(LAST + 5)]
    assert [steps.has(s) for s in range(LAST + 5)] == there
    assert [steps.count(s) for s in range(LAST + 5)] == [
        sum(there[:s]) for s in range(LAST + 5)
    ]


def test_without_turns_every_step_uses_every_wire_in_one_table_of_one_entry():
    crossings = tuple(Crossing("activation", w, (0,), 1) for w in "abc")
    terms = Terms(b"r" * 32, ("lab", "server"), crossings, ((),) * 3, 9)
    assert {id(t) for t in terms.tables(0, 1).values()} == {id(EVERY_STEP)}
    assert [*terms.tables(0, 1)] == [0, 1, 2] and not terms.tables(1, 0)
    assert len(EVERY_STEP.begins) == 1
    for step in (0, 1, 10**9):
        assert EVERY_STEP.count(step) == step and EVERY_STEP.has(step)


def test_a_schedule_is_made_once_for_those_that_are_away_and_shares_tables():
    rota = Rota(2, ((0, 2), (1, 1)), 9, hands_over=True)
    schedule = Schedule(rota, wires=2, players=((5, 7),))
    assert schedule.excluding(()) is schedule
    north, south = schedule.steps_of(0, 5), schedule.steps_of(2, 7)
    assert schedule.steps_of(1, 9) is north and schedule.steps_of(3, 9) is south
    # Place 4 is what north takes, place 5 what south takes.
    handed = [schedule.steps_of(5, 5), schedule.steps_of(4, 7)]
    for nobody in ((5, 7), (4, 5), (4, 9)):
        assert not any(schedule.steps_of(*nobody).has(s) for s in range(12))
    assert [s for s in range(9) if south.has(s)] == [2, 5, 8]
    assert all(north.has(s) != south.has(s) for s in range(9))
    assert [[s for s in range(10) if t.has(s)] for t in handed] == [
        [2, 5, 8],
        [3, 6, 9],
    ]
    alone = schedule.excluding(((3, (1,)),))
    assert [s for s in range(9) if alone.steps_of(2, 7).has(s)] == [2]
    assert alone == schedule.excluding(((3, (1,)),))


def turns_of(clients):
    names = [f"c{i:03}" for i in range(clients)]
    said = turns({c: {"client": c} for c in names}, [(c, 1) for c in names])
    return Turns(said, ["client", "server"], 2 * clients)


def test_what_is_handed_over_has_a_crossing_for_each_client_and_not_for_each_two():
    for clients in (2, 30, 100):
        made = turns_of(clients)
        assert len(made.crossings([])) == clients
        # All but the last follow one another, and in the end it gives to each other.
        assert len(made.rota.handed) <= 2 * clients


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=5
    ),
    st.booleans(),
)
def test_whoever_has_a_turn_has_all_that_was_learned_before_it(order, by_epochs):
    """By any order, also of clients with several turns in it; in the end all have it."""
    around = sum(n for _, n in order)
    said = turns({c: {"client": c} for c in "abc"}, order)
    every, steps = around if by_epochs else 0, 3 * around
    made, known = (
        Turns(said, ["client", "server"], steps, every=every),
        dict.fromkeys("abc", 0),
    )

    def hand_over(step, to_all):
        by_party = {
            p: {h for _, h in made.handovers_of(p, step, to_all=to_all)} for p in "abc"
        }
        every_one = set().union(*by_party.values())
        for h in every_one:
            assert h in by_party[h.sender] and h in by_party[h.receiver]
        known.update({h.receiver: known[h.sender] for h in every_one})

    for step in range(steps):
        hand_over(step, to_all=False)
        client = "abc"[made.client(step)]
        assert known[client] == step
        known[client] = step + 1
        at = made.taken_by_all(step)
        assert (at is not None) == ((step + 1) % (every or steps) == 0)
        if at is not None:
            hand_over(at, to_all=True)
            assert {*known.values()} == {step + 1}


def test_only_the_client_whose_turn_ends_may_hand_over():
    """A head of any client is one of the agreement's; in a step it is of one of them."""
    made = turns_of(3)
    crossings = made.crossings([])
    shapes = (((np.dtype(np.uint8), (1,)),),) * 3
    terms = Terms(
        b"r" * 32, made.parties, crossings, shapes, 6, schedule=made.schedule(0)
    )
    # To the second client the first hands over before step 1, never the third.
    first, third = Session(terms, 0, 1), Session(terms, 2, 1)
    second = {peer: Session(terms, 1, peer) for peer in (0, 2)}
    for session in (first, third, *second.values()):
        session.begin(1, 0)
    assert first.sends == (1,) and third.receives == (2,)
    value = [np.zeros(1, np.uint8)]
    frame = first.send(1, 1, 0, value)
    taken, _ = second[0].receive(frame)
    assert taken is frame
    head = third.head("weights", step=1, value=1)
    accept_between(terms, 1, 2, replace(head, shapes=shapes[1]))
    with pytest.raises(RemoteProtocolError, match="sent weights `client` of step 1"):
        second[2].receive(frame_of(head, value))
    # And never to itself, nor a party that plays no such role.
    assert not terms.crosses(1, 1, 1) and not terms.crosses(1, 3, 1)
