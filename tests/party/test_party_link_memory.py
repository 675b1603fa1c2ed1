"""A link with a memory at both ends over a network: the bits of one process."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

import jsplit
from jsplit import party
from jsplit.compress import quantize, temporal_differences
from tests.party.federation import (
    Small,
    agreed_for,
    bits,
    checked,
    optimizers,
    own_of,
    small,
    together,
    train_in_memory,
)
from tests.training.common import refused

STEPS = 6
UP, DOWN = "activation h to server", "cotangent h to client"


def differences():
    return temporal_differences(quantize(4), rows="row", records=8)


jsplit.compress.register("differences_of_8", differences, replace=True)


def numbered():
    """A pair, both of whom have the numbers of records."""
    plain = small("pair")
    held = {p: (*fields, "row") for p, fields in plain.topology.holds.items()}
    batch = plain.batch | {"row": np.random.default_rng(0).permutation(8)}
    return Small(replace(plain.topology, holds=held), batch)


def agreed(problem, **options):
    return agreed_for(problem, links={"h": "differences_of_8()"}, **options)


def alone(problem, steps, microbatches):
    trainer = jsplit.record(
        jsplit.messages(
            problem.topology,
            optimizers(problem.topology),
            links={"h": differences()},
            microbatches=microbatches,
        )
    )
    state, told = trainer.init(3, problem.batch), []
    for _ in range(steps):
        state, one = trainer.step(state, problem.batch)
        told.append(one)
    return state, told


def test_states_and_records_are_those_of_one_process_bit_for_bit():
    """Of what it sent a party tells what its receiver decoded, by its own memory."""
    problem, told = numbered(), []
    results = checked(
        train_in_memory(
            agreed(problem, steps=3, microbatches=2), problem, record=told.append
        )
    )
    state, recorded = alone(problem, 3, microbatches=2)
    for name, own in state.parties.items():
        assert {UP, DOWN} == own.links.keys()
        assert bits(results[name].state) == bits(own), name
    assert len(told) == 6
    for one in told:
        for at, crossed in one.crossed.items():
            assert bits(crossed) == bits(recorded[one.step].crossed[at])


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    problem = numbered()
    made, rates = (
        agreed(problem, steps=STEPS, checkpoint=2),
        optimizers(problem.topology),
    )
    transport, stop, first = party.MemoryTransport(), threading.Event(), []

    def one(name, **given):
        batch = own_of(problem, name)
        return party.run(
            made,
            name,
            problem.topology,
            lambda step: batch,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=rates[name],
            remind=0.2,
            transport=transport,
            checkpoint=tmp_path / name,
            **given,
        )

    def work(name):
        if name == "server":
            halt = lambda m: stop.set() if m.step == 3 else None  # noqa: E731
            first.append(one(name, stop=stop, on_step=halt))
        return one(name)

    results = checked(together(made.parties, work))
    assert first[0].stopped and first[0].step < STEPS
    state, _ = alone(problem, STEPS, microbatches=1)
    for name, own in state.parties.items():
        assert bits(results[name].state) == bits(own), name


def test_what_cannot_be_read_without_the_memory_is_neither_bounded_nor_guarded():
    problem = numbered()
    made = agreed(problem, steps=3)

    def one(**given):
        return party.run(
            made,
            "server",
            problem.topology,
            lambda step: own_of(problem, "server"),
            credentials=party.PlaintextWithoutIdentity("server"),
            optimizer=optimizers(problem.topology)["server"],
            transport=party.MemoryTransport(),
            **given,
        )

    refused(
        "`bound` names `h`, whose link keeps a memory at its receiver",
        lambda: one(bound={"h": 3.0}),
    )


def test_a_guard_says_that_it_does_not_judge_what_it_cannot_read():
    from jsplit.party.guarded_values import guarded_values, why_not
    from jsplit.training.configure import configure

    problem = numbered()
    rates, links = optimizers(problem.topology), {"h": (differences(), None)}
    config = configure(
        problem.topology, rates, links, "residuals", 1, None, "xla", None
    )
    [values] = guarded_values(problem.topology, "client")
    said = why_not(values, problem.topology, {"label": "int32"}, config)
    assert said == "the link of `h` keeps a memory at its receiver"
    plain = config._replace(links={})
    assert why_not(values, problem.topology, {"label": "int32"}, plain) == ""
