"""Every code block of the README runs, in order, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import optax

import jsplit
from tests.helpers import cross_entropy, make_problem

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "readme"}
    blocks = [code for language, code in BLOCKS if language == "python"]
    assert len(blocks) >= 5
    for code in blocks:
        exec(compile(code, "README.md", "exec"), names)
        if (
            "jsplit.variables" in code
        ):  # the whole model computes what the trainer predicts
            y = names["y"] if "y" in names else names["net"](names["batch"]["record"])
            predicted = names["trainer"].predict(
                names["state"], {"record": names["batch"]["record"]}
            )["output"]
            assert abs(y - predicted).max() < 1e-5
    assert names["logits"].shape == (64, 2) and names["h"].shape == (64, 16)
    printed = capsys.readouterr().out
    assert "hospital" in printed and "cotangent" in printed and "flowchart" in printed


def test_the_commands_are_targets_of_the_makefile():
    targets = set(
        re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    commands = [
        line.split("#")[0].split()
        for language, code in BLOCKS
        if language == "bash"
        for line in code.splitlines()
    ]
    assert commands == [["make", "demo"], ["make", "test"]]
    assert {c[1] for c in commands} <= targets


def test_the_example_is_short():
    example = next(code for language, code in BLOCKS if language == "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_the_python_blocks_of_the_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = make_problem("vanilla", "cnn", "nnx")
    topology = jsplit.vanilla(
        *[n.segment for n in problem.topology.segments],
        loss=cross_entropy,
        client="hospital",
    )
    for page in sorted((ROOT / "docs").glob("*.md")):
        given = {
            "model": problem.whole,
            "topology": topology,
            "batch": problem.batch,
        }
        names = {"jax": jax, "jsplit": jsplit, "optax": optax, **given}
        for language, code in re.findall(
            r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL
        ):
            if language == "python":
                exec(compile(code, page.name, "exec"), names)
        assert names.keys() > given.keys(), page
    assert {"cost.png", "plan.png"} <= {f.name for f in tmp_path.iterdir()}
