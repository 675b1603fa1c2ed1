"""Clients that take turns over the network: the same bits as the whole trained on the same batches, whoever has which."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jsplit
from federation import agreed_for, bits, checked, optimizers, small, together, trust_of
from helpers import make_problem
from jsplit import party
from jsplit.party.records import places_of
from jsplit.party.turns import Turns

ORDER = [("north", 2), ("south", 3), ("west", 1)]
COUNTS = {"north": 20, "south": 9, "west": 12}


def problem_of(configuration, model="mlp"):
    """A problem, its roles that are played in turn, and each client's records of all fields."""
    problem = small("pair") if configuration == "small" else make_problem(configuration, model, "nnx")
    roles = [p for p in problem.topology.parties if not p.startswith("server")]
    rng = np.random.default_rng(1)
    rows = {c: rng.integers(0, 8, n) for c, n in COUNTS.items()}
    records = {c: {f: np.asarray(x)[r] for f, x in problem.batch.items()} for c, r in rows.items()}
    return problem, roles, records


def turns_of(roles, handoff, **given):
    return party.turns({c: {r: f"{c} {r}" for r in roles} for c in COUNTS}, ORDER, handoff, **given)


def work_of(problem, agreed, records, **options):
    """What each party does: it trains on its own records, and the server has its fields of each client."""
    trust, rates, holds = trust_of(agreed.parties), optimizers(problem.topology), problem.topology.holds

    def work(p):
        role, client = agreed.turns.role[p], agreed.turns.client_of(p)
        own = {c: {f: x for f, x in fields.items() if f in holds.get(role, ())} for c, fields in records.items()}
        ids = {c: [f"{c} {i}" for i in range(COUNTS[c])] for c in COUNTS}
        if client is not None:
            own, ids = own[agreed.turns.names[client]], ids[agreed.turns.names[client]]
        if not holds.get(role):
            own = ids = None
        given = {k: v(p) if callable(v) else v for k, v in options.items()}
        return party.run(
            agreed, p, problem.topology, own, ids=ids, optimizer=rates[role], credentials=trust[p], remind=0.5, **given
        )  # fmt: skip

    return work


def in_order(ids):
    return np.array(sorted(range(len(ids)), key=lambda i: f"str:{ids[i]}"))


def expected(problem, roles, records, steps, handoff, micros=1, links=None):
    """The whole, trained on the same batches: the state of the last client's turn, or each client's own."""
    trainer = jsplit.messages(problem.topology, optimizers(problem.topology), microbatches=micros, links=links)
    state = trainer.init(3, problem.batch)
    mine = {c: {r: state.parties[r] for r in roles} for c in COUNTS}
    copies = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)  # noqa: E731 - steps donate
    taken, step, losses = dict.fromkeys(COUNTS, 0), 0, []
    while step < steps:
        for client, count in ORDER:
            for _ in range(min(count, steps - step)):
                order = in_order([f"{client} {i}" for i in range(COUNTS[client])])
                rows = order[places_of(taken[client], COUNTS[client], 8, 3)]
                if handoff == "none":
                    own = {r: x._replace(step=jnp.int32(step)) for r, x in copies(mine[client]).items()}
                    state = jsplit.TrainState({**state.parties, **own})
                state, info = trainer.step(state, {f: x[rows] for f, x in records[client].items()})
                mine[client] = copies({r: state.parties[r] for r in roles})
                taken[client], step = taken[client] + 1, step + 1
                losses.append(float(info.loss))
    return state, mine, losses


@pytest.mark.parametrize(
    ("configuration", "model", "handoff", "listens", "micros"),
    [
        ("vanilla", "residual", "peer", ["server", "south client"], 1),
        ("u_shaped", "mlp", "server", ["server", "south client"], 2),
        ("vertical", "mlp", "none", ["server"], 1),
        ("small", "mlp", "peer", ["server"], 1),
        pytest.param("vertical", "residual", "peer", ["server"], 2, marks=pytest.mark.slow),
        pytest.param("u_shaped", "residual", "none", ["server"], 1, marks=pytest.mark.slow),
        pytest.param("extended_vanilla", "mlp", "peer", ["server"], 1, marks=pytest.mark.slow),
        pytest.param("multitask", "mlp", "server", ["server0"], 1, marks=pytest.mark.slow),
    ],
)
def test_clients_in_turns_train_as_the_whole_does_on_the_same_batches(configuration, model, handoff, listens, micros):
    problem, roles, records = problem_of(configuration, model)
    steps, who = 10, turns_of(roles, handoff)
    listens = [p for p in listens if p.startswith("server") or p.removeprefix("south ") in roles]
    agreed = agreed_for(problem, steps=steps, turns=who, listens=listens, microbatches=micros, checkpoint=4)
    results = checked(together(agreed.parties, work_of(problem, agreed, records)))
    state, mine, losses = expected(problem, roles, records, steps, handoff, micros)
    for p, result in results.items():
        role, client = agreed.turns.role[p], agreed.turns.client_of(p)
        if client is None or handoff != "none":  # in the end all clients have what the last has learned
            assert bits(result.state) == bits(state.parties[role]), p
        else:
            own = mine[agreed.turns.names[client]][role]._replace(step=jnp.int32(steps))
            assert bits(result.state) == bits(own), p
    if len(problem.topology.losses) == 1:
        at = problem.topology.losses[0].party
        if at in results:
            assert results[at].losses["loss"] == losses
        else:
            each = [results[agreed.turns.player(at, c)].losses["loss"] for c in range(3)]
            assert list(map(len, each)) == [agreed.turns.steps_of(c, steps) for c in range(3)]
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
    results = checked(together(agreed.parties, work_of(problem, agreed, records, **options)))
    return problem, agreed, records, folder, results, most


def test_who_waits_for_its_turn_runs_no_further_ahead_than_its_checkpoints(trained):
    *_, most = trained
    assert max(most.values()) <= 4, most  # the last that all have, the one that is due, and two while files are replaced


def test_each_client_evaluates_and_predicts_with_what_all_have_learned(trained):
    problem, agreed, records, folder, results, _ = trained
    one = agreed.of("south")
    assert one.parties == ("south client", "server")
    trust, fields = trust_of(agreed.parties), records["south"]

    def work(p):
        own = {"x": fields["x"]} if p != "server" else {"south": {"label": fields["label"]}}
        given = {"credentials": trust[p], "records": COUNTS["south"], "checkpoint": folder / p, "remind": 0.5}
        found = party.evaluate(one, p, problem.topology, own, **given)
        return found, party.predict(one, p, problem.topology, own if p != "server" else None, **given)

    found = checked(together(one.parties, work))
    trainer = jsplit.messages(problem.topology, optimizers(problem.topology))
    state = jsplit.TrainState({agreed.turns.role[p]: results[p].state for p in one.parties})
    assert found["server"][0].losses["loss"] == pytest.approx(float(trainer.evaluate(state, fields).loss), rel=1e-6)
    assert np.allclose(found["server"][1].outputs["y"], trainer.predict(state, {"x": fields["x"]})["y"], rtol=1e-6)
    with pytest.raises(ValueError, match="`agreed` is of several clients: say whose with agreed.of"):
        party.evaluate(
            agreed, "server", problem.topology, records=9, credentials=trust["server"], state=results["server"].state
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

    work = work_of(problem, agreed, records, checkpoint=lambda p: tmp_path / p, on_step=on_step)
    stopping = work_of(problem, agreed, records, checkpoint=lambda p: tmp_path / p, stop=stop)

    def again(p):
        if p == "west client":  # whose turn is the last
            first.append(stopping(p))
            waits.set()
        return work(p)

    results = checked(together(agreed.parties, again))
    assert first[0].stopped and not first[0].losses
    state, _, _ = expected(problem, roles, records, 12, "peer")
    assert all(bits(r.state) == bits(state.parties[agreed.turns.role[p]]) for p, r in results.items())


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=5),
    st.integers(1, 30), st.sampled_from(["peer", "none"]),
)  # fmt: skip
def test_the_steps_of_clients_are_what_counting_them_gives(order, steps, handoff):
    turns = Turns(party.turns({c: {"client": c} for c in "abc"}, order, handoff), ["client", "server"], steps)
    whose = [c for _ in range(steps) for c, n in order for _ in range(n)][:steps]
    for step in range(steps):
        assert turns.names[turns.client(step)] == whose[step]
        assert [turns.works(c, step) for c in "abc"] == [c == whose[step] for c in "abc"] and turns.works("server", step)
    for step in range(steps + 1):
        assert [turns.steps_of(i, step) for i in range(3)] == [whose[:step].count(c) for c in "abc"]
    hands = [(s, h.sender, h.receiver) for h, at in turns.hands.items() for s in at]
    begins = turns.turn[0]
    passes = [(b - 1, whose[b - 1], whose[b]) for b in begins[1:] if whose[b - 1] != whose[b]]
    last = [(steps - 1, whose[-1], c) for c in "abc" if c != whose[-1]]
    assert sorted(hands) == (sorted(passes + last) if handoff == "peer" else [])
    for i, (h, at) in enumerate(turns.hands.items()):
        assert [turns.uses(2, 6 + i, s) for s in range(steps + 1)] == [sum(x < s for x in at) for s in range(steps + 1)]
        assert all((i, h) in turns.hands_of(p, s) for s in at for p in (h.sender, h.receiver))
    assert sum(len(turns.hands_of(p, s)) for p in "abc" for s in range(steps)) == 2 * len(hands)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"handoff": "pigeon"}, "`handoff` must be one of peer, server, none"),
        ({"clients": {}}, "`clients` must give for each client"),
        ({"clients": {"north": {"hospital": "north"}}}, "`clients` must give each the same roles, of client, server"),
        ({"clients": {"north": {"client": "north"}, "south": {"client": "north"}}}, "gives a party two roles"),
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
    with pytest.raises(ValueError, match=message):
        agreed_for(problem, turns=good | change)


def test_what_a_party_brings_must_fit_the_turns():
    problem, roles, records = problem_of("small")
    agreed = agreed_for(problem, turns=turns_of(roles, "peer"))
    trust = trust_of(agreed.parties)

    def run(p, data, agreed=agreed):
        party.run(agreed, p, problem.topology, data, optimizer=optax.sgd(0.1), credentials=trust[p])

    with pytest.raises(ValueError, match="`data` lacks the client `north`: `server` holds fields of each"):
        run("server", {"label": problem.batch["label"]})
    with pytest.raises(ValueError, match="`data` of `south` lacks the field `label`, which `server` holds"):
        run("server", records | {"south": {}})
    with pytest.raises(ValueError, match="`turns` allows 8 bytes to be handed over, `west client` has 48"):
        small_hands = agreed_for(problem, turns=turns_of(roles, "peer", largest=8))
        run("west client", records["west"], small_hands)
    with pytest.raises(ValueError, match="`lead` must be a party that is there in every step"):
        agreed_for(problem, turns=turns_of(roles, "peer"), listens=["north client"])
    with pytest.raises(ValueError, match="`client` must be one of north, south, west, got 'east'"):
        agreed.of("east")


def test_who_has_a_connection_with_whom_follows_from_how_is_handed_over():
    problem, roles, _ = problem_of("small")
    for handoff, reach in (("peer", "dial"), ("server", "lead"), ("none", "lead")):
        agreed = agreed_for(problem, turns=turns_of(roles, handoff), listens=["server", "south client"])
        assert agreed.reach("north client") == {"south client": reach, "west client": "lead", "server": "dial"}
        assert agreed.reach("south client")["north client"] == {"dial": "wait", "lead": "lead"}[reach]
