"""No raw field crosses a topology that was put together by hand, unless it is public."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import Loss, Node, Topology

batch = {
    "x": np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4),
    "tokens": np.array([[1, 2, 0], [3, 0, 0]], "int32"),
    "label": np.array([0, 1], "int32"),
}


def part(function, *inputs, init=None):
    return jsplit.segment(function, inputs=inputs, init=init)


top = part(
    lambda w, h: sum(
        jnp.sum(w * y, tuple(range(1, y.ndim))) for y in jax.tree.leaves(h)
    ),
    "h",
    init=lambda key, h: jnp.ones(()),
)


def loss(output, label):
    return (output - label) ** 2


def first(topology, make=jsplit.fused, **fields):
    given = batch | fields
    own = {name: given[name] for name in topology.fields}
    return make(topology, optax.sgd(0.1)).init(0, own)


def mixed(x, train):
    """In inference the input itself."""
    return jnp.abs(x) if train else x


HANDED_ON = {
    "itself": part(lambda x: x, "x"),
    "turned and scaled": part(lambda x: x[:, ::-1] / 255, "x"),
    "in inference alone": part(mixed, "x"),
    "beside what is learned": part(lambda x: {"a": jnp.abs(x), "b": x}, "x"),
    "class numbers": part(lambda tokens: jax.nn.one_hot(tokens, 4), "tokens"),
    "labels": part(lambda label: label.astype("float32")[:, None], "label"),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_a_field_that_a_segment_hands_on_is_refused_unless_it_is_public(name):
    relay = HANDED_ON[name]
    assert relay.inputs is not None
    (field,) = relay.inputs
    label = "other" if field == "label" else "label"
    given = dict(loss=loss, label=label)
    more = {label: batch["label"]}
    message = f'`smashed` crosses .* raw field `{field}`.* `public=."{field}".` where'
    with pytest.raises(
        ValueError, match=message.replace('."', r'\["').replace('".', r'"\]')
    ):
        first(jsplit.vanilla(relay, top, **given), **more)
    first(jsplit.vanilla(relay, top, public=field, **given), **more)


def test_a_field_is_followed_through_segments_and_parties():
    """Two hops of one party, and a party between that hands on what it may have."""
    one, two = part(lambda x: x[:, ::-1], "x"), part(lambda a: 2 * a, "a")
    nodes = [Node("a", one, "lab"), Node("b", two, "lab"), Node("y", top, "s", ["b"])]
    nodes.append(Loss("loss", loss, "s", ["y", "label"]))
    with pytest.raises(ValueError, match="`b` crosses from `lab` to `s`"):
        first(Topology(nodes, {"lab": ["x"], "s": ["label"]}))
    first(
        Topology(nodes, {"lab": ["x"], "s": ["label"]}, public=["x"]), jsplit.messages
    )
    # Who holds the field gets nothing new, and whoever is next in the chain does.
    first(Topology(nodes, {"lab": ["x"], "s": ["x", "label"]}))
    last = [Node("c", two, "s", ["b"]), Node("y", top, "far", ["c"])]
    nodes = [*nodes[:2], *last, Loss("loss", loss, "far", ["y", "label"])]
    with pytest.raises(ValueError, match="`c` crosses from `s` to `far`"):
        first(Topology(nodes, {"lab": ["x"], "s": ["x"], "far": ["label"]}))


def test_what_does_not_cross_or_is_learned_from_is_not_refused():
    """A leaf that nobody reads, a product with weights, a value that stays."""
    pair = part(lambda x: {"a": jnp.abs(x), "b": x}, "x")
    reads_one = part(
        lambda w, h: w * h["a"].sum(1), "h", init=lambda key, h: jnp.ones(())
    )
    first(jsplit.vanilla(pair, reads_one, loss=loss))
    gate = part(lambda w, x: w * x, "x", init=lambda key, x: jnp.ones(4))
    first(jsplit.vanilla(gate, top, loss=loss))
    head = part(lambda x: jnp.abs(x), "x")
    tail = part(lambda w, down: w * down, "down", init=lambda *_: jnp.ones(()))
    up, kept = Node("up", head, "lab"), Node("kept", HANDED_ON["itself"], "lab")
    nodes = [up, kept, Node("down", top, "s", ["up"]), Node("y", tail, "lab")]
    nodes.append(Loss("loss", loss, "lab", ["y", "label"]))
    first(Topology(nodes, {"lab": ["x", "label"]}))


def test_a_link_that_draws_secret_noise_may_send_a_record_and_one_that_rounds_may_not():
    topology = jsplit.vanilla(HANDED_ON["itself"], top, loss=loss)
    given = {name: batch[name] for name in topology.fields}

    def start(link):
        links = {"smashed": (link, None)}
        return jsplit.fused(topology, optax.sgd(0.1), links=links).init(0, given)

    start(jsplit.privacy.gaussian(clip=1.0, scale=20.0))
    with pytest.raises(ValueError, match="holds the raw field `x`"):
        start(jsplit.compress.quantize(8))


def test_views_and_costs_are_of_what_training_refuses():
    topology = jsplit.vanilla(HANDED_ON["itself"], top, loss=loss)
    given = {name: batch[name] for name in topology.fields}
    seen = jsplit.privacy.views(topology, given)["server"].receives[0]
    assert [str(g) for g in seen.gives] == ["is `x`"]


def test_public_names_fields_of_the_topology():
    nodes = [Node("y", top, "s", ["x"]), Loss("loss", loss, "s", ["y", "label"])]
    holds = {"s": ["x", "label"]}
    with pytest.raises(ValueError, match="`public` names `z`, which no party holds"):
        Topology(nodes, holds, public=["z"])
    assert Topology(nodes, holds) != Topology(nodes, holds, public="x")
    kept = Topology(nodes, holds, public="x").add(Node("z", top, "s", ["x"]))
    assert kept.public == ("x",)
