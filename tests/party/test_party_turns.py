"""Clients that take turns over the network: the same bits as the whole trained on the
same batches, whoever has which.
"""

from __future__ import annotations

import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jsplit
from jsplit import party
from jsplit.party.contract.record_order import places_of
from jsplit.party.contract.turns import Handover, Turns
from tests.helpers import make_problem
from tests.party.federation import (
    IDS_KEY,
    agreed_for,
    bits,
    checked,
    optimizers,
    small,
    together,
    trust_of,
)

ORDER = [("north", 2), ("south", 3), ("west", 1)]
COUNTS = {"north": 20, "south": 9, "west": 12}


def problem_of(configuration, model="mlp"):
    """A problem, its roles that are played in turn, and each client's records of all fields."""
    problem = (
        small("pair")
        if configuration == "small"
        else make_problem(configuration, model, "nnx")
    )
    roles = [p for p in problem.topology.parties if not p.startswith("server")]
    rng = np.random.default_rng(1)
    rows = {c: rng.integers(0, 8, n) for c, n in COUNTS.items()}
    records = {
        c: {f: np.asarray(x)[r] for f, x in problem.batch.items()}
        for c, r in rows.items()
    }
    return problem, roles, records


def turns_of(roles, handoff, **given):
    return party.turns(
        {c: {r: f"{c} {r}" for r in roles} for c in COUNTS}, ORDER, handoff, **given
    )


def work_of(problem, agreed, records, **options):
    """What each party does: it trains on its own records, and the server has its fields
    of each client.
    """
    trust, rates, holds = (
        trust_of(agreed.parties),
        optimizers(problem.topology),
        problem.topology.holds,
    )

    def work(p):
        role, client = agreed.turns.role[p], agreed.turns.client_of(p)
        own = {
            c: {f: x for f, x in fields.items() if f in holds.get(role, ())}
            for c, fields in records.items()
        }
        ids = {c: [f"{c} {i}" for i in range(COUNTS[c])] for c in COUNTS}
        if client is not None:
            own, ids = own[agreed.turns.names[client]], ids[agreed.turns.names[client]]
        if not holds.get(role):
            own = ids = None
        given = {k: v(p) if callable(v) else v for k, v in options.items()}
        return party.run(
            agreed,
            p,
            problem.topology,
            own,
            ids=ids,
            ids_key=IDS_KEY,
            optimizer=rates[role],
            credentials=trust[p],
            remind=0.5,
            **given,
        )

    return work


def in_order(ids):
    return np.array(sorted(range(len(ids)), key=lambda i: f"str:{ids[i]}"))


def expected(problem, roles, records, turns, micros=1):
    """The whole, trained on the same batches: the state of all, each client's own, and
    the losses.
    """
    trainer = jsplit.messages(
        problem.topology, optimizers(problem.topology), microbatches=micros
    )
    state = trainer.init(3, problem.batch)
    copies = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)  # noqa: E731 - steps donate
    mine = [copies({r: state.parties[r] for r in roles}) for _ in turns.names]
    losses = []

    def hand_over(step):
        for (giver, taker), times in turns.rota.handed.items():
            mine[taker] = mine[giver] if times.has(step) else mine[taker]

    for step in range(turns.steps):
        hand_over(step)
        client = turns.client(step)
        name, count = turns.names[client], COUNTS[turns.names[client]]
        order = in_order([f"{name} {i}" for i in range(count)])
        rows = order[places_of(turns.steps_of(client, step), count, 8, 3)]
        own = {
            r: x._replace(step=jnp.int32(step)) for r, x in copies(mine[client]).items()
        }
        state, info = trainer.step(
            jsplit.TrainState({**state.parties, **own}),
            {f: x[rows] for f, x in records[name].items()},
        )
        mine[client] = copies({r: state.parties[r] for r in roles})
        losses.append(float(info.loss))
    hand_over(turns.steps)
    return state, mine, losses


def compare(agreed, results, state, mine):
    for p, result in results.items():
        role, client = agreed.turns.role[p], agreed.turns.client_of(p)
        own = (
            state.parties[role]
            if client is None
            else mine[client][role]._replace(step=jnp.int32(agreed["steps"]))
        )
        assert bits(result.state) == bits(own), p


@pytest.mark.parametrize(
    ("configuration", "model", "handoff", "listens", "micros"),
    [
        ("vanilla", "mlp", "peer", ["server", "south client"], 1),
        ("u_shaped", "mlp", "server", ["server", "south client"], 2),
        ("vertical", "mlp", "none", ["server"], 1),
        ("small", "mlp", "peer", ["server"], 1),
        pytest.param(
            "vertical", "residual", "peer", ["server"], 2, marks=pytest.mark.slow
        ),
        pytest.param(
            "vanilla",
            "residual",
            "peer",
            ["server", "south client"],
            1,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "u_shaped", "residual", "none", ["server"], 1, marks=pytest.mark.slow
        ),
        pytest.param(
            "extended_vanilla", "mlp", "peer", ["server"], 1, marks=pytest.mark.slow
        ),
        pytest.param(
            "multitask", "mlp", "server", ["server0"], 1, marks=pytest.mark.slow
        ),
    ],
)
def test_clients_in_turns_train_as_the_whole_does_on_the_same_batches(
    configuration, model, handoff, listens, micros
):
    problem, roles, records = problem_of(configuration, model)
    steps, who = 10, turns_of(roles, handoff)
    listens = [
        p
        for p in listens
        if p.startswith("server") or p.removeprefix("south ") in roles
    ]
    agreed = agreed_for(
        problem,
        steps=steps,
        turns=who,
        listens=listens,
        microbatches=micros,
        checkpoint=4,
    )
    results = checked(together(agreed.parties, work_of(problem, agreed, records)))
    state, mine, losses = expected(problem, roles, records, agreed.turns, micros)
    compare(agreed, results, state, mine)
    if (
        handoff != "none"
    ):  # in the end all clients have what the last has learned, which is what the whole would have
        trainer, whole = (
            jsplit.messages(
                problem.topology, optimizers(problem.topology), microbatches=micros
            ),
            None,
        )
        for step, name in enumerate(
            [c for c, n in [*ORDER, *ORDER] for _ in range(n)][:steps]
        ):
            order = in_order([f"{name} {i}" for i in range(COUNTS[name])])
            taken = agreed.turns.steps_of(agreed.turns.names.index(name), step)
            batch = {
                f: x[order[places_of(taken, COUNTS[name], 8, 3)]]
                for f, x in records[name].items()
            }
            whole = trainer.init(3, batch) if whole is None else whole
            whole, _ = trainer.step(whole, batch)
        assert whole is not None
        assert all(
            bits(r.state) == bits(whole.parties[agreed.turns.role[p]])
            for p, r in results.items()
        )
    if len(problem.topology.losses) == 1:
        at = problem.topology.losses[0].party
        if at in results:
            assert results[at].losses["loss"] == losses
        else:
            each = [
                results[agreed.turns.party_of_role(at, c)].losses["loss"]
                for c in range(3)
            ]
            assert list(map(len, each)) == [
                agreed.turns.steps_of(c, steps) for c in range(3)
            ]
            assert sorted(sum(each, [])) == sorted(losses)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three clients, with checkpoints, and what was on each disk at most."""
    folder = tmp_path_factory.mktemp("turns")
    problem, roles, records = problem_of("small")
    agreed = agreed_for(problem, steps=14, turns=turns_of(roles, "peer"), checkpoint=2)
    most = dict.fromkeys(agreed.parties, 0)

    def look(m):
        for p in agreed.parties:
            most[p] = max(most[p], sum(f.is_dir() for f in (folder / p).iterdir()))

    options = {"checkpoint": lambda p: folder / p, "on_step": lambda p: look}
    results = checked(
        together(agreed.parties, work_of(problem, agreed, records, **options))
    )
    return problem, agreed, records, folder, results, most


def test_who_waits_for_its_turn_runs_no_further_ahead_than_its_checkpoints(trained):
    *_, most = trained
    assert max(most.values()) <= 4, (
        most
    )  # the last that all have, the one that is due, and two while files are replaced


def test_each_client_evaluates_and_predicts_with_what_all_have_learned(trained):
    problem, agreed, records, folder, results, _ = trained
    one = agreed.of("south")
    assert one.parties == ("south client", "server")
    trust, fields = trust_of(agreed.parties), records["south"]

    def work(p):
        own = (
            {"x": fields["x"]}
            if p != "server"
            else {"south": {"label": fields["label"]}}
        )
        given = {
            "credentials": trust[p],
            "records": COUNTS["south"],
            "checkpoint": folder / p,
            "remind": 0.5,
        }
        found = party.evaluate(one, p, problem.topology, own, **given)
        return found, party.predict(
            one, p, problem.topology, own if p != "server" else None, **given
        )

    found = checked(together(one.parties, work))
    trainer = jsplit.messages(problem.topology, optimizers(problem.topology))
    state = jsplit.TrainState(
        {agreed.turns.role[p]: results[p].state for p in one.parties}
    )
    assert found["server"][0].losses["loss"] == pytest.approx(
        float(trainer.evaluate(state, fields).loss), rel=1e-6
    )
    assert np.allclose(
        found["server"][1].outputs["y"],
        trainer.predict(state, {"x": fields["x"]})["y"],
        rtol=1e-6,
    )
    with pytest.raises(
        ValueError, match="`agreed` is of several clients: say whose with `--client`"
    ):
        party.evaluate(
            agreed,
            "server",
            problem.topology,
            records=9,
            credentials=trust["server"],
            state=results["server"].state,
        )


def test_checkpoints_are_of_the_turns_that_made_them_and_of_any_number_of_steps():
    problem, roles, _ = problem_of("small")
    agreed = agreed_for(problem, steps=8, turns=turns_of(roles, "peer"))
    said = agreed["turns"]
    for other in (
        {"order": [["south", 1], ["north", 2]]},
        {"handoff": "server"},
        {"clients": {**said["clients"], "east": {"client": "e"}}},
    ):
        assert agreed.replace(turns=said | other).schema != agreed.schema
    for same in ({"missing": "skip"}, {"largest": 5}):
        assert agreed.replace(turns=said | same).schema == agreed.schema
    assert agreed.replace(steps=9, checkpoint=1).schema == agreed.schema
    one = agreed.of("south")
    assert (
        one.schema
        == agreed.schema
        == one.replace(patience=3.0).schema
        == one.of("south").schema
    )
    assert (
        agreed.replace(turns=None).schema != agreed.schema
        and one.replace(seed=4).schema != agreed.schema
    )


def test_who_waits_for_its_turn_can_be_asked_to_stop_and_goes_on(tmp_path):
    problem, roles, records = problem_of("small")
    agreed = agreed_for(problem, steps=12, turns=turns_of(roles, "peer"), checkpoint=2)
    stop, first, waits = threading.Event(), [], threading.Event()

    def on_step(p):
        def slow(m):
            if p == "north client" and m.step == 1:
                stop.set()
                assert waits.wait(30)

        return slow

    work = work_of(
        problem, agreed, records, checkpoint=lambda p: tmp_path / p, on_step=on_step
    )
    stopping = work_of(
        problem, agreed, records, checkpoint=lambda p: tmp_path / p, stop=stop
    )

    def again(p):
        if p == "west client":  # whose turn is the last
            first.append(stopping(p))
            waits.set()
        return work(p)

    results = checked(together(agreed.parties, again))
    assert first[0].stopped and not first[0].losses
    state, mine, _ = expected(problem, roles, records, agreed.turns)
    compare(agreed, results, state, mine)


class DeadError(Exception):
    """The process of a party dies."""


@pytest.mark.parametrize(("handoff", "returns"), [("peer", False), ("none", True)])
def test_a_client_that_stays_away_is_passed_over_until_it_comes_back(
    tmp_path, handoff, returns
):
    """It dies in its turn, or leaves with a checkpoint; the others go on from the
    newest that they have.
    """
    problem, roles, records = problem_of("small")
    agreed = agreed_for(
        problem,
        steps=24,
        turns=turns_of(roles, handoff, missing="skip"),
        checkpoint=2,
        patience=2.0,
    )
    stop, gone, back = threading.Event(), threading.Event(), threading.Event()

    def on_step(p):
        def look(m):
            if p == "south client" and m.step == 4 and not gone.is_set():
                gone.set()
                stop.set()
                if not returns:
                    raise DeadError
            if p == "server" and m.step == 12:
                back.set()
                time.sleep(0.5 if returns else 0)

        return look

    options = {"checkpoint": lambda p: tmp_path / p, "on_step": on_step}

    def one(p):
        work = work_of(
            problem,
            agreed,
            records,
            stop=stop if p == "south client" else None,
            **options,
        )
        try:
            result = work(p)
        except DeadError:
            return None
        if result.stopped:
            assert back.wait(60) and result.step == 4
            stop.clear()
            return work(p)
        return result

    results = checked(
        {p: r for p, r in together(agreed.parties, one).items() if r is not None}
    )
    away = results["server"].away
    assert away[0] == (4, ["south"]) and (
        len(away) == 2 and away[1][1] == [] if returns else len(away) == 1
    )
    turns = agreed.turns.excluding(
        tuple(
            (step, tuple(agreed.turns.names.index(c) for c in who))
            for step, who in away
        )
    )
    assert turns.steps_of(1, 24) > 2 if returns else turns.steps_of(1, 24) == 2
    state, mine, _ = expected(problem, roles, records, turns)
    compare(agreed, results, state, mine)


def test_the_lead_remembers_who_is_passed_over(tmp_path):
    """And if none but one is left, it waits: without any client there is nothing to train."""
    problem, roles, records = problem_of("small")
    agreed = agreed_for(
        problem,
        steps=8,
        turns=turns_of(roles, "peer", missing="skip"),
        checkpoint=2,
        patience=1.5,
    )
    dies = threading.Event()

    def on_step(p):
        def look(m):
            if p == "server" and m.step == 5 and not dies.is_set():
                dies.set()
                raise DeadError

        return look

    work = work_of(
        problem, agreed, records, checkpoint=lambda p: tmp_path / p, on_step=on_step
    )

    def one(p):
        try:
            return work(p)
        except DeadError:
            [[step, clients]] = json.loads((tmp_path / p / "away.json").read_text())
            assert clients == [2] and step == 0
            began = time.monotonic()
            result = work(p)
            assert time.monotonic() - began < 20
            return result

    results = checked(together(["north client", "south client", "server"], one))
    assert results["server"].away == [(0, ["west"])]
    state, mine, _ = expected(
        problem, roles, records, agreed.turns.excluding(((0, (2,)),))
    )
    compare(agreed, results, state, mine)
    # Who was passed over to the end learns that it is over, if the lead is started again.
    late = together(["west client", "server"], work)
    assert isinstance(late["west client"], party.Refused), late
    assert "was passed over to the end" in str(late["west client"])
    assert late["server"].step == 8
    found = together(["server"], work_of(problem, agreed, records))
    assert isinstance(found["server"], party.Missing) and "did not come" in str(
        found["server"]
    )


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 4)), min_size=1, max_size=5
    ),
    st.lists(
        st.tuples(st.integers(0, 20), st.sets(st.sampled_from([0, 1, 2]))), max_size=3
    ),
)
def test_turns_without_those_that_are_away(order, away):
    """Each step is of a client that is there; who comes next is as the order says; what
    is given was got, and is the newest.
    """
    order = [*order, ("d", 1)]  # one is always there
    away = tuple(sorted({step: tuple(sorted(gone)) for step, gone in away}.items()))
    said = party.turns(
        {c: {"client": c} for c in "abcd"}, order, "peer", missing="skip"
    )
    turns = Turns(said, ["client", "server"], 30).excluding(away)
    whose, at = [], 0
    while len(whose) < 30:  # one step after the other
        client, count = order[at % len(order)]
        for _ in range(count):
            if "abcd".index(client) in turns.rota.away_at(len(whose)):
                break
            whose.append("abcd".index(client))
        at += 1
    assert [turns.client(s) for s in range(30)] == whose[:30]
    holder, begins = [0] * 4, {*turns.rota.turns[0]}
    for step in range(31):
        gone, new = turns.rota.away_at(step), list(holder)
        for (giver, taker), times in turns.rota.handed.items():
            if times.has(step):
                assert (
                    giver not in gone
                    and taker not in gone
                    and holder[giver]
                    == max(h for c, h in enumerate(holder) if c not in gone)
                )
                new[taker] = holder[giver]
        if step == 30:
            assert len({h for c, h in enumerate(new) if c not in gone}) == 1
            break
        assert (
            new[turns.client(step)]
            == max(h for c, h in enumerate(new) if c not in gone)
            or step not in begins
        )
        holder = new
        holder[turns.client(step)] = step + 1


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=5
    ),
    st.integers(1, 30),
    st.sampled_from(["peer", "none"]),
    st.booleans(),
)
def test_the_steps_of_clients_are_what_counting_them_gives(
    order, steps, handoff, by_epochs
):
    around = sum(n for _, n in order)
    # Of a training by epochs all take at the end of each, within its last step.
    steps, every = (around * (1 + steps % 3), around) if by_epochs else (steps, 0)
    turns = Turns(
        party.turns({c: {"client": c} for c in "abc"}, order, handoff),
        ["client", "server"],
        steps,
        every=every,
    )
    whose = [c for _ in range(steps) for c, n in order for _ in range(n)][:steps]
    for step in range(steps):
        assert turns.names[turns.client(step)] == whose[step]
        assert [turns.works(c, step) for c in "abc"] == [
            c == whose[step] for c in "abc"
        ] and turns.works("server", step)
    for step in range(steps + 1):
        assert [turns.steps_of(i, step) for i in range(3)] == [
            whose[:step].count(c) for c in "abc"
        ]
    handed, schedule = turns.rota.handed, turns.schedule(2)
    hands = [
        (s, "abc"[a], "abc"[b])
        for (a, b), uses in handed.items()
        for s in range(steps + 2)
        if uses.has(s)
    ]
    passes = [
        (b, whose[b - 1], whose[b])
        for b in range(1, steps)
        if whose[b - 1] != whose[b] and not (every and b % every == 0)
    ]
    ends = range(every - 1, steps, every) if every else [steps]
    last = [(s, whose[-1], c) for s in ends for c in "abc" if c != whose[-1]]
    assert sorted(hands) == (sorted(passes + last) if handoff == "peer" else [])
    assert [turns.taken_by_all(s) for s in range(steps)] == [
        next((at for at in ends if s == at - (not every)), None) for s in range(steps)
    ]
    for (giver, taker), uses in handed.items():
        # By who takes, after the two wires of each of the three clients.
        of_taker = schedule.steps_of(6 + taker, turns.parties.index("abc"[giver]))
        assert of_taker is uses
        at = [s for s, a, b in hands if (a, b) == ("abc"[giver], "abc"[taker])]
        assert [uses.count(s) for s in range(steps + 2)] == [
            sum(x < s for x in at) for s in range(steps + 2)
        ]
        hand = Handover("client", "abc"[giver], "abc"[taker])
        for s in at:
            to_all = (s, "abc"[giver], "abc"[taker]) in last
            for p in (giver, taker):
                assert (taker, hand) in turns.handovers_of("abc"[p], s, to_all=to_all)
    assert sum(
        len(turns.handovers_of(p, s, to_all=to_all))
        for p in "abc"
        for s in range(steps + 1)
        for to_all in (False, True)
    ) == 2 * len(hands)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": "sue"}, "`missing` must be one of wait, skip"),
        ({"handoff": "pigeon"}, "`handoff` must be one of peer, server, none"),
        ({"clients": {}}, "`clients` must give for each client"),
        (
            {"clients": {"north": {"hospital": "north"}}},
            "`clients` must give each the same roles, of client, server",
        ),
        (
            {"clients": {"north": {"client": "north"}, "south": {"client": "north"}}},
            "gives a party two roles",
        ),
        ({"clients": {"north": {"client": "server"}}}, "gives a party two roles"),
        ({"order": []}, "`order` must say who trains"),
        ({"order": [["east", 3]]}, "`order` must hold clients and how many steps"),
        ({"order": [["north", 0]]}, "`order` must hold clients and how many steps"),
        ({"largest": 0}, "`largest` must be a number of bytes"),
        ({"more": 1}, "`turns` must be what jsplit.party.turns gives"),
    ],
)
def test_turns_that_make_no_sense_are_refused_and_named(change, message):
    problem = small("pair")
    good = party.turns({"north": {"client": "north"}}, [("north", 3)])
    assert agreed_for(problem, turns=good).parties == ("north", "server")
    # Of epochs too, whose steps follow from the order.
    for other in ({}, {"steps": None, "epochs": party.epochs(2)}):
        with pytest.raises(ValueError, match=message):
            agreed_for(problem, turns=good | change, **other)
        with pytest.raises(ValueError, match="`turns` must be what"):
            agreed_for(problem, turns=5, **other)


def test_what_a_party_brings_must_fit_the_turns():
    problem, roles, records = problem_of("small")
    agreed = agreed_for(problem, turns=turns_of(roles, "peer"))
    trust = trust_of(agreed.parties)

    def run(p, data, agreed=agreed):
        party.run(
            agreed,
            p,
            problem.topology,
            data,
            optimizer=optax.sgd(0.1),
            credentials=trust[p],
        )

    with pytest.raises(
        ValueError,
        match="`data` lacks the client `north`: `server` holds fields of each",
    ):
        run("server", {"label": problem.batch["label"]})
    with pytest.raises(
        ValueError,
        match="`data` of `south` lacks the field `label`, which `server` holds",
    ):
        run("server", records | {"south": {}})
    with pytest.raises(
        ValueError,
        match="`turns` allows 8 bytes to be handed over, `west client` has 48",
    ):
        small_hands = agreed_for(problem, turns=turns_of(roles, "peer", largest=8))
        run("west client", records["west"], small_hands)
    with pytest.raises(
        ValueError, match="`lead` must be a party that is there in every step"
    ):
        agreed_for(problem, turns=turns_of(roles, "peer"), listens=["north client"])
    with pytest.raises(
        ValueError, match="`client` must be one of north, south, west, got 'east'"
    ):
        agreed.of("east")


def test_who_has_a_connection_with_whom_follows_from_how_is_handed_over():
    problem, roles, _ = problem_of("small")
    for handoff, reach in (("peer", "dial"), ("server", "lead"), ("none", "lead")):
        agreed = agreed_for(
            problem, turns=turns_of(roles, handoff), listens=["server", "south client"]
        )
        assert agreed.reach("north client") == {
            "south client": reach,
            "west client": "lead",
            "server": "dial",
        }
        assert (
            agreed.reach("south client")["north client"]
            == {"dial": "wait", "lead": "lead"}[reach]
        )
