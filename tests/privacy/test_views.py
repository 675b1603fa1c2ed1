"""Views of the six configurations against what is written here by hand, and as records."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

import jsplit
from jsplit.privacy import Views, views
from tests.helpers import make_problem

BATCH, WIDTH = 8, 4
entropy = optax.softmax_cross_entropy_with_integer_labels


def dense(inputs=None, width=WIDTH):
    def init(key, *x):
        return jnp.ones((sum(i.shape[-1] for i in x), width))

    return jsplit.segment(
        lambda w, *x: jnp.concatenate(x, -1) @ w, init=init, inputs=inputs
    )


def shapes(topology, *labels):
    record = jax.ShapeDtypeStruct((BATCH, 6), "float32")
    label = jax.ShapeDtypeStruct((BATCH,), "int32")
    return {f: label if f in labels else record for f in topology.fields}


def two():
    return {"lab": dense(["blood"]), "clinic": dense(["scan"])}


# By configuration: the topology, and by party what it holds, gets and sends, a cotangent
# of `x` as `dx`; then by party the attacks that have something to attack.
EXPECTED = {
    "vanilla": (
        lambda: jsplit.vanilla(dense(["x"]), dense(), loss=entropy),
        {
            "client": ("x", "dsmashed", "smashed"),
            "server": ("label", "smashed", "dsmashed"),
        },
        {"client": "labels membership", "server": "inversion hijacking membership"},
    ),
    "u_shaped": (
        lambda: jsplit.u_shaped(dense(["x"]), dense(), dense(), loss=entropy),
        {
            "client": ("x label", "down dup", "up ddown"),
            "server": ("", "up ddown", "down dup"),
        },
        {"client": "", "server": "inversion hijacking labels membership"},
    ),
    "vertical": (
        lambda: jsplit.vertical(two(), dense(), loss=entropy),
        {
            "lab": ("blood", "dsmashed_lab", "smashed_lab"),
            "clinic": ("scan", "dsmashed_clinic", "smashed_clinic"),
            "server": (
                "label",
                "smashed_lab smashed_clinic",
                "dsmashed_lab dsmashed_clinic",
            ),
        },
        {
            "lab": "inversion labels membership",
            "clinic": "inversion labels membership",
            "server": "inversion hijacking membership",
        },
    ),
    "extended_vanilla": (
        lambda: jsplit.extended_vanilla(two(), dense(), dense(), loss=entropy),
        {
            "lab": ("blood", "dsmashed_lab", "smashed_lab"),
            "clinic": ("scan", "dsmashed_clinic", "smashed_clinic"),
            "intermediary": (
                "",
                "smashed_lab smashed_clinic dmiddle",
                "middle dsmashed_lab dsmashed_clinic",
            ),
            "server": ("label", "middle", "dmiddle"),
        },
        {
            "lab": "inversion labels membership",
            "clinic": "inversion labels membership",
            "intermediary": "inversion hijacking labels membership",
            "server": "inversion hijacking membership",
        },
    ),
    "multitask": (
        lambda: jsplit.multitask(
            two(),
            {"heart": dense(), "lung": dense()},
            losses={"heart": entropy, "lung": entropy},
            labels={"heart": "beats", "lung": "breath"},
        ),
        {
            "lab": ("blood", "dsmashed_lab dsmashed_lab", "smashed_lab smashed_lab"),
            "clinic": (
                "scan",
                "dsmashed_clinic dsmashed_clinic",
                "smashed_clinic smashed_clinic",
            ),
            "heart": (
                "beats",
                "smashed_lab smashed_clinic",
                "dsmashed_lab dsmashed_clinic",
            ),
            "lung": (
                "breath",
                "smashed_lab smashed_clinic",
                "dsmashed_lab dsmashed_clinic",
            ),
        },
        {
            "lab": "inversion labels membership",
            "clinic": "inversion labels membership",
            "heart": "inversion hijacking labels membership",
            "lung": "inversion hijacking labels membership",
        },
    ),
    "multihop": (
        lambda: jsplit.multihop(
            {"one": dense(["x"]), "two": dense(), "three": dense()}, loss=entropy
        ),
        {
            "one": ("x", "dhop1", "hop1"),
            "two": ("", "hop1 dhop2", "hop2 dhop1"),
            "three": ("label", "hop2", "dhop2"),
        },
        {
            "one": "labels membership",
            "two": "inversion hijacking labels membership",
            "three": "inversion hijacking membership",
        },
    ),
}


def short(messages):
    named = [f"d{m.name}" if m.kind == "cotangent" else m.name for m in messages]
    return sorted(named)


@pytest.mark.parametrize("looked_into", [True, False])
@pytest.mark.parametrize("configuration", EXPECTED)
def test_a_party_holds_gets_and_sends_what_is_written_by_hand(
    configuration, looked_into
):
    make, parties, attacks = EXPECTED[configuration]
    topology = make()
    batch = shapes(topology, "label", "beats", "breath") if looked_into else None
    found = views(topology, batch)
    assert {*found} == {*parties}
    for party, (holds, gets, sends) in parties.items():
        view = found[party]
        assert sorted(view.fields) == sorted(holds.split())
        assert short(view.receives) == sorted(gets.split())
        assert short(view.sends) == sorted(sends.split())
        kinds = ("inversion", "hijacking", "labels", "membership")
        assert " ".join(k for k in kinds if view.can(k)) == attacks[party]
    # Learned layers: no message is claimed to be a field.
    assert not any(m.gives for m in found.messages)


@pytest.mark.parametrize(
    "asks",
    [
        {"optimizer": optax.chain(jsplit.clip_by_global_norm(1.0), optax.sgd(0.1))},
        {"optimizer": jsplit.with_loss(optax.sgd(0.1))},
        {"nonfinite": "skip"},
    ],
)
@pytest.mark.parametrize("looked_into", [True, False])
def test_a_number_that_goes_round_rules_out_that_nothing_depends_on_labels(
    asks, looked_into
):
    # No cotangent comes to the client, whose bottom has a loss of its own.
    topology = jsplit.Topology(
        [
            jsplit.Node("h", dense(), "client", ["x"]),
            jsplit.Node("logits", dense(), "server", ["h"], detached=["h"]),
            jsplit.Loss("loss", entropy, "server", ["logits", "label"]),
            jsplit.Loss("own", lambda h: (h**2).sum(-1), "client", ["h"]),
        ],
        holds={"client": ["x"], "server": ["label"]},
    )
    batch = shapes(topology, "label") if looked_into else None
    quiet = views(topology, batch)["client"]
    assert not quiet.can("labels") and not quiet.can("membership")
    told = views(topology, batch, **asks)["client"]
    assert "the scalar of" in told.can("labels").why
    assert told.can("membership") and not told.can("hijacking")
    assert not told.can("inversion")  # its own are the only inputs


@pytest.mark.parametrize("looked_into", [True, False])
def test_parameters_tell_of_what_they_are_trained_on_also_by_way_of_others(looked_into):
    # The first bottom learns from a head that is trained on a label of somebody else.
    topology = jsplit.Topology(
        [
            jsplit.Node("h", dense(), "lab", ["x"]),
            jsplit.Node("head", dense(), "clinic", ["h"], detached=["h"]),
            jsplit.Loss("one", entropy, "clinic", ["head", "label"]),
            jsplit.Node("out", dense(), "server", ["h"]),
            jsplit.Loss("two", lambda o, c: (o - c) ** 2, "server", ["out", "head"]),
            jsplit.Node("far", dense(), "reader", ["h"], detached=["h"]),
            jsplit.Loss("three", entropy, "reader", ["far", "grade"]),
        ],
        holds={"lab": ["x"], "clinic": ["label"], "reader": ["grade"]},
    )
    batch = shapes(topology, "label", "grade") if looked_into else None
    found = views(topology, batch)
    seen = next(s for s in found["reader"].receives if s.kind == "activation")
    assert seen.fields == ("x",) and seen.taught == ("x", "label")
    why = found["reader"].can("labels").why
    assert why == "the activation of `h` depends on parameters trained on `label`"
    assert "grade" not in found["clinic"].can("labels").why
    assert all("grade" not in s.taught for s in found.messages)


@pytest.mark.parametrize("configuration", ["vanilla", "vertical"])
def test_messages_have_the_shapes_and_bytes_of_a_step(configuration):
    topology = EXPECTED[configuration][0]()
    batch = shapes(topology, "label", "beats", "breath")
    cost = jsplit.cost(topology, batch)
    expected = {(m.name, m.kind, m.sender, m.receiver): m for m in cost.messages}
    found = views(topology, batch).messages
    assert len(found) == len(expected)
    for m in found:
        message = expected[m.name, m.kind, m.sender, m.receiver]
        assert (m.shape, m.bytes) == (message.shape, message.bytes)
        assert m.numbers == WIDTH


@pytest.mark.parametrize("configuration", EXPECTED)
def test_what_a_message_depends_on_is_the_same_by_structure_and_by_jaxprs(
    configuration,
):
    topology = EXPECTED[configuration][0]()
    batch = shapes(topology, "label", "beats", "breath")
    for by_structure, looked_into in zip(
        views(topology).messages, views(topology, batch).messages, strict=True
    ):
        assert by_structure.fields == looked_into.fields
        assert by_structure.nodes == looked_into.nodes


def test_a_cotangent_of_one_task_does_not_depend_on_the_label_of_another():
    topology = EXPECTED["multitask"][0]()
    found = views(topology, shapes(topology, "beats", "breath"))
    of_heart = [m for m in found["heart"].sends if m.kind == "cotangent"]
    assert all("beats" in m.fields and "breath" not in m.fields for m in of_heart)


def test_views_are_equal_after_json():
    topology = EXPECTED["multihop"][0]()
    for found in (views(topology), views(topology, shapes(topology, "label"))):
        assert Views.from_json(found.json()) == found
        assert found["one"].parts
        assert not Views.from_json(found.json())["one"].parts


def test_a_name_is_escaped_in_html():
    topology = jsplit.vanilla(
        dense(["x"]), dense(), loss=entropy, client="<b>lab</b>", server="s&co"
    )
    page = views(topology).html()
    assert "<b>lab" not in page
    assert "&lt;b&gt;lab" in page
    assert "s&amp;co" in page


def test_text_names_every_party_and_message_and_what_all_know():
    topology = EXPECTED["vertical"][0]()
    text = str(views(topology, shapes(topology, "label")))
    for word in ("lab+clinic", "cotangent smashed_lab", "the seed", "not found"):
        assert word in text
    assert "not looked into" not in text
    assert "not looked into" in str(views(topology))


def test_a_trainer_brings_its_links_and_optimizers():
    topology = EXPECTED["vanilla"][0]()
    batch = shapes(topology, "label")
    links = {"smashed": jsplit.compress.quantize(8)}
    clipped = optax.chain(jsplit.clip_by_global_norm(1.0), optax.sgd(0.1))
    trainer = jsplit.fused(topology, clipped, links=links, nonfinite="skip")
    found = views(trainer, batch)
    assert found == views(
        topology, batch, optimizer=clipped, links=links, nonfinite="skip"
    )
    scalars = [m for m in found.messages if m.kind == "scalar"]
    assert len(scalars) == 4  # two sums, each up and down
    assert all({*m.fields} == {"x", "label"} for m in scalars)
    with pytest.raises(ValueError, match="`optimizer`, `links` and `nonfinite`"):
        views(trainer, batch, links=links)


def test_what_does_not_fit_is_refused_by_name():
    topology = EXPECTED["vanilla"][0]()
    batch = shapes(topology, "label")
    with pytest.raises(ValueError, match="lacks the field `label`"):
        views(topology, {"x": batch["x"]})
    with pytest.raises(ValueError, match="`state` must be a trainer's"):
        views(topology, batch, state=jsplit.TrainState({}))
    with pytest.raises(ValueError, match="`attack` must be one of inversion"):
        views(topology)["server"].can("magic")
    with pytest.raises(ValueError, match="`party` must be one of client, server"):
        views(topology)["nobody"]


def test_a_state_gives_the_same_views():
    topology = EXPECTED["vanilla"][0]()
    batch = {
        f: jnp.zeros(x.shape, x.dtype) for f, x in shapes(topology, "label").items()
    }
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    found = views(topology, batch, state=trainer.init(0, batch))
    assert found == views(topology, batch)


# An embedding alone is a cipher of its tokens; convolutions and what reads them are not.
@pytest.mark.parametrize(
    ("configuration", "kind", "flax", "proofs"),
    [
        ("vanilla", "cnn", "nnx", set()),
        pytest.param(
            *("u_shaped", "transformer", "linen"),
            {"is `image` up to parameters of `up`"},
            marks=pytest.mark.slow,
        ),
        pytest.param("multitask", "residual", "nnx", set(), marks=pytest.mark.slow),
    ],
)
def test_of_learned_models_no_more_is_claimed_than_there_is(
    configuration, kind, flax, proofs
):
    problem = make_problem(configuration, kind, flax)
    found = views(problem.topology, problem.batch)
    assert {str(g) for m in found.messages for g in m.gives} == proofs
    assert {str(g) for t in found.together for g in t.gives} == proofs


def test_a_metric_crosses_in_inference_alone():
    topology = EXPECTED["vanilla"][0]()
    spread = jsplit.Metric("spread", lambda y: y.std(), "client", "output")
    found = views(topology.add(spread), shapes(topology, "label"))
    by_name = {m.name: m.modes for m in found.messages if m.kind == "activation"}
    assert by_name["smashed"] == ("training", "inference")
    assert by_name["output"] == ("inference",)


def test_a_decoupled_party_is_not_hijacked():
    topology = EXPECTED["vanilla"][0]()
    alone = jsplit.decoupled(topology, "smashed", dense(), loss=entropy)
    found = views(alone, shapes(alone, "label"))
    assert not found["server"].can("hijacking")
    assert found["server"].can("inversion")
    assert not found["client"].can("labels")
