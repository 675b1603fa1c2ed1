"""Whole parties over the memory transport: as over a network, without ports or certificates."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from jsplit import party
from jsplit.wire.channel import Ends
from jsplit.wire.pipe import Closed, Pipe
from tests.party.federation import (
    LONG,
    agreed_for,
    bits,
    checked,
    small,
    train_in_memory,
    undisturbed,
)

STEPS = 6


def train(agreed, problem, transport, **options):
    """All parties train, and none fails."""
    return checked(train_in_memory(agreed, problem, transport=transport, **options))


@pytest.mark.parametrize("configuration", ["pair", "vertical", "chain", "adapters"])
def test_parties_in_one_process_train_as_messages_does(configuration):
    """In the chain two parties have no connection: the lead passes on what they say, sealed."""
    problem = small(configuration)
    agreed = agreed_for(problem, steps=STEPS)
    results = train(agreed, problem, party.MemoryTransport())
    for name, state in undisturbed(problem, STEPS).items():
        assert bits(results[name].state) == bits(state), name
        assert results[name].epoch == 1


class Cutting(party.MemoryTransport):
    """A hub whose connections are cut now and then; what was under way on them is lost."""

    def __init__(self, seed):
        super().__init__()
        self.rng, self.made, self.cuts = random.Random(seed), [], 0
        self.over = threading.Event()
        threading.Thread(target=self.work, daemon=True).start()

    def dial(self, *given, **options) -> Ends:
        self.made.append(super().dial(*given, **options))
        return self.made[-1]

    def work(self):
        while not self.over.wait(self.rng.uniform(0.02, 0.1)):
            if self.made and self.cuts < 8:
                self.cut(self.made[-1])

    def cut(self, end):
        for pipe in (end.outward, end.inward):
            with pipe.changed:
                self.cuts += pipe.reason is None and pipe is end.outward
                pipe.chunks.clear()
        end.close("cut")


@pytest.mark.parametrize("seed", range(2))
def test_connections_that_are_cut_cost_time_alone(seed):
    problem, steps = small("pair"), 40
    agreed, hub = agreed_for(problem, steps=steps), Cutting(seed)
    try:
        results = train(agreed, problem, hub, on_step=lambda metrics: time.sleep(0.02))
    finally:
        hub.over.set()
    assert hub.cuts >= 2
    for name, state in undisturbed(problem, steps).items():
        assert bits(results[name].state) == bits(state), name


def test_an_address_of_a_hub_is_free_again_after_a_run():
    problem, hub = small("pair"), party.MemoryTransport()
    agreed = agreed_for(problem, steps=1)
    first, second = (train(agreed, problem, hub) for _ in range(2))
    assert bits(first["server"].state) == bits(second["server"].state)


def test_who_closes_waits_for_a_connection_that_is_about_to_begin(monkeypatch):
    trust = party.PlaintextWithoutIdentity
    hub, met, failed = party.MemoryTransport(), [], []

    def let_in(name, open):
        met.append(name)

    # More than a listener of any transport can.
    listener: Any = hub.listen("a:1", trust("a"), {"b": "b"}, let_in, 1 << 20)

    def close():
        try:
            listener.close()
        except RuntimeError as error:
            failed.append(error)

    closing, start = threading.Thread(target=close), threading.Thread.start

    def late(thread):
        # Whoever closes does so between the two lines of the one who lets in.
        if thread.name == "jsplit-meet":
            start(closing)
            closing.join(0.1)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", late)
    hub.dial("a:1", "a", trust("b"), 1 << 20)
    closing.join(LONG)
    assert (met, failed) == (["b"], [])
    with pytest.raises(Closed, match="the listener is closed"):
        listener.take(trust("b"), Pipe(), Pipe())
