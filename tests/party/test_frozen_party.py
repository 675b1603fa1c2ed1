"""A frozen base over a network: written once, in no hand-over, and never another one."""

from __future__ import annotations

import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.core.frozen import NOTHING
from jsplit.party.compute.local import Local
from jsplit.party.connection.network import Network
from jsplit.party.contract.agreement import parsed
from jsplit.party.contract.entries import as_json
from jsplit.party.serving.served import Brought
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    optimizers,
    own_of,
    small,
    together,
    undisturbed,
)

ADAPTERS = small("adapters")
CLIENTS = {"north": {"client": "n"}, "south": {"client": "s"}}


def with_base(number, of=ADAPTERS):
    """The same problem on a base of other numbers."""
    node = of.topology.node["h"]
    first = node.segment.init

    def init(key, *x):
        params, state = first(key, *x)
        return params | {"base": jnp.full_like(params["base"], number)}, state

    made = dataclasses.replace(node.segment, init=init)
    nodes = [
        n if n.name != "h" else dataclasses.replace(n, segment=made)
        for n in (*of.topology.segments, *of.topology.losses)
    ]
    return of._replace(topology=jsplit.Topology(nodes, of.topology.holds))


def run(agreed, folder=None, problem=lambda name: ADAPTERS, task=party.run, **options):
    hub = party.MemoryTransport()

    def one(name):
        own, role = problem(name), agreed.turns.role[name]
        batch = own_of(own, role)
        given = {"checkpoint": folder / name} if folder else {}
        clients = agreed.turns.names
        if len(clients) > 1 and role == "server":
            batch = dict.fromkeys(clients, batch)
        if task is party.run:
            given["optimizer"] = optimizers(own.topology)[role]
            if len(clients) == 1:
                batch = lambda step: own_of(own, role)  # noqa: E731
        return task(
            agreed,
            name,
            own.topology,
            batch,
            credentials=party.PlaintextWithoutIdentity(name),
            remind=0.2,
            transport=hub,
            **given,
            **options,
        )

    return together(agreed.parties, one)


def test_checkpoints_have_adapters_and_the_folder_the_base_once(tmp_path):
    agreed = agreed_for(ADAPTERS, steps=2, checkpoint=1)
    results = checked(run(agreed, tmp_path))
    own = tmp_path / "client"
    for step in (1, 2):
        with np.load(own / f"{step:012}" / "client.npz") as archive:
            shapes = {n: archive[n].shape for n in archive.files}
        assert shapes["params/h/trained/adapter"] == (3, 4)
        assert [n for n in shapes if "base" in n] == []
        assert shapes["params/h/frozen"] == (32,)
    with np.load(own / "base" / "client.npz") as archive:
        assert archive["params/h/base"].shape == (3, 4)
    assert not (tmp_path / "server" / "base").exists()

    # Started again it goes on, to the bit; on another base it is refused, and says what to do.
    longer = agreed.replace(steps=3)
    copied = tmp_path / "copied"
    for name in agreed.parties:
        shutil.copytree(tmp_path / name, copied / name)
    results = checked(run(longer, copied))
    for name, state in undisturbed(ADAPTERS, 3).items():
        assert bits(results[name].state) == bits(state), name
    other = with_base(0.5)
    with pytest.raises(
        ValueError,
        match="was trained on other frozen parameters of the"
        " node `h`. Start it with the weights",
    ):
        party.run(
            longer,
            "client",
            other.topology,
            lambda step: own_of(other, "client"),
            credentials=party.PlaintextWithoutIdentity("client"),
            optimizer=optimizers(other.topology)["client"],
            checkpoint=own,
            transport=party.MemoryTransport(),
        )


def test_who_predicts_has_the_base_of_the_folder_whatever_its_segments_begin_with(
    tmp_path,
):
    """As where a run began with `state`, the weights of a pretrained model."""
    agreed = agreed_for(ADAPTERS, steps=1)
    checked(run(agreed, tmp_path))
    given = {"task": party.predict, "records": 8}
    mine, other = (
        checked(run(agreed, tmp_path, lambda name, p=p: p, **given))["server"].outputs[
            "y"
        ]
        for p in (ADAPTERS, with_base(0.5))
    )
    assert np.array_equal(mine, other)


def in_turns(problem, steps=2):
    turns = party.turns(CLIENTS, [("north", 1), ("south", 1)], "server")
    return agreed_for(problem, steps=steps, turns=turns)


def test_what_a_client_hands_over_is_adapters_and_the_hash_of_its_base(monkeypatch):
    sent, send = [], Network.send

    def watched(self, place, step, micro, arrays):
        sent.append(sum(x.nbytes for x in arrays))
        return send(self, place, step, micro, arrays)

    monkeypatch.setattr(Network, "send", watched)
    checked(run(in_turns(ADAPTERS)))
    # The adapter, Adam's two moments of it, and its count; not the base of 48 bytes more.
    handed = 32 + 3 * 48 + 4
    # Twice: from one turn to the next, and after the last to all.
    assert sent.count(handed) == 2
    assert {*sent} == {handed, 8 * 4 * 4}


def test_a_client_on_another_base_is_refused_at_its_first_turn():
    agreed = in_turns(ADAPTERS)
    other = with_base(0.5)
    found = run(agreed, problem=lambda name: other if name == "s" else ADAPTERS)
    said = [str(x) for x in found.values()]
    assert any(
        "other frozen parameters than those here: both must begin with" in x
        for x in said
    ), said


def test_the_agreement_says_which_leaves_are_frozen_and_names_none():
    agreed = agreed_for(ADAPTERS, steps=1)
    (entry,) = [x for x in agreed.nodes if x.name == "h"]
    assert len(entry.frozen) == 64 and "adapter" not in agreed.text
    # So its digest, and what checkpoints depend on, are of it; and files say it again.
    bare = dataclasses.replace(entry, frozen="")
    nodes = [x if x.name != "h" else bare for x in agreed.nodes]
    assert agreed.hash != agreed.replace(nodes=[as_json(x) for x in nodes]).hash
    assert parsed(agreed.said) == agreed
    # Where all is trained nothing is said, and older agreements keep their text.
    assert "frozen" not in agreed_for(small("pair"), steps=1).text

    segment = ADAPTERS.topology.node["h"].segment
    for trains, what in ((None, "nothing"), (NOTHING, "other parameters")):
        other = dataclasses.replace(segment, trains=trains)
        with pytest.raises(
            ValueError, match=f"`h`: its segment freezes {what}, and not"
        ):
            Local(agreed, "client", {"h": other}, optax.sgd(0.1)).init(
                own_of(ADAPTERS, "client")
            )


def test_a_party_with_a_frozen_base_serves_from_its_folder_and_of_the_step_asked_for(
    tmp_path,
):
    """Its steps have what was trained, and its folder the base once."""
    agreed = agreed_for(ADAPTERS, steps=2, checkpoint=1)
    checked(run(agreed, tmp_path))
    given = agreed, "client", ADAPTERS.topology, None, None, tmp_path / "client"
    fields = own_of(ADAPTERS, "client")
    newest, first = (Brought(*given, fields, step) for step in (None, 1))
    assert (newest.model.step, first.model.step) == (2, 1)
    assert newest.model.hash != first.model.hash
    with pytest.raises(ValueError, match=r"`step` must be one of \[.*1, 2\], .* got 7"):
        Brought(*given, fields, 7)
