"""All programs of a party are compiled before the first epoch: in a step nobody waits for that."""

from __future__ import annotations

from contextlib import contextmanager

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.connection.network import Network
from tests.party.federation import (
    agreed_for,
    checked,
    optimizers,
    own_of,
    small,
    together,
    train_in_memory,
    undisturbed,
)

_LISTENING: list[list[str]] = []


def _heard(event, seconds, **said):
    if event == "/jax/core/compile/backend_compile_duration":
        for found in _LISTENING:
            found.append(str(said.get("fun_name")))


# There is no public way to take a listener away, so there is one for all tests.
jax.monitoring.register_event_duration_secs_listener(_heard)


@contextmanager
def compiled_in_epochs(monkeypatch):
    """What is compiled while an epoch is under way, at any party."""
    found: list[str] = []
    start, leave = Network.start, Network.leave

    def begun(self, over=bool):
        start(self, over)
        if found not in _LISTENING:
            _LISTENING.append(found)

    def left(self, *given):
        if found in _LISTENING:
            _LISTENING.remove(found)
        return leave(self, *given)

    monkeypatch.setattr(Network, "start", begun)
    monkeypatch.setattr(Network, "leave", left)
    try:
        yield found
    finally:
        if found in _LISTENING:
            _LISTENING.remove(found)


def test_nothing_is_compiled_in_a_step_for_a_bound_on_a_value_with_a_link(monkeypatch):
    problem = small("pair")
    agreed = agreed_for(problem, steps=4, checkpoint=2, links={"h": "quantize(8)"})
    with compiled_in_epochs(monkeypatch) as found:
        checked(train_in_memory(agreed, problem, bound={"h": 1e9}))
    assert not found


TURNS = party.turns({c: {"client": c} for c in "abc"}, [(c, 1) for c in "abc"])


@pytest.mark.parametrize(
    ("configuration", "options"),
    [
        ("vertical", {}),
        ("chain", {"microbatches": 2}),
        ("pair", {"staleness": 1, "links": {"h": "quantize(8)"}}),
        ("pair", {"turns": TURNS}),
        ("pair", {"nonfinite": "skip", "microbatches": 2, "norms": ["global norm"]}),
        ("vertical", {"weight": "counts"}),
    ],
)
def test_nothing_is_compiled_in_a_step(configuration, options, monkeypatch):
    problem = small(configuration)
    agreed = agreed_for(problem, steps=6, checkpoint=2, **options)
    made = optimizers(problem.topology)
    if agreed.norms:
        clip = jsplit.clip_by_global_norm(1.0)
        made = {p: optax.chain(clip, rate) for p, rate in made.items()}
    rates = {p: made[agreed.turns.role[p]] for p in agreed.parties}

    def data(problem, p):
        counts = {agreed.weight: np.ones(8, np.float32)} if agreed.weight else {}
        return own_of(problem, agreed.turns.role[p]) | counts

    with compiled_in_epochs(monkeypatch) as found:
        checked(train_in_memory(agreed, problem, rates, data=data))
    assert not found


@pytest.mark.parametrize("work", [party.evaluate, party.predict])
def test_nothing_is_compiled_in_inference_nor_for_a_last_batch_that_is_not_full(
    work, monkeypatch
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=2)
    states = undisturbed(problem, 2)
    transport = party.MemoryTransport()

    def one(p):
        return work(
            agreed,
            p,
            problem.topology,
            {f: x.repeat(2, 0)[:11] for f, x in own_of(problem, p).items()},
            records=11,
            state=states[p],
            credentials=party.PlaintextWithoutIdentity(p),
            transport=transport,
            remind=0.2,
        )

    with compiled_in_epochs(monkeypatch) as found:
        checked(together(agreed.parties, one))
    assert not found
