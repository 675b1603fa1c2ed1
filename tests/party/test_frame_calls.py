"""What a frame costs from its turn to the outbox; and that the wire never asks the party."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

import jsplit
from jsplit import party
from jsplit.party.compute.exchange import Wires
from tests.party.federation import (
    agreed_for,
    checked,
    optimizers,
    own_of,
    small,
    together,
    trust_of,
)

SOURCE = str(Path(jsplit.__file__).parent)
WIRE, PARTY = f"{SOURCE}/wire/", f"{SOURCE}/party/"
MOST = 50
STEPS = 4


def counted_frames(monkeypatch):
    """Of every frame sent from now on: its step, and each call that it takes, (caller, callee)."""
    frames: list[tuple[int, list[tuple[str, str]]]] = []
    send = Wires.send

    def counted(self, *given):
        calls: list[tuple[str, str]] = []

        def note(frame, event, _):
            if event == "call":
                caller = frame.f_back.f_code if frame.f_back else frame.f_code
                calls.append((caller.co_filename, frame.f_code.co_filename))

        sys.setprofile(note)
        try:
            send(self, *given)
        finally:
            sys.setprofile(None)
        frames.append((self.step, calls))

    monkeypatch.setattr(Wires, "send", counted)
    return frames


def taking_turns():
    return party.turns(
        {c: {"client": c} for c in ("north", "south")}, [("north", 1), ("south", 1)]
    )


def train(agreed, problem):
    """All parties train in one process, each client on the same batch in its turns."""
    rates, trust = optimizers(problem.topology), trust_of(agreed.parties)
    hub = party.MemoryTransport()

    def one(name):
        batch = own_of(problem, agreed.turns.role[name])
        return party.run(
            agreed,
            name,
            problem.topology,
            lambda step: batch,
            credentials=trust[name],
            optimizer=rates[agreed.turns.role[name]],
            remind=0.5,
            transport=hub,
        )

    return checked(together(agreed.parties, one))


@pytest.mark.parametrize("several", [False, True], ids=["one client", "turns"])
def test_a_frame_takes_few_calls_from_its_turn_to_the_outbox_and_asks_nobody_upstairs(
    several, monkeypatch
):
    problem = small("pair")
    options = {"turns": taking_turns()} if several else {}
    agreed = agreed_for(problem, steps=STEPS, **options)
    frames = counted_frames(monkeypatch)
    train(agreed, problem)
    assert len(frames) == 2 * STEPS
    # The first step of each party makes tables that the others look up.
    counts = [len(calls) for step, calls in frames if step >= 2]
    assert max(counts) <= MOST, counts
    assert min(counts) > 10  # else nothing was counted
    for _, calls in frames:
        climbs = [
            (a, b) for a, b in calls if a.startswith(WIRE) and b.startswith(PARTY)
        ]
        assert not climbs


class Climbs:
    """All calls out of the wire into the party, in all threads begun while it counts."""

    def __init__(self):
        self.found: set[tuple[str, str]] = set()
        self.from_wire = 0

    def note(self, frame, event, _):
        if event != "call" or frame.f_back is None:
            return
        caller, callee = frame.f_back.f_code, frame.f_code
        if caller.co_filename.startswith(WIRE):
            self.from_wire += 1
            if callee.co_filename.startswith(PARTY):
                self.found.add((caller.co_qualname, callee.co_qualname))


def test_in_a_whole_run_the_wire_calls_the_party_only_when_somebody_connects():
    problem = small("pair")
    turns = taking_turns() | {"missing": "skip"}
    agreed = agreed_for(problem, steps=STEPS, turns=turns)
    climbs = Climbs()
    threading.setprofile(climbs.note)
    try:
        train(agreed, problem)
    finally:
        threading.setprofile(None)
    assert climbs.from_wire > 1000
    assert {callee for _, callee in climbs.found} <= {"Connections._met"}
