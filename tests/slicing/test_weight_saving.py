"""Weights as safetensors by party: read by that package alone, and by `load` to the bit."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import load_file

import jsplit

BATCH = {"x": np.ones((4, 3), np.float32), "label": np.zeros(4, np.int32)}
LOSS = optax.softmax_cross_entropy_with_integer_labels


class Net(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs, param_dtype=jnp.bfloat16)

    def __call__(self, x):
        return self.head(jsplit.cut(nnx.relu(self.norm(self.stem(x))), "smashed"))


def parts_of(seed=0):
    return jsplit.split(Net(seed), BATCH["x"])


def started(parts, client="north/lab"):
    """A trainer, and a state that no start has: 1 more, in every weight and statistic."""
    topology = jsplit.vanilla(*parts.values(), loss=LOSS, client=client)
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    state = trainer.init(1, BATCH)
    parties = {
        party: own._replace(
            params=jax.tree.map(lambda x: x + 1, own.params),
            state=jax.tree.map(lambda x: x + 1, own.state),
        )
        for party, own in state.parties.items()
    }
    return trainer, state._replace(parties=parties)


def bits(tree):
    leaves = jax.tree.leaves(tree)
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in leaves]


def test_what_is_saved_is_loaded_to_the_bit_and_has_the_model_s_own_paths(tmp_path):
    _, state = started(parts_of())
    files = jsplit.save_safetensors(tmp_path / "weights", state)
    assert [f.name for f in files] == ["north%2Flab.safetensors", "server.safetensors"]
    own = load_file(files[0])
    params = state.parties["north/lab"].params["smashed"]
    np.testing.assert_array_equal(own["stem.kernel"], params["stem"]["kernel"])
    assert {*own} == {
        *(f"stem.{x}" for x in ("kernel", "bias")),
        *(f"norm.{x}" for x in ("scale", "bias", "mean", "var")),
    }
    assert files[0].stat().st_mode & 0o077 == 0
    # Another seed, so what is equal afterwards has come from the files.
    trainer, _ = started(jsplit.load(parts_of(seed=5), files))
    again = trainer.init(3, BATCH)
    for party, one in state.parties.items():
        assert bits(again.parties[party].params) == bits(one.params)
        assert bits(again.parties[party].state) == bits(one.state)
    alone = jsplit.load({"smashed": parts_of(seed=5)["smashed"]}, files[0])
    assert bits(alone["smashed"].init(jax.random.key(0))[0]) == bits(params)


def test_nodes_with_leaves_of_one_path_are_told_apart(tmp_path):
    def dense(seed, name, reads):
        module = nnx.Linear(3, 3, rngs=nnx.Rngs(seed))
        return jsplit.segment(module, inputs=[reads], name=name)

    nodes = [
        jsplit.Node("h", dense(0, "h", "x"), party="lab", inputs=["x"]),
        jsplit.Node("g", dense(1, "g", "h"), party="lab", inputs=["h"]),
        jsplit.Node("y", dense(2, "y", "g"), party="server", inputs=["g"]),
        jsplit.Loss("loss", LOSS, party="server", inputs=["y", "label"]),
    ]
    holds = {"lab": ["x"], "server": ["label"]}
    topology = jsplit.Topology(nodes=nodes, holds=holds)
    state = jsplit.fused(topology, optax.sgd(0.1)).init(0, BATCH)
    lab, server = jsplit.save_safetensors(tmp_path, state)
    assert {*load_file(lab)} == {f"{n}/{x}" for n in "hg" for x in ("kernel", "bias")}
    assert {*load_file(server)} == {"kernel", "bias"}
    with open(lab, "rb") as f:
        about = json.loads(f.read(int.from_bytes(f.read(8), "little")))["__metadata__"]
    assert about == {"made_by": "jsplit", "party": "lab", "names": "node/path"}

    def of_node(entry):
        return entry.removeprefix("g/") if entry.startswith("g/") else None

    loaded = jsplit.load(dense(7, "g", "h"), lab, BATCH["x"], names=of_node)
    params, _ = loaded.init(jax.random.key(0), BATCH["x"])
    assert bits(params) == bits(state.parties["lab"].params["g"])


def test_of_many_clients_one_is_named(tmp_path):
    trainer, _ = started(parts_of(), client="hospital")
    relay = jsplit.rounds.take_turns(trainer, client="hospital")
    people = jsplit.population.iid(4, 2)
    state = relay.init(0, people.round(BATCH, 0, batch=2))
    with pytest.raises(ValueError, match="`client` must say whose weights"):
        jsplit.save_safetensors(tmp_path, state)
    files = jsplit.save_safetensors(tmp_path, state, client=1)
    assert load_file(files[0])["stem.kernel"].shape == (3, 4)
