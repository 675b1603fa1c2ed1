"""Signs of life, versions, and who is ready: what control frames say of a process."""

from __future__ import annotations

import pytest

from jsplit.wire import codec
from jsplit.wire.control import Status
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.member import Member
from jsplit.wire.signs import Sign
from jsplit.wire.terms import Terms
from jsplit.wire.versions import differing

RUN = b"r" * 32
LAB, CLINIC, LEAD = 0, 1, 2
TERMS = Terms(RUN, ("lab", "clinic", "lead"), (), (), 3)
SIGN = Sign(4, 0, 2, True)


def member(me, **options):
    return Member(TERMS, me, LEAD, Status(me + 1, 0, (0,), **options))


def deliver(outgoing, sender, to):
    for peer, frame in outgoing:
        if peer == to.me:
            to.accept(sender, frame.head)
            to.receive(sender, frame)


def test_what_one_party_is_at_comes_to_all_by_way_of_the_lead():
    lab, clinic, lead = (member(p) for p in (LAB, CLINIC, LEAD))
    said = lab.sign(SIGN)
    assert [peer for peer, _ in said] == [LEAD]
    deliver(said, LAB, lead)
    own = Sign(1, 0, 0, False)
    deliver(lead.sign(own), LEAD, clinic)
    assert clinic.signs == {LAB: SIGN, LEAD: own}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"signs": 3},
        {"signs": {"0": [1, 0, 0]}},
        {"signs": {"0": [-1, 0, 0, True]}},
        {"signs": {"0": [True, 0, 0, True]}},
        {"signs": {"0": [1, 0, 4, True]}},  # beyond the last step
        {"signs": {"0": [1, 0, 0, 1]}},
        {"signs": {"1": [1, 0, 0, True]}},  # of another party
        {"signs": {"9": [1, 0, 0, True]}},
        {"signs": {"00": [1, 0, 0, True]}},
    ],
)
def test_a_sign_that_says_nothing_sensible_is_refused(said):
    lead = member(LEAD)
    frame = codec.text_of(codec.Head("sign", RUN, 0, 1, LAB, LEAD), said)
    lead.accept(LAB, frame.head)
    with pytest.raises(RemoteProtocolError, match="`lab` (may not|does not) say what"):
        lead.receive(LAB, frame)
    assert not lead.signs


def test_no_epoch_begins_before_all_are_ready_and_who_is_not_is_told_at_once():
    lead, lab, clinic = member(LEAD), member(LAB), member(CLINIC, ready=False)
    for party in (lab, clinic):
        deliver([(LEAD, party.hello(LEAD))], party.me, lead)
    assert lead.start is None and lead.rendezvous is not None
    assert lead.rendezvous.awaited() == [CLINIC]
    deliver(clinic.ready(), CLINIC, lead)
    assert lead.start is not None and lead.epoch == 1
    # A status from before that comes late takes nothing back.
    deliver([(LEAD, member(CLINIC, ready=False).hello(LEAD))], CLINIC, lead)
    assert lead.rendezvous.awaited() == []


def test_a_process_that_comes_back_is_passed_over_until_it_is_ready():
    clients = ((LAB,), (CLINIC,))
    terms = Terms(RUN, TERMS.parties, (), (), 3, clients=clients)
    lead = Member(terms, LEAD, LEAD, Status(3, 0, (0,)), away=((0, (1,)),))
    lab = Member(terms, LAB, LEAD, Status(1, 0, (0,)))
    deliver([(LEAD, lab.hello(LEAD))], LAB, lead)
    assert lead.epoch == 1
    back = Member(terms, CLINIC, LEAD, Status(9, 0, (0,), ready=False))
    deliver([(LEAD, back.hello(LEAD))], CLINIC, lead)
    assert lead.epoch == 1 and lead.rendezvous is not None
    assert lead.rendezvous.missing == {CLINIC}
    deliver(back.ready(), CLINIC, lead)
    assert lead.epoch == 2 and not lead.rendezvous.missing


def test_who_came_back_in_vain_is_let_in_once_all_others_have_a_newer_checkpoint():
    clients = ((LAB,), (CLINIC,))
    terms = Terms(RUN, TERMS.parties, (), (), 3, clients=clients)
    lead = Member(terms, LEAD, LEAD, Status(3, 0, (0,)), away=((0, (1,)),))
    assert lead.rendezvous is not None
    lead.rendezvous.keep_out([LAB, CLINIC], 0)
    assert lead.rendezvous.kept_out == {CLINIC: 0}  # nobody who is not passed over
    back = Member(terms, CLINIC, LEAD, Status(9, 0, (0,)))
    for durable, epoch in (((0,), 1), ((0, 2), 2)):
        lab = Member(terms, LAB, LEAD, Status(1, lead.epoch, durable))
        deliver([(LEAD, lab.hello(LEAD))], LAB, lead)
        lead.durable(durable)
        deliver([(LEAD, back.hello(LEAD))], CLINIC, lead)
        assert lead.epoch == epoch
    assert not lead.rendezvous.missing


def test_versions_that_differ_are_named_with_who_has_which():
    own = {"jax": "0.10.2", "python": "3.11.9"}
    assert differing(own, own, "lab", "lead") == ""
    theirs = {"jax": "0.10.3", "python": "3.11.9", "numpy": "2.4.0"}
    assert differing(own, theirs, "lab", "lead") == (
        "jax is 0.10.2 at `lab` and 0.10.3 at `lead`, "
        "numpy is none at `lab` and 2.4.0 at `lead`"
    )
