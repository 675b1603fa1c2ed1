"""Whatever is lost, repeated, late or killed: every message is applied once, as if nothing were."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsplit.party.contract.turns import Turns, turns
from jsplit.training.walk import Wire
from jsplit.wire import chunks, codec
from jsplit.wire.admission import accept_between
from jsplit.wire.control import Start, Status
from jsplit.wire.difference import difference
from jsplit.wire.errors import LocalProtocolError, Refused, RemoteProtocolError
from jsplit.wire.member import Member
from jsplit.wire.rendezvous import Rendezvous
from jsplit.wire.session import Session
from jsplit.wire.terms import Crossing, Terms

RUN = b"r" * 32
BYTE = ((np.dtype(np.uint8), (8,)),)


def terms(parties, *crossings, steps=8, micros=1, **options):
    wires = tuple(
        Crossing(kind, what, tuple(map(parties.index, a.split())), parties.index(b))
        for kind, what, a, b in crossings
    )
    shapes = (BYTE,) * len(wires)
    return Terms(RUN, tuple(parties), wires, shapes, steps, micros, **options)


def received(member, peer, frame):
    """What a member makes of a frame: its head is accepted first, as a channel does it."""
    member.accept(peer, frame.head)
    return member.receive(peer, frame)


def taken(session, frame):
    """What a session makes of a frame whose head is accepted first."""
    accept_between(session.terms, session.me, session.peer, frame.head)
    return session.receive(frame)


STEPS, EVERY, MICROS = 8, 2, 2
UP, DOWN = (
    ("activation", "h", "client", "server"),
    ("cotangent", "h", "server", "client"),
)
# Parties, wires in the order of a step, the lead, and pairs without a connection.
WORLDS = {
    "vanilla": (["client", "server"], [UP, DOWN], 1, []),
    "one way": (["client", "server"], [UP], 1, []),
    "vertical": (
        ["lab", "clinic", "server"],
        [
            ("activation", "a", "lab", "server"),
            ("activation", "b", "clinic", "server"),
            ("cotangent", "b", "server", "clinic"),
            ("cotangent", "a", "server", "lab"),
        ],
        2,
        [],
    ),
    "chain": (
        ["one", "two", "three"],
        [
            ("activation", "a", "one", "two"),
            ("activation", "b", "two", "three"),
            ("cotangent", "b", "three", "two"),
            ("cotangent", "a", "two", "one"),
        ],
        2,
        [],
    ),
    "relayed chain": (
        ["one", "two", "three"],
        [
            ("activation", "a", "one", "two"),
            ("activation", "b", "two", "three"),
            ("cotangent", "b", "three", "two"),
            ("cotangent", "a", "two", "one"),
        ],
        2,
        [(0, 1)],
    ),
    "turns": (
        ["north", "south", "server"],
        [
            ("activation", "h", "north", "server"),
            ("cotangent", "h", "server", "north"),
            ("activation", "h", "south", "server"),
            ("cotangent", "h", "server", "south"),
            ("weights", "client", "north south", "north"),
            ("weights", "client", "north south", "south"),
        ],
        2,
        [(0, 1)],
    ),
}
TURNS = Turns(
    turns({c: {"client": c} for c in ("north", "south")}, [("north", 2), ("south", 1)]),
    ["client", "server"],
    STEPS,
)
SCHEDULES = {"turns": TURNS.schedule(2)}


class Seals:
    """Seals that hide nothing, but need the other's key as real ones do."""

    def __init__(self, me, instance):
        self.me, self.instance, self.keys = me, instance, {}

        self.heard = {}

    def offer(self, peer):
        return {"instance": self.instance, "heard": self.heard.get(peer, 0)}

    def meet(self, peer, instance, offer):
        assert offer["instance"] == instance
        self.heard[peer] = instance
        if offer["heard"] != self.instance:
            return True
        known, self.keys[peer] = self.keys.get(peer), instance
        return known != instance

    def keep(self, instances):
        self.keys = {p: i for p, i in self.keys.items() if instances[p] == i}
        self.heard = {p: i for p, i in self.heard.items() if instances[p] == i}

    def has(self, peer):
        return peer in self.keys

    def seal(self, frame):
        assert (
            frame.head.sender == self.me
            and not frame.head.sealed
            and frame.head.receiver in self.keys
        )
        return codec.Frame(replace(frame.head, sealed=True), frame.arrays)

    def open(self, frame):
        assert (
            frame.head.receiver == self.me
            and frame.head.sealed
            and frame.head.sender in self.keys
        )
        return codec.Frame(replace(frame.head, sealed=False), frame.arrays)


class Party:
    """A party that computes a hash instead of a network.

    Wrong, missing or repeated messages change all that follows.
    """

    def __init__(self, world, me, disk, instance, cache):
        parties, wires, self.lead, apart = WORLDS[world]
        self.terms = terms(
            parties,
            *wires,
            steps=STEPS,
            micros=MICROS,
            schedule=SCHEDULES.get(world),
        )
        self.me, self.disk = me, disk
        direct = frozenset(
            p
            for p in range(len(parties))
            if p != me and tuple(sorted((p, me))) not in apart
        )
        self.member = Member(
            self.terms,
            me,
            self.lead,
            Status(instance, 0, tuple(disk)),
            direct=direct,
            cache=cache,
            seals=Seals(me, instance),
        )
        self.epoch, self.step, self.at, self.state = 0, 0, 0, b""

    @property
    def program(self):
        """What is sent and received in a step, in order; hand-overs come first."""
        t, others = self.terms, [p for p in self.member.sessions]
        tables = {}
        for p in others:
            tables |= {(w, True): uses for w, uses in t.tables(self.me, p).items()}
            # Of what several may send, at a step, one does.
            for w, uses in t.tables(p, self.me).items():
                if uses.has(self.step) or (w, False) not in tables:
                    tables[w, False] = uses
        own = sorted(w for (w, _), uses in tables.items() if uses.has(self.step))
        found = [
            (w, micro) for micro in range(MICROS) for w in own if micro < t.frames(w)
        ]
        return sorted(found, key=lambda x: t.crossings[x[0]].kind != "weights")

    def advance(self) -> list:
        """One thing that can be done now, and what is to be sent for it."""
        m = self.member
        if m.start is None:
            return []
        if m.start.epoch != self.epoch:
            self.epoch, self.step, self.at = m.start.epoch, m.start.step, 0
            self.state = self.disk[self.step]
            return m.durable(self.disk)
        for old in [s for s in self.disk if s < m.committed]:
            del self.disk[old]
        if self.step == STEPS:
            return []
        if self.at == len(self.program):
            self.step, self.at = self.step + 1, 0
            out = m.finished(self.step - 1)
            if self.step % EVERY == 0 or self.step == STEPS:
                self.disk[self.step] = self.state
                out = out + m.durable(self.disk)
            return out
        wire, micro = self.program[self.at]
        if self.terms.crossings[wire].receiver != self.me:
            if not m.sessions[self.terms.crossings[wire].receiver].may_send(
                wire, self.step
            ):
                return []
            self.at += 1
            self.state = sha256(self.state + bytes([wire, micro])).digest()
            return m.send(
                wire, self.step, micro, [np.frombuffer(self.state[:8], np.uint8)]
            )
        if (arrays := m.take(wire, self.step, micro)) is not None:
            self.at += 1
            self.state = sha256(self.state + arrays[0].tobytes()).digest()
        return []

    @property
    def done(self):
        return self.step == STEPS and self.member.committed == STEPS


class World:
    """All parties, and what is under way between them."""

    def __init__(self, name, seed, cache=True):
        self.name, self.rng, self.cache = name, random.Random(seed), cache
        self.disks = [{0: b"first %d" % p} for p in range(len(WORLDS[name][0]))]
        self.instances = 0
        self.under_way: list[tuple[int, int, bytes]] = []
        self.old: list[tuple[int, int, bytes]] = []
        self.faults = 0
        self.parties: list[Party] = []
        for p in range(len(self.disks)):
            self.parties.append(self.born(p))
        for p in self.parties:
            self.meet(p.me)

    def born(self, me):
        self.instances += 1
        return Party(self.name, me, self.disks[me], self.instances, self.cache)

    def post(self, sender, messages):
        for receiver, frame in messages:
            hop = self.parties[sender].member.route(receiver)
            self.under_way.append((sender, hop, b"".join(chunks.encode(frame))))

    def meet(self, me, peers=None):
        for p in peers or self.parties[me].member.traffic.neighbours:
            self.post(me, [(p, self.parties[me].member.hello(p))])
            self.post(p, [(me, self.parties[p].member.hello(me))])

    def deliver(self, at, keep=False):
        sender, receiver, data = self.under_way[at] if keep else self.under_way.pop(at)
        self.old = [*self.old[-50:], (sender, receiver, data)]
        member = self.parties[receiver].member
        frame = chunks.decode(data, 1 << 20, lambda head: member.accept(sender, head))
        self.post(receiver, member.receive(sender, frame))

    def kill(self, me):
        """The process dies: its memory is gone, and so are its connections."""
        self.parties[me] = self.born(me)
        self.cut([me])
        self.meet(me)

    def cut(self, ends):
        self.under_way = [m for m in self.under_way if not {*m[:2]} & {*ends}]

    def fault(self):
        self.faults += 1
        n = len(self.under_way)
        match self.rng.choice(
            ["kill", "cut", "lose", "lose", "repeat", "repeat", "old"]
        ):
            case "kill":
                self.kill(self.rng.randrange(len(self.parties)))
            case "cut":
                a = self.rng.randrange(len(self.parties))
                b = self.rng.choice(sorted(self.parties[a].member.traffic.neighbours))
                self.under_way = [m for m in self.under_way if {*m[:2]} != {a, b}]
                self.meet(a, [b])
            case "lose" if n:
                self.under_way.pop(self.rng.randrange(n))
            case "repeat" if n:
                self.deliver(self.rng.randrange(n), keep=True)
            case "old":  # a frame that came long ago comes again
                data = [
                    m
                    for m in self.old
                    if codec.unpack(m[2], 1 << 20).kind not in ("hello", "checkpoint")
                ]
                if data:
                    self.under_way.append(self.rng.choice(data))

    def run(self, faults, limit=30_000):
        """Until all are done, with faults on the way; frames arrive in any order."""
        for turn in range(limit):
            if all(p.done for p in self.parties):
                return [p.state for p in self.parties]
            choice = self.rng.random()
            if self.faults < faults and choice < 0.04:
                self.fault()
            elif self.under_way and choice < 0.5:
                self.deliver(self.rng.randrange(len(self.under_way)))
            else:
                p = self.rng.choice(self.parties)
                self.post(p.me, p.advance())
            if turn % 200 == 199:  # they have waited for long
                for p in self.parties:
                    self.post(p.me, p.member.resend())
        raise TimeoutError(
            f"{[(p.step, p.epoch) for p in self.parties]} after {limit} turns"
        )


# The same for every disturbed run that it is compared with, and nobody changes it.
@cache
def undisturbed(name):
    return World(name, 0).run(0)


@pytest.mark.parametrize("name", WORLDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), faults=st.integers(0, 12))
def test_any_order_of_losses_repetitions_and_restarts_ends_as_the_undisturbed_run(
    name, seed, faults
):
    assert World(name, seed).run(faults) == undisturbed(name)


def test_without_the_kept_frames_a_loss_is_not_made_good():
    """The same faults with nothing kept: some run cannot go on, and says so."""
    failed = 0
    for seed in range(20):
        try:
            World("vanilla", seed, cache=False).run(12, limit=5000)
        except (LocalProtocolError, TimeoutError) as error:
            failed += "which was not kept" in str(error)
    assert failed > 5


def test_the_crossings_of_turns_are_those_of_the_world():
    wires = [
        Wire("activation", "h", "client", "server"),
        Wire("cotangent", "h", "server", "client"),
    ]
    parties, crossings, *_ = WORLDS["turns"]
    assert TURNS.parties == tuple(parties)
    assert TURNS.crossings(wires) == terms(parties, *crossings).crossings


def test_the_undisturbed_run_is_not_the_same_for_all_and_depends_on_every_message():
    states = undisturbed("chain")
    assert len({*states}) == 3
    world = World("chain", 0)
    world.disks[0][0] = b"another"
    assert all(a != b for a, b in zip(world.run(0), states, strict=True))


def pair(**options):
    t = terms(["client", "server"], UP, DOWN, **options)
    client, server = Session(t, 0, 1), Session(t, 1, 0)
    client.begin(1, 0, (7, 8))
    server.begin(1, 0, (8, 7))
    return client, server


VALUE = [np.arange(8, dtype=np.uint8)]


def test_a_repeated_frame_is_applied_once_and_an_early_one_is_asked_for_again():
    client, server = pair(micros=2)
    first, second = client.send(0, 0, 0, VALUE), client.send(0, 0, 1, VALUE)
    taken, replies = server.receive(second)
    assert taken is None and [r.head.kind for r in replies] == ["sync"]
    assert client.receive(replies[0])[1] == [
        first,
        second,
    ]  # the same bytes with the same id
    assert server.receive(first)[0] is first and server.receive(second)[0] is second
    assert server.receive(first) == (None, [])


def test_what_the_peer_has_is_not_kept_and_what_it_may_lack_is():
    client, server = pair()
    for step in range(6):
        server.receive(client.send(0, step, 0, VALUE))
        client.receive(server.send(1, step, 0, VALUE))
        assert not server.finished(step) and not client.finished(
            step
        )  # a value has said so, or will
        assert {p for _, p in client.kept} == {step} and {
            p for _, p in server.kept
        } <= {step - 1, step}


def test_a_sender_stops_at_the_window():
    client, _ = pair()
    client.send(0, 0, 0, VALUE)
    client.send(0, 1, 0, VALUE)
    assert not client.may_send(0, 2)
    with pytest.raises(
        LocalProtocolError, match="`server` is not known to have come near step 2"
    ):
        client.send(0, 2, 0, VALUE)


def test_what_was_received_but_not_used_does_not_open_the_window():
    """Where nothing comes back, the receiver tells after every step.

    Who says he has more than the window is not believed.
    """
    client, server = pair(steps=100)
    sent = [client.send(0, step, 0, VALUE) for step in range(2)]
    assert all(server.receive(f)[0] is f for f in sent)
    client.receive(server.sync(again=False))
    assert not client.kept and not client.may_send(0, 2)
    early = replace(sent[1].head, step=2)
    with pytest.raises(RemoteProtocolError, match="at step 2, beyond the window"):
        server.receive(codec.Frame(early, tuple(VALUE)))
    for step in range(2, 50):
        assert server.finished(step - 2)
        client.receive(server.sync(again=False))
        assert client.may_send(0, step) and not client.may_send(0, step + 1)
        server.receive(client.send(0, step, 0, VALUE))


def test_only_who_waits_for_it_is_told_of_a_finished_step():
    t = terms(
        ["north", "south", "server"],
        *WORLDS["turns"][1],
        schedule=TURNS.schedule(2),
    )
    server, north = Session(t, 2, 0), Session(t, 0, 2)
    for s in (server, north):
        s.begin(1, 0)
    told = []
    for step in range(STEPS):  # two of the north, one of the south, and so on
        if t.tables(0, 2)[0].has(step):
            server.receive(north.send(0, step, 0, VALUE))
            north.receive(server.send(1, step, 0, VALUE))
        north.finished(step)
        if server.finished(step):
            told.append(step)
            north.receive(server.sync(again=False))
    assert told == [2, 5]


def test_an_older_epoch_or_another_process_is_void():
    client, server = pair()
    old = client.send(0, 0, 0, VALUE)
    server.begin(2, 0, (8, 7))
    assert server.receive(old) == (None, [])
    client.begin(
        2, 0, (9, 8)
    )  # another process of the client, of which the server has not heard
    assert server.receive(client.send(0, 0, 0, VALUE)) == (None, [])
    assert server.next_receive == {0: 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 1}, "`client` may not send activation 1 to `server`"),
        ({"kind": "cotangent"}, "`client` may not send cotangent 0 to `server`"),
        ({"kind": "weights"}, "`client` may not send weights 0"),
        ({"sender": 1}, "`client` sent a frame from `server` to `server`"),
        ({"receiver": 5}, "`client` sent a frame from `client` to `party 5`"),
        ({"run": b"x" * 32}, "another run"),
        (
            {"step": 8},
            "sent activation `h` of step 8, 0, which there is not in a run of 8 steps",
        ),
        ({"micro": 1}, "sent activation `h` of step 0, 1, which there is not"),
        ({"step": 5}, "at step 5, beyond the window"),
        (
            {"shapes": ((np.dtype(np.float32), (2,)),)},
            r"as float32\[2\], the agreement says uint8\[8\]",
        ),
    ],
)
def test_what_a_party_may_not_send_is_refused(change, message):
    client, server = pair()
    frame = client.send(0, 0, 0, VALUE)
    with pytest.raises(RemoteProtocolError, match=message):
        taken(server, codec.Frame(replace(frame.head, **change), frame.arrays))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"next": 3},
        {"next": {"0": 0}},
        {"next": {"1": 9}},
        {"next": {"1": "0"}},
        {"done": "x"},
        {"done": None},
    ],
)
def test_a_sync_that_says_nothing_sensible_is_refused(said):
    client, server = pair()
    with pytest.raises(RemoteProtocolError, match="`client`"):
        server.receive(
            codec.text_of(
                client.head("sync"),
                {"next": {"1": 0}, "done": 0, **said, "again": True} if said else {},
            )
        )


def test_a_sender_that_is_not_its_turn_is_stopped_at_home():
    client, _ = pair()
    with pytest.raises(
        LocalProtocolError, match="`h` of step 1, 0 is not what is sent next"
    ):
        client.send(0, 1, 0, VALUE)
    with pytest.raises(LocalProtocolError, match="`h` is float64"):
        client.send(0, 0, 0, [np.zeros(2)])
    with pytest.raises(LocalProtocolError, match="epoch 1 cannot follow epoch 1"):
        client.begin(1, 0)


def test_only_the_lead_opens_epochs_and_only_it_hears_of_checkpoints():
    t = terms(*[["one", "two", "three"]], *WORLDS["chain"][1])
    one, two = (Member(t, p, 2, Status(p + 1, 0, (0,))) for p in (0, 1))
    start = codec.text_of(
        two.head("start", 0),
        {"epoch": 3, "step": 0, "instances": [1, 2, 3], "records": None},
    )
    with pytest.raises(
        RemoteProtocolError, match="`two` is not the lead and may not send start"
    ):
        received(one, 1, start)
    with pytest.raises(RemoteProtocolError, match="may not send checkpoint"):
        received(one, 1, codec.text_of(two.head("checkpoint", 0), two.status_for(0)))
    with pytest.raises(
        RemoteProtocolError, match="`two` sent a frame from `one` to `three`"
    ):
        received(one, 1, codec.text_of(one.head("sync", 2), {}))


def test_what_passes_the_lead_is_sealed_and_goes_only_where_it_may():
    world = World("relayed chain", 0)
    world.run(0)
    lead, one = world.parties[2].member, world.parties[0].member
    head = codec.Head("activation", RUN, one.epoch, 1, 0, 1, shapes=BYTE)
    with pytest.raises(RemoteProtocolError, match="is not sealed"):
        received(lead, 0, codec.Frame(head, tuple(VALUE)))
    with pytest.raises(RemoteProtocolError, match="may not send activation 1 to `two`"):
        received(
            lead, 0, codec.Frame(replace(head, value=1, sealed=True), tuple(VALUE))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sync", "micro": 2}, "sent a sync as of a step"),
        ({"kind": "sync", "step": 1}, "sent a sync as of a step"),
        ({"kind": "sync", "value": 1}, "sent a sync as of a step"),
        ({"kind": "weights"}, "may not send weights 0 to `two`"),
        ({"shapes": ((np.dtype(np.uint8), (3 << 20,)),)}, "sealed, in 3145728 bytes"),
    ],
)
def test_the_lead_passes_nothing_on_for_which_its_receiver_would_hang_up_on_it(
    change, message
):
    world = World("relayed chain", 0)
    world.run(0)
    lead, two = world.parties[2].member, world.parties[1].member
    good = codec.Head("activation", RUN, two.epoch, 1, 0, 1, shapes=BYTE, sealed=True)
    for member, over in ((lead, 0), (two, 2)):
        member.accept(over, good)
        with pytest.raises(RemoteProtocolError, match=message):
            member.accept(over, replace(good, **change))


def test_the_lead_passes_on_what_is_of_this_epoch_and_of_its_processes_alone():
    world = World("relayed chain", 0)
    world.run(0)
    lead, start = world.parties[2].member, world.parties[2].member.start
    assert start is not None
    good = codec.Head("key", RUN, start.epoch, start.instances[0], 0, 1)
    assert len(received(lead, 0, codec.text_of(good, {}))) == 1
    for change in ({"epoch": start.epoch - 1}, {"epoch": 9}, {"instance": 77}):
        assert received(lead, 0, codec.text_of(replace(good, **change), {})) == []


def test_of_two_processes_of_one_party_the_later_counts():
    t = terms(["client", "server"], UP, DOWN)
    server = Member(t, 1, 1, Status(5, 0, (0,)))
    first, second = (Member(t, 0, 1, Status(i, 0, (0,))) for i in (8, 9))
    received(server, 0, first.hello(1))
    assert server.epoch == 1
    received(server, 0, second.hello(1))
    assert server.epoch == 2 and server.start is not None
    assert server.start.instances == (9, 5)
    with pytest.raises(
        Refused, match="another process of `client` was started later"
    ) as refused:
        received(server, 0, first.hello(1))
    assert refused.value.alone and server.epoch == 2
    assert (
        received(
            server, 0, codec.text_of(first.head("checkpoint", 1), first.status_for(1))
        )
        == []
    )


def test_the_newest_common_step_is_taken():
    t = terms(["a", "b", "c"])
    lead = Rendezvous(t)
    assert (
        lead.arrive(0, Status(1, 0, (2, 4, 6))) is None
        and lead.arrive(1, Status(2, 5, (4, 6))) is None
    )
    assert lead.arrive(2, Status(3, 1, (2, 4))) == Start(6, 4, (1, 2, 3))
    assert (
        lead.arrive(2, Status(3, 6, (2, 4))) is None
    )  # the same process, on another connection
    assert lead.arrive(2, Status(4, 6, (4,))) == Start(7, 4, (1, 2, 4))
    with pytest.raises(
        Refused,
        match=r"no checkpoint in common.*`a` \[2, 4, 6\]; `b` \[4, 6\]; `c` none",
    ):
        lead.arrive(2, Status(5, 6, ()))


def test_who_comes_with_nothing_in_common_is_refused_alone_once_a_run_has_begun():
    lead = Rendezvous(terms(["a", "b"]))
    lead.arrive(0, Status(1, 0, (0,), {"": (5, "x")}))
    with pytest.raises(Refused, match="no checkpoint in common") as refused:
        lead.arrive(1, Status(2, 0, (2,), {"": (5, "x")}))
    assert not refused.value.alone
    begun = lead.arrive(1, Status(3, 0, (0, 2), {"": (5, "x")}))
    for status in (
        Status(4, 0, (), {"": (5, "x")}),
        Status(4, 0, (0,), {"": (4, "x")}),
    ):
        with pytest.raises(Refused) as refused:
            lead.arrive(1, status)
        assert (
            refused.value.alone and lead.start == begun and lead.there[1].instance == 3
        )


def test_an_epoch_that_nobody_else_has_heard_of_is_not_believed():
    lead = Rendezvous(terms(["a", "b"]))
    assert lead.arrive(0, Status(1, 0, (0,))) is None
    with pytest.raises(RemoteProtocolError, match="`b` says that epoch"):
        lead.arrive(1, Status(2, 0, (0,), {}, (1 << 62) - 1))
    begun = lead.arrive(1, Status(2, 0, (0,), {}, 9))
    assert begun is not None and begun.epoch == 10


def test_of_many_checkpoints_the_newest_are_told_and_only_to_the_lead():
    t = terms(["a", "b", "c"], steps=1000)
    member = Member(t, 0, 2, Status(1, 0, tuple(range(500)), {"": (5, "x")}))
    about = [codec.about(member.hello(p)) for p in (1, 2)]
    assert about[0]["durable"] == [] and about[0]["records"] == {}
    assert about[1]["durable"] == [*range(436, 500)] and about[1]["records"] == {
        "": [5, "x"]
    }


def test_the_lead_goes_on_without_who_is_passed_over_and_back_with_who_returns():
    t = replace(terms(["north", "south", "server"]), clients=((0,), (1,)))
    lead = Rendezvous(t)
    lead.arrive(0, Status(1, 0, (0,)))
    assert (
        lead.arrive(2, Status(3, 0, (0,))) is None and lead.skip([0, 1]) is None
    )  # none would be left
    assert lead.skip([1]) == Start(1, 0, (1, 0, 3), {}, ((0, (1,)),))
    assert lead.arrive(1, Status(2, 0, (0,))) == Start(
        2, 0, (1, 2, 3)
    )  # from step 0 on nobody was away after all
    for p in range(3):
        assert lead.arrive(p, Status(p + 1, 2, (0, 4))) is None
    assert lead.committed() == 4
    lead.arrive(0, Status(1, 2, (4, 6)))
    lead.arrive(2, Status(3, 2, (4, 6)))
    assert (
        lead.skip([1]) == Start(3, 6, (1, 0, 3), {}, ((6, (1,)),))
        and lead.committed() is None
    )
    for p in (0, 2):
        assert lead.arrive(p, Status(p + 1, 3, (6, 8))) is None
    assert lead.committed() == 8
    back = Start(
        4, 8, (1, 9, 3), {}, ((6, (1,)), (8, ()))
    )  # though it has none of these steps
    assert lead.arrive(1, Status(9, 2, (4,))) == back
    for p in (0, 2):
        assert lead.arrive(p, Status(p + 1, 4, (8,))) is None
    assert (
        lead.committed() is None
        and lead.arrive(1, Status(9, 4, (8,))) is None
        and lead.committed() == 8
    )
    again = Rendezvous(t, ((6, (1,)),))
    again.arrive(0, Status(1, 3, (6, 8)))
    assert again.arrive(2, Status(5, 3, (6, 8))) == Start(
        4, 8, (1, 0, 5), {}, ((6, (1,)),)
    )


@pytest.mark.parametrize(
    "said",
    [
        {"instances": [1]},
        {"instances": [1, "x", 3]},
        {"records": [1]},
        {"records": {"": -1}},
        {"away": 3},
        {"away": [[1]]},
        {"away": [[1, [2]]]},
        {"away": [[-1, []]]},
        {"step": -1},
        {"epoch": "x"},
    ],
)
def test_a_start_that_says_nothing_sensible_is_refused(said):
    t = replace(terms(["north", "south", "server"]), clients=((0,), (1,)))
    good = {
        "epoch": 3,
        "step": 6,
        "instances": [1, 0, 3],
        "records": {"": 5},
        "away": [[6, [1]]],
    }
    assert Start.of(good, t) == Start(3, 6, (1, 0, 3), {"": 5}, ((6, (1,)),))
    with pytest.raises(RemoteProtocolError):
        Start.of(good | said, t)


def test_other_records_are_told_in_counts():
    t = terms(["lab", "clinic", "server"])
    lead = Rendezvous(t)
    for p, (count, digest) in enumerate([(500, "x"), (498, "y")]):
        lead.arrive(
            p, Status(p, 0, (0,), {"north": (count, digest), "south": (9, "z")})
        )
    with pytest.raises(
        Refused,
        match="not have the same records of `north`: "
        "`lab` 500, `clinic` 498; at least 2 are missing",
    ):
        lead.arrive(2, Status(2, 0, (0,)))
    lead.there[1] = Status(1, 0, (0,), {"north": (500, "y")})
    with pytest.raises(
        Refused, match="but the ids, or the weights, of `clinic` are not those of `lab`"
    ):
        lead.arrive(2, Status(2, 0, (0,)))
    lead.there[1] = Status(1, 0, (0,), {"north": (500, "x")})
    begun = lead.arrive(2, Status(2, 0, (0,)))
    assert begun is not None and begun.records == {"north": 500, "south": 9}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"instance": -1},
        {"durable": "x"},
        {"durable": [1.5]},
        {"durable": [True]},
        {"epoch": 1 << 63},
        {"durable": [0] * 99},
        {"records": {"": [-1, None]}},
        {"records": {"": [24, 3]}},
        {"records": {"": [24]}},
        {"records": [24, "ab"]},
        {"ready": 1},
        {"versions": None},
        {"versions": {"jax": 3}},
        {"versions": {"jax": "0.10.2\nserver: all is well"}},
        {"versions": {"jax": "1" * 41}},
        {"versions": {"a jax": "1"}},
        {"versions": dict.fromkeys(map(chr, range(97, 123)), "1")},
    ],
)
def test_a_hello_that_says_nothing_sensible_is_refused(said):
    t = terms(["client", "server"], UP)
    good = {
        "instance": 1,
        "epoch": 0,
        "known": 0,
        "durable": [0],
        "records": {"": [24, "ab"]},
        "ready": True,
        "versions": {"jax": "0.10.2"},
    }
    server = Member(t, 1, 1, Status(1, 0, (0,)))
    hello = codec.text_of(
        codec.Head("hello", RUN, 0, 1, 0, 1), good | said if said else {}
    )
    with pytest.raises(RemoteProtocolError, match="`client` does not say"):
        received(server, 0, hello)


def changed_hellos(count, seed):
    """Hellos with changed bytes in their text, each met by a lead of its own: how it was taken."""
    t = terms(["client", "server"], UP, DOWN)
    about = {
        "instance": 8,
        "epoch": 0,
        "known": 3,
        "durable": [0, 2],
        "records": {"": [24, "ab"]},
        "agreement": {"steps": 3},
        "ready": True,
        "versions": {"jax": "0.10.2", "python": "3.13.0rc1+x"},
    }
    text = codec.text_of(codec.Head("hello", RUN, 0, 8, 0, 1), about).arrays[0]
    rng, seen = np.random.default_rng(seed), {"refused": 0, "taken": 0}
    for _ in range(count):
        data = text.copy()
        for at in rng.integers(len(data), size=rng.integers(1, 4)):
            data[at] = (
                rng.choice(np.frombuffer(b'0129-.e[]{}",:ntf \\', np.uint8))
                if rng.integers(4)
                else rng.integers(256)
            )
        run = RUN if rng.integers(8) else b"s" * 32
        lead = Member(t, 1, 1, Status(5, 0, (0, 2), {"": (24, "ab")}), {"steps": 3})
        try:
            head = codec.Head("hello", run, 0, 8, 0, 1)
            received(lead, 0, codec.frame_of(head, [data]))
            seen["taken"] += 1
        except (codec.CodecError, RemoteProtocolError, Refused):
            seen["refused"] += 1
    return seen


def test_a_changed_hello_is_refused_or_taken():
    seen = changed_hellos(3000, 0)
    # Few are taken: what a hello says is compared with its head and what is known.
    assert min(seen.values()) > 50, seen


@pytest.mark.slow
def test_a_hundred_thousand_changed_hellos_are_refused_or_taken():
    assert sum(changed_hellos(100_000, 1).values()) == 100_000


@pytest.mark.parametrize("lag", [0, 1])
def test_what_comes_from_a_party_says_what_it_has_as_far_as_it_may_not_be_ahead(lag):
    t = terms(["client", "server"], UP, DOWN, lag=lag, window=2 + 2 * lag)
    client, server = Session(t, 0, 1), Session(t, 1, 0)
    for s in (client, server):
        s.begin(1, 0)
    value = [np.zeros(8, np.uint8)]
    server.receive(client.send(0, 0, 0, value))
    lost = server.send(1, 0, 0, value)
    server.receive(
        client.send(0, 1, 0, value)
    )  # of the next step, before the cotangent of this one has come
    if lag:
        assert server.receive(client.sync(again=True)) == (None, [lost])
        server.receive(client.send(0, 2, 0, value))
    assert not server.kept


def test_two_agreements_differ_in_one_line():
    ours = {
        "steps": 100,
        "nodes": [{"name": "h", "reads": ["image"]}, {"name": "y", "reads": ["h"]}],
        "seed": 0,
    }
    theirs = {
        "steps": 100,
        "nodes": [
            {"name": "h", "reads": ["image"]},
            {"name": "y", "reads": ["h", "z"]},
        ],
        "seed": 1,
    }
    said = difference(ours, theirs, "lab", "server")
    assert said == (
        "the agreements differ: `nodes[y].reads` is ['h'] at `lab` "
        "and ['h', 'z'] at `server` (1 more)."
    )
    t = terms(["client", "server"], UP)
    client = Member(t, 0, 1, Status(1, 0, (0,)), ours)
    server = Member(replace(t, run=b"s" * 32), 1, 1, Status(1, 0, (0,)), theirs)
    for one, other in ((client, server), (server, client)):
        with pytest.raises(Refused, match="the agreements differ: `nodes"):
            received(one, other.me, other.hello(one.me))
    with pytest.raises(Refused, match="differ: `agreement` is .* and missing at"):
        received(
            server, 0, codec.text_of(client.head("hello", 1), client.status_for(1))
        )
