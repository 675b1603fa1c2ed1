"""A step that is watched tells norms, rates and seconds, and trains as it would have."""

from __future__ import annotations

import gzip
import json
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.training.walk import Op
from tests.helpers import make_problem
from tests.training.common import INTERPRETERS, both, close, learned, refused
from tests.training.test_record import BATCH, same_bits, vanilla

WATCHED = {"crossed": False, "norms": True, "hyperparams": True}


def rated(rate=0.1):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate)


def watched_steps(trainer, batch, steps=1, **options):
    recording = jsplit.record(trainer, **WATCHED | options)
    state, told = recording.init(0, batch), []
    for _ in range(steps):
        state, found = recording.step(state, batch)
        told.append(found)
    return state, told


@pytest.mark.parametrize("microbatches", [1, 2])
@both
def test_the_norms_of_all_parties_are_the_norm_of_the_whole_models_gradient(
    interpreter, microbatches
):
    trainer = INTERPRETERS[interpreter](vanilla(), rated(), microbatches=microbatches)
    first = trainer.init(0, BATCH)
    w = first.parties["client"].params["smashed"]
    v = first.parties["server"].params["output"]

    def loss(params):
        w, v = params
        logits = jnp.tanh(BATCH["x"] @ w) @ v
        label = BATCH["label"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    by_w, by_v = jax.grad(loss)((w, v))
    _, (told,) = watched_steps(trainer, BATCH)
    close(told.gradient_norm, optax.tree.norm((by_w, by_v)))
    close(told.norms["client"].gradient["smashed"], np.linalg.norm(by_w))
    close(told.norms["server"].update["output"], 0.1 * np.linalg.norm(by_v))
    close(told.update_norm, 0.1 * told.gradient_norm)
    assert told.crossed == {} and told.gradients == {}


@pytest.mark.parametrize("model", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
@both
def test_a_watched_step_leaves_the_bits_of_the_plain_one(interpreter, model):
    problem = make_problem("vanilla", model, "nnx")
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    trainer = INTERPRETERS[interpreter](problem.topology, optimizer)
    state, losses = trainer.init(0, problem.batch), []
    for _ in range(3):
        state, info = trainer.step(state, problem.batch)
        losses.append(info.losses)
    kept, told = watched_steps(trainer, problem.batch, 3)
    same_bits(learned(state), learned(kept))
    same_bits(losses, [t.info.losses for t in told])
    assert told[0].gradient_norm > 0


def test_a_step_that_is_left_out_adds_nothing_and_rates_are_those_used():
    schedule = optax.inject_hyperparams(optax.sgd)(lambda count: 0.1 / (1 + count))
    # One party's optimizer has a rate in its state, and one's has none.
    optimizer = {"client": schedule, "server": optax.sgd(0.1)}
    spoiled = {"x": BATCH["x"].copy(), "label": BATCH["label"]}
    spoiled["x"][0, 0] = np.nan
    batches = jax.tree.map(lambda *x: jnp.stack(x), BATCH, spoiled, BATCH)
    trainer = jsplit.fused(vanilla(), optimizer, nonfinite="skip")
    recording = jsplit.record(trainer, **WATCHED)
    _, told = jax.jit(lambda s, b: jax.lax.scan(recording.step, s, b))(
        trainer.init(0, BATCH), batches
    )
    first, left, last = np.asarray(told.update_norm).tolist()
    assert first > 0 and left == 0 and last > 0
    rates = told.hyperparams["client"]["learning_rate"]
    # The step that was left out has not been counted by the schedule either.
    close(rates, np.array([0.1, 0.05, 0.05], "float32"))
    assert told.hyperparams["server"] == {}


def test_hyperparameters_are_found_wherever_they_lie_and_none_is_said():
    inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    outer = optax.chain(optax.scale(1.0), rated(0.25), inner)
    _, (told,) = watched_steps(jsplit.fused(vanilla(), outer), BATCH)
    found = told.hyperparams["client"]
    assert {n: float(x) for n, x in found.items()} == {
        "learning_rate": 0.25,
        "learning_rate.1": 0.5,
    }
    with pytest.warns(UserWarning, match="no party's optimizer has any"):
        watched_steps(jsplit.fused(vanilla(), optax.sgd(0.1)), BATCH)


def test_seconds_are_by_party_and_no_more_than_the_step_took():
    trainer = jsplit.messages(vanilla(), optax.sgd(0.1), microbatches=2)
    recording = jsplit.record(trainer, crossed=False, seconds=True)
    state = recording.init(0, BATCH)
    kept, _ = recording.step(state, BATCH)
    began = time.perf_counter()
    kept, told = recording.step(state, BATCH)
    took = time.perf_counter() - began
    assert told.seconds.keys() == {"client", "server"}
    assert all(x > 0 for x in told.seconds.values())
    assert sum(told.seconds.values()) <= took
    same_bits(learned(kept), learned(trainer.step(state, BATCH)[0]))
    alone = jsplit.fused(vanilla(), optax.sgd(0.1))
    loss = jax.jit(lambda state: recording.step(state, BATCH)[1].info.loss)
    refused("one program of all parties", lambda: loss(state))
    refused("one program of all parties", lambda: jsplit.record(alone, seconds=True))
    refused("nothing is to be recorded", lambda: jsplit.record(trainer, crossed=False))


@both
def test_programs_name_parties_and_segments_and_are_the_same_without_names(
    interpreter, monkeypatch
):
    def lowered():
        trainer = INTERPRETERS[interpreter](vanilla(), optax.sgd(0.1))
        state = trainer.init(0, BATCH)
        step = jax.jit(lambda s, b: jax.tree.leaves(trainer.step(s, b)[0]))
        return step.lower(state, BATCH)

    named = lowered()
    found = str(named.as_text(debug_info=True))
    for words in (
        "client/forward smashed/",
        "client/backward smashed/",
        "server/forward output/",
        "server/loss loss/",
        "server/update",
    ):
        assert f"{words}" in found, words
    monkeypatch.setattr(Op, "scope", property(lambda self: "plain"))
    bare = lowered()
    assert "client/forward" not in str(bare.as_text(debug_info=True))
    assert named.as_text() == bare.as_text()


def test_what_programs_are_called_is_no_longer_than_a_file_of_the_cache_may_be(
    tmp_path, caplog
):
    clients = [f"Röntgen-Abteilung {n} des Klinikums" for n in range(6)]
    bottoms = {
        client: jsplit.segment(
            lambda w, x: x * w, init=lambda key, x: jnp.float32(1), inputs=f"x{n}"
        )
        for n, client in enumerate(clients)
    }
    topology = jsplit.vertical(
        bottoms, jsplit.segment(lambda *h: sum(h)), loss=optax.squared_error
    )
    x = np.ones((2, 1), "float32")
    batch = {f"x{n}": x for n in range(6)} | {"label": x}
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    with jax.log_compiles():
        trainer.step(trainer.init(0, batch), batch)
    found = [re.match(r"Compiling jit\((.*?: .*)\) with", m) for m in caplog.messages]
    names = [match[1] for match in found if match]
    assert len(names) >= 13  # forward and back of each client, and the server's
    # Beside the name JAX has a prefix, a digest of 64 characters, and what it is.
    for name in names:
        (tmp_path / f"jit_{name}-{64 * '0'}-atime").touch()
    for client in clients:
        starting = {name for name in names if name.startswith(f"{client}: ")}
        assert len(starting) == 2, names  # one going forward, one coming back


@pytest.mark.slow
def test_a_trace_of_the_profiler_shows_parties_by_name(tmp_path):
    trainer = jsplit.messages(vanilla(), optax.sgd(0.1))
    state, _ = trainer.step(trainer.init(0, BATCH), BATCH)
    with jax.profiler.trace(tmp_path):
        jax.block_until_ready(trainer.step(state, BATCH)[0].parties["client"].params)
    (file,) = tmp_path.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    calls = {e.get("name", "") for e in events}
    for words in ("client: forward smashed", "server: receive activation smashed"):
        assert any(f"PjitFunction({words}" in x for x in calls), (words, calls)
    # What runs on the device is named after its program.
    modules = {str(e.get("args", {}).get("hlo_module", "")) for e in events}
    assert any(x.startswith("jit_client_") for x in modules), modules
    assert any(x.startswith("jit_server_") for x in modules), modules
