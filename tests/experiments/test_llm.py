"""The language model between a clinic and servers: a small twin is the whole one, in every row."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.common import clinic, llama, plain_lora
from experiments.network.delayed_link import left_at
from experiments.paper import llm
from tests.experiments.test_llama import CONFIG, TOKENS, by_numpy, weights
from tests.oracles import difference
from tests.slicing.gguf_files import gguf_file

STEPS = 3


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The experiment's rows of a twin of three blocks, one of them at the server."""
    tiny = replace(clinic.TWIN, layers=3, width=16, hidden=16, heads=2, groups=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clinic, "TWIN", tiny)
        small = ["--small", "--batch", "2", "--length", "6", "--steps", str(STEPS)]
        small += ["--out", str(tmp_path_factory.mktemp("llm"))]
        return llm.main([*small, "--only", "plain", "fused", "messages"])


@pytest.mark.parametrize("way", ["fused", "messages"])
def test_adapters_between_clinic_and_server_learn_as_plain_optax(way, rows):
    whole, divided = rows["plain"]["losses"], rows[way]["losses"]
    assert len(whole) == len(divided) == STEPS
    assert difference(np.array(whole), np.array(divided)) < 1e-5
    # They do learn: the second batch read twice as well as at first would show less.
    assert len({*whole}) == STEPS


def test_bytes_of_a_token_are_its_width_in_float32_each_way_twice(rows):
    """An activation and a cotangent up, and as much down."""
    for way in ("up", "down"):
        assert rows["messages"][way] == 2 * 12 * 16 * 4


def test_the_whole_model_is_filled_without_jsplit(tmp_path):
    file = gguf_file(tmp_path / "model.gguf", weights())
    model = llama.adapted(llama.shapes_of(CONFIG), 2, rngs=nnx.Rngs(0))
    plain_lora.read(model, file)
    graph, state = nnx.split(model)
    logits = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, TOKENS[:1])
    expected = by_numpy(TOKENS[0], False)
    assert difference(logits[0], expected) < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("layers", "count"), [(3, 1), (6, 1), (6, 3), (30, 1), (30, 3)]
)
def test_the_clinic_has_both_ends_and_every_server_a_block(layers, count):
    config = replace(clinic.TWIN, layers=layers)
    after = [
        int(at.removeprefix("blocks.")) for at in clinic.cuts(config, count).values()
    ]
    assert 0 <= after[0] and after[-1] < layers - 1
    assert all(a < b for a, b in zip(after, after[1:], strict=False))
    whose = clinic.owners(count)
    assert whose["up"] == whose["output"] == clinic.CLINIC
    assert len({*whose.values()}) == count + 1


def test_a_label_is_the_token_after():
    batch = clinic.Task(small=True, batch=2, length=5).fields(7)
    assert np.array_equal(batch["tokens"][:, 1:], batch["label"][:, :-1])
    flat = np.concatenate([*batch["tokens"]])
    assert batch["label"][0, -1] == flat[5]


def test_a_line_lets_bytes_through_one_after_the_other():
    assert left_at(1.0, 0.0, 1000, 8000.0) == 2.0
    assert left_at(1.0, 5.0, 1000, 8000.0) == 6.0
    assert left_at(1.0, 0.5, 1000, math.inf) == 1.0


def test_what_was_measured_is_kept_when_a_row_fails(tmp_path, monkeypatch):
    row = {"losses": [2.0, 1.0], "seconds": 1.0}

    def broken(task, steps, keep):
        keep({"losses": [2.0]})
        raise RuntimeError("killed")

    parts = {"plain": lambda task, steps, keep: dict(row), "fused": broken}
    monkeypatch.setattr(llm, "PARTS", parts)
    with pytest.raises(RuntimeError, match="killed"):
        llm.main(["--small", "--steps", "2", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    there = json.loads(file.read_text())
    assert there["plain"]["losses"] == [2.0, 1.0]
    assert there["fused"]["losses"] == [2.0]
    assert llm.lacking(there, 2) == ["fused"]
    assert llm.lacking(there, 3) == ["plain", "fused"]


@pytest.mark.slow
def test_a_chain_of_servers_and_two_processes_learn_the_same(tmp_path):
    small = ["--small", "--batch", "2", "--length", "8", "--steps", str(STEPS)]
    only = ["plain", "chain", "loopback", "line-100"]
    rows = llm.main([*small, "--out", str(tmp_path), "--only", *only])
    for way in only[1:]:
        assert len(rows[way]["losses"]) == STEPS
        assert llm.furthest(rows[way]["losses"], rows["plain"]["losses"]) < 1e-5
    # Two values each way, one after the other: at least two times there and back.
    assert rows["line-100"]["seconds"] > 0.2
