"""Measures in a topology: each is a `Metric`, and distance correlation trains as a `Penalty`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import privacy

KEY = jax.random.key(0)


def topology(*more) -> jsplit.Topology:
    def bottom(params, record):
        return jnp.tanh(record @ params)

    def top(params, smashed):
        return smashed @ params

    def weights(rows, columns):
        return lambda key, x: 0.5 * jax.random.normal(key, (rows, columns))

    def mse(output, label):
        return (output[:, 0] - label) ** 2

    return jsplit.Topology(
        nodes=[
            jsplit.Node(
                "smashed",
                jsplit.segment(bottom, init=weights(6, 4)),
                "hospital",
                ["record"],
            ),
            jsplit.Node(
                "output", jsplit.segment(top, init=weights(4, 1)), "server", ["smashed"]
            ),
            jsplit.Loss("loss", mse, "server", ["output", "label"]),
            *more,
        ],
        holds={"hospital": ["record"], "server": ["label"]},
    )


def data(records: int = 512) -> dict[str, np.ndarray]:
    record = np.random.default_rng(0).normal(size=(records, 6)).astype("float32")
    return {"record": record, "label": (record[:, 0] > 0).astype("float32")}


MEASURES = {
    "dcor": (lambda r, h: privacy.distance_correlation(r, h), "hospital", "record"),
    "batched": (
        lambda r, h: privacy.dependence(r, h, KEY, batch=64).corrected.value,
        "hospital",
        "record",
    ),
    "nats": (
        lambda r, h: privacy.information_bound(r, h, KEY, batch=64).value,
        "hospital",
        "record",
    ),
    "read": (lambda r, h: privacy.probe(h, r, KEY).value.value, "hospital", "record"),
    "leak": (lambda y, h: privacy.leak_auc(h[:, 0], y).value, "server", "label"),
    "mi": (
        lambda y, h: privacy.mutual_information(h[:, 0], h[:, 1], KEY).value,
        "server",
        "label",
    ),
    "mse": (
        lambda r, h: privacy.reconstruction(r[:, :4], h, KEY, count=40).mse.value,
        "hospital",
        "record",
    ),
}


def test_each_is_a_metric_of_a_topology():
    metrics = [
        jsplit.Metric(name, fn, party, [field, "smashed"])
        for name, (fn, party, field) in MEASURES.items()
    ]
    trainer, batch = jsplit.fused(topology(*metrics), optax.sgd(0.1)), data()
    state = trainer.init(KEY, batch)
    halves = [{f: x[i::2] for f, x in batch.items()} for i in range(2)]
    found = trainer.evaluate(state, halves).metrics
    assert {*found} == {*MEASURES}
    # Of all records at once: what a measure gives of the values themselves.
    joined = {f: np.concatenate([h[f] for h in halves]) for f in batch}
    params = np.asarray(state.parties["hospital"].params["smashed"])
    smashed = np.tanh(joined["record"] @ params)
    for name in ("dcor", "nats", "leak", "mse"):
        fn, _, field = MEASURES[name]
        want = float(fn(joined[field], smashed))
        assert found[name] == pytest.approx(want, abs=2e-3)


def test_as_a_metric_distance_correlation_takes_weights():
    metric = jsplit.Metric(
        "dcor",
        privacy.distance_correlation,
        "hospital",
        ["record", "smashed"],
        weighted=True,
    )
    trainer, batch = jsplit.fused(topology(metric), optax.sgd(0.1)), data(64)
    state = trainer.init(KEY, batch)
    weight = (np.arange(64) < 40).astype("float32")
    found = trainer.evaluate(state, [(batch, weight)]).metrics["dcor"]
    alone = trainer.evaluate(state, {f: x[:40] for f, x in batch.items()})
    assert found == pytest.approx(alone.metrics["dcor"], abs=1e-5)


def test_as_a_penalty_distance_correlation_falls_in_training():
    """NoPeek: with the weight 0 of a plain run it does not; records may be equal."""
    batch = data(64)
    batch["record"][7] = batch["record"][3]
    found = {}
    for weight in (0.0, 2.0):
        penalty = jsplit.Penalty(
            "nopeek",
            privacy.distance_correlation,
            "hospital",
            ["record", "smashed"],
            weight,
        )
        trainer = jsplit.fused(topology(penalty), optax.adam(0.02))
        state = trainer.init(KEY, batch)
        for _ in range(60):
            state, info = trainer.step(state, batch)
        found[weight] = float(info.losses["nopeek"])
        assert np.isfinite(float(info.loss))
    assert found[2.0] < found[0.0] - 0.1
