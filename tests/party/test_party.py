"""Parties over gRPC with mutual TLS: the same numbers as in one process, bit for bit,
and nobody needs another's model.
"""

from __future__ import annotations

import json
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.party.compute.local import Local
from jsplit.party.contract import records
from jsplit.wire.rendezvous import Status, same_records
from tests.helpers import CONFIGURATIONS, FLAX, MODELS, make_problem
from tests.party import federation
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    own_of,
    small,
    together,
    train,
    trust_of,
    undisturbed,
)

LINKS = {
    "quantize(8)": jsplit.compress.quantize(8),
    "cast(bfloat16)": jsplit.compress.cast(jnp.bfloat16),
}
SWEEP = [  # configuration, model, kind of Flax, who listens, link, micro-batches
    ("vanilla", "residual", "nnx", 1, None, 1),
    ("u_shaped", "mlp", "linen", 1, "quantize(8)", 2),
    ("vertical", "mlp", "nnx", 1, None, 1),
    ("extended_vanilla", "mlp", "linen", 2, "cast(bfloat16)", 1),
    ("multitask", "mlp", "nnx", 1, None, 1),
    ("multihop", "mlp", "nnx", 1, None, 4),
]
REST = [
    (c, m, f, 1 + i % 2, [None, *LINKS][i % 3], 1 + i % 2)
    for i, (c, m, f) in enumerate(
        (c, m, f) for c in CONFIGURATIONS for m in MODELS for f in FLAX
    )
]


@pytest.mark.parametrize(
    ("configuration", "model", "flax", "listening", "link", "micros"),
    SWEEP + [pytest.param(*r, marks=pytest.mark.slow) for r in REST],
)
def test_over_the_network_training_is_what_it_is_in_one_process(
    configuration, model, flax, listening, link, micros
):
    problem = make_problem(configuration, model, flax)
    crossing = [c.name for c in problem.topology.crossings]
    links = {crossing[0]: link} if link else {}
    agreed = agreed_for(
        problem,
        steps=4,
        listens=problem.topology.parties[-listening:],
        links=links,
        microbatches=micros,
    )
    metrics: dict = {p: [] for p in agreed.parties}
    results = checked(train(agreed, problem, on_step=lambda p: metrics[p].append))
    trainer = jsplit.messages(
        problem.topology,
        federation.optimizers(problem.topology),
        microbatches=micros,
        links={n: LINKS[x] for n, x in links.items()},
    )
    state = trainer.init(3, problem.batch)
    for step in range(4):
        state, info = trainer.step(state, problem.batch)
        found = {n: x[step] for r in results.values() for n, x in r.losses.items()}
        assert found == {n: float(x) for n, x in info.losses.items()}
        for p in agreed.parties:
            m = metrics[p][step]
            assert m.sent == sum(
                x.bytes + x.frame for x in info.messages if x.sender == p
            )
            assert m.received == sum(
                x.bytes + x.frame for x in info.messages if x.receiver == p
            )
            assert (
                m.step == step + 1
                and min(m.compute, m.wire, m.wait) >= 0
                and m.seconds >= m.wait
            )
    for p, result in results.items():
        assert bits(result.state) == bits(state.parties[p]), p
        assert result.epoch == 1 and not result.stopped


def test_nobody_needs_another_s_model():
    """The agreement is made of shapes alone, and each party builds its part from its
    own segment.
    """
    problem = small()
    topology, nodes = problem.topology, []
    for n in topology.segments:
        trainable = n.segment.trainable
        nodes.append(
            jsplit.Node(
                n.name,
                party.foreign(n.name, n.party, trainable, n.reads),
                n.party,
                n.reads,
            )
        )
    nodes += [
        jsplit.Loss(x.name, lambda *_: 1 / 0, x.party, x.reads) for x in topology.losses
    ]
    shapes = {n: jax.ShapeDtypeStruct((8, 4), jnp.float32) for n in ("left", "right")}
    addresses = {"server": f"127.0.0.1:{federation.free_port()}"}
    agreed = party.agreement(
        jsplit.Topology(nodes, topology.holds),
        problem.batch,
        steps=3,
        addresses=addresses,
        values=shapes,
        seed=3,
        patience=30.0,
    )
    knows = agreed_for(problem, steps=3)
    assert agreed.replace(addresses={"server": "x:1"}) == knows.replace(
        addresses={"server": "x:1"}
    )

    def own(p):
        mine: dict = {n.name: n.segment for n in topology.segments if n.party == p}
        return mine | {x.name: x.fn for x in topology.losses if x.party == p}

    results = checked(train(agreed, problem, own=own))
    trainer = jsplit.messages(topology, federation.optimizers(topology))
    state = trainer.init(3, problem.batch)
    for _ in range(3):
        state, _ = trainer.step(state, problem.batch)
    assert all(bits(r.state) == bits(state.parties[p]) for p, r in results.items())
    strangers = agreed.topology("lab", own("lab"))
    for n in strangers.segments:
        if n.party != "lab":
            with pytest.raises(
                ValueError,
                match=f"node `{n.name}` is of `{n.party}`: no one else can run it",
            ):
                n.segment.apply({}, {}, None)


# Records, by their ids.


def shuffled(problem, count=21):
    """Every party has the same records, in an order of its own."""
    rng = np.random.default_rng(0)
    fields = {f: np.concatenate([x] * 3)[:count] for f, x in problem.batch.items()}
    fields = {f: rng.permutation(x) for f, x in fields.items()}
    orders = {p: rng.permutation(count) for p in problem.topology.parties}
    ids = [f"patient {i:03}" for i in rng.permutation(count)]

    def of(p):
        held = problem.topology.holds.get(p, ())
        return {f: fields[f][orders[p]] for f in held}, [
            ids[i] for i in orders[p]
        ] if held else None

    return fields, ids, orders, of


def test_records_are_aligned_by_id_in_training_evaluation_and_prediction():
    problem = small()
    fields, ids, orders, of = shuffled(problem)
    agreed = agreed_for(problem, steps=5)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(p):
        data, own_ids = of(p)
        given = {
            "credentials": trust[p],
            "ids": own_ids,
            "remind": 60.0,
        }  # nobody waits until it asks again
        trained = party.run(
            agreed, p, problem.topology, data, optimizer=rates[p], **given
        )
        given |= {"state": trained.state, "records": 21}
        found = party.evaluate(agreed, p, problem.topology, data, **given)
        inputs = {f: x for f, x in data.items() if f != "label"}
        return (
            trained,
            found,
            party.predict(agreed, p, problem.topology, inputs, **given),
        )

    results = checked(together(agreed.parties, work))
    trainer = jsplit.messages(problem.topology, rates)
    state, order = trainer.init(3, problem.batch), np.argsort(ids)
    for step in range(5):
        rows = order[records.places_of(step, 21, 8, 3)]
        state, _ = trainer.step(state, {f: x[rows] for f, x in fields.items()})
    assert all(bits(r[0].state) == bits(state.parties[p]) for p, r in results.items())
    parts = [order[i : i + 8] for i in range(0, 21, 8)]  # the last is smaller
    losses = [
        float(trainer.evaluate(state, {f: x[rows] for f, x in fields.items()}).loss)
        for rows in parts
    ]
    assert results["server"][1].losses["loss"] == pytest.approx(
        np.average(losses, weights=list(map(len, parts))), rel=1e-6
    )
    inputs = {f: x for f, x in fields.items() if f != "label"}
    outputs = np.concatenate(
        [
            trainer.predict(state, {f: x[rows] for f, x in inputs.items()})["y"]
            for rows in parts
        ]
    )
    by_record = np.empty_like(outputs)
    by_record[order] = outputs
    assert (
        results["server"][2].outputs["y"] == by_record[orders["server"]]
    ).all()  # by its ids, though it reads no field
    assert not results["lab"][2].outputs and set(orders) == set(results)


def test_what_cannot_be_evaluated_is_refused_before_any_connection():
    problem = small("pair")
    agreed, data = agreed_for(problem), own_of(problem, "client")
    state = Local(agreed, "client", problem.topology, optax.sgd(0.1)).init(data)
    given: dict = {"credentials": trust_of(agreed.parties)["client"], "state": state}
    for work, name in ((party.evaluate, "evaluate"), (party.predict, "predict")):
        with pytest.raises(
            ValueError,
            match=f"`data` must be fields by name to {name}, not a function of the step",
        ):
            work(
                agreed,
                "client",
                problem.topology,
                lambda step: data,
                records=8,
                **given,
            )
        for wrong in (0, -5, 2.5, True):
            with pytest.raises(
                ValueError, match=f"`records` must be a positive integer, got {wrong}"
            ):
                work(agreed, "client", problem.topology, data, records=wrong, **given)
        with pytest.raises(ValueError, match="`records` is 9, `data` has 8"):
            work(agreed, "client", problem.topology, data, records=9, **given)


def test_outputs_come_in_the_order_in_which_their_party_gave_its_records():
    given = records.Records({"x": np.arange(5)}, [30, 4, 22, 1, 100])
    shared = given.take(np.arange(5))["x"]
    assert [int(x) for x in given.back({"y": shared})["y"]] == [0, 1, 2, 3, 4]


def test_records_that_differ_are_told_in_counts_and_never_by_id():
    problem = small()
    _, _, _, of = shuffled(problem)
    agreed = agreed_for(problem, steps=2)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(p):
        data, ids = of(p)
        if p == "clinic":
            data, ids = {f: x[:19] for f, x in data.items()}, ids[:19]
        return party.run(
            agreed,
            p,
            problem.topology,
            data,
            ids=ids,
            optimizer=rates[p],
            credentials=trust[p],
            remind=0.5,
        )

    found = together(agreed.parties, work)
    for error in found.values():
        assert isinstance(error, party.Refused), error
        assert (
            "`clinic` 19" in str(error)
            and "`lab` 21" in str(error)
            and "at least 2 are missing" in str(error)
        )
        assert "patient" not in str(error) and "\n" not in str(error)
    with pytest.raises(
        ValueError, match="`ids` of 4 records: 2 are there more than once"
    ) as error:
        records.Records({"x": np.zeros(4)}, ["ann", "bob", "ann", "bob"])
    assert "ann" not in str(error.value)
    with pytest.raises(ValueError, match="`ids` has 3 entries for 4 records"):
        records.Records({"x": np.zeros(4)}, [1, 2, 3])


def test_the_digest_of_ids_depends_on_all_of_them_and_on_the_agreement_but_not_on_their_order():
    def digest(ids, key="k"):
        return records.Records({"x": np.zeros(len(ids))}, ids, key=key).digest

    assert digest(["a", "b"]) == digest(["b", "a"]) != digest(["a", "c"])
    assert (
        len(
            {
                digest(["a", "b"]),
                digest(["ab"]),
                digest(["a", "b"], "l"),
                digest(["1"]),
                digest([1]),
            }
        )
        == 5
    )


def test_ids_from_a_table_with_missing_values_are_those_from_one_without():
    """Such a table has its integers as floats."""
    digests = {
        records.Records({"x": np.zeros(2)}, ids).digest
        for ids in ([5, 12], [5.0, 12.0], np.float64([12, 5]), np.int8([5, 12]))
    }
    assert (
        len(digests)
        == 1
        != len({*digests, records.Records({"x": np.zeros(2)}, ["5", "12"]).digest})
    )
    with pytest.raises(
        ValueError, match="`ids` of 4 records: 3 are neither strings nor integers"
    ):
        records.Records({"x": np.zeros(4)}, [5, float("nan"), 2.5, None])


def test_ids_at_one_party_and_none_at_another_are_told_so():
    said = {
        "lab": Status(1, 0, (0,), {"": (8, "ab")}),
        "clinic": Status(1, 0, (0,), {"": (8, None)}),
    }
    with pytest.raises(
        party.Refused, match="`clinic` gave them without ids, others with ids"
    ):
        same_records(said)


def test_the_order_of_a_pass_is_drawn_once_for_all_its_steps(monkeypatch):
    drawn, real = [], np.random.default_rng
    monkeypatch.setattr(
        np.random, "default_rng", lambda seed: drawn.append(seed) or real(seed)
    )
    for step in range(9):
        records.places_of(step, 12, 4, 123)
    assert drawn == [[123, n] for n in range(3)]


def test_every_pass_takes_every_record_once_in_another_order():
    passes = [
        np.concatenate([records.places_of(n * 3 + s, 12, 4, 0) for s in range(3)])
        for n in range(3)
    ]
    assert all(sorted(p) == list(range(12)) for p in passes)
    assert len({tuple(p) for p in passes}) == 3
    assert (records.places_of(5, 12, 4, 0) == records.places_of(5, 12, 4, 0)).all()


# What parties agree on.


def test_an_agreement_is_written_and_read_and_says_nothing_of_a_model(tmp_path):
    agreed = agreed_for(make_problem("multitask", "residual", "nnx"))
    file = party.write(tmp_path / "agreement.json", agreed)
    assert party.read(file) == agreed and party.read(file).hash == agreed.hash
    assert agreed["values"]["left"] == {
        "h": "float32[batch,4,4,4]",
        "skip": "float32[batch,4,4,4]",
    }
    assert "kernel" not in file.read_text()
    assert [w.label for w in agreed.wires][:2] == [
        "activation left to server0",
        "activation left to server1",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "an agreement says `format`"),
        ({"steps": 0}, "`steps` must be an integer from 1"),
        ({"steps": True}, "`steps` must be"),
        ({"extra": 1}, "an agreement has `extra`"),
        ({"lead": "lab"}, "`lead` must be a party"),
        ({"microbatches": 3}, "does not divide"),
        ({"patience": -1}, "`patience` must be"),
        ({"nonfinite": "x"}, "`nonfinite` must be one of refuse, allow"),
        ({"addresses": {"x": "y"}}, "names the party `x`"),
        (
            {"addresses": {"server": "localhost"}},
            "must say host:port for `server`, got 'localhost'",
        ),
        ({"addresses": {}}, "`addresses` must say host:port"),
        (
            {"links": {"left": ["quantise(8)", None]}},
            "has `quantise.8.`; is `quantize` meant",
        ),
        ({"links": {"left": ["quantize(9)", None]}}, "`bits` must be"),
        (
            {"values": {"left": "float32[batch,8]", "right": "float32(8)"}},
            "is no shape",
        ),
        (
            {"values": {"left": "float32[batch,8]", "right": "float99[8]"}},
            "has the dtype float99",
        ),
        ({"values": {}}, "does not hold what it must"),
        ({"links": {"label": [None, None]}}, "`label`, which does not cross"),
        ({"links": {"left": [3, None]}}, "must hold names"),
        ({"holds": {"lab": []}}, "reads `left_field`"),
        ({"parties": ["lab", "server"]}, "`parties` are"),
    ],
)
def test_a_file_that_is_no_agreement_is_refused_and_named(tmp_path, change, message):
    agreed = agreed_for(make_problem("vertical", "mlp", "nnx"))
    file = tmp_path / "agreement.json"
    file.write_text(json.dumps(agreed.said | change))
    with pytest.raises(ValueError, match="agreement.json: .*" + message):
        party.read(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="agreement.json holds no agreement"):
        party.read(file)


def test_parties_that_have_agreed_on_different_things_say_on_both_sides_what_differs():
    problem = small("pair")
    agreed = agreed_for(problem, patience=10.0)
    other = agreed.replace(seed=4)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(p):
        mine = other if p == "client" else agreed
        batch = own_of(problem, p)
        return party.run(
            mine,
            p,
            problem.topology,
            lambda step: batch,
            optimizer=rates[p],
            credentials=trust[p],
        )

    found = together(agreed.parties, work)
    assert isinstance(found["client"], party.Refused) and isinstance(
        found["server"], party.Missing
    )
    assert str(found["client"]) in (
        "the agreements differ: `seed` is 4 at `client` and 3 at `server`.",
        "the agreements differ: `seed` is 3 at `server` and 4 at `client`.",
    )
    assert "`seed` is 3 at `server` and 4 at `client`" in str(
        found["server"]
    )  # it went on waiting for the right one


def test_what_a_party_brings_must_be_what_was_agreed_upon():
    problem = make_problem("vanilla", "mlp", "nnx")
    agreed = agreed_for(problem)
    own = {n.name: n.segment for n in problem.topology.segments if n.party == "client"}
    wrong = jsplit.segment(
        lambda w, x: x @ w, init=lambda key, x: jnp.ones((6, 3)), inputs=["image"]
    )
    data = own_of(problem, "client")
    for given, message in [
        ({"party": "nobody"}, "`party` must be one of client, server"),
        ({"own": {}}, "lacks the segment of the node `smashed`"),
        ({"own": own | {"x": wrong}}, "`own` has `x`, which is not of `client`"),
        ({"optimizer": None}, "`optimizer` is missing"),
        ({"own": 3}, "`own` must be a dictionary"),
    ]:
        with pytest.raises(ValueError, match=message):
            Local(
                **{
                    "agreed": agreed,
                    "party": "client",
                    "own": own,
                    "optimizer": optax.sgd(0.1),
                }
                | given
            )
    with pytest.raises(
        ValueError,
        match=r"node `smashed` gives float32\[8,3\], the agreement says float32\[8,8\]",
    ):
        Local(agreed, "client", {"smashed": wrong}, optax.sgd(0.1)).init(data)
    server = Local(agreed, "server", problem.topology, optax.sgd(0.1))
    with pytest.raises(
        ValueError,
        match=r"loss `loss` at `server` does not run on .*`label` float32\[8,2,7\]",
    ):
        server.init({"label": np.zeros((8, 2, 7), np.float32)})
    with pytest.raises(ValueError, match="`links` of `smashed` must be a name"):
        agreed_for(problem, links={"smashed": jsplit.identity})
    named = party.foreign("smashed", "client", inputs="image")
    assert named.inputs == ("image",)
    with pytest.raises(ValueError, match="`own` lacks the function of the loss `loss`"):
        agreed.topology(
            "server",
            {
                n.name: n.segment
                for n in problem.topology.segments
                if n.party == "server"
            },
        )
    with pytest.raises(
        ValueError, match="`data` lacks the field `image`, which `client` holds"
    ):
        party.run(
            agreed,
            "client",
            own,
            {},
            optimizer=optax.sgd(0.1),
            credentials=trust_of(agreed.parties)["client"],
        )
    linked = agreed.replace(links={"smashed": ["mine", None]})
    with pytest.raises(
        ValueError,
        match=r"`links` has `mine`; there are quantize\(bits\), cast\(dtype\)",
    ):
        linked.links()
    assert linked.links({"mine": jsplit.identity}) == {
        "smashed": (jsplit.identity, None)
    }


@pytest.mark.parametrize("configuration", ["vertical", "chain"])
def test_values_that_are_not_finite_end_the_run_of_all_or_are_allowed(configuration):
    """Found by whoever gets them, the lead or another, and told to everybody."""
    problem = small(configuration)
    bad = {**problem.batch, "x": np.full_like(problem.batch["x"], np.nan)}
    agreed = agreed_for(problem, steps=4)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(agreed):
        def one(p):
            held = problem.topology.holds.get(p, ())
            batch = lambda step: {
                f: (bad if step == 2 else problem.batch)[f] for f in held
            }  # noqa: E731
            return party.run(
                agreed,
                p,
                problem.topology,
                batch,
                optimizer=rates[p],
                credentials=trust[p],
                remind=0.5,
            )

        return together(agreed.parties, one)

    first = problem.topology.segments[0]
    for error in work(agreed).values():
        assert isinstance(error, party.Refused), error
        assert (
            str(error)
            == f"`{first.party}` sent activation `{first.name}` of step 2 with values that are not finite."
        )
    results = checked(work(agreed.replace(nonfinite="allow")))
    assert all(r.step == 4 for r in results.values())
    assert np.isnan(results[agreed.parties[-1]].losses["loss"][2:]).all()


def test_what_no_frame_can_carry_is_refused_before_the_first_step(
    tmp_path, monkeypatch
):
    """What crosses, and what a client would hand over after its turn."""
    state = lambda key, x: ({}, {"few": jnp.zeros(3, jnp.int4)})  # noqa: E731
    odd = jsplit.Segment(
        state, lambda params, state, key, x, train=True: (x, state), ("x",), "h"
    )
    crosses = jsplit.segment(lambda x: x.astype(jnp.int4), inputs=["x"], name="h")
    top = jsplit.segment(lambda h: h.astype(jnp.float32), inputs=["h"], name="y")
    loss = lambda y, label: (y - label).mean()  # noqa: E731
    batch = {"x": np.ones((8, 3), np.float32), "label": np.ones((8, 1), np.float32)}
    turns = party.turns(
        {c: {"client": c} for c in ("north", "south")}, [("north", 1), ("south", 1)]
    )

    def refusal(bottom, name, turns=None):
        problem = federation.Small(jsplit.vanilla(bottom, top, loss=loss), batch)
        agreed = agreed_for(problem, turns=turns)
        with pytest.raises(ValueError) as error:
            party.run(
                agreed,
                name,
                problem.topology,
                lambda step: {"x": batch["x"]},
                credentials=trust_of(agreed.parties)[name],
                optimizer=optax.adam(0.1),
            )
        return str(error.value)

    assert (
        refusal(crosses, "client")
        == "activation `h` holds int4[8, 3], which has no form on the wire."
    )
    assert (
        refusal(odd, "north", turns)
        == "weights `client` holds int4[3], which has no form on the wire."
    )
    monkeypatch.setattr(jsplit.wire.codec, "MOST_ARRAYS", 6)
    many = jsplit.segment(
        lambda w, x: x @ sum(w),
        init=lambda key, x: [jnp.ones((3, 3))] * 2,
        inputs=["x"],
        name="h",
    )
    assert (
        refusal(many, "north", turns)
        == "weights `client` must be at most 6 arrays, got 7."
    )


def test_who_dials_whom_follows_from_who_listens():
    problem = make_problem("multihop", "mlp", "nnx")
    one = agreed_for(problem)
    assert one.reach("one") == {"two": "lead", "three": "lead", "four": "dial"}
    assert one.reach("four") == dict.fromkeys(["one", "two", "three"], "wait")
    two = agreed_for(problem, listens=["two", "four"], lead="four")
    assert two.reach("two") == {"one": "wait", "three": "wait", "four": "dial"}
    assert two.reach("one") == {"two": "dial", "three": "lead", "four": "dial"}


def test_values_of_other_kinds_than_dictionaries_and_lists_cannot_cross():
    pair = jsplit.segment(
        lambda x: jsplit.compress.Quantized(x, x), inputs=["x"], name="h"
    )
    top = jsplit.segment(lambda h: h.levels, inputs=["h"], name="y")
    topology = jsplit.vanilla(
        pair, top, loss=lambda y, label: (y - label).mean(), fields=["x"]
    )
    with pytest.raises(ValueError, match="`h` crosses as a Quantized"):
        batch = {"x": np.ones((2, 3), np.float32), "label": np.ones((2, 3), np.float32)}
        party.agreement(topology, batch, steps=1, addresses={"server": "x:1"})


# Parties that are late, leave, or do not come.


def test_a_party_that_does_not_come_is_named_when_patience_ends():
    problem = small()
    agreed = agreed_for(problem, patience=2.0)
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def work(p):
        batch = own_of(problem, p)
        return party.run(
            agreed,
            p,
            problem.topology,
            lambda step: batch,
            optimizer=rates[p],
            credentials=trust[p],
        )

    found = together(["lab", "server"], work)
    assert isinstance(found["server"], party.Missing) and isinstance(
        found["lab"], party.Missing
    )
    assert re.search(
        "`server` waited 2 s for the other parties, of whom (`lab`, )?`clinic` did not come",
        str(found["server"]),
    )


def test_a_party_that_is_asked_to_stop_ends_its_step_and_goes_on_when_started_again(
    tmp_path,
):
    problem = small()
    agreed = agreed_for(problem, steps=12, checkpoint=5)
    stop, first = threading.Event(), []

    def again(p):
        if p == "server":
            first.append(
                one(p, stop=stop, on_step=lambda m: stop.set() if m.step == 8 else None)
            )
        return one(p)

    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def one(p, **given):
        batch = own_of(problem, p)
        return party.run(
            agreed,
            p,
            problem.topology,
            lambda step: batch,
            optimizer=rates[p],
            credentials=trust[p],
            remind=0.5,
            checkpoint=tmp_path / p,
            **given,
        )

    results = checked(together(agreed.parties, again))
    assert first[0].stopped and first[0].step == 8
    assert (
        results["server"].epoch == 2 and len(results["server"].losses["loss"]) == 7
    )  # from step 5, which both had
    states = undisturbed(problem, 12)
    assert all(bits(r.state) == bits(states[p]) for p, r in results.items())
    assert sorted(f.name for f in (tmp_path / "server").iterdir()) == [
        "000000000010",
        "000000000012",
        "about.json",
        "done.json",
        "process",
    ]


def test_a_full_disk_costs_the_newest_checkpoint_at_most(tmp_path, monkeypatch):
    problem = small("pair")
    real, full = np.savez, []

    def savez(file, **arrays):
        if "client" in file.name and "000000000002" in file.name and not full:
            full.append(file.name)
            raise OSError(28, "No space left on device")
        real(file, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    agreed = agreed_for(problem, steps=4, checkpoint=2)
    checked(train(agreed, problem, checkpoint=lambda p: tmp_path / p))
    assert len(full) == 1
    for p, before in (("client", "000000000000"), ("server", "000000000002")):
        names = sorted(f.parent.name for f in (tmp_path / p).glob("*/*.npz"))
        assert names == [before, "000000000004"]  # what all have, and the one before it
    full.clear()

    def always(file, **arrays):
        if "client" in file.name and "000000000000" not in file.name:
            full.append(file.name)
            raise OSError(28, "No space left on device")
        real(file, **arrays)

    monkeypatch.setattr(np, "savez", always)
    agreed = agreed_for(problem, steps=4, checkpoint=2, patience=15.0)
    found = train(agreed, problem, checkpoint=lambda p: tmp_path / "full" / p)
    assert isinstance(found["client"], OSError) and isinstance(
        found["server"], party.Missing
    )
    assert sorted(f.name for f in (tmp_path / "full" / "client").glob("*/*.npz")) == [
        "client.npz"
    ]  # that of step 0, whole


def test_a_damaged_checkpoint_is_left_aside_and_all_go_back_to_the_one_before(tmp_path):
    problem = small("pair")
    agreed = agreed_for(problem, steps=6, checkpoint=2)
    trainer = jsplit.messages(problem.topology, federation.optimizers(problem.topology))
    state = trainer.init(3, problem.batch)
    for step in range(1, 7):
        state, _ = trainer.step(state, problem.batch)
        if step in (2, 4):
            for p, own in state.parties.items():
                jsplit.save(tmp_path / p / f"{step:012}", jsplit.TrainState({p: own}))
                (tmp_path / p / "about.json").write_text(
                    json.dumps({"party": p, "schema": agreed.schema})
                )
    file = tmp_path / "client" / "000000000004" / "client.npz"
    file.write_bytes(file.read_bytes()[:-50])
    results = checked(train(agreed, problem, checkpoint=lambda p: tmp_path / p))
    assert len(results["server"].losses["loss"]) == 4  # from step 2
    assert all(bits(r.state) == bits(state.parties[p]) for p, r in results.items())


def test_a_folder_of_another_agreement_is_not_gone_on_from(tmp_path):
    problem = small("pair")
    checked(
        train(agreed_for(problem, steps=2), problem, checkpoint=lambda p: tmp_path / p)
    )
    own = {
        "optimizer": optax.adam(0.1),
        "credentials": trust_of(("client", "server"))["client"],
    }
    with pytest.raises(ValueError, match="`checkpoint` .* is of another agreement"):
        party.run(
            agreed_for(problem, seed=9),
            "client",
            problem.topology,
            lambda step: own_of(problem, "client"),
            checkpoint=tmp_path / "client",
            **own,
        )


def test_plaintext_is_a_choice_with_a_name():
    problem = small("pair")
    agreed = agreed_for(problem, steps=2)
    rates = federation.optimizers(problem.topology)

    def work(p):
        batch, trust = own_of(problem, p), party.PlaintextWithoutIdentity(p)
        return party.run(
            agreed,
            p,
            problem.topology,
            lambda step: batch,
            optimizer=rates[p],
            credentials=trust,
        )

    assert {r.step for r in checked(together(agreed.parties, work)).values()} == {2}
