"""A topology is checked when it is built, and what crosses follows from it."""

from __future__ import annotations

import copy

import jax.numpy as jnp
import pytest
from flax.nnx import Linear, Rngs

import jsplit
from jsplit import Loss, Node, Penalty, Topology
from tests.helpers import CONFIGURATIONS, make_problem

plain = jsplit.segment(lambda h: h, inputs=["h"])
trained = jsplit.segment(
    lambda w, h: w * h, init=lambda key, h: jnp.ones(()), inputs=["h"]
)


def mean(*x):
    return sum(jnp.mean(a) for a in x)


def chain(**changes):
    nodes = {
        "smashed": Node("smashed", trained, "client", ["image"]),
        "logits": Node("logits", trained, "server", ["smashed"]),
        "loss": Loss("loss", mean, "server", ["logits", "label"]),
    }
    nodes.update(changes)
    return [n for n in nodes.values() if n is not None]


HOLDS = {"client": ["image"], "server": ["label"]}


def test_what_crosses_follows_from_who_computes_what():
    topology = Topology(chain(), HOLDS)
    assert topology.crossings == (("smashed", "client", "server", True),)
    assert topology.parties == ("client", "server")
    assert topology.sinks == ("logits",)


def test_nodes_may_be_listed_in_any_order():
    assert [n.name for n in Topology(chain()[::-1], HOLDS).segments] == [
        "smashed",
        "logits",
    ]


def test_a_topology_is_hashable_and_equal_to_its_like():
    assert Topology(chain(), HOLDS) == Topology(chain(), HOLDS)
    assert hash(Topology(chain(), HOLDS)) == hash(Topology(chain(), HOLDS))
    assert Topology(chain(), HOLDS) != Topology(
        chain(), {**HOLDS, "client": ["image", "label"]}
    )


def test_a_topology_is_frozen():
    topology = Topology(chain(), HOLDS)
    with pytest.raises(AttributeError):
        topology.nodes = ()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        topology.holds["client"] = []  # pyright: ignore[reportIndexIssue]


def test_a_value_that_depends_on_no_parameter_gets_no_cotangent():
    topology = Topology(
        chain(smashed=Node("smashed", plain, "client", ["image"])), HOLDS
    )
    assert [c.returns for c in topology.crossings] == [False]


def test_a_value_that_reaches_no_loss_gets_no_cotangent():
    aside = Node("aside", trained, "server", ["smashed"])
    topology = Topology(
        chain(
            logits=Node("logits", trained, "client", ["smashed"]),
            aside=aside,
            loss=Loss("loss", mean, "client", ["logits"]),
        ),
        HOLDS,
    )
    assert topology.crossings == (("smashed", "client", "server", False),)


def test_a_value_behind_a_detached_one_gets_no_cotangent():
    nodes = chain(
        between=Node("between", plain, "middle", ["smashed"], detached=["smashed"])
    )
    nodes[1] = Node("logits", trained, "server", ["between"])
    topology = Topology(nodes, HOLDS)
    assert [(c.name, c.returns) for c in topology.crossings] == [
        ("smashed", False),
        ("between", False),
    ]


def test_the_same_value_crosses_once_to_a_party_that_reads_it_twice():
    other = Node("other", trained, "server", ["smashed"])
    assert len(Topology(chain(other=other), HOLDS).crossings) == 1


REFUSED = {
    'do not cross. What is not secret goes by `public=["image"]`.': chain(
        logits=Node("logits", trained, "server", ["image"])
    ),
    "reads the field `label`, which only `server` holds": chain(
        loss=Loss("loss", mean, "client", ["logits", "label"])
    ),
    "node `logits` at `server` reads `smahsed`, which no node produces and no party "
    "holds; there are smashed": chain(
        logits=Node("logits", trained, "server", ["smahsed"])
    ),
    "loss `loss` at `server` reads `truth`, which no node produces": chain(
        loss=Loss("loss", mean, "server", ["truth"])
    ),
    "the nodes `smashed`, `logits` read each other's values in a circle": chain(
        smashed=Node("smashed", trained, "client", ["logits"])
    ),
    "two nodes are named `smashed`": chain(
        logits=Node("smashed", trained, "server", ["image"])
    ),
    "node `image` has the name of a field that `client` holds": chain(
        logits=Node("image", trained, "server", ["smashed"])
    ),
    "penalty `p` at `server` reads `smashed`, which `client` makes": chain(
        p=Penalty("p", mean, "server", ["smashed"])
    ),
    "reads `smashed.params`, which belongs to `client`": chain(
        p=Penalty("p", mean, "server", ["smashed.params"])
    ),
    "reads `loss`, which is a loss": chain(p=Loss("p", mean, "server", ["loss"])),
    "the node `smashed.params` has the name of the params of the node `smashed`": chain(
        other=Node("smashed.params", trained, "client", ["image"])
    ),
    "`nodes` holds no Node": [Loss("loss", mean, "server", ["label"])],
    "`nodes` must hold Node, Loss and Metric, got int": [*chain(), 3],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_computed_is_refused_and_the_culprit_named(message):
    with pytest.raises(ValueError) as error:
        Topology(REFUSED[message], HOLDS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_string_is_one_name_wherever_names_are_listed():
    one = Node("a", plain, "client", "image", detached="image")
    assert one == Node("a", plain, "client", ["image"], detached=["image"])
    assert Loss("l", mean, "client", "a") == Loss("l", mean, "client", ["a"])
    assert Topology([one], {"client": "image"}).fields == ("image",)
    bottom, top = jsplit.segment(lambda x: x), jsplit.segment(lambda x: x)
    assert jsplit.vanilla(bottom, top, loss=mean, fields="image").holds["client"] == (
        "image",
    )


def test_a_bad_node_or_loss_is_refused_where_it_is_built():
    with pytest.raises(ValueError, match="`segment` must be a Segment, got function"):
        Node("a", mean, "client", ["image"])
    with pytest.raises(ValueError, match="does not name its inputs, so `inputs` must"):
        Node("a", jsplit.segment(lambda *x: x), "client")
    with pytest.raises(ValueError, match="`fn` must be a function, got int"):
        Loss("a", 3, "client", ["image"])
    with pytest.raises(ValueError, match="`inputs` is empty"):
        Loss("a", mean, "client", [])

    with pytest.raises(ValueError, match="`inputs` must be names, got 3"):
        Node("a", plain, "client", 3)
    with pytest.raises(ValueError, match="node 3: `name` must be a name, got 3"):
        Node(3, plain, "client")
    with pytest.raises(ValueError, match="loss 'a': `party` must be a name, got None"):
        Loss("a", mean, None, ["image"])
    with pytest.raises(ValueError, match="`weight` must be a number, got '1'"):
        Loss("a", mean, "client", ["image"], weight="1")
    with pytest.raises(
        ValueError, match=r"`holds` must be a dictionary of fields by party, got list"
    ):
        Topology(chain(), ["image"])
    with pytest.raises(
        ValueError, match="party `client`: `holds` must be names, got 3"
    ):
        Topology(chain(), {"client": 3})
    with pytest.raises(ValueError, match="`nodes` must be a list, got Node"):
        Topology(chain()[0], HOLDS)
    with pytest.raises(
        ValueError,
        match="the field `smashed.params` has the name of the params of the node `smashed`",
    ):
        Topology(chain(), {**HOLDS, "other": ["smashed.params"]})


def test_a_topology_can_be_copied():
    topology = Topology(chain(), HOLDS)
    assert (
        copy.deepcopy(dict(topology.holds)) == topology.holds
        and copy.copy(topology) == topology
    )
    assert [n.name for n in copy.deepcopy(topology).nodes] == [
        n.name for n in topology.nodes
    ]


def test_the_repr_tells_who_holds_and_computes_what():
    text = repr(
        Topology(chain(p=Penalty("decay", mean, "client", ["smashed.params"])), HOLDS)
    )
    assert (
        "client  holds image; smashed = segment(image); decay = penalty(smashed.params)"
        in text
    )
    assert (
        "server  holds label; logits = segment(smashed); loss = loss(logits, label)"
        in text
    )
    assert "smashed: client <-> server" in text


CROSSES = {
    "vanilla": [("smashed", "client", "server")],
    "u_shaped": [("up", "client", "server"), ("down", "server", "client")],
    "vertical": [("left", "lab", "server"), ("right", "clinic", "server")],
    "extended_vanilla": [
        ("left", "lab", "intermediary"),
        ("right", "clinic", "intermediary"),
        ("between", "intermediary", "server"),
    ],
    "multitask": [
        (v, p, s)
        for v, p in (("left", "lab"), ("right", "clinic"))
        for s in ("server0", "server1")
    ],
    "multihop": [
        ("hop1", "one", "two"),
        ("hop2", "two", "three"),
        ("hop3", "three", "four"),
    ],
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_paper_s_configurations_cross_what_the_paper_says(configuration):
    topology = make_problem(configuration, "mlp", "nnx").topology
    assert [tuple(c) for c in topology.crossings] == [
        (*c, True) for c in CROSSES[configuration]
    ]


def test_labels_stay_with_the_client_when_u_shaped():
    topology = make_problem("u_shaped", "mlp", "nnx").topology
    assert topology.holds["server"] == ()
    assert not any(n.party == "server" and "label" in n.reads for n in topology.nodes)


def hand(name=None):
    return jsplit.segment(
        lambda w, h: w * h, init=lambda key, h: jnp.ones(()), inputs=["h"], name=name
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_clients_and_servers(count):
    bottoms = {f"clinic{i}": hand() for i in range(count)}
    fields = {f"clinic{i}": [f"image{i}"] for i in range(count)}

    def concatenate(*h):
        return jnp.concatenate(h, axis=-1)

    vertical = jsplit.vertical(
        bottoms, hand(), loss=mean, fields=fields, merge=concatenate
    )
    assert len(vertical.crossings) == count
    extended = jsplit.extended_vanilla(
        bottoms, hand(), hand(), loss=mean, fields=fields, merge=concatenate
    )
    assert len(extended.crossings) == count + 1
    servers = {f"s{i}": hand() for i in range(3)}
    multitask = jsplit.multitask(
        bottoms,
        servers,
        losses=dict.fromkeys(servers, mean),
        fields=fields,
        merge=concatenate,
    )
    assert len(multitask.crossings) == 3 * count
    hops = {f"hop{i}": hand() for i in range(count + 1)}
    assert len(jsplit.multihop(hops, loss=mean, fields=["image"]).crossings) == count


def test_a_party_may_have_several_roles():
    """The active party of vertical learning holds features and labels."""
    two = {"guest": hand("a"), "host": hand("b")}
    fields = {"guest": ["x"], "host": ["y"]}
    add = lambda a, b: a + b  # noqa: E731
    active = jsplit.vertical(
        two, hand(), loss=mean, server="guest", fields=fields, merge=add
    )
    assert active.holds == {"guest": ("x", "label"), "host": ("y",)} and [
        c.name for c in active.crossings
    ] == ["b"]
    middle = jsplit.extended_vanilla(
        two, hand("m"), hand(), loss=mean, intermediary="host", fields=fields, merge=add
    )
    assert middle.holds["host"] == ("y",) and {c.name for c in middle.crossings} == {
        "a",
        "m",
    }
    both = jsplit.multitask(
        two, {"guest": hand()}, losses={"guest": mean}, fields=fields, merge=add
    )
    assert both.holds["guest"] == ("x", "label_guest")


def test_segments_that_are_none_or_in_another_order_are_refused():
    from_one = hand("smashed"), jsplit.segment(hand("output"), inputs=["smashed"])
    for wrong in (mean, Linear(3, 3, rngs=Rngs(0)), None):
        with pytest.raises(
            ValueError,
            match="`bottom` must be a segment, got a .*; make one of it by jsplit.segment, or",
        ):
            jsplit.vanilla(wrong, hand(), loss=mean)
        with pytest.raises(ValueError, match="the part of `a` must be a segment"):
            jsplit.vertical({"a": wrong}, hand(), loss=mean)
    with pytest.raises(ValueError, match="`top` must be a segment, got a function"):
        jsplit.vanilla(hand(), top=mean, loss=mean)
    with pytest.raises(
        ValueError,
        match="`vanilla` takes 2 segments, `bottom`, `top`, got 3; `multihop` takes a chain",
    ):
        jsplit.vanilla(hand(), hand(), hand(), loss=mean)
    with pytest.raises(
        ValueError,
        match="`u_shaped` takes 3 segments, .* got a dictionary; give its values",
    ):
        jsplit.u_shaped({"a": hand()}, loss=mean)
    with pytest.raises(
        TypeError, match="missing 1 required positional argument: 'tail'"
    ):
        jsplit.u_shaped(hand(), hand(), loss=mean)
    with pytest.raises(
        ValueError,
        match="`output` at `client` reads `smashed`, which is computed after it; "
        "give the segments in",
    ):
        jsplit.vanilla(*reversed(from_one), loss=mean)
    with pytest.raises(
        ValueError, match="every segment is at `server`, so nothing would cross"
    ):
        jsplit.vanilla(hand(), hand(), loss=mean, fields=["x"], client="server")


def test_wrong_arguments_of_the_configurations_are_refused():
    with pytest.raises(ValueError, match="at least two parties, got \\['a'\\]"):
        jsplit.multihop({"a": hand()}, loss=mean)
    with pytest.raises(ValueError, match="`bottoms` is empty"):
        jsplit.vertical({}, hand(), loss=mean)
    with pytest.raises(
        ValueError, match="`losses` is for \\['b'\\], `tops` for \\['a'\\]"
    ):
        jsplit.multitask({"c": hand()}, {"a": hand()}, losses={"b": mean})
    with pytest.raises(ValueError, match="`weights` names `z`"):
        jsplit.multitask(
            {"c": hand()}, {"a": hand()}, losses={"a": mean}, weights={"z": 1.0}
        )
    with pytest.raises(ValueError, match="`fields` names `z`, which has no bottom"):
        jsplit.vertical({"c": hand()}, hand(), loss=mean, fields={"z": ["image"]})


def test_a_loss_that_reads_no_labels_needs_none():
    """As one that compares the records of a batch with each other."""
    one = jsplit.segment(lambda w, h: w * h, init=lambda key, h: 1.0, inputs=["x"])
    ends = {"a": one, "b": jsplit.segment(lambda x: x, inputs=["y"])}
    both = jsplit.segment(lambda *x: sum(x), inputs=["smashed_a", "smashed_b"])
    given = {"loss": mean, "label": None}
    for topology in (
        jsplit.whole(one, **given),
        jsplit.vanilla(one, plain, **given),
        jsplit.u_shaped(one, plain, plain, **given),
        jsplit.multihop({"a": one, "b": plain}, **given),
        jsplit.vertical(ends, both, **given),
        jsplit.extended_vanilla(ends, both, plain, **given),
    ):
        (loss,) = topology.losses
        assert loss.inputs == ("output",) and "label" not in topology.fields
