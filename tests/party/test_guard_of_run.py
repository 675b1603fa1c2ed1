"""A guard over the network is on by default, changes nothing, and finds a server that cheats."""

from __future__ import annotations

import logging
from argparse import Namespace

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.commands.tasks import _guarded
from jsplit.party.guarded_values import guarded_values
from jsplit.privacy import guard, watch
from tests.party.federation import (
    Small,
    agreed_for,
    bits,
    checked,
    small,
    together,
    train_in_memory,
)
from tests.privacy.test_guard import batches, honest, layer
from tests.training.common import refused

STEPS = 15
RULE = party.Guard(window=5, answered=2, alone=2)
GIVEN = [{f: x for f, x in b.items() if f != "public"} for b in batches(STEPS)]
LOGGER = "jsplit.party"


def problem(split):
    return Small(honest(split), GIVEN[0])


def rates(topology):
    return {p: optax.adam(1e-2) for p in topology.parties}


def fields_of(problem, name):
    held = problem.topology.holds.get(name, ())
    return lambda step: {f: GIVEN[step][f] for f in held}


def trained(split, **options):
    """All parties are honest."""
    p = problem(split)
    agreed = agreed_for(p, steps=STEPS)
    return train_in_memory(agreed, p, rates(p.topology), fields_of, **options)


def cheating(part, honestly):
    """The same part, which sends back what pulls its input to a place of its own."""

    @jax.custom_vjp
    def pulled(h):
        return h

    pulled.defvjp(
        lambda h: (h, h), lambda h, g: (0.02 * (h - 2) + (g if honestly else 0),)
    )
    return jsplit.Segment(
        part.init, lambda w, s, k, h, **o: part.apply(w, s, k, pulled(h), **o)
    )


def attacked(split, rule, honestly=False):
    """The agreement is of honest parts; the server runs another, of the same shapes."""
    p = problem(split)
    agreed, transport = agreed_for(p, steps=STEPS), party.MemoryTransport()
    [node] = [n for n in p.topology.segments if n.party == "server"]
    own = {node.name: cheating(node.segment, honestly)}
    own |= {x.name: x.fn for x in p.topology.losses if x.party == "server"}

    def one(name):
        return party.run(
            agreed,
            name,
            own if name == "server" else p.topology,
            fields_of(p, name),
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=optax.adam(1e-2),
            remind=0.2,
            transport=transport,
            guard=rule,
        )

    return together(agreed.parties, one)


def test_an_honest_run_is_the_same_bit_for_bit_and_its_evidence_that_of_its_traffic():
    split = "u_shaped"
    found, plain = (checked(trained(split, guard=g)) for g in (RULE, None))
    for name in found:
        assert bits(found[name].state) == bits(plain[name].state)
        assert not plain[name].evidence
    # The server holds no record; whoever trains its part learns nothing of any.
    assert not found["server"].evidence
    p = problem(split)
    trainer = jsplit.messages(p.topology, rates(p.topology))
    _, seen = watch(trainer, trainer.init(3, GIVEN[0]), GIVEN, "client")
    for one, other in zip(found["client"].evidence, guard(seen, RULE), strict=True):
        assert not one.suspicious
        assert np.isclose(one.statistic, other.statistic, atol=1e-4)
        assert str(one).split(":")[0] == str(other).split(":")[0]


def test_it_is_on_by_default_and_counts_micro_batches_of_a_step_as_one(caplog):
    p = Small(honest("u_shaped"), GIVEN[0])
    agreed = agreed_for(p, steps=20, microbatches=2)
    with caplog.at_level(logging.DEBUG, LOGGER):
        found = checked(train_in_memory(agreed, p, rates(p.topology)))
    [evidence] = found["client"].evidence
    assert (evidence.first, evidence.last) == (0, 19)
    # What it is told of is in the log, and no warning.
    assert f"client: {evidence}" in caplog.messages
    assert not [r for r in caplog.records if "`guard=None`" in r.getMessage()]


@pytest.mark.parametrize(
    ("split", "honestly", "test"),
    [("vanilla", False, "one way"), ("u_shaped", True, "excess coherence")],
)
def test_a_server_that_cheats_is_warned_of_with_evidence(split, honestly, test, caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        found = checked(attacked(split, RULE, honestly))["client"]
    assert found.step == STEPS
    assert {(e.test, e.suspicious) for e in found.evidence} == {(test, True)}
    said = [r.getMessage() for r in caplog.records if "`guard=None`" in r.getMessage()]
    # Two windows in a row are an alarm; the second alarm is the third window's.
    assert [str(e) in text for e, text in zip(found.evidence[1:], said, strict=True)]
    assert "--no-guard" in said[0] and "client: 2 windows in a row" in said[0]


def test_by_policy_it_stops_the_run_and_others_are_told():
    found = attacked("vanilla", party.Guard(window=5, alone=2, policy="stop"))
    for name in ("client", "server"):
        assert isinstance(found[name], party.Refused), found[name]
        assert "the guard of `client` ends the run" in str(found[name])
        assert "2 windows in a row" in str(found[name])


def test_what_it_cannot_judge_it_says_once_and_is_silent_of(caplog):
    # An honest regression far from its optimum pushes all records one way as well.
    with caplog.at_level(logging.INFO, LOGGER):
        p = small("pair")
        far = Small(p.topology, p.batch | {"label": p.batch["label"] + 100})
        rule = party.Guard(window=1, alone=1, policy="stop")
        found = checked(train_in_memory(agreed_for(far, steps=3), far, guard=rule))
    assert not found["client"].evidence
    said = [m for m in caplog.messages if "cannot judge" in m]
    assert len(said) == 1 and "client: the guard" in said[0] and "`loss`" in said[0]


def test_only_what_a_party_makes_of_its_fields_is_guarded_and_by_answers_of_it_alone():
    [values] = guarded_values(honest("u_shaped"), "client")
    assert [w.what for w in (*values.sent, *values.returned)] == ["up", "up"]
    assert [w.what for w in (*values.received, *values.gave)] == ["down", "down"]
    assert not guarded_values(honest("u_shaped"), "server")
    [values] = guarded_values(honest("vanilla"), "client")
    assert not values.received
    # The body reads another's value too, or a loss of the server's pulls as well.
    vertical = small("vertical").topology
    for name in ("lab", "clinic"):
        [values] = guarded_values(vertical, name)
        assert not values.received
    beside = jsplit.Loss("beside", lambda d: (d**2).mean(), "server", ["down"])
    [values] = guarded_values(honest("u_shaped").add(beside), "client")
    assert not values.received
    # A bottom without parameters gets no cotangent.
    still = jsplit.segment(lambda x: x[:, :3], inputs="record", name="up")
    classes = optax.softmax_cross_entropy_with_integer_labels
    fixed = jsplit.vanilla(still, layer("up", 3, "output"), loss=classes)
    assert not guarded_values(fixed, "client")


def test_the_command_says_whether_and_what_before_the_users_function_does():
    given = {"own": 1, "guard": party.Guard(window=7)}
    quiet = Namespace(no_guard=False, guard=None)
    assert _guarded(given, quiet) == given and _guarded({}, quiet) == {}
    assert _guarded(given, Namespace(no_guard=True, guard=None))["guard"] is None
    stop = _guarded(given, Namespace(no_guard=False, guard="stop"))["guard"]
    assert (stop.window, stop.policy) == (7, "stop")


def test_another_guard_is_refused():
    refused("`policy` must be one of warn, stop", lambda: party.Guard(policy="log"))
    found = trained("vanilla", guard="warn")["client"]
    assert isinstance(found, ValueError) and "`guard` must be" in str(found)
