"""The experiments with many clients, on a few rounds: rows, counts, and what must be equal."""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np
import pytest

import jsplit
from experiments.common import algorithms, harness
from experiments.paper import (
    compare_rounds,
    equal_cost,
    figure3,
    plot_compare_rounds,
)
from jsplit import population, runs

CURVE = {
    "data",
    "network",
    "clients",
    "method",
    "seed",
    "rate",
    "validation",
    "batch",
    "records",
    "parameters",
    "share",
    "local",
    "passes",
    "accuracy",
    "flops",
    "bytes",
}
ROW = {
    "data",
    "network",
    "population",
    "clients",
    "records",
    "algorithm",
    "seed",
    "batch",
    "rounds",
    "rate",
    "validation",
    "diverged",
    "accuracy",
    "balanced",
    "clients_mean",
    "clients_spread",
    "worst_client",
    "each_client",
    "own_models",
    "bytes_per_client",
    "majority",
}


def test_figure_3_has_rows_verdicts_and_a_picture(tmp_path):
    small = [
        "--data",
        "breast_cancer",
        "--networks",
        "small",
        "--clients",
        "3",
        "--passes",
        "5",
        "--seeds",
        "1",
    ]
    found = figure3.main([*small, "--out", str(tmp_path)])
    assert found == json.loads((tmp_path / "figure3_breast_cancer.json").read_text())
    assert (tmp_path / "figure3_breast_cancer.png").read_bytes().startswith(b"\x89PNG")
    rows = {row["method"]: row for row in found["curves"]}
    assert list(rows) == [
        "SplitNN",
        "FedAvg",
        "FedAvg, 5 local passes",
        "large-batch SGD",
    ]
    for row in rows.values():
        assert row.keys() == CURVE and row["passes"][-1] == 5
        assert (
            len(row["passes"])
            == len(row["accuracy"])
            == len(row["flops"])
            == len(row["bytes"])
        )
        assert np.all(np.diff(row["flops"]) > 0) and np.all(np.diff(row["bytes"]) > 0)
        assert row["accuracy"][-1] > 0.7  # always the commonest class: 0.63
    assert rows["SplitNN"]["flops"][-1] == pytest.approx(
        rows["SplitNN"]["share"] * rows["FedAvg"]["flops"][-1], rel=0.05
    )
    assert rows["FedAvg"]["bytes"][-1] == pytest.approx(
        5 * rows["FedAvg, 5 local passes"]["bytes"][-1]
    )
    assert [v["axis"] for v in found["verdicts"]] == ["flops"] * 3 + ["bytes"] * 3


def test_a_verdict_compares_what_was_reached_at_the_budget():
    def row(method, flops, accuracy):
        return {"method": method, "flops": flops, "bytes": flops, "accuracy": accuracy}

    rows = [
        row("SplitNN", [0, 2, 4], [0.1, 0.5, 0.6]),
        row("FedAvg", [0, 3, 6], [0.1, 0.7, 0.8]),
    ]
    found = equal_cost.verdicts(rows)[:3]
    assert [v["budget"] for v in found] == [1, 2, 4]
    assert [v["accuracy"] for v in found] == [
        {"SplitNN": [s], "FedAvg": [f]} for s, f in ((0.1, 0.1), (0.5, 0.1), (0.6, 0.7))
    ]
    assert [v["split is"] for v in found] == ["neither", "ahead", "behind"]
    assert equal_cost.needed(rows[1:], "flops", 0.7) == (3, True)
    assert equal_cost.needed(rows[:1], "flops", 0.7) == (4, False)


def test_rounds_are_compared_on_one_harness(tmp_path):
    small = [
        "--data",
        "breast_cancer",
        "--network",
        "small",
        "--clients",
        "3",
        "--rounds",
        "3",
    ]
    rows = compare_rounds.main(
        [*small, "--only", "SplitFed 1", "alone", "--out", str(tmp_path)]
    )
    assert rows == json.loads((tmp_path / "compare_rounds.json").read_text())
    assert (tmp_path / "compare_rounds.png").read_bytes().startswith(b"\x89PNG")
    assert [(r["population"], r["algorithm"]) for r in rows] == [
        (kind, way)
        for kind in ("iid", "Dirichlet(0.3)")
        for way in ("SplitFed 1", "alone")
    ]
    for row in rows:
        assert row.keys() == ROW and len(row["each_client"]) == 3
        assert row["worst_client"] == min(row["each_client"]) and row["accuracy"] > 0.7
        assert (row["bytes_per_client"] == 0) == (row["algorithm"] == "alone")


TWENTY = {"record": np.zeros((20, 1), "float32"), "label": np.arange(20) % 2}
REFUSED = jsplit.NotFinite("step 3 leaves what is not finite")


def test_a_rate_at_which_training_diverges_is_worse_than_every_other():
    def accuracy(rate):
        if rate > 0.1:
            raise REFUSED
        return None if rate == 0.1 else rate

    told = []
    rate, found = harness.best(accuracy, lambda n, note: told.append(note))
    assert rate == 0.03 and found["0.1"] is found["3"] is None
    assert told[1:3] == ["rate 0.03: 0.030", "rate 0.1: diverged"]
    # Where all diverge, whoever trains is to find out at the lowest.
    lowest, found = harness.best(lambda rate: None)
    assert lowest == min(harness.RATES) and {*found.values()} == {None}


def test_an_algorithm_that_diverges_is_a_row_that_says_so(monkeypatch, capsys):
    def trained(*_):
        raise REFUSED

    monkeypatch.setattr(compare_rounds, "trained", trained)
    people, contestant = population.iid(20, 2, 0), algorithms.Contestant
    data = harness.Records("x", TWENTY, TWENTY, TWENTY, 2)
    found, draws = compare_rounds.one(
        contestant(None, "clients", False, lambda *_: 0.0),
        people,
        data,
        argparse.Namespace(rounds=2, batch=5, seed=0),
        lambda steps, note: None,
    )
    assert found["accuracy"] is None and found["diverged"] == str(REFUSED)
    assert found["rate"] == min(harness.RATES) and len(draws) == 2
    about = {"data": "x", "network": "small", "population": "iid", "clients": 2}
    about |= {"records": [10, 10], "algorithm": "one", "rounds": 2, "batch": 5}
    row = {**about, **found, "own_models": False, "bytes_per_client": 1, "majority": 1}
    assert {*row, "seed"} == ROW
    compare_rounds.show([row])
    assert "diverged" in capsys.readouterr().out
    drawn = plot_compare_rounds.clients([json.loads(json.dumps(row))])
    assert "diverged" in [text.get_text() for text in drawn.axes[0].texts]


@pytest.mark.parametrize("every", [True, False])
def test_a_curve_is_0_from_where_training_diverges(monkeypatch, every):
    class Diverges:
        def init(self, *_):
            return 0

        def predict(self, *_):
            raise AssertionError

        def step(self, state, draw):
            if state == 2:
                raise REFUSED
            return state + 1, None

    monkeypatch.setattr(figure3.jsplit, "set_hyperparams", lambda state, _: state)
    monkeypatch.setattr(figure3, "correct", lambda *_: np.array([0.5]))
    people = population.iid(20, 2, 0)
    data = harness.Records("x", TWENTY, TWENTY, TWENTY, 2)
    method = figure3.Method(Diverges(), 1, lambda n: None)
    found = figure3.accuracies(method, people, data, {}, 1, 0, 4, 5, every)
    assert found == ([0.5, 0.5, 0.5, 0, 0] if every else [0])


@pytest.mark.slow
def test_the_full_setting_is_vgg_cut_after_its_first_convolution():
    images = {"record": np.zeros((4, 32, 32, 3), "float32"), "label": np.zeros(4, int)}
    data = harness.Records("images", images, images, images, 10)
    cost = harness.cost_of(harness.topology("vgg16", data), data, 2)
    assert cost.total.params == 4 * (
        14_714_688 + 512 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 10 + 10
    )
    assert cost.parties["client"].forward.macs == 2 * 32**2 * 9 * 3 * 64


@pytest.mark.slow
def test_what_is_the_same_algorithm_has_the_same_accuracy(tmp_path):
    small = [
        "--data",
        "breast_cancer",
        "--network",
        "small",
        "--clients",
        "3",
        "--rounds",
        "3",
        "--out",
        str(tmp_path),
    ]
    rows = compare_rounds.main(small)
    of = {(r["population"], r["algorithm"]): r for r in rows}
    assert len(of) == 2 * 14
    for kind in ("iid", "Dirichlet(0.3)"):
        for one, same in (
            ("turns, hand-off peer", "turns, hand-off server"),
            ("SplitFed 1", "FedAvg"),
            ("parallel, shared", "large-batch SGD"),
        ):
            assert of[kind, one]["each_client"] == of[kind, same]["each_client"]
        assert (
            of[kind, "SplitFed 3"]["bytes_per_client"]
            < of[kind, "SplitFed 1"]["bytes_per_client"]
        )


def test_bytes_of_drawn_rounds_are_those_of_the_formula():
    data = harness.records("breast_cancer")
    cost = harness.cost_of(harness.topology("small", data), data, 16)
    people = population.quantity(len(data.train["label"]), 3, 1.0)
    draws = [people.round(harness.fields(data.train), n, batch=16) for n in range(2)]
    formula = runs.parallel(
        cost, people.sizes, client="client", epochs=2, bottoms="shared"
    ).mean["bytes"]
    assert algorithms.in_global_batches(cost, people, draws) == pytest.approx(formula)
    every = [
        people.global_batches(harness.fields(data.train), n, batch=16) for n in range(2)
    ]
    # A frame has 96 bytes, 8 for each array and 8 for each of its axes: of weights and bias.
    params = cost.state.parties["client"].params
    arrays = [(x.size * x.dtype.itemsize, x.ndim) for x in jax.tree.leaves(params)]
    bottom = 96 + sum(size + 8 + 8 * axes for size, axes in arrays)
    frames = sum(m.frame for m in cost.messages) + 2 * bottom
    more = sum(
        algorithms.took(a) - algorithms.took(b)
        for a, b in zip(every, draws, strict=True)
    )
    assert algorithms.in_global_batches(cost, people, every) == pytest.approx(
        formula + more * frames / 3
    )


def test_clients_are_judged_on_their_own_records_or_on_such():
    right = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    part = {"label": np.array([0, 0, 1, 1]), "group": np.array(["a", "a", "b", "b"])}
    labels = np.array([0, 0, 0, 1])
    hospitals = population.Population((np.array([0, 1]), np.array([2, 3])), ("a", "b"))
    found = compare_rounds.measured(right, part, hospitals, labels)
    assert (
        found["each_client"] == [1, 0.5]
        and found["accuracy"] == found["balanced"] == 0.75
    )
    others = hospitals._replace(
        names=("client 0", "client 1")
    )  # of whom the part has no records
    found = compare_rounds.measured(right, part, others, labels)
    assert found["each_client"] == [1, 0.5] and found["accuracy"] == 0.5
    assert compare_rounds.measured(right[:1], part, others, labels)["each_client"] == [
        1,
        0.5,
    ]


def test_a_file_says_whose_its_records_are_and_nobody_is_tested_who_was_trained_on(
    tmp_path,
):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 16, 2)).astype("float32"), np.arange(40) % 2
    file = tmp_path / "ecg.npz"
    np.savez(
        file,
        x_train=x,
        y_train=y,
        rec_train=np.repeat([100, 201], 20),
        x_test=x,
        y_test=y,
        rec_test=np.repeat([202, 203], 20),
    )
    data = harness.records(str(file))
    assert data.grouping == "patient" and data.classes == 2
    assert [len(part["label"]) for part in (data.train, data.valid, data.test)] == [
        34,
        6,
        20,
    ]
    assert {*data.train["group"]} == {"100", "201"} and {*data.test["group"]} == {"203"}


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        (figure3, ["--passes", "7"], "expected a multiple of 5, got 7"),
        (
            figure3,
            ["--data", "nothing"],
            "`data` must be one of breast_cancer, digits or the path of an .npz file",
        ),
        (figure3, ["--clients", "2000"], "2000 is more than the 1144 training records"),
        (compare_rounds, ["--rounds", "0"], "expected a positive integer, got '0'"),
        (
            compare_rounds,
            ["--data", "nothing"],
            "`data` must be one of breast_cancer, digits or the path of an .npz file",
        ),
    ],
)
def test_a_bad_argument_is_refused(script, arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(arguments)
    assert stop.value.code == 2 and expected in capsys.readouterr().err
