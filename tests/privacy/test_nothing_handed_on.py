"""What a party hands to others has nothing of its records, labels, parameters or folders."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.wire.pipe import Pipe
from tests.party.federation import (
    Small,
    agreed_for,
    checked,
    layer,
    train_in_memory,
)

RNG = np.random.default_rng(7)
BATCH = {
    "x": RNG.normal(size=(8, 3)).astype("float32"),
    "label": RNG.normal(size=(8, 4)).astype("float32"),
}
TABLE = np.array([77317.25, 77318.25, 77319.25], np.float32)
"""What a model's code closes over: the means of its owner's records, say."""


def rows(tree) -> list[bytes]:
    """Rows of several numbers, as a file of any form would have them."""
    arrays = [np.asarray(x) for x in jax.tree.leaves(tree)]
    return [row.tobytes() for x in arrays for row in x.reshape(-1, x.shape[-1])]


def centred(w, x):
    return jnp.tanh((x - TABLE) @ w)


def with_table():
    bottom = jsplit.segment(
        centred,
        init=lambda key, x: jax.random.normal(key, (3, 4)),
        inputs=["x"],
        name="h",
    )
    return jsplit.vanilla(
        bottom, layer(["h"], "y"), loss=lambda y, label: (y - label) ** 2
    )


@cache
def u_shape():
    parts = layer(["x"], "u"), layer(["u"], "d"), layer(["d"], "y")
    return Small(jsplit.u_shaped(*parts, loss=lambda y, t: (y - t) ** 2), BATCH)


def files(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file()]


def test_no_frame_and_no_folder_of_another_holds_records_labels_or_parameters(
    tmp_path, monkeypatch
):
    sent, put = [], Pipe.put

    def tapped(self, chunk, timeout=None):
        sent.append(bytes(chunk))
        return put(self, chunk, timeout)

    monkeypatch.setattr(Pipe, "put", tapped)
    problem = u_shape()
    agreed = agreed_for(problem, steps=2, checkpoint=1)
    results = checked(
        train_in_memory(agreed, problem, checkpoint=lambda p: tmp_path / p)
    )
    own = {p: rows(r.state.params) for p, r in results.items()}
    frames = b"".join(sent)
    told = frames + str(agreed).encode() + repr(agreed.said).encode()
    # The tap sees what crosses.
    assert len(frames) > 2000
    for row in [*rows(BATCH), *own["client"], *own["server"]]:
        assert row not in told
    for folder in own:
        held = b"".join(f.read_bytes() for f in files(tmp_path / folder))
        for p, params in own.items():
            assert all((row in held) == (p == folder) for row in params), (p, folder)
        assert not [row for row in rows(BATCH) if row in held]


def test_what_is_exported_for_one_party_has_nothing_of_another_and_no_folder():
    topology = with_table()
    state = jsplit.fused(topology, optax.sgd(0.1)).init(0, BATCH)
    made = jsplit.export(topology, state, {"x": BATCH["x"]})
    own = {p: rows(x.params) for p, x in state.parties.items()}
    for owner, nodes in made.items():
        for one in nodes.values():
            found = bytes(one.serialize())
            for p, params in own.items():
                assert all((row in found) == (p == owner) for row in params)
            assert (TABLE.tobytes() in found) == (owner == "client")
            for folder in (Path(__file__).parent, Path(jax.__file__).parent):
                assert str(folder).encode() not in found
                assert str(folder) not in one.mlir_module()


def test_a_program_that_is_not_exported_keeps_its_places():
    """Of an error, say: the setting is one of JAX's for all."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    topology = with_table()
    state = jsplit.fused(topology, optax.sgd(0.1)).init(0, BATCH)
    jsplit.export(topology, state, {"x": BATCH["x"]})
    assert getattr(jax.config, name) == before
    with pytest.raises(ValueError, match="cannot be exported"):
        jsplit.export(topology, state, {"x": np.ones((8, 5), "float32")})
    assert getattr(jax.config, name) == before


def test_what_code_closes_over_is_in_no_text(caplog):
    """Views, costs, drawings, guarantees, programs of errors: names and shapes alone."""
    caplog.set_level(logging.DEBUG)
    topology = with_table()
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    found = jsplit.privacy.views(topology, BATCH)
    cost = jsplit.cost(topology, BATCH)
    told = [str(found), found.html(), found.json(), str(cost), cost.to_json()]
    told += [jsplit.mermaid(topology), str(topology), repr(topology), repr(trainer)]
    told.append(
        str(jsplit.privacy.guarantee(topology, BATCH, steps=1, batch=8, records=16))
    )

    def bends(w, x):
        return (
            jax.lax.scan(lambda c, t: (c * t, None), (x - TABLE)[:, :2], TABLE)[0] @ w
        )

    def branches(w, x):
        return jax.lax.cond(x.sum() > TABLE[0], lambda: x - TABLE, lambda: x[:1])

    def asks(w, x):
        return x - TABLE if (x - TABLE).sum() > 0 else x

    def off(w, x):
        return (x - TABLE) @ w @ jnp.asarray(TABLE)

    for bad in (bends, branches, asks, off):
        bottom = jsplit.segment(bad, init=lambda key, x: jnp.ones((3, 4)), inputs=["x"])
        whole = jsplit.vanilla(
            bottom, layer(["h"], "y"), loss=lambda y, t: (y - t) ** 2
        )
        with pytest.raises(Exception) as error:  # noqa: PT011
            jsplit.fused(whole, optax.sgd(0.1)).init(0, BATCH)
        told.append(str(error.value))
        assert "float32" in told[-1] or "bool" in told[-1]
    told.append(caplog.text)
    for number in TABLE:
        for text in (str(int(number)), f"{number / 1e4:.4f}"[:6]):
            assert not [t for t in told if text in t]
