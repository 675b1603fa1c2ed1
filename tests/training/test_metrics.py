"""A metric is a number of all examples of a set, however they are divided into batches."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.training.common import both, dense, refused

RNG = np.random.default_rng(3)
RECORDS = RNG.normal(size=(64, 4)).astype(np.float32)
FIELDS = {
    "x": RECORDS,
    "label": (RECORDS.sum(1) + 2 * RNG.normal(size=64) > 0).astype(np.float32),
}


def square(y, label):
    return (y[:, 0] - label) ** 2


def auc(y, label):
    """By definition: how often one of either class stands in the right order."""
    assert type(y) is np.ndarray and type(label) is np.ndarray
    order = np.sign(y[label > 0, 0][:, None] - y[label == 0, 0][None])
    return ((order + 1) / 2).mean()


def topology(*metrics, client="client"):
    bottom, top = dense(["x"], "h"), dense(["h"], "y")
    plain = jsplit.vanilla(bottom, top, loss=square, client=client)
    return plain.add(*metrics)


AUC = jsplit.Metric("auc", auc, "server", ["y", "label"])


def in_batches(size):
    return [{f: x[i : i + size] for f, x in FIELDS.items()} for i in range(0, 64, size)]


@both
def test_an_auc_is_one_number_whatever_the_batches(interpreter):
    trainer = getattr(jsplit, interpreter)(topology(AUC), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    whole = trainer.evaluate(state, FIELDS)
    expected = auc(
        np.asarray(trainer.predict(state, {"x": FIELDS["x"]})["y"]), FIELDS["label"]
    )
    assert whole.metrics == {"auc": expected} and 0.5 < expected < 1
    assert type(whole.metrics["auc"]) is float
    for size in (16, 10, 8, 4):
        found = trainer.evaluate(state, iter(in_batches(size)))
        assert found.metrics == whole.metrics
        # Losses are the mean of all examples; the last of 10 has 4.
        assert float(found.loss) == pytest.approx(float(whole.loss), rel=1e-6)
        assert len(found.messages) == len(in_batches(size)) * len(whole.messages)
    assert trainer.step(state, FIELDS)[1].metrics == {}


@both
def test_examples_of_weight_0_are_not_there(interpreter):
    trainer = getattr(jsplit, interpreter)(topology(AUC), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    first = trainer.evaluate(state, {f: x[:50] for f, x in FIELDS.items()})
    weight = np.arange(64) < 50
    found = trainer.evaluate(state, FIELDS, weight)
    pairs = zip(in_batches(8), weight.reshape(8, 8), strict=True)
    of_set = trainer.evaluate(state, pairs)
    for info in (found, of_set):
        assert info.metrics == first.metrics
        assert float(info.loss) == pytest.approx(float(first.loss), rel=1e-6)


def test_weights_go_to_who_takes_them():
    def mean(label, weight):
        return np.average(label, weights=weight)

    weight = np.arange(64.0)
    metric = jsplit.Metric("mean", mean, "server", "label", weighted=True)
    trainer = jsplit.fused(topology(metric), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    found = trainer.evaluate(state, FIELDS, weight).metrics["mean"]
    assert found == pytest.approx(np.average(FIELDS["label"], weights=weight))
    plain = jsplit.fused(topology(AUC), optax.sgd(0.1))
    refused(
        "metric `auc` at `server`: examples have different weights",
        lambda: plain.evaluate(state, FIELDS, weight),
    )


@pytest.mark.parametrize(
    ("made", "kind", "value"),
    [
        (lambda label: bool((label > 0).any()), bool, True),
        (lambda label: np.int64((label > 0).sum()), int, int(FIELDS["label"].sum())),
        (lambda label: np.bool_(False), bool, False),
        (lambda label: jnp.bfloat16(0.5), float, 0.5),
        (lambda label: 3, int, 3),
    ],
)
def test_a_metric_may_be_a_number_of_any_kind(made, kind, value):
    metric = jsplit.Metric("metric", made, "server", "label")
    trainer = jsplit.fused(topology(metric), optax.sgd(0.1))
    found = trainer.evaluate(trainer.init(0, FIELDS), FIELDS).metrics["metric"]
    assert type(found) is kind and found == value


def test_what_a_metric_alone_reads_crosses_in_evaluation_and_never_in_training():
    """To the client, in the precision of its link, and no cotangent comes back."""
    spread = jsplit.Metric("spread", lambda y: y.std(), "client", "y")
    whole = topology(spread)
    assert jsplit.Crossing("y", "server", "client", returns=False) in whole.crossings
    links = {"y": jsplit.compress.cast("bfloat16")}
    trainers = [
        make(whole, optax.sgd(0.1), links=links)
        for make in (jsplit.fused, jsplit.messages)
    ]
    states = [t.init(0, FIELDS) for t in trainers]
    infos = [t.evaluate(s, FIELDS) for t, s in zip(trainers, states, strict=True)]
    assert infos[0].metrics == pytest.approx(infos[1].metrics, rel=1e-6)
    y = np.asarray(trainers[0].predict(states[0], {"x": FIELDS["x"]})["y"])
    rounded = y.astype(jnp.bfloat16).astype(np.float32)
    assert infos[0].metrics["spread"] == pytest.approx(rounded.std(), rel=1e-6)
    said = [(m.name, m.sender, m.receiver, m.bytes) for m in infos[1].messages]
    assert ("y", "server", "client", 64 * 3 * 2) in said
    _, info = trainers[1].step(states[1], FIELDS)
    assert {m.name for m in info.messages} == {"h"}
    cost = jsplit.cost(whole, FIELDS, links=links)
    assert cost.messages == info.messages and cost.evaluation == infos[1].messages


def test_a_field_that_metrics_alone_read_is_asked_for_in_evaluation_only():
    def gap(label, group):
        return label[group].mean() - label[~group].mean()

    fields = FIELDS | {"group": np.arange(64) % 3 == 0}
    metric = jsplit.Metric("gap", gap, "server", ["label", "group"])
    plain = topology()
    whole = jsplit.Topology(
        [*plain.nodes, metric], {**plain.holds, "server": ["label", "group"]}
    )
    trainer = jsplit.messages(whole, optax.sgd(0.1))
    state, _ = trainer.step(trainer.init(0, FIELDS), FIELDS)
    label, group = fields["label"], fields["group"]
    found = trainer.evaluate(state, fields).metrics["gap"]
    assert found == gap(label, group)
    refused("lacks the field `group`", lambda: trainer.evaluate(state, FIELDS))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda: jsplit.Metric("m", 3, "server", "y"), "`fn` must be a function"),
        (lambda: jsplit.Metric("m", abs, "server", []), "`inputs` is empty"),
        (lambda: jsplit.Metric("", abs, "server", "y"), "`name` must be a name"),
        (
            lambda: jsplit.Metric("m", abs, "server", "y", weighted=1),
            "`weighted` must be true or false, got int",
        ),
        (
            lambda: topology(jsplit.Metric("m", abs, "client", "label")),
            "metric `m` at `client` reads the field `label`, which only `server` holds",
        ),
        (
            lambda: topology(jsplit.Metric("m", abs, "server", "z")),
            "metric `m` at `server` reads `z`, which no node produces",
        ),
        (
            lambda: topology(jsplit.Metric("m", abs, "server", "y.params")),
            "a metric reads fields and values of examples",
        ),
        (lambda: topology(AUC, AUC), "two nodes are named `auc`"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_when_it_is_built(metric, message):
    refused(message, metric)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda label: label,
            "must return a float, an integer or a boolean, got float",
        ),
        (lambda label: "0.9", "must return a float, an integer or a boolean, got str"),
        (lambda label: None, "must return a float, an integer or a boolean, got NoneT"),
        (lambda label: 1 / 0, "does not run on `label` float32[64]: Z"),
    ],
)
def test_what_gives_no_number_is_named(fn, message):
    metric = jsplit.Metric("m", fn, "server", "label")
    trainer = jsplit.fused(topology(metric), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    refused("metric `m` at `server`", lambda: trainer.evaluate(state, FIELDS))
    refused(message, lambda: trainer.evaluate(state, FIELDS))


@both
def test_sets_and_programs_that_cannot_be_evaluated_are_refused(interpreter):
    trainer = getattr(jsplit, interpreter)(topology(AUC), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    evaluate = trainer.evaluate
    refused("`batch` holds no batch", lambda: evaluate(state, []))
    refused("must be a dictionary of fields, got int", lambda: evaluate(state, [3]))
    refused("must be a dictionary of fields, got int", lambda: evaluate(state, 3))
    refused(
        "of a set give pairs (batch, weight)",
        lambda: evaluate(state, [FIELDS], np.ones(64)),
    )
    refused("no example counts", lambda: evaluate(state, FIELDS, np.zeros(64)))
    refused(
        "metric `auc` is computed on the host",
        lambda: jax.jit(evaluate)(state, FIELDS),
    )
    mean = jsplit.Metric("m", np.mean, "server", "y")
    scalar = jsplit.segment(lambda h: h.mean(0), inputs=["h"], name="y")
    whole = jsplit.Topology(
        [
            jsplit.Node("h", dense(["x"]), "client", ["x"]),
            jsplit.Node("y", scalar, "server", ["h"]),
            jsplit.Loss("loss", lambda y: (y**2).mean(), "server", ["y"]),
            mean,
        ],
        {"client": ["x"]},
    )
    odd = getattr(jsplit, interpreter)(whole, optax.sgd(0.1))
    fields = {"x": FIELDS["x"]}
    refused(
        "reads `y`, which must have one row for each of the 64",
        lambda: odd.evaluate(odd.init(0, fields), fields),
    )


@both
def test_a_number_for_a_batch_is_called_a_mean_of_batches_once(interpreter):
    right = jsplit.Loss("right", lambda y, t: square(y, t), "server", ["y", "label"], 0)
    one = jsplit.Loss(
        "one", lambda y, t: square(y, t).max(), "server", ["y", "label"], 0
    )
    trainer = getattr(jsplit, interpreter)(topology(right, one), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.evaluate(state, FIELDS)
        trainer.evaluate(state, [FIELDS])
    with pytest.warns(UserWarning, match="loss `one` of weight 0 .* mean of theirs"):
        trainer.evaluate(state, in_batches(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.evaluate(state, in_batches(16))


def test_a_metric_is_drawn_and_printed_as_one():
    whole = topology(AUC, client="lab")
    assert "auc = metric(y, label)" in str(whole)
    assert '(["auc"])' in jsplit.mermaid(whole)
    assert hash(whole) == hash(topology(AUC, client="lab")) or whole.metrics == (AUC,)


@both
def test_a_metric_reads_what_no_segment_reads(interpreter):
    """Of a value of several arrays, at the receiver and at a party that gets it for this."""

    def init(key, x):
        return jnp.ones((4, 3))

    bottom = jsplit.segment(
        lambda w, x: {"h": x @ w, "skip": x**2 + 3.0}, init=init, inputs="x", name="v"
    )
    top = jsplit.segment(
        lambda w, v: {"y": v["h"] @ w[:3], "more": v["h"] + 2.0},
        init=init,
        inputs="v",
        name="out",
    )
    mean = {
        "skip": lambda v, label: v["skip"].mean(),
        "more": lambda out, label: out["more"].mean(),
    }
    plain = jsplit.vanilla(bottom, top, loss=lambda out, label: square(out["y"], label))
    watched = plain.add(
        jsplit.Metric("skip", mean["skip"], "server", ["v", "label"]),
        jsplit.Metric("more", lambda out: out["more"].mean(), "client", ["out"]),
    )
    trainer = getattr(jsplit, interpreter)(watched, optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    found = trainer.evaluate(state, FIELDS).metrics
    weights = state.parties["client"].params["v"]
    assert found["skip"] == pytest.approx((RECORDS**2 + 3).mean(), rel=1e-5)
    expected = (RECORDS @ np.asarray(weights) + 2).mean()
    assert found["more"] == pytest.approx(expected, rel=1e-5)


def test_what_a_metric_raises_is_told_without_its_words():
    def quotes(y, label):
        raise ValueError(f"odd label {label[0]} 7731773")

    metric = jsplit.Metric("odd", quotes, "server", ["y", "label"])
    trainer = jsplit.fused(topology(metric), optax.sgd(0.1))
    with pytest.raises(ValueError, match="ValueError in `quotes`, line") as error:
        trainer.evaluate(trainer.init(0, FIELDS), FIELDS)
    assert "7731773" not in str(error.value) and error.value.__cause__ is None


def test_a_set_is_weighed_as_each_of_its_batches_is():
    """In half precision many ones are infinite together; other kinds of weights are read."""
    trainer = jsplit.fused(topology(), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    first, second = in_batches(32)
    halves = [np.ones(32, np.float16) * 6e4, np.ones(32, np.float16) * 3e4]
    expected = trainer.evaluate(state, FIELDS, np.repeat([2.0, 1.0], 32)).loss
    pairs = [(first, halves[0]), (second, halves[1].astype(">f2"))]
    assert abs(trainer.evaluate(state, pairs).loss - expected) < 1e-5
    large = [(first, np.full(32, 2e38)), (second, np.full(32, 1e38))]
    assert abs(trainer.evaluate(state, large).loss - expected) < 1e-5
    for one in (1e38, 3e38, 2e-38):
        found = trainer.evaluate(state, FIELDS, np.full(64, one, np.float32)).loss
        assert abs(found - trainer.evaluate(state, FIELDS).loss) < 1e-5


@both
def test_an_evaluation_in_which_nothing_counts_is_refused(interpreter):
    """Its loss would be 0, as a perfect one."""
    trainer = getattr(jsplit, interpreter)(topology(), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    none = np.zeros(32)
    first, second = in_batches(32)
    refused("no example counts", lambda: trainer.evaluate(state, first, none))
    refused("no example counts", lambda: trainer.evaluate(state, [(first, none)] * 2))
    expected = trainer.evaluate(state, second).loss
    found = trainer.evaluate(state, [(first, none), (second, np.ones(32))]).loss
    assert abs(found - expected) < 1e-6


def test_a_penalty_is_the_same_whatever_counts():
    decay = jsplit.Loss("decay", lambda p: (p**2).sum(), "server", ["y.params"])
    trainer = jsplit.fused(topology().add(decay), optax.sgd(0.1))
    state = trainer.init(0, FIELDS)
    first, second = in_batches(32)
    pairs = [(first, np.zeros(32)), (second, np.ones(32))]
    found = trainer.evaluate(state, pairs).losses["decay"]
    assert found == trainer.evaluate(state, first).losses["decay"] > 0
