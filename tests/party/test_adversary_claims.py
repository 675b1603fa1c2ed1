"""Who says what is not so: a lead, a member, a server whose values are finite and spoil.

Honest parties are done, or end with one line that names the culprit; what lies on their
disks is what it was.
"""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from math import inf

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jsplit
from jsplit import party
from jsplit.core.base import PartyState
from jsplit.party import process
from jsplit.party.bounds import OverBound, check_norm, checked_bounds, largest_norm
from jsplit.party.connection import outbox
from jsplit.party.connection.network import Network
from jsplit.party.durable import CheckpointStore
from jsplit.party.finite_states import FiniteStates
from jsplit.party.folder import steps_in
from jsplit.party.saved_states import SavedStates
from jsplit.wire import codec
from jsplit.wire.claims import check_arrival
from jsplit.wire.control import Start, Status
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.member import Member
from jsplit.wire.rendezvous import Rendezvous
from jsplit.wire.session import Session
from jsplit.wire.terms import Crossing, Terms
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    own_of,
    small,
    together,
)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody waits long for a party that has left in anger to read what is due."""
    monkeypatch.setattr(outbox, "_LAST", 0.5)


# What a lead says, judged by a member that is honest. No I/O.

BYTE = ((np.dtype(np.uint8), (8,)),)
UP, DOWN = Crossing("activation", "h", (0,), 2), Crossing("cotangent", "h", (2,), 0)
TERMS = Terms(
    b"r" * 32,
    ("north", "south", "server"),
    (UP, DOWN),
    (BYTE, BYTE),
    60,
    holders={"north": frozenset({0, 2}), "south": frozenset({1, 2})},
)
SKIPS = replace(TERMS, clients=((0,), (1,)))
GOOD = {
    "epoch": 3,
    "step": 8,
    "instances": [1, 2, 9],
    "records": {"north": 24, "south": 7},
    "away": [],
}
HAS = Status(1, 0, (4, 8), {"north": (24, "ab")})


def told(member, kind, words, instance=9, epoch=None):
    """What a member makes of what the lead says."""
    epoch = words.get("epoch", 0) if epoch is None else epoch
    head = codec.Head(kind, TERMS.run, epoch, instance, 2, 0)
    frame = codec.text_of(head, words)
    member.accept(2, frame.head)
    return member.receive(2, frame)


@pytest.mark.parametrize(
    ("terms", "change", "said"),
    [
        (TERMS, {"records": {"north": 8}}, "all have 8 records of `north`, `north` has 24"),
        (TERMS, {"records": {"north": 3_000_000_000}}, "all have 3000000000 records"),
        (TERMS, {"records": {"south": 7}}, "all have 0 records of `north`"),
        (TERMS, {"records": {"north": 24, "east": 1}}, "`east`, a client that there is not"),
        (TERMS, {"step": 0}, r"from step 0, which `north` has not: it has \[4, 8\]"),
        (TERMS, {"step": 9}, "from step 9, which `north` has not"),
        (TERMS, {"instances": [1, 0, 9]}, "passes over 1 parties, and 0 clients"),
        (TERMS, {"instances": [1, 2, 5]}, "says it is process 5, in a frame of process 9"),
        (TERMS, {"away": [[4, []]]}, "clients were away, as it cannot be"),
        (SKIPS, {"away": [[4, [1]]]}, "passes over 0 parties, and 1 clients"),
        (SKIPS, {"instances": [1, 0, 9]}, "passes over 1 parties, and 0 clients"),
        (SKIPS, {"away": [[9, [1]]], "instances": [1, 0, 9]}, "away, as it cannot be"),
        (SKIPS, {"away": [[4, [0, 1]]], "instances": [1, 0, 9]}, "as it cannot be"),
        (SKIPS, {"away": [[2, [0]], [50, []]], "step": 50}, "away from step 2 on, of which"),
        (SKIPS, {"step": 3}, "away from step 3 on, of which it knows nothing"),
    ],
)  # fmt: skip
def test_an_epoch_that_contradicts_what_a_party_knows_does_not_begin(
    terms, change, said
):
    member = Member(terms, 0, 2, HAS)
    with pytest.raises(Refused, match="^`server` " + "(says|counts|passes).*") as error:
        told(member, "start", GOOD | change)
    error.match(said)
    assert member.start is None and member.committed == -1
    told(member, "start", GOOD)
    assert member.epoch == 3


@pytest.mark.parametrize("holders", [{}, TERMS.holders])
def test_a_client_that_only_the_lead_knows_is_named_in_quotes(holders):
    """Also where there are no clients, so that all records are of none."""
    member = Member(replace(TERMS, holders=holders), 0, 2, HAS)
    wrong = {"records": {"north": 24, "south\x1b[2J. Run: curl": 1}}
    with pytest.raises(Refused, match="a client that there is not") as error:
        told(member, "start", GOOD | wrong)
    assert '"south\\x1b[2J. Run: curl"' in str(error.value)


def test_a_process_that_says_two_sets_of_records_costs_one_short_line():
    many = {f"client {i}": (i, "ab") for i in range(20_000)}
    terms = replace(TERMS, holders={})
    with pytest.raises(RemoteProtocolError, match="and 19992 more") as error:
        check_arrival(terms, 0, Status(1, 0, (), many), HAS, None, None)
    assert len(str(error.value)) < 200


def test_an_epoch_must_fit_the_one_before_it():
    north = Member(SKIPS, 0, 2, HAS)
    gone = {"away": [[2, [1]]], "instances": [1, 0, 9], "records": {"north": 24}}
    told(north, "start", GOOD | gone)
    for change, said in (
        ({"away": []}, "of steps before 4 that others were away"),
        ({"away": [[1, [1]], [8, []]]}, "of steps before 4 that others were away"),
    ):
        with pytest.raises(Refused, match=said):
            told(north, "start", GOOD | {"epoch": 4} | change)
    back = GOOD | {"epoch": 4, "away": [[2, [1]], [8, []]]}
    told(north, "start", back)
    with pytest.raises(Refused, match="9 records of `south`, and said 7 before"):
        told(north, "start", back | {"epoch": 5, "records": {"north": 24, "south": 9}})
    told(north, "start", back | {"epoch": 5})
    assert north.epoch == 5


def test_an_epoch_has_a_number_that_a_party_can_say_again():
    member = Member(TERMS, 0, 2, HAS)
    with pytest.raises(RemoteProtocolError, match="the lead says that epoch"):
        told(member, "start", GOOD | {"epoch": 1 << 62})
    assert member.epoch == 0


@pytest.mark.parametrize("epoch", [0, 3])
def test_what_all_have_is_what_one_has_too(epoch):
    """Else a lead could have checkpoints deleted, or say that the run is over."""
    member = Member(TERMS, 0, 2, HAS)
    if epoch:
        told(member, "start", GOOD)
    for step in (10, 60, 1 << 62):
        with pytest.raises(Refused, match=rf"all have step {step} on disk.*\[4, 8\]"):
            told(member, "committed", {"step": step}, epoch=epoch)
    told(member, "committed", {"step": 8}, epoch=epoch)
    told(member, "committed", {"step": 2}, epoch=epoch)  # late, and changes nothing
    assert member.committed == 8


# What a member says, judged by a lead that is honest.


def lead_of(*statuses, terms=TERMS):
    lead = Rendezvous(terms)
    for p, status in enumerate(statuses):
        lead.arrive(p, status)
    return lead


def has(instance, *steps, epoch=0, **records):
    said = {client: (count, "ab") for client, count in records.items()}
    return Status(instance, epoch, steps, said, epoch)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (has(1, 0, 4, epoch=1, north=8), "it has 8 records, and said 24 records before"),
        (has(1, 0, 4, epoch=1), "it has no records, and said 24 records before"),
        (has(1, 0, 4, epoch=1, south=9), "how many records `south` has, which it does"),
        (has(1, 0, 4, epoch=2, north=24), "in epoch 2, of 1 that have begun"),
        (has(1, 0, 6, epoch=1, north=24), r"the steps \[0, 6\].*that it has step 4"),
    ],
)  # fmt: skip
def test_a_member_that_takes_back_what_it_said_is_refused_itself(status, said):
    """And not the honest one that comes back next, and would be compared with it."""
    lead = lead_of(has(1, 0, north=24), has(2, 0, south=7), has(3, 0))
    for p, own in enumerate(({"north": 24}, {"south": 7}, {})):
        lead.arrive(p, has(p + 1, 0, 4, epoch=1, **own))
    assert lead.committed() == 4
    with pytest.raises(RemoteProtocolError, match="^`north` says") as error:
        lead.arrive(0, status)
    error.match(said)
    begun = lead.arrive(1, has(5, 0, 4, south=7))
    assert begun == Start(2, 4, (1, 5, 3), {"north": 24, "south": 7})


def test_a_status_is_of_the_process_and_of_the_agreement_of_its_frame():
    lead = Member(TERMS, 2, 2, Status(9, 0, (0,)), {"steps": 60})
    north = Member(TERMS, 0, 2, Status(7, 0, (0,)), {"steps": 60})
    for kind in ("hello", "checkpoint"):
        frame = codec.text_of(
            north.head(kind, 2),
            north.status_for(2) | {"instance": 1 << 61, "versions": {}},
        )
        with pytest.raises(RemoteProtocolError, match=r"process 23\d+, in.*process 7"):
            lead.receive(0, frame)
    with pytest.raises(RemoteProtocolError, match="in epoch 5, and has heard of 0"):
        lead.receive(
            0,
            codec.text_of(
                north.head("hello", 2),
                north.status_for(2) | {"epoch": 5, "versions": {}},
            ),
        )
    said = north.status_for(2) | {"agreement": {"steps": 61}}
    with pytest.raises(RemoteProtocolError, match="`north` sent another agreement"):
        lead.receive(0, codec.text_of(north.head("hello", 2), said))
    lead.receive(0, north.hello(2))
    assert lead.rendezvous is not None and lead.rendezvous.there[0].instance == 7


@pytest.mark.parametrize("done", [-1, 61, 1 << 70])
def test_nobody_has_finished_more_steps_than_there_are(done):
    client, server = Session(TERMS, 0, 2), Session(TERMS, 2, 0)
    for s, instances in ((client, (1, 9)), (server, (9, 1))):
        s.begin(1, 0, instances)
    frame = codec.text_of(
        client.head("sync"), {"next": {"1": 0}, "done": done, "again": True}
    )
    with pytest.raises(RemoteProtocolError, match=f"`north` says.*{done} steps"):
        server.receive(frame)
    assert server.peer_done == 0


# Whole parties.


def lying(monkeypatch, kind, change, liar="server"):
    """From now on a party says something else in all its frames of a kind."""
    real = Member._text

    def text(self, said, peer, words):
        if said == kind and self.terms.name(self.me) == liar:
            words = change(dict(words))
        return real(self, said, peer, words)

    monkeypatch.setattr(Member, "_text", text)


def work_of(problem, agreed, folder=None, rates=None, data=None, **options):
    """What each party does, on a hub of their own."""
    hub = party.MemoryTransport()

    def one(name):
        own = own_of(problem, agreed.turns.role[name])
        rate = (rates or {}).get(name, optax.sgd(0.1, 0.9))
        return party.run(
            agreed,
            name,
            problem.topology,
            data(name) if data else lambda step: own,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=rate,
            remind=0.2,
            transport=hub,
            checkpoint=None if folder is None else folder / name,
            **{k: v(name) if callable(v) else v for k, v in options.items()},
        )

    return one


def on_disk(folder):
    """All that lies in a folder, but for the number of the process."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "process"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def expected(problem, steps):
    rates = dict.fromkeys(problem.topology.parties, optax.sgd(0.1, 0.9))
    trainer = jsplit.messages(problem.topology, rates)
    state = trainer.init(3, problem.batch)
    for _ in range(steps):
        state, _ = trainer.step(state, problem.batch)
    return state.parties


@pytest.mark.parametrize("count", [8, 3_000_000_000])
def test_a_lead_cannot_choose_how_many_records_a_party_trains_on(
    tmp_path, monkeypatch, count
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=60, patience=2.0)
    lying(monkeypatch, "start", lambda words: words | {"records": {"": count}})

    def data(name):
        return {f: np.tile(x, (3, 1)) for f, x in own_of(problem, name).items()}

    one = work_of(problem, agreed, tmp_path, data=data)
    found = together(agreed.parties, one)
    assert isinstance(found["client"], party.Refused)
    assert str(found["client"]) == (
        f"`server` says that all have {count} records, `client` has 24."
    )
    assert isinstance(found["server"], (party.Missing, party.Refused))
    assert steps_in(tmp_path / "client") == [0]


def test_a_lead_cannot_have_checkpoints_deleted_and_all_go_on_when_it_is_honest(
    tmp_path, monkeypatch
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=8, checkpoint=2)
    with monkeypatch.context() as patch:
        lie = lambda words: {"step": 8 if words["step"] >= 4 else words["step"]}  # noqa: E731
        lying(patch, "committed", lie)
        found = together(agreed.parties, work_of(problem, agreed, tmp_path))
    assert isinstance(found["client"], party.Refused)
    assert str(found["client"]).startswith(
        "`server` says that all have step 8 on disk, `client` has ["
    )
    assert {2, 4} <= {*steps_in(tmp_path / "client")}
    assert not (tmp_path / "client" / "done.json").exists()
    results = checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))
    for name, state in expected(problem, 8).items():
        assert bits(results[name].state) == bits(state), name


def test_a_lead_that_says_nothing_of_what_all_have_does_not_fill_a_disk(
    tmp_path, monkeypatch
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=40, checkpoint=1, patience=3.0)
    monkeypatch.setattr(process, "MOST_DURABLE", 4)
    lying(monkeypatch, "committed", lambda words: {"step": 0})
    found = together(agreed.parties, work_of(problem, agreed, tmp_path))
    assert isinstance(found["client"], Exception)
    assert len(steps_in(tmp_path / "client")) <= 5


# What is finite, and spoils.

HUGE = np.float32(3e38)


def spoiling(monkeypatch, liar, kind, value=HUGE, step=5):
    """From some step on a party sends other values than it has computed."""
    real = Network.send

    def send(self, wire, at, micro, arrays):
        crossing = self.member.terms.crossings[wire]
        if self.party == liar and crossing.kind == kind and at >= step:
            arrays = [np.full(np.shape(x), value, x.dtype) for x in arrays]
        return real(self, wire, at, micro, arrays)

    monkeypatch.setattr(Network, "send", send)


@pytest.mark.parametrize("nonfinite", ["refuse", "skip", "allow"])
def test_finite_poison_is_never_saved_and_its_sender_is_named(
    tmp_path, monkeypatch, nonfinite
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=8, checkpoint=2, nonfinite=nonfinite)
    with monkeypatch.context() as patch:
        spoiling(patch, "server", "cotangent")
        # Who adds up how many values are not finite may say that there are none.
        if nonfinite == "skip":
            spoiling(patch, "server", "scalar", 0)
        found = together(agreed.parties, work_of(problem, agreed, tmp_path))
    assert isinstance(found["client"], jsplit.NotFinite)
    for error in found.values():
        assert "first: `server` sent cotangent `h` of step 5 (norm about" in str(error)
        assert "\n" not in str(error)
    assert "parameters of `h`" in str(found["client"])
    assert isinstance(found["server"], party.Refused)
    assert max(steps_in(tmp_path / "client")) == 4
    results = checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))
    for name, state in expected(problem, 8).items():
        assert bits(results[name].state) == bits(state), name


@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan])
def test_a_count_of_faults_that_cannot_be_is_refused_by_its_senders_name(
    tmp_path, monkeypatch, value
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=8, checkpoint=2, nonfinite="skip")
    spoiling(monkeypatch, "client", "scalar", value)
    found = together(agreed.parties, work_of(problem, agreed, tmp_path))
    for error in found.values():
        assert isinstance(error, party.Refused), error
        assert "`client` sent scalar `faults` of step 5, which must be" in str(error)


def test_steps_that_are_left_out_are_told_with_whose_they_are(
    tmp_path, monkeypatch, caplog
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=12, checkpoint=4, nonfinite="skip")
    spoiling(monkeypatch, "client", "scalar", 1)
    with caplog.at_level(logging.WARNING):
        checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))
    told = [m for m in caplog.messages if m.startswith("server: step")]
    # The first, and then ever more seldom.
    assert [m.partition(" was")[0] for m in told] == [
        f"server: step {n}" for n in (6, 7, 9)
    ]
    assert all("by what `client` sent" in m for m in told)


@pytest.mark.parametrize("value", [-1.0, np.inf])
def test_squared_norms_that_stop_a_training_name_their_sender(
    tmp_path, monkeypatch, caplog, value
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=8, checkpoint=4, norms=["global norm"])
    clip = jsplit.clip_by_global_norm(1.0)
    rates = {p: optax.chain(clip, optax.sgd(0.1)) for p in agreed.parties}
    spoiling(monkeypatch, "client", "scalar", value)
    with caplog.at_level(logging.WARNING):
        found = together(agreed.parties, work_of(problem, agreed, tmp_path, rates))
    said = "`client` sent scalar `squared norms` of step 5"
    if value < 0:
        assert all(said in str(error) for error in found.values())
    else:  # an honest one may be infinite, so the run goes on
        checked(found)
        assert sum(m.startswith(f"server: {said}, and") for m in caplog.messages) == 1


@pytest.mark.parametrize("nonfinite", ["refuse", "allow"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_loss_that_is_not_finite_is_not_asked_for_in_silence(
    tmp_path, monkeypatch, caplog, value, nonfinite
):
    """By it alone an optimizer slows down for good, and no parameter shows why."""
    problem = small("pair")
    agreed = agreed_for(
        problem, steps=8, checkpoint=4, wants_loss=["client"], nonfinite=nonfinite
    )
    plateau = optax.contrib.reduce_on_plateau(factor=0.1, patience=1)
    rates = {"client": jsplit.with_loss(optax.chain(optax.sgd(0.1), plateau))}
    spoiling(monkeypatch, "server", "scalar", value)
    found = together(agreed.parties, work_of(problem, agreed, None, rates))
    said = "`server` sent scalar `loss` of step 5, the sum of what all gave, "
    if nonfinite == "refuse":
        assert all(f"{said}which is not finite" in str(e) for e in found.values())
    else:
        checked(found)
        assert sum(f"client: {said}and it is" in m for m in caplog.messages) == 1


def test_what_another_gave_to_a_sum_is_not_said_of_who_added_it_up(
    tmp_path, monkeypatch, caplog
):
    problem = small("vertical")
    agreed = agreed_for(problem, steps=8, checkpoint=4, nonfinite="skip")
    spoiling(monkeypatch, "lab", "scalar", 1)
    checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))
    for name, whose in (
        ("server", "by what `lab` sent"),
        ("clinic", "by the sum that `server` sent"),
    ):
        told = [m for m in caplog.messages if m.startswith(f"{name}: step 6 was left")]
        assert len(told) == 1 and told[0].endswith(whose)


def test_whose_value_is_refused_tells_what_it_had_got_itself(monkeypatch, caplog):
    """It may come of that: then the one to look at is neither of the two."""
    problem = small("pair")
    spoiling(monkeypatch, "client", "activation", np.nan)
    caplog.set_level(logging.INFO, "jsplit")
    work = work_of(problem, agreed_for(problem, steps=8, checkpoint=4))
    for error in together(("client", "server"), work).values():
        assert "`client` sent activation `h` of step 5 with values that" in str(error)
    told = [m for m in caplog.messages if m.startswith("client: What came last, the")]
    assert len(told) == 1 and "`server` sent cotangent `h` of step 4 (norm" in told[0]


@pytest.mark.parametrize("last", [False, True])
def test_a_hand_over_that_is_not_finite_is_refused_by_name(tmp_path, monkeypatch, last):
    """Between turns, and after the last step, of which nobody would take another."""
    problem = small("pair")
    turns = party.turns(
        {c: {"client": c} for c in ("north", "south")}, [("north", 2), ("south", 2)]
    )
    agreed = agreed_for(problem, steps=4, checkpoint=2, turns=turns)
    liar, victim = ("south", "north") if last else ("north", "south")
    with monkeypatch.context() as patch:
        spoiling(patch, liar, "weights", np.inf, 4 if last else 2)
        found = together(agreed.parties, work_of(problem, agreed, tmp_path))
    for error in found.values():
        assert isinstance(error, party.Refused), error
        # At others it is what the one says that has found it.
        assert (
            f"`{liar}` handed over to `{victim}`, before step {4 if last else 2}, "
            "what is not finite: parameters of `h`"
        ) in str(error)
    assert max(steps_in(tmp_path / victim)) == 2
    checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))


def test_a_value_beyond_the_bound_of_its_receiver_ends_the_run_of_all(
    tmp_path, monkeypatch, caplog
):
    """Decoded by its link, if it has one: a scale of 100 times integers of 100."""
    problem = small("pair")
    agreed = agreed_for(problem, steps=8, checkpoint=2, links={"h": "quantize(8)"})
    bound = lambda name: {"h": 3e3} if name == "client" else None  # noqa: E731
    with monkeypatch.context() as patch:
        spoiling(patch, "server", "cotangent", 100)
        found = together(
            agreed.parties, work_of(problem, agreed, tmp_path, bound=bound)
        )
    for error in found.values():
        assert isinstance(error, party.Refused), error
        assert (
            "`server` sent cotangent `h` of step 5 with a norm of a record of about "
            "5e+03; `bound` of `client` is 3000."
        ) in str(error)
    assert max(steps_in(tmp_path / "client")) == 4
    # An infinite one measures: how large honest values are is said, and nothing refused.
    open_ended = lambda name: {"h": inf} if name == "client" else None  # noqa: E731
    with caplog.at_level(logging.INFO):
        checked(
            together(
                agreed.parties, work_of(problem, agreed, tmp_path, bound=open_ended)
            )
        )
    said = [
        r.getMessage() for r in caplog.records if "the largest norm" in r.getMessage()
    ]
    assert said and all(
        re.search(
            r"`server` sent cotangent `h` of step \d, .* is about \de[-+]\d\d$", x
        )
        for x in said
    )
    norms = [float(x.split()[-1]) for x in said]
    assert norms == sorted({*norms}) and norms[-1] < 3e3


def test_a_bound_is_on_a_record_whatever_the_batch():
    value = {"a": np.full((4, 2, 2), 3, np.float32), "n": np.arange(4)}
    assert largest_norm([*value.values()], 4) == 6
    assert largest_norm([*value.values()]) == 12
    assert largest_norm([np.full((1, 4), HUGE)], 1) == pytest.approx(6e38, rel=1e-6)
    said = lambda: "`a` sent h"  # noqa: E731
    check_norm(6.0, 4, value, said, "b")
    for wrong in (value | {"a": value["a"] * 1.01}, {"a": np.full((4, 1), np.nan)}):
        with pytest.raises(OverBound, match="^`a` sent h with a norm of a record"):
            check_norm(6.0, 4, wrong, said, "b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"y": 1.0}, "`bound` names `y`; this party receives h"),
        ({"h": 0}, "`bound` of `h` must be a positive number, got 0"),
        ({"h": float("nan")}, "`bound` of `h` must be a positive number"),
        ({"h": 10**400}, "`bound` of `h` must be a positive number"),
        ({"h": True}, "`bound` of `h` must be a positive number"),
        ([1], "`bound` must be a dictionary by value, got list"),
    ],
)
def test_a_bound_names_what_its_party_receives(given, said):
    with pytest.raises(ValueError, match=said):
        checked_bounds(given, ["h", "h"])
    assert checked_bounds({"h": 2}, ["h"]) == {"h": 2.0}


# Checkpoints.


def state_at(step, weight=1.0, least=np.inf, best=np.inf, moment=0.0):
    return PartyState(
        {"h": {"w": jnp.full(3, weight)}},
        {"h": {"least": jnp.full(2, least)}},
        {"best": jnp.float32(best), "moment": jnp.full(3, moment)},
        {},
        jax.random.key(0),
        jnp.int32(step),
    )


def test_what_is_infinite_by_design_is_saved_and_nothing_else(tmp_path, request):
    like = state_at(0)
    disk = CheckpointStore(tmp_path, "lab", "s", like)
    request.addfinalizer(disk.close)
    for step, state in enumerate((like, state_at(1, least=2.0), state_at(2, best=3))):
        disk.save(state)
        assert bits(disk.restore(step)) == bits(state)
    for wrong, what in (
        (state_at(3, weight=np.inf), "parameters of `h`"),
        (state_at(3, best=np.nan), "its optimizer state"),
        (state_at(3, moment=np.inf), "its optimizer state"),
        (state_at(3, least=np.nan), "statistics of `h`"),
    ):
        with pytest.raises(jsplit.NotFinite, match=f"after step 3 is not.*{what}"):
            disk.save(wrong)
        assert disk.steps == (0, 1, 2) and steps_in(tmp_path) == [0, 1, 2]


def test_a_checkpoint_that_is_not_finite_is_left_aside_like_a_damaged_one(
    tmp_path, caplog
):
    """As an older version may have saved it: all go back to the one before."""
    like = state_at(0)
    disk = CheckpointStore(tmp_path, "lab", "s", like)
    disk.save(state_at(2))
    disk.sound = FiniteStates(state_at(0, weight=np.nan))  # which allows it here
    disk.save(state_at(4, weight=np.nan))
    disk.close()
    disk = CheckpointStore(tmp_path, "lab", "s", like)
    disk.close()
    assert disk.steps == (2,)
    assert SavedStates(tmp_path, "lab", "s", like).steps == (2,)
    assert "step 4 is left aside: the state after step 4 is not finite" in caplog.text


def test_the_way_back_by_hand(tmp_path, caplog):
    """One party sets its newest checkpoints aside; all forget that the run was over."""
    problem = small("pair")
    agreed = agreed_for(problem, steps=8, checkpoint=2)
    checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))
    before = on_disk(tmp_path / "server")
    shutil.move(tmp_path / "client" / "000000000008", tmp_path / "client-8.bad")
    for name in agreed.parties:
        (tmp_path / name / "done.json").unlink()
    with caplog.at_level(logging.WARNING):
        results = checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))
    for name, state in expected(problem, 8).items():
        assert bits(results[name].state) == bits(state), name
        assert len(results["server"].losses["loss"]) == 2
    assert "server goes back from step 8 to step 6, as `server` says" in caplog.text
    assert on_disk(tmp_path / "server") == before
