"""The main job, on a few steps of a small data set: its laws, its rows, its figures."""

import json

import pytest
from flax import nnx

from experiments.common.models import CONFIGURATIONS
from experiments.paper import demo, whole_and_split

ROW = {
    "configuration",
    "data",
    "records",
    "second_task",
    "seed",
    "steps",
    "batch",
    "optimizer",
    "precision",
    "compilation",
    "tasks",
    "accuracy",
    "loss",
    "difference",
    "difference_statistics",
    "curves",
    "family",
    "versions",
}
SPLIT = {
    "whole",
    "difference_messages",
    "steps_messages",
    "bytes_up",
    "bytes_down",
    "messages",
    "sees",
}


def test_demo_trains_whole_split_and_by_messages_to_the_same_parameters(tmp_path):
    names = ("vertical", "multitask")
    small = [
        "--data",
        "breast_cancer",
        "--configurations",
        *names,
        "--steps",
        "3",
        "--out",
        str(tmp_path),
    ]
    rows = demo.main(small)
    assert [r["configuration"] for r in rows] == [
        "whole",
        "vertical",
        "whole, two tasks",
        "multitask",
    ]
    assert rows == json.loads((tmp_path / "demo.json").read_text())
    for row in rows:
        split = row["configuration"] in CONFIGURATIONS
        assert ROW | (SPLIT if split else set()) == row.keys()
        assert (
            len(row["curves"]["step"])
            == len(row["curves"]["loss"])
            == len(row["curves"]["difference"])
            == 1
        )
        assert row["difference"] < 1e-5 and row["difference_statistics"] < 1e-5
        if split:
            assert row["difference_messages"] < 1e-5
            assert (
                row["bytes_up"]
                == sum(m["bytes"] for m in row["messages"] if m["kind"] == "activation")
                > 0
            )
    assert rows[1]["sees"]["size_lab"]["fields"] == ["size"]
    assert rows[1]["sees"]["hospital"]["fields"] == ["malignant"]
    assert rows[1]["sees"]["hospital"]["proven"] == []
    for name in ("demo_breast_cancer.png", "demo_configurations.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_difference_sees_another_seed():
    options = demo.parse(["--data", "breast_cancer", "--steps", "2"])
    data = options.loaded[0]
    fields = {name: data.train[name].shape[1:] for name in data.owners}
    weights = []
    for seed in (0, 1):
        family = demo.Family(
            fields, data.owners, data.client, data.tasks, seed, "float32"
        )
        weights.append(
            whole_and_split.flat(
                nnx.to_pure_dict(
                    nnx.state(demo.network(family, {"malignant": 2}), nnx.Param)
                )
            )
        )
    assert demo.difference(weights[0], weights[0]) == 0
    assert demo.difference(*weights) > 0.1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--data", "nothing"],
            "`data` must be one of breast_cancer, digits or the path of an .npz file, "
            "got 'nothing'.",
        ),
        (["--configurations", "ring"], "invalid choice: 'ring'"),
        (["--steps", "0"], "expected a positive integer, got '0'"),
        (
            ["--data", "breast_cancer", "--batch", "1000"],
            "1000 is more than the training records of breast_cancer",
        ),
        (["--epochs", "1", "--steps", "1"], "not allowed with argument"),
    ],
)
def test_a_bad_argument_is_one_clear_line(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1
