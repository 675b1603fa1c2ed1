"""`jsplit report`: what it trains is what was agreed, on a file or on the parties' own data."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jsplit
from jsplit import command, party
from jsplit.commands.archives import nested
from jsplit.privacy import Report, attempts, report

PARTS = """
import jax, jsplit, numpy as np, optax

def layer(reads, name, out):
    draw = lambda key, x: jax.random.normal(key, (x.shape[-1], out)) / 2
    return jsplit.segment(lambda w, x: x @ w, init=draw, inputs=[reads], name=name)

TOPOLOGY = jsplit.vanilla(
    layer("x", "h", 4), layer("h", "y", 2),
    loss=optax.softmax_cross_entropy_with_integer_labels,
)
rng = np.random.default_rng(0)
X = rng.normal(size=(64, 3)).astype("float32")
DATA = {"client": {"x": X}, "server": {"label": (X[:, 0] > 1).astype("int32")}}
BATCH = {"x": X[:16], "label": DATA["server"]["label"][:16]}

def agreed():
    return jsplit.party.agreement(
        TOPOLOGY, BATCH, steps=7, addresses={"server": "localhost:8476"},
        links={"h": "quantize(2)"}, seed=4,
    )

def part(name):
    return {"own": TOPOLOGY, "data": DATA[name], "optimizer": optax.sgd(0.1)}

def sorted_otherwise(name):
    return part(name) | {"ids": [*range(64)][:: 1 if name == "client" else -1]}

def raises(name):
    raise ValueError("my file has no rows")
"""
FEW = ["--attack", "norm", "--watched", "2", "--attacked", "16"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("parts", None)
    parts = importlib.import_module("parts")
    party.write("agreement.json", parts.agreed())
    yield parts
    sys.modules.pop("parts", None)


@pytest.mark.slow  # a process of its own, and two programs
def test_the_command_reports_what_report_does_with_and_without_the_agreed_links(folder):
    words = ["report", "agreement.json", "parts.py:part", *FEW, "--out", "found"]
    done = subprocess.run(
        [sys.executable, "-m", "jsplit", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = Report.from_json(Path("found/report.json").read_text())
    assert [o.name for o in found.outcomes] == ["without links", "as agreed"]
    assert str(found) in done.stdout
    files = sorted(os.listdir("found"))
    assert files == [f"report.{e}" for e in ("html", "json", "md", "txt")]
    for name in files:
        assert stat.S_IMODE(os.stat(f"found/{name}").st_mode) == 0o600
    # By hand, of the whole topology: the agreed steps, batch, seed, links, optimizer.
    optimizer = folder.part("client")["optimizer"]
    links = {"h": jsplit.compress.quantize(2)}
    trainers = [jsplit.fused(folder.TOPOLOGY, optimizer, links=x) for x in ({}, links)]
    data = {**folder.DATA["client"], **folder.DATA["server"]}
    norm = [a for a in attempts() if a.name == "norm"]
    options = {"watched": 2, "attacked": 16, "batch": 16, "epochs": 3, "key": 4}
    again = report(
        trainers[0], data, attacks=norm, defences={"links": trainers[1]}, **options
    )
    for one, other in zip(found.outcomes, again.outcomes, strict=True):
        assert one.steps == 9 and one.losses == pytest.approx(other.losses, rel=1e-5)
        assert one.bytes == other.bytes
        pairs = zip(one.findings, other.findings, strict=True)
        assert all(a.score.value == b.score.value for a, b in pairs)
    assert found["as agreed"].bytes < found["without links"].bytes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("parts.py:part --data nowhere.npz", "nowhere.npz"),
        ("parts.py:part --data parts.py", "`--data` must be an archive of NumPy"),
        ("parts.py:part --data short.npz", "must have the 16 records of a batch"),
        ("parts.py:part --data half.npz", "lacks label"),
        ("parts.py:part --data wide.npz", "the agreement says float32"),
        ("parts.py:part --data all.npz --known 60", "`known` must be fewer"),
        ("parts.py:part --epochs 0", "`epochs` must be a positive integer"),
        ("parts.py:part --range x=2:1", "`--range` must be field=low:high"),
        ("parts.py:part --range x=0:inf", "`--range` must be field=low:high"),
        ("parts.py:part --data deep.npz", "'x/0/1' beside an array that would hold it"),
        ("parts.py:part --data beside.npz", "'x' beside an array that would hold it"),
        ("parts.py:part --out parts.py", "`--out` must be a folder"),
        ("parts.py:part --part lab=parts.py:part", "`--part` must be party="),
        ("parts.py:part --client north", "`--client` is of clients that take turns"),
        ("parts.py:sorted_otherwise", "`ids` of `server` are others"),
        ("parts.py:part --part server=parts.py:raises", "my file has no rows"),
    ],
)
def test_what_cannot_be_reported_on_is_one_line_and_never_passes_by_itself(
    folder, capsys, words, said
):
    x, label = folder.X, folder.DATA["server"]["label"]
    np.savez("short.npz", x=x[:10], label=label[:10])
    np.savez("half.npz", x=x)
    np.savez("deep.npz", **{"x/0": x, "x/0/1": x})
    np.savez("beside.npz", **{"x/0": x, "x": x})
    np.savez("all.npz", x=x, label=label, other=np.array(["text"]))
    np.savez("wide.npz", x=x.astype("int32"), label=label)
    assert command.main(["report", "agreement.json", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jsplit report: ") and said in error
    assert "raised in" in error or "raises" not in words
    assert not os.path.exists("report")


def test_fields_of_several_arrays_are_named_by_path():
    arrays = {"x": 1, "scan/0": 2, "scan/1": 3, "both/left": 4, "both/right/0": 5}
    both = {"left": 4, "right": [5]}
    assert nested(arrays) == {"x": 1, "scan": [2, 3], "both": both}
