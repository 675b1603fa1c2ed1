"""SplitBench: rows obey their schema, a run goes on, and other systems train the same network."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.stats import t as student

import jsplit
from experiments.bench import splitbench
from experiments.bench.split_bench import peers, schema, torch_parts
from experiments.bench.split_bench.clients import scores
from experiments.bench.split_bench.contestant import Contestant, score
from experiments.bench.split_bench.tables import interval, markdown, placed
from experiments.common.models import Network
from jsplit import population

PAGE = Path(__file__).parents[2] / "docs" / "splitbench.md"
ROWS = PAGE.with_suffix("")

SMALL = [
    "--sets",
    "breast_cancer",
    "--quick",
    "--seeds",
    "2",
    "--parts",
    "runs",
    "costs",
]
SMALL += ["--only", "whole, flax", "vertical, jsplit", "large-batch"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("splitbench")
    (document,) = splitbench.main([*SMALL, "--out", str(out)])
    return out, document


@pytest.mark.slow
def test_split_equals_whole_in_every_seed_and_nothing_is_run_twice(measured):
    out, document = measured
    rows = {(r["contestant"], r["seed"]): r for r in document["runs"]}
    assert len(rows) == 6
    for seed in (0, 1):
        split, whole = (rows[name, seed] for name in ("vertical", "whole"))
        assert split["accuracy"] == whole["accuracy"]
        assert abs(split["auc"] - whole["auc"]) < 1e-6
        assert split["from_whole"] < 1e-4
    # Other seeds are other runs.
    assert rows["whole", 0]["auc"] != rows["whole", 1]["auc"]
    before = (out / "breast_cancer.json").read_text()
    assert splitbench.main([*SMALL, "--out", str(out)]) == [document]
    assert (out / "breast_cancer.json").read_text() == before


@pytest.mark.slow
def test_costs_are_timed_and_counted(measured):
    _, document = measured
    costs = {r["contestant"]: r for r in document["costs"]}
    assert all(r["seconds_low"] <= r["seconds"] for r in costs.values())
    # Two fields of 32 numbers up and down, of 3 steps of 32 records, and frames.
    assert costs["vertical"]["client_bytes"] > 3 * 32 * 32 * 4 * 2
    assert costs["whole"]["client_flops"] == 0 < costs["vertical"]["client_flops"]
    text = markdown([document])
    assert "large-batch SGD" in text and "vertical" in text and "±" in text


SAID = {
    "kind": "clients",
    "system": "jsplit",
    "population": "x",
    "network": "x",
    "optimizer": "x",
    **dict.fromkeys(("train", "test", "clients", "epochs", "batch"), 2),
}


def stub(name, score, runs):
    """A contestant whose training, passes, cost and attack give a score or raise it."""

    def given():
        runs.append(name)
        if isinstance(score, Exception):
            raise score
        return score

    def train(seed):
        found = {"rate": 0.1, "accuracy": given(), "auc": None, "from_whole": None}
        return found | {"seconds_trained": 1.0}

    def cost():
        numbers = ("client_flops", "client_bytes", "client_memory")
        return {**dict.fromkeys(numbers, given()), "guarantee": None, "notes": ""}

    def leak():
        return {"labels": None, "inputs": None, "notes": f"tried {given()}"}

    said = {**SAID, "data": "x", "contestant": name, "classes": 2}
    return Contestant(said, train, lambda: given, cost, leak)


def test_what_fails_is_a_row_that_says_so_and_stops_no_other(tmp_path, capsys):
    diverged = jsplit.NotFinite("step 1 leaves\nmore")
    scores = {"good": 0.5, "diverges": diverged, "breaks": OSError("no"), "last": 0.7}

    def unbuilt():
        raise ValueError("no such network")

    def run():
        done = []
        rows = splitbench.Rows(tmp_path / "x.json", "x")
        made = {(n, "jsplit"): partial(stub, n, s, done) for n, s in scores.items()}
        made = {("unbuilt", "jsplit"): unbuilt, **made}
        splitbench.measure(rows, made, 2, splitbench.PARTS, 1)
        return schema.read(tmp_path / "x.json", {}), done

    first, _ = run()
    # Of this one nothing is known that a row must have: it is told once.
    assert capsys.readouterr().out.count("ValueError: no such network") == 1
    for part in splitbench.PARTS:
        assert {row["contestant"] for row in first[part]} == {*scores}
        notes = {row["contestant"]: row["notes"] for row in first[part]}
        assert "diverged: NotFinite: step 1 leaves" in notes["diverges"]
        assert "failed: OSError: no" in notes["breaks"]
        assert schema.failed({"notes": notes["breaks"]})
        assert not schema.failed({"notes": notes["diverges"]})
    (seconds,) = [r["seconds"] for r in first["costs"] if r["contestant"] == "breaks"]
    assert seconds is None
    text = markdown([first])
    assert "diverged in 2 of 2" in text and "failed in 2 of 2" in text
    # What diverged does so again; what failed may not.
    scores["breaks"] = 0.6
    second, done = run()
    assert {*done} == {"breaks"}
    assert not any(schema.failed(r) for p in splitbench.PARTS for r in second[p])
    assert len(second["runs"]) == len(first["runs"]) == 8


def test_what_was_counted_without_a_clock_is_timed_later_and_counted_once(tmp_path):
    scores, done = {"a": 0.5, "b": 0.7}, []
    made = {(n, "jsplit"): partial(stub, n, x, done) for n, x in scores.items()}

    def run(blocks, **other):
        rows = splitbench.Rows(tmp_path / "x.json", "x")
        some = {k: lambda f=f: changed(f(), other) for k, f in made.items()}
        splitbench.measure(rows, some, 1, ["costs"], blocks)
        return rows.document["costs"]

    def changed(one, other):
        return one._replace(said=dict(one.said) | other)

    without = run(0)
    assert done == ["a", "b"] and not any(row["blocks"] for row in without)
    # What is timed is what was counted, or the table would tell of two trainings in one line.
    with pytest.raises(schema.Invalid, match="`batch` is 9, but 2"):
        run(1, batch=9)
    done.clear()
    found = run(1)
    assert all(row["seconds"] > 0 and row["blocks"] == 1 for row in found)
    counts = [r["client_flops"] for r in found]
    assert counts == [0.5, 0.7] == [r["client_flops"] for r in without]
    done.clear()
    assert run(1) == found and not done


def test_the_page_has_the_tables_of_the_rows_that_lie_beside_it():
    rows = [schema.read(file, {}) for file in sorted(ROWS.glob("*.json"))]
    assert rows and PAGE.read_text() == placed(PAGE.read_text(), markdown(rows))
    with pytest.raises(ValueError, match="`page` must have"):
        placed("a page without marks", "")


@pytest.fixture
def document():
    """A row of each part, with some value of each field."""
    kinds = {"string": "x", "integer": 3, "number": 0.5}

    def row(fields):
        return {
            name: row(schema.INNER[name]) if f.kind == "object" else kinds[f.kind]
            for name, f in fields.items()
        }

    return schema.empty({}) | {p: [row(f)] for p, f in schema.PARTS.items()}


def broken(document: dict, part: str, name: str, value: object) -> dict:
    other = copy.deepcopy(document)
    other[part][0][name] = value
    return other


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 1.5),
        ("accuracy", float("nan")),
        ("accuracy", "0.9"),
        ("seed", True),
        ("seed", 1.0),
        ("data", None),
        ("other", 1),
    ],
)
def test_what_is_not_of_the_schema_is_refused(document, tmp_path, name, value):
    schema.check(document)
    with pytest.raises(schema.Invalid, match=rf"runs\[0\].*{name}"):
        schema.write(tmp_path / "x.json", broken(document, "runs", name, value))
    assert not (tmp_path / "x.json").exists()


def test_a_row_twice_and_another_version_are_refused(document, tmp_path):
    twice = document | {"runs": [*document["runs"], document["runs"][0]]}
    for wrong, says in ((twice, "twice"), (document | {"schema": "other"}, "schema")):
        (tmp_path / "x.json").write_text(json.dumps(wrong))
        with pytest.raises(schema.Invalid, match=says):
            schema.read(tmp_path / "x.json", {})


def test_rows_measured_apart_are_joined_where_they_were_trained_alike(document):
    other = broken(document, "runs", "seed", 4)
    found = schema.joined(document, other)
    assert [r["seed"] for r in found["runs"]] == [3, 4]
    assert found["costs"] == document["costs"]
    other["runs"][0]["epochs"] = 9
    with pytest.raises(schema.Invalid, match="`epochs` is 9, but 3"):
        schema.joined(document, other)


def test_seconds_of_two_machines_never_stand_in_one_table(document):
    other = broken(document, "costs", "contestant", "another")
    here, there = {"cores": 2}, {"cores": 64}
    document["machine"], other["machine"] = here, here
    old, same = schema.joined(document, other)["costs"]
    assert old["seconds"] is not None and same["seconds"] is not None
    other["machine"] = there
    old, new = schema.joined(document, other)["costs"]
    assert old == document["costs"][0]
    assert new == {**same, **dict.fromkeys(SECONDS), "blocks": 0, "notes": new["notes"]}
    assert "another machine" in new["notes"]
    schema.check_machine(document, here)
    with pytest.raises(schema.Invalid, match=r"another one \(cores\)"):
        schema.check_machine(document, there)


SECONDS = ("seconds", "seconds_low", "seconds_high")


@pytest.mark.parametrize("name", ["epochs", "batch", "network", "train"])
def test_a_call_with_another_setting_is_not_answered_by_rows_of_before(tmp_path, name):
    """Though no row is lacking."""
    done = []

    def run(**other):
        rows = splitbench.Rows(tmp_path / "x.json", "x")
        one = stub("a", 0.5, done)
        one = one._replace(said=dict(one.said) | other)
        splitbench.measure(rows, {("a", "jsplit"): lambda: one}, 1, ["runs"], 0)

    run()
    run()
    assert done == ["a"]
    with pytest.raises(schema.Invalid, match=f"`{name}` is"):
        run(**{name: "another" if name == "network" else 99})


@pytest.mark.parametrize("part", ["costs", "leaks"])
def test_runs_costs_and_leaks_of_one_table_are_of_one_training(document, part):
    with pytest.raises(schema.Invalid, match="`epochs` is 9, but 3"):
        schema.check(broken(document, part, "epochs", 9))


def test_the_json_schema_has_every_field():
    found = schema.json_schema()["properties"]
    for part, fields in schema.PARTS.items():
        assert found[part]["items"]["properties"].keys() == fields.keys()
    assert found["runs"]["items"]["properties"]["auc"]["type"] == ["number", "null"]


def test_an_interval_is_students():
    values = [0.8, 0.9, 0.85, 0.95]
    mean, reach = interval(values)
    assert reach is not None
    low, _ = student.interval(0.95, 3, mean, np.std(values, ddof=1) / 2)
    np.testing.assert_allclose(mean - reach, low)
    assert interval([0.5]) == (0.5, None)


def test_each_record_is_judged_by_the_model_of_whose_it_is():
    people = population.grouped(np.array(["a", "a", "b", "b"]), 0)
    label, group = np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    right = np.stack([1 - label, label], axis=-1).astype(float)
    # Each client's model is right on its own records and wrong on the other's.
    own = [group == str(name) for name in people.names]
    logits = np.stack([np.where(mine[:, None], right, 1 - right) for mine in own])
    assert scores(logits, {"label": label, "group": group}, people)["accuracy"] == 1
    # Without owners each model is asked of all.
    assert scores(logits, {"label": label}, people)["accuracy"] == 0.5
    assert score(right, label) == {"accuracy": 1.0, "auc": 1.0}
    # What diverged has no score: argmax would make a class of NaN.
    assert score(right * np.nan, label) == {"accuracy": None, "auc": None}


@pytest.mark.parametrize("shape", [(5,), (9, 6, 1), (12, 2)])
def test_pytorch_starts_from_the_same_network(shape):
    torch = pytest.importorskip("torch")
    net = Network({"x": shape}, {"label": 3}, rngs=nnx.Rngs(0))
    net.eval()
    x = np.array(jax.random.normal(jax.random.key(0), (4, *shape)))
    weights = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    low = torch_parts.bottom(weights["bottoms"]["x"], shape)
    high = torch_parts.top(weights["tops"]["label"])
    both = torch.nn.Sequential(low, *high).eval()
    found = both(torch_parts.tensor(x)).detach().numpy()
    np.testing.assert_allclose(found, net(x)["label_logits"], atol=2e-5)


def test_pytorch_split_by_hand_gives_the_gradient_of_the_whole():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    bottoms = [torch.nn.Linear(3, 4) for _ in range(2)]
    tops = [torch.nn.Linear(8, 5), torch.nn.Linear(5, 2)]
    every = torch.nn.ModuleList([*bottoms, *tops])
    inputs, label = [torch.randn(6, 3) for _ in range(2)], torch.arange(6) % 2
    h = torch.cat([b(x) for b, x in zip(bottoms, inputs, strict=True)], dim=-1)
    loss = torch.nn.functional.cross_entropy(tops[1](tops[0](h)), label)
    whole = torch.autograd.grad(loss, list(every.parameters()))
    still = torch.optim.SGD(every.parameters(), lr=0.0)
    torch_parts.split_step(bottoms, tops, [still], inputs, label)
    for p, expected in zip(every.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected)


def test_state_dicts_are_averaged_by_records():
    torch = pytest.importorskip("torch")
    models = [torch.nn.Linear(1, 1) for _ in range(2)]
    for model, value in zip(models, (1.0, 3.0), strict=True):
        torch.nn.init.constant_(model.weight, value)
    mean = torch.nn.Linear(1, 1)
    peers.average(mean, models, [3.0, 1.0])
    assert mean.weight.item() == 1.5
