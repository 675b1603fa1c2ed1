"""A table of steps counts what going through all steps counts, and a schedule is a value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jsplit.wire.rota import Rota
from jsplit.wire.schedule import Schedule
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
    crossings = tuple(Crossing("activation", w, 0, 1) for w in "abc")
    tables = Terms(b"r" * 32, ("lab", "server"), crossings, ((),) * 3, 9).tables()
    assert {id(t) for t in tables} == {id(EVERY_STEP)}
    assert len(EVERY_STEP.begins) == 1
    for step in (0, 1, 10**9):
        assert EVERY_STEP.count(step) == step and EVERY_STEP.has(step)


def test_a_schedule_is_made_once_for_those_that_are_away_and_shares_tables():
    rota = Rota(2, ((0, 2), (1, 1)), 9, hands_over=True)
    schedule = Schedule(rota, wires=2, roles=1)
    assert schedule.excluding(()) is schedule
    north, _, south, _, *handed = schedule.tables
    assert [s for s in range(9) if south.has(s)] == [2, 5, 8]
    assert all(north.has(s) != south.has(s) for s in range(9))
    assert [[s for s in range(10) if t.has(s)] for t in handed] == [
        [2, 5, 8],
        [3, 6, 9],
    ]
    alone = schedule.excluding(((3, (1,)),))
    assert [s for s in range(9) if alone.tables[2].has(s)] == [2]
    assert alone == schedule.excluding(((3, (1,)),))
