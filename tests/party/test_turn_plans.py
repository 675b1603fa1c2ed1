"""The plan of turns: what follows from it, who is left out, and what makes no sense."""

from __future__ import annotations

import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit import party
from jsplit.party.contract.turns import Turns
from tests.party.federation import (
    agreed_for,
    small,
    trust_of,
)
from tests.party.test_party_turns import problem_of, turns_of


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
    turns = Turns(said, ["client", "server"], 30).without(away)
    whose, at = [], 0
    while len(whose) < 30:  # one step after the other
        client, count = order[at % len(order)]
        for _ in range(count):
            if "abcd".index(client) in turns.away_at(len(whose)):
                break
            whose.append("abcd".index(client))
        at += 1
    assert [turns.client(s) for s in range(30)] == whose[:30]
    holder, begins = [0] * 4, {*turns.turn[0]}
    for step in range(31):
        gone, new = turns.away_at(step), list(holder)
        for (giver, taker), times in zip(turns.pairs, turns.times, strict=True):
            if step in times:
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
)
def test_the_steps_of_clients_are_what_counting_them_gives(order, steps, handoff):
    turns = Turns(
        party.turns({c: {"client": c} for c in "abc"}, order, handoff),
        ["client", "server"],
        steps,
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
    pairs = [*zip(turns.hands, turns.times, strict=True)]
    hands = [(s, h.sender, h.receiver) for h, at in pairs for s in at]
    passes = [
        (b, whose[b - 1], whose[b]) for b in range(1, steps) if whose[b - 1] != whose[b]
    ]
    last = [(steps, whose[-1], c) for c in "abc" if c != whose[-1]]
    assert sorted(hands) == (sorted(passes + last) if handoff == "peer" else [])
    for i, (h, at) in enumerate(pairs):
        assert [turns.uses(2, 6 + i, s) for s in range(steps + 2)] == [
            sum(x < s for x in at) for s in range(steps + 2)
        ]
        assert all(
            (i, h) in turns.hands_of(p, s) for s in at for p in (h.sender, h.receiver)
        )
    assert sum(
        len(turns.hands_of(p, s)) for p in "abc" for s in range(steps + 1)
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
    with pytest.raises(ValueError, match=message):
        agreed_for(problem, turns=good | change)


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
