"""What a party made itself stays there: a U brings back neither its masks nor its skips."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party

tokens = np.arange(24, dtype="int32").reshape(4, 6) % 9
batch = {"tokens": tokens, "label": np.arange(4, dtype="int32") % 3}
entropy = optax.softmax_cross_entropy_with_integer_labels


def model(p, tokens):
    """The mask is read by all; the embedding goes around the server, which does not read it."""
    real = (tokens > 0)[..., None]
    e = jnp.tanh(p["e"][tokens])
    h = jsplit.cut(e @ p["a"] * real, "up")
    h = jsplit.cut(jnp.tanh(h @ p["b"]) * real, "mid")
    h = jsplit.cut(jnp.tanh(h @ p["c"]) * real, "down")
    return (h * real + e @ p["s"]).sum(1) @ p["o"]


def init(key, *inputs):
    shapes = {n: (4, 4) for n in "abcs"} | {"e": (9, 4), "o": (4, 3)}
    keys = jax.random.split(jax.random.key(5), len(shapes))
    made = zip(shapes.items(), keys, strict=True)
    return {n: jax.random.normal(k, s) for (n, s), k in made}


def chain(parties, cuts=("up", "mid", "down"), **detached):
    """A topology written by hand: each segment of the split at one of the parties."""
    parts = jsplit.split(model, tokens, cuts=cuts, init=init, around="carry")
    nodes = []
    for who, (name, part) in zip(parties, parts.items(), strict=True):
        off = detached.get(name, ())
        nodes.append(jsplit.Node(name, part, who, detached=off))
    loss = jsplit.Loss("loss", entropy, parties[-1], ["output", "label"])
    holds = {parties[0]: ["tokens"], parties[-1]: ["label"]}
    if parties[0] == parties[-1]:
        holds = {parties[0]: ["tokens", "label"]}
    return jsplit.Topology([*nodes, loss], holds)


def sent(topology):
    """By message, the bytes of one record."""
    cost = jsplit.cost(topology, batch)
    return {(m.kind[0], m.name): m.bytes // 4 for m in cost.messages}


H, MASK = 6 * 4 * 4, 6
"""Bytes of an activation and of the mask."""

TO_ITSELF = {
    "u": (("clinic", "server", "clinic"), ("up", "down")),
    "by two servers": (("clinic", "a", "b", "clinic"), ("up", "mid", "down")),
    "two at the clinic": (("clinic", "clinic", "b", "clinic"), ("up", "mid", "down")),
}


@pytest.mark.parametrize("case", TO_ITSELF)
def test_only_activations_come_back_and_no_skip_goes_around(case):
    topology = chain(*TO_ITSELF[case])
    found = sent(topology)
    crossing = [c.name for c in topology.crossings]
    # The mask goes to whom reads it, and not back; the skip never leaves.
    assert found == {
        (kind, name): H + (MASK if kind == "a" and name != "down" else 0)
        for kind in "ac"
        for name in crossing
    }
    said = {"up", "mid"} & {*crossing}
    assert str(topology).count(", carrying mask of tokens") == len(said)
    assert "gather" not in str(topology) + jsplit.mermaid(topology)
    carries = jsplit.privacy.views(topology)
    seen = [s for p in topology.parties for s in carries[p].receives]
    carrying = {s.name for s in seen if s.carries and s.kind == "activation"}
    assert carrying == said


def test_what_another_party_made_comes_with_the_cut():
    found = sent(chain(("clinic", "a", "b", "server")))
    assert {n: b for (kind, n), b in found.items() if kind == "a"} == {
        "up": 2 * H + MASK,
        "mid": 2 * H + MASK,
        "down": 2 * H + MASK,
    }


@pytest.mark.parametrize("make", [jsplit.fused, jsplit.messages])
def test_it_trains_as_the_whole(make):
    topology = chain(*TO_ITSELF["u"])
    trainer = make(topology, optax.sgd(0.1))
    state = trainer.init(0, batch)

    def loss(p):
        return entropy(model(p, tokens), batch["label"]).mean()

    wanted, gradient = jax.jit(jax.value_and_grad(loss))(init(None))
    state, info = trainer.step(state, batch)
    np.testing.assert_allclose(info.loss, wanted, rtol=1e-6)
    new = jsplit.variables(state)[0]
    for name, old in init(None).items():
        np.testing.assert_allclose(new[name], old - 0.1 * gradient[name], atol=1e-6)


def test_what_learns_nothing_over_the_cut_learns_nothing_at_home():
    """A way on which no cotangent comes back is none where the value stays at home."""
    topology = chain(*TO_ITSELF["u"], output="down")
    assert topology.node["output"].detached == ("down", "up")
    topology = chain(*TO_ITSELF["u"], down="up")
    assert topology.node["output"].detached == ("up",)


def test_a_topology_of_its_own_parts_is_the_same():
    topology = chain(*TO_ITSELF["u"])
    again = jsplit.Topology(topology.nodes, topology.holds)
    assert again == topology == topology.add() and hash(again) == hash(topology)
    assert again.node["output"].reads == ("down", "up")


def test_it_is_so_where_the_others_segments_are_not_known():
    """And what an agreement says is read over the cut is read there."""
    head, _, tail = jsplit.split(
        model, tokens, cuts=["up", "down"], init=init, around="carry"
    ).values()
    body = party.foreign("down", "server", inputs="up")
    nodes = [jsplit.Node("up", head, "clinic"), jsplit.Node("down", body, "server")]
    holds = {"clinic": ["tokens"], "server": []}

    def read(segment, inputs):
        node = jsplit.Node("output", segment, "clinic", inputs=inputs)
        return jsplit.Topology([*nodes, node], holds).node["output"]

    both = read(tail, None)
    assert both.reads == read(tail, ["down", "up"]).reads == ("down", "up")
    params, state = both.segment.init(jax.random.key(0))
    up, _ = head.apply(*head.init(jax.random.key(0)), None, tokens)
    came = {n: jnp.zeros_like(x) for n, x in up.items() if n != "up"} | {
        "down": up["up"]
    }
    at_home, _ = both.segment.apply(params, state, None, came, up)
    over_the_cut, _ = both.segment.apply(params, state, None, came)
    right, _ = tail.apply(
        params, state, None, came | {n: up[n] for n in up if n != "up"}
    )
    wrong, _ = tail.apply(params, state, None, came)
    assert (at_home == right).all() and (over_the_cut == wrong).all()
    assert not (right == wrong).all()
