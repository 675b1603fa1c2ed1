"""Metrics over all clients' examples of a round, and of each client alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import population, rounds
from tests.rounds.common import ALGORITHMS, people
from tests.training.common import dense, refused
from tests.training.test_metrics import AUC, FIELDS, auc, square, topology


@pytest.mark.parametrize(
    "name", ["centralized", "turns, own bottoms", "parallel", "fedavg"]
)
def test_an_auc_of_a_round_is_of_all_examples_whatever_the_batches(name):
    """Clients of 13, 20 and 31 records: batches are ragged, and what fills them up is left out."""
    who = people([13, 20, 31]) if name != "centralized" else people([64])
    trainer = jsplit.fused(topology(AUC), optax.sgd(0.1))
    algorithm = ALGORITHMS[name](trainer)
    found = []
    for batch in (64, 10, 4):
        drawn = who.round(FIELDS, 0, batch=batch)
        state = algorithm.init(0, drawn)
        found.append(algorithm.evaluate(state, drawn))
    y = np.asarray(trainer.predict(trainer.init(0, FIELDS), {"x": FIELDS["x"]})["y"])
    for info in found:
        assert info.metrics["auc"] == pytest.approx(auc(y, FIELDS["label"]), abs=1e-9)
        for k, records in enumerate(who.records):
            alone = auc(y[records], FIELDS["label"][records])
            assert info.each["auc"][k] == pytest.approx(alone, abs=1e-9)
        assert float(info.loss) == pytest.approx(float(found[0].loss), rel=1e-6)


def test_a_client_s_own_bottom_is_what_its_metric_is_of():
    """After a round of own bottoms, through a link: each client's scores are its own."""
    trainer = jsplit.fused(
        topology(AUC), optax.sgd(0.5), links={"h": jsplit.compress.cast("bfloat16")}
    )
    algorithm = rounds.take_turns(trainer, "client", handoff="none")
    who = people([24, 40])
    drawn = who.round(FIELDS, 0, batch=8)
    state, info = algorithm.step(algorithm.init(0, drawn), drawn)
    assert info.metrics == {}
    found = algorithm.evaluate(state, drawn)
    scores = np.zeros((64, 3), np.float32)
    for k, records in enumerate(who.records):
        one = {"x": FIELDS["x"][records]}
        scores[records] = algorithm.predict(state, one, client=k)["y"]
    assert found.metrics["auc"] == pytest.approx(auc(scores, FIELDS["label"]))


def test_a_client_of_one_class_has_no_auc_and_all_together_have_one():
    def strict(y, label):
        if len({*label.tolist()}) < 2:
            raise ValueError("one class alone")
        return auc(y, label)

    order = np.argsort(FIELDS["label"], kind="stable")
    halves = population.Population((order[:10], order[10:]), ("one", "both"))
    metric = jsplit.Metric("auc", strict, "server", ["y", "label"])
    algorithm = rounds.fedavg(jsplit.fused(topology(metric), optax.sgd(0.1)))
    drawn = halves.round(FIELDS, 0, batch=8)
    state = algorithm.init(0, drawn)
    with pytest.warns(
        UserWarning, match="`auc` cannot be computed of the clients one "
    ):
        found = algorithm.evaluate(state, drawn)
    assert np.isnan(found.each["auc"]).tolist() == [True, False]
    assert 0 < found.metrics["auc"] < 1


def test_a_number_for_a_batch_is_called_a_mean_of_batches_in_rounds():
    one = jsplit.Loss(
        "one", lambda y, t: square(y, t).max(), "server", ["y", "label"], 0
    )
    algorithm = rounds.centralized(jsplit.fused(topology(one), optax.sgd(0.1)))
    drawn = people([64]).round(FIELDS, 0, batch=16)
    state = algorithm.init(0, drawn)
    with pytest.warns(UserWarning, match="loss `one` of weight 0"):
        found = algorithm.evaluate(state, drawn)
    assert jnp.isfinite(found.losses["one"])


def test_a_round_that_lacks_what_a_metric_reads_is_refused():
    plain = topology()
    metric = jsplit.Metric("m", np.mean, "server", "group")
    whole = jsplit.Topology(
        [*plain.nodes, metric], {**plain.holds, "server": ["label", "group"]}
    )
    algorithm = rounds.fedavg(jsplit.fused(whole, optax.sgd(0.1)))
    drawn = people([64]).round(FIELDS, 0, batch=16)
    state, _ = algorithm.step(algorithm.init(0, drawn), drawn)
    refused(
        "the round lacks the field `group`", lambda: algorithm.evaluate(state, drawn)
    )


def test_what_a_record_of_weight_0_holds_is_read_by_no_metric():
    """A bottom that looks at its whole batch would show it."""
    bottom = jsplit.segment(
        lambda w, x: (x - x.mean(0)) @ w,
        init=lambda key, x: jnp.ones((4, 3)),
        inputs=["x"],
        name="h",
    )
    top = dense(["h"], "y")
    mean = jsplit.Metric(
        "mean", lambda y, label: float(y.mean()), "server", ["y", "label"]
    )
    made = jsplit.vanilla(bottom, top, loss=square).add(mean)
    algorithm = rounds.splitfed(jsplit.fused(made, optax.sgd(0.1)), "client")
    drawn = people([8, 8]).round(FIELDS, 0, batch=4)
    known = np.ones(64)
    known[drawn.reads[0, 0, 1]] = 0
    drawn = drawn.counting(known)
    expected = algorithm.evaluate(algorithm.init(0, drawn), drawn).metrics
    spoilt = {**FIELDS, "x": FIELDS["x"].copy()}
    spoilt["x"][known == 0] = np.nan
    drawn = drawn._replace(fields=spoilt)
    found = algorithm.evaluate(algorithm.init(0, drawn), drawn).metrics
    assert found == expected and np.isfinite(found["mean"])
