"""Sessions that wait at a server are computed in one run, and each is as if it were alone."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.serving import lanes, part, waiting
from jsplit.party.serving.course import Course
from jsplit.party.serving.served import Brought
from jsplit.party.serving.together import Together
from tests.party.federation import LONG
from tests.party.serving import Serving

WIDTH, LENGTH = 4, 12


def attending():
    """A client that embeds tokens, and a server that looks back: a cache of keys, and a place."""
    table = jnp.asarray(np.random.default_rng(1).normal(size=(9, WIDTH)), "float32")

    def init(key, h):
        return jax.random.normal(key, (WIDTH, WIDTH))

    def looked_back(weights, keys, h, start):
        seen = jnp.arange(keys.shape[1]) <= start + jnp.arange(h.shape[1])[:, None]
        scores = jnp.einsum("btd,bsd->bts", h @ weights, keys)
        return jax.nn.softmax(jnp.where(seen, scores, -1e9)) @ keys + start

    def at_once(weights, h):
        places = jnp.arange(h.shape[1])[:, None]
        return looked_back(weights, h, h, 0) + places

    def start(params, state, h):
        return jnp.zeros(h.shape, h.dtype), jnp.int32(0)

    def apply(weights, state, held, h):
        keys, index = held
        keys = jax.lax.dynamic_update_slice(keys, h, (0, index, 0))
        places = jnp.arange(h.shape[1])[:, None]
        output = looked_back(weights, keys, h, index) + places
        return output, (keys, index + h.shape[1])

    embed = jsplit.segment(lambda tokens: table[tokens], inputs=["tokens"], name="h")
    server = jsplit.segment(at_once, init=init, inputs=["h"], name="y")
    server = jsplit.with_cache(server, jsplit.Cache(start, apply))
    return jsplit.vanilla(
        jsplit.with_cache(embed, False),
        server,
        loss=optax.squared_error,
        public=[
            "tokens"
        ],  # the table is no parameter, so whoever has the code undoes it
    )


TOKENS = np.random.default_rng(0).integers(0, 9, (6, LENGTH)).astype(np.int32)
BATCH = {"tokens": TOKENS[:2, :3], "label": np.zeros((2, 3, WIDTH), np.float32)}


@cache
def trained():
    topology = attending()
    trainer = jsplit.messages(topology, {"server": optax.sgd(0.1)})
    return topology, trainer, trainer.init(0, BATCH)


@cache
def alone(row, pieces):
    """What a sequence gives in one process, in these pieces."""
    _, trainer, state = trained()
    with jsplit.session(trainer, state, length=LENGTH) as session:
        return pieces_of(session, row, pieces)


def pieces_of(session, row, pieces):
    found, at = [], 0
    for count in pieces:
        found.append(session({"tokens": TOKENS[row : row + 1, at : at + count]}))
        at += count
    return np.concatenate(found, 1)


def serving(topology=None, state=None, **limits):
    topology = trained()[0] if topology is None else topology
    state = trained()[2] if state is None else state
    agreed = party.agreement(topology, BATCH, steps=4, addresses={"server": "server:1"})
    return Serving(agreed, topology, state.parties, names=["server"], server=limits)


@pytest.fixture
def runs(monkeypatch):
    """How many sessions each run had."""
    found, real = [], lanes.Lanes.run

    def run(self, place, at, given):
        found.append(len(at))
        return real(self, place, at, given)

    monkeypatch.setattr(lanes.Lanes, "run", run)
    return found


def at_once(sessions, work):
    """What some sessions give, each in a thread of its own."""
    found, failed = {}, []

    def one(i):
        try:
            found[i] = work(sessions[i], i)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(sessions))]
    [t.start() for t in threads]
    [t.join(LONG) for t in threads]
    assert not failed, failed
    return [found[i] for i in range(len(sessions))]


# Prompts of several lengths, and a long piece in the middle, which is computed alone.
PIECES = [(2, 1, 1, 1, 1), (4, 1, 1, 1), (3, 1, 2, 1, 1), (2, 1, 1), (5, 1, 1)]


@pytest.mark.parametrize("count", [2, 5])
def test_sessions_of_one_run_are_each_as_alone(count, runs):
    """To 1e-6 in float32, each at its own place in its own cache; of 5 some lanes are empty."""
    with serving(batch_wait=0.2) as server, server.ask(length=LENGTH) as first:
        sessions = [first, *(first.another() for _ in range(count - 1))]
        found = at_once(sessions, lambda s, i: pieces_of(s, i, PIECES[i]))
    for i, got in enumerate(found):
        np.testing.assert_allclose(got, alone(i, PIECES[i]), rtol=1e-6, atol=1e-6)
    assert max(runs) >= count - 1 and {s.begun for s in sessions} == {1}


def courses(topology=None, state=None, rows=(0, 1, 2), before=2):
    """Sessions at a server as one process sees them, after a prompt; what they would send."""
    topology = trained()[0] if topology is None else topology
    state = trained()[2] if state is None else state
    agreed = party.agreement(topology, BATCH, steps=4, addresses={"server": "server:1"})
    brought = Brought(
        agreed, "server", topology, None, state.parties["server"], None, {}
    )
    own = brought.part("client", sequence=True)
    made = [Course(own, 1, LENGTH) for _ in rows]
    for course, row in zip(made, rows, strict=True):
        course.begin({})
        step(course, row, before)
    return made


RNG = np.random.default_rng(3)
VALUES = RNG.normal(size=(9, LENGTH, WIDTH)).astype(np.float32)


def come(course, row, count=1):
    at = course.position
    course.start(count, {})
    course.arrive(0, [VALUES[row : row + 1, at : at + count]])


def step(course, row, count=1):
    found = []
    come(course, row, count)
    assert course.advance(lambda place, arrays: found.extend(arrays))
    return found[0]


def in_one_run(together, made, rows):
    found = []
    for course, row in zip(made, rows, strict=True):
        come(course, row)
    results = together.run(made)
    assert results is not None
    for course, result in zip(made, results, strict=True):
        assert course.computed(result, lambda place, arrays: found.extend(arrays))
    return found


def check(got, row, at):
    """Of the whole sequence at once, in NumPy."""
    weights = np.asarray(trained()[2].parties["server"].params["y"])
    h = VALUES[row, : at + 1].astype(np.float64)
    scores = np.exp(h[-1] @ weights @ h.T - (h[-1] @ weights @ h.T).max())
    np.testing.assert_allclose(got[0, 0], scores / scores.sum() @ h + at, rtol=2e-6)


def test_sessions_come_and_go_and_none_is_in_the_lane_of_another():
    """Out for a longer piece and back in; one that ends leaves its lane to a new one."""
    together, rows = Together(8, 8), [0, 1, 2]
    made = courses()
    for row, got in enumerate(in_one_run(together, made, rows)):
        check(got, row, 2)
    check(step(made[1], 1, 2)[:, 1:], 1, 4)
    del made[0]
    [new] = courses(rows=[4], before=3)
    new.part = made[0].part
    made, rows = [made[0], made[1], new], [1, 2, 4]
    for at in ([5, 3, 3], [6, 4, 4]):
        for place, got in enumerate(in_one_run(together, made, rows)):
            check(got, rows[place], at[place])
    for place, got in enumerate(in_one_run(together, made[:2], rows[:2])):
        check(got, rows[place], [7, 5][place])
    check(step(new, 4), 4, 5)


def test_a_run_that_fails_costs_its_sessions_and_none_goes_on_in_another_lane(
    monkeypatch,
):
    together, made = Together(8, 8), courses()
    in_one_run(together, made, [0, 1, 2])
    real = lanes.Lanes._step
    monkeypatch.setattr(lanes.Lanes, "_step", lambda *_: 1 / 0)
    for course in made[:2]:
        come(course, 0)
    with pytest.raises(ZeroDivisionError):
        together.run(made[:2])
    monkeypatch.setattr(lanes.Lanes, "_step", real)
    with pytest.raises(lanes.SessionLost, match="its caches are lost"):
        step(made[2], 2)
    # Begun again, they are computed one by one, and run into it no more.
    again = courses(rows=[0, 1])
    for course in again:
        course.part = made[0].part
        come(course, 0)
    assert together.run(again) is None


def test_a_failed_run_is_made_good_by_replay(monkeypatch):
    failed, real = [], lanes.Lanes.run

    def run(self, *given):
        if not failed:
            failed.append(True)
            raise RuntimeError("out of memory")
        return real(self, *given)

    monkeypatch.setattr(lanes.Lanes, "run", run)
    with serving(batch_wait=0.2) as server, server.ask(length=LENGTH) as first:
        sessions = [first, first.another()]
        found = at_once(sessions, lambda s, i: pieces_of(s, i, PIECES[i]))
    assert failed and {s.begun for s in sessions} == {2}
    for i, got in enumerate(found):
        np.testing.assert_allclose(got, alone(i, PIECES[i]), rtol=1e-6, atol=1e-6)


def called_back():
    """Sums by a function of NumPy, of which JAX does not know what it gives side by side."""
    sums = jsplit.segment(lambda h: h.cumsum(1), inputs=["h"], name="y")

    def apply(params, state, total, h):
        after = total[:, None] + h.cumsum(1)
        like = jax.ShapeDtypeStruct(after.shape, after.dtype)
        return jax.pure_callback(lambda x: np.asarray(x), like, after), after[:, -1]

    start = lambda params, state, h: jnp.zeros((h.shape[0], WIDTH), h.dtype)  # noqa: E731
    return jsplit.with_cache(sums, jsplit.Cache(start, apply))


def test_what_cannot_be_side_by_side_is_computed_alone():
    client = trained()[0].node["h"].segment
    topology = jsplit.vanilla(
        client, called_back(), loss=optax.squared_error, public=["tokens"]
    )
    trainer = jsplit.messages(topology, {})
    made = courses(topology, trainer.init(0, BATCH), rows=[0, 1])
    for course, row in zip(made, (0, 1), strict=True):
        come(course, row)
    assert Together(8, 8).run(made) is None
    found = []
    assert made[1].advance(lambda place, arrays: found.extend(arrays))
    np.testing.assert_allclose(found[0][0, 0], VALUES[1, :3].sum(0), rtol=1e-5)


def test_only_calls_of_one_size_are_one_run_and_with_one_each_is_alone():
    made = courses(rows=[0, 1, 2, 3])
    for course, row in zip(made, (0, 1, 2, 3), strict=True):
        come(course, row, 2 if row == 2 else 1)
    assert sorted(Together(8, 8).groups(made)) == [[0, 1, 3], [2]]
    assert sorted(Together(2, 8).groups(made)) == [[0, 1], [2], [3]]
    assert Together(1, 8).groups(made) == [[0], [1], [2], [3]]
    made[0].part.alone = True  # as where noise is drawn in secret
    assert sorted(map(len, Together(8, 8).groups(made))) == [1, 1, 1, 1]


def test_nobody_waits_longer_than_agreed_nor_where_all_are_there(monkeypatch):
    """A session that is slow or dead, and one that sends what leads to nothing."""
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    room = waiting.WaitingRoom(3, 0.5)
    assert room.left(9) > 0 and not room.full(9)
    room.enter(1, None)
    now[0] = 0.2
    room.enter(2, None)
    assert abs(room.left(9) - 0.3) < 1e-9 and not room.full(9)
    assert room.left(2) == 0 and room.full(2)
    now[0] = 0.6
    assert room.left(9) == 0
    for _ in range(3):
        room.pass_by()
    assert room.full(9)
    assert len(room.leave()) == 2 and not room
    assert waiting.WaitingRoom(3, 0.0).left(9) > 0


def test_programs_of_sizes_that_nobody_asks_for_any_more_are_let_go_of(monkeypatch):
    monkeypatch.setattr(part, "KEPT", 2)
    [first] = courses(rows=[0])
    own = first.part
    kept = [weakref.ref(p.function) for p in own.programs(1, 1, LENGTH, checked=False)]
    assert own.programs(1, 1, LENGTH, checked=False)[0].function is kept[0]()
    for length in (5, 6, 7):
        own.programs(1, 1, length, checked=False)
    gc.collect()
    assert len(own._programs) == 2 and kept[0]() is None


def test_what_would_wait_for_ever_or_for_nobody_is_refused():
    for limits, why in (
        ({"batch_wait": -1.0}, "`batch_wait` must be seconds, 0 or more, got -1.0"),
        ({"batch_wait": float("nan")}, "`batch_wait` must be seconds"),
        ({"together": 0}, "`together` must be"),
    ):
        server = serving(**limits)
        server.start("server")
        server.running["server"][1].join(LONG)
        assert isinstance(server.failed["server"], ValueError)
        assert why in str(server.failed["server"])


@pytest.mark.slow
def test_a_server_that_is_never_silent_keeps_lanes_of_sessions_that_are_there(
    monkeypatch,
):
    """Pairs of one length after another: those of before leave nothing behind."""
    monkeypatch.setattr(waiting, "_POLL", LONG)
    found, real = [], Together.run

    def run(self, given):
        result = real(self, given)
        found.append(sum(map(len, self._all)))
        return result

    monkeypatch.setattr(Together, "run", run)
    with serving(sessions=2, batch_wait=0.2) as server:
        with server.ask(length=LENGTH) as first:
            for length in (6, 7, 8, 9):
                pair = [first.another(length=length) for _ in range(2)]
                at_once(pair, lambda s, i: pieces_of(s, i, (2, 1, 1)))
                for one in pair:
                    one.close()
    assert len(found) >= 4 and max(found) <= 4


def test_lanes_of_all_sizes_are_no_more_than_two_for_each_session():
    """Whatever comes and goes, and whether or not lanes of its size are kept still."""
    together, every, rng = Together(8, 8), [], np.random.default_rng(0)
    together._lanes.most = 2
    [like] = courses(rows=[0])
    for length in rng.permutation(np.repeat([4, 5, 6], 2)):
        for _ in range(int(rng.integers(1, 4))):
            every.append(Course(like.part, 1, int(length)))
            every[-1].begin({})
        mine = [c for c in every if c.length == length and c.position < 3][:8]
        for course in mine:
            come(course, 0)
        together.tidy()
        results = together.run(mine)
        assert results is not None
        [c.computed(r, lambda *_: None) for c, r in zip(mine, results, strict=True)]
        every = [c for c in every if rng.random() < 0.6]
        del mine, course
        gc.collect()
        together.tidy()
        assert sum(map(len, together._all)) <= 2 * len(every)


def test_sessions_of_lanes_that_are_let_go_of_go_on_where_they_were():
    """Of four one is left, comes out of its lane, and goes on with new ones."""
    together, rows = Together(8, 8), [0, 1, 2, 3]
    made = courses(rows=rows)
    in_one_run(together, made, rows)
    [own] = together._all
    del made[1:]
    together.tidy()
    assert len(own) == 0 and made[0].caches()
    more = courses(rows=[1, 2], before=3)
    for course in more:
        course.part = made[0].part
    for at in (3, 4):
        for row, got in enumerate(in_one_run(together, [made[0], *more], rows[:3])):
            check(got, row, at)
    assert len(own) == 4
