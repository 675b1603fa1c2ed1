"""Parties over gRPC with mutual TLS: the numbers of one process, bit for bit.

Nobody needs another's model; who stops goes on, and who is asked to stop ends its step.
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
    agreed = agreed_for(problem, steps=4, checkpoint=2, patience=4.0)
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
