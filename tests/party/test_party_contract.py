"""What an agreement holds: read as it was written, by any version, and all of a topology."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jsplit
from jsplit import compress, party
from jsplit.compress import registry
from jsplit.party.contract.sample import sample_agreement
from jsplit.party.task import Task, TaskKind
from tests.party import federation
from tests.party.federation import agreed_for, bits, checked, small, train, undisturbed

OLD = Path(__file__).parent / "agreements"
"""Files that version 0.1 has written, with what it said of them."""
SAID = json.loads((OLD / "said.json").read_text())


@pytest.mark.parametrize("name", SAID)
def test_a_file_of_an_older_version_is_read_and_written_to_the_byte(name, tmp_path):
    file, said = OLD / f"{name}.json", SAID[name]
    agreed = party.read(file)
    assert party.write(tmp_path / "new.json", agreed).read_bytes() == file.read_bytes()
    assert agreed.hash == said["hash"]
    assert list(agreed.parties) == said["parties"]
    assert list(agreed.turns.names) == said["names"]
    assert {p: agreed.reach(p) for p in agreed.parties} == said["reach"]
    # One client's agreement is never a file: its checkpoints are those of all.
    if name != "one":
        assert agreed.schema == said["schema"]


def test_one_client_s_agreement_reads_the_checkpoints_of_all():
    one = party.read(OLD / "turns.json").of("north")
    assert (one.hash, one.schema) == (SAID["one"]["hash"], SAID["one"]["schema"])
    assert one != party.read(OLD / "one.json") and one == one.replace(steps=one.steps)


def test_an_agreement_has_what_its_file_says_as_attributes():
    agreed = agreed_for(small("pair"), links={"h": ("quantize(8)", None)})
    names = {"parties": "roles", "links": "link_names", "turns": "rotation"}
    for name, value in agreed.said.items():
        if name not in ("format", "nodes", "losses"):
            mine = getattr(agreed, names.get(name, name))
            assert json.loads(json.dumps(mine)) == value == agreed[name]
    assert [n.name for n in agreed.nodes] == ["h", "y"]
    assert agreed.losses[0].reads == ("y", "label")
    with pytest.raises(AttributeError):
        agreed.steps = 3  # type: ignore[misc]
    assert len({agreed, agreed.replace(), agreed.replace(steps=9)}) == 2


@pytest.mark.parametrize("change", [{"more": 1}, {"reads": "x"}, {"detached": "x"}])
def test_a_node_that_says_more_than_is_understood_is_refused(change):
    agreed = agreed_for(small("pair"))
    nodes = agreed.said["nodes"]
    with pytest.raises(ValueError, match="does not hold what it must"):
        agreed.replace(nodes=[nodes[0] | change, nodes[1]])


def test_decoupled_over_the_network_is_decoupled_in_one_process():
    """No cotangent comes back, and the agreement says so."""
    problem = decoupled()
    agreed = agreed_for(problem, steps=3)
    assert [w.label for w in agreed.wires] == ["activation h to server"]
    results = checked(train(agreed, problem))
    states = undisturbed(problem, 3)
    for name, result in results.items():
        assert bits(result.state) == bits(states[name])


def decoupled():
    """The small pair, of which the server gives no cotangent back."""
    problem = small("pair")
    squares = lambda y, label: (y - label) ** 2  # noqa: E731
    head = federation.layer(["h"], "own", 1)
    topology = jsplit.decoupled(problem.topology, "h", head, loss=squares)
    return problem._replace(topology=topology)


def test_what_is_detached_is_of_a_format_that_older_versions_refuse_by_name(tmp_path):
    # As the older versions wrote them, which knew no dtypes of fields.
    plain = agreed_for(small("pair")).replace(fields={})
    agreed = agreed_for(decoupled()).replace(fields={})
    assert plain["format"] == "jsplit agreement 1"
    assert agreed["format"] == "jsplit agreement 2"
    assert party.read(party.write(tmp_path / "new.json", agreed)) == agreed
    with pytest.raises(ValueError, match="`format` .* must be 'jsplit agreement 2'"):
        agreed.replace(format="jsplit agreement 1")
    with pytest.raises(ValueError, match="`format` .* must be 'jsplit agreement 1'"):
        plain.replace(format="jsplit agreement 2")
    nodes = plain.said["nodes"]
    detached = plain.replace(nodes=[nodes[0], {**nodes[1], "detached": ["h"]}])
    assert detached["format"] == "jsplit agreement 2"
    assert detached.replace(nodes=nodes) == plain
    newer = plain.replace(fields={"x": "float32"})
    assert newer["format"] == "jsplit agreement 3" and newer["metrics"] == []
    assert party.read(party.write(tmp_path / "newer.json", newer)) == newer
    with pytest.raises(ValueError, match="an agreement has `fields`"):
        newer.replace(format="jsplit agreement 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"holds": None},
            "`holds` must be a dictionary of fields by party, got NoneType.",
        ),
        ({"holds": []}, "`holds` must be a dictionary of fields by party, got list."),
        (
            {"holds": {"client": "x", "server": ["label"]}},
            "party `client`: `holds` must be a list of names, got 'x'.",
        ),
        ({"parties": "ab"}, "`parties` must be a list, got 'ab'."),
        ({"parties": [1]}, "`parties` must be a list of names"),
        ({"lead": []}, "`lead` must be the name of a party"),
        ({"links": []}, "`links` must be a dictionary by the name of a value, got []."),
        ({"links": {"h": "ab"}}, "`links` must hold names of links"),
        ({"values": None}, "`values` must be a dictionary by the name of a value"),
        ({"hosts": []}, "`hosts` must be a dictionary by party, got []."),
        ({"hosts": None}, "`hosts` must be a dictionary by party, got None."),
        ({"identities": {"client": 1}}, "`identities` must give a text for the party"),
        ({"losses": {}}, "`losses` must be a list, got {}."),
        ({"nodes": None}, "`nodes` must be a list, got None."),
    ],
)
def test_an_entry_of_another_type_is_named_before_anything_is_made_of_it(
    change, message
):
    agreed = agreed_for(small("pair"))
    with pytest.raises(ValueError, match=re.escape(message)):
        agreed.replace(**change)


@pytest.mark.parametrize(
    "change", [{"weight": "1"}, {"local": 0}, {"party": None}, {"reads": [1, "label"]}]
)
def test_a_loss_that_says_something_of_another_type_is_refused(change):
    agreed = agreed_for(small("pair"))
    (loss,) = agreed.said["losses"]
    with pytest.raises(ValueError, match=f"must: `{[*change][0]}` is "):
        agreed.replace(losses=[{**loss, **change}])


@pytest.mark.parametrize("name", [None, "nobody"])
def test_nobody_reaches_anybody(name):
    with pytest.raises(ValueError, match="`party` must be one of client, server, got"):
        agreed_for(small("pair")).reach(name)


# Links of one's own.


@pytest.fixture
def own_makers(monkeypatch):
    monkeypatch.setattr(registry, "_makers", dict(compress.registered()))


def coarse(levels=4):
    """Round to so many levels: what arrives says which argument the maker got."""

    def encode(value, key):
        return jax.tree.map(lambda x: jnp.round(x * levels).astype(jnp.int8), value)

    def decode(payload, like):
        scaled = lambda x, to: x.astype(to.dtype) / levels  # noqa: E731
        return jax.tree.map(scaled, payload, like)

    return jsplit.stateless(encode, decode)


def test_a_registered_link_crosses_the_network_by_its_name_and_argument(own_makers):
    compress.register("coarse", coarse)
    problem = small("pair")
    agreed = agreed_for(problem, steps=3, links={"h": ("coarse(16)", None)})
    results = checked(train(agreed, problem))
    trainer = jsplit.messages(
        problem.topology,
        federation.optimizers(problem.topology),
        links={"h": (coarse(16), None)},
    )
    state = trainer.init(3, problem.batch)
    for _ in range(3):
        state, _ = trainer.step(state, problem.batch)
    for name, result in results.items():
        assert bits(result.state) == bits(state.parties[name])
    assert bits(state.parties["server"]) != bits(undisturbed(problem, 3)["server"])


def test_a_link_is_registered_once_under_a_name_that_an_agreement_can_say(own_makers):
    compress.register("coarse", coarse)
    with pytest.raises(ValueError, match="of which there is a maker already"):
        compress.register("coarse", coarse)
    with pytest.raises(ValueError, match="of which there is a maker already"):
        compress.register("quantize", coarse)
    compress.register("coarse", lambda: jsplit.identity, replace=True)
    for name in ("", "a b", "a|b", "a(1)", "8bits", None):
        with pytest.raises(ValueError, match="`name` must be of letters"):
            compress.register(name, coarse)  # type: ignore[arg-type]
    for name in ("class", "None"):
        with pytest.raises(ValueError, match="`name` must be no keyword"):
            compress.register(name, coarse)
    with pytest.raises(ValueError, match="`maker` must be a function that gives a"):
        compress.register("other", coarse())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        compress.registered()["x"] = coarse  # type: ignore[index]


def test_a_party_that_has_not_registered_a_link_is_told_which_there_are(own_makers):
    compress.register("coarse", coarse)
    problem = small("pair")
    agreed = agreed_for(problem, links={"h": "coarse(8)"})
    with pytest.raises(ValueError, match="is `coarse` meant"):
        agreed_for(problem, links={"h": "coarze(8)"})
    with pytest.raises(ValueError, match=r"has `coarse\(\)`: TypeError"):
        compress.register("coarse", lambda levels: coarse(levels), replace=True)
        agreed_for(problem, links={"h": "coarse()"})
    registry._makers.pop("coarse")
    with pytest.raises(ValueError, match=r"there are quantize\(bits\), cast\(dtype\)"):
        agreed.links()


def test_a_maker_that_gives_no_link_is_named(own_makers):
    compress.register("wrong", lambda: 3)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="whose maker gives no Link but a int"):
        agreed_for(small("pair"), links={"h": "wrong()"})


def test_a_maker_may_be_unreadable_or_raise_what_it_likes(own_makers):
    compress.register("table", dict)  # type: ignore[arg-type]
    compress.register("words", lambda word: {"a": jsplit.identity}[word])
    agreed = agreed_for(small("pair"))
    with pytest.raises(
        ValueError, match=r"there are .*, table\(\.\.\.\), words\(word\)"
    ):
        agreed.replace(links={"h": ["mine", None]}).links()
    with pytest.raises(ValueError, match=r"`links` has `words\(b\)`: KeyError"):
        agreed.replace(links={"h": ["words(b)", None]})


# A run in one process.


@pytest.mark.parametrize(
    ("fields", "ids", "message"),
    [
        ({"x": 8, "label": 8}, None, "`ids` must be a list, one for each record"),
        ({"x": 8, "label": 8}, range(7), "`ids` has 7 entries for 8 records"),
        ({"x": 8}, range(8), "`fields` must be those .* label, x, got x"),
        ({"x": 8, "label": 8, "z": 8}, range(8), "`fields` must be those that"),
        ({"x": 7, "label": 7}, range(7), "`fields` must have .* one batch of 8"),
    ],
)
def test_batches_of_what_is_no_run_are_refused_at_the_call(fields, ids, message):
    arrays = {name: jnp.zeros((n, 3)) for name, n in fields.items()}
    with pytest.raises(ValueError, match=message):
        party.batches(agreed_for(small("pair")), arrays, ids)


def test_batches_of_turns_are_refused():
    with pytest.raises(ValueError, match="`agreed` must be an agreement without turns"):
        party.batches(sample_agreement("north", "south"), {}, [])


# What goes down through the levels of a run.


def test_the_last_step_of_inference_has_what_is_left():
    task = Task(TaskKind.EVALUATE, 3, 4, 10)
    assert [task.size_of(step) for step in range(3)] == [4, 4, 2]
    assert (task.said, Task(TaskKind.TRAIN, 3, 4).said) == ("evaluate 10", "train")
    assert {"train": 1}[TaskKind.TRAIN] == 1
    assert type(Task(TaskKind.TRAIN, 3, 4).said) is str  # as the others read it
