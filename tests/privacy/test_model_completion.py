"""Few labels complete a trained bottom to a model, and wrong ones do not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.privacy import Traffic, malicious, model_completion
from jsplit.privacy.attacks.labels.fitting import Fit, completed
from tests.privacy.seen import dense

RNG = np.random.default_rng(0)
QUICK = {"steps": 60, "learning_rate": 2e-2, "classes": 3}
HEAD = dense([2, 16, 3], "h")


def rings(count=300):
    """Three arcs of a circle: near points are of one class, far ones of one class as well."""
    label = np.arange(count) % 3
    angle = 2 * np.pi * (label + 0.75 * RNG.random(count)) / 3
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype("float32")
    return x, label.astype("int32")


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


X, LABEL = rings()
SEEN = Traffic(
    "client", np.zeros(300, int), sent={"h": jnp.asarray(X)}, fields={"x": X}
)
FEW = np.arange(12)  # four of each class


@pytest.mark.parametrize("method", ["supervised", "semi-supervised"])
def test_few_labels_complete_a_model_and_shuffled_ones_do_not(method):
    score = model_completion(SEEN, LABEL, HEAD, known=FEW, method=method, **QUICK)
    assert score.measure == "accuracy" and score.value > 0.85 and score.beats_chance
    assert score.control < 0.6 and score.more["untrained head"] < 0.75
    assert score.adversary.labelled == 12 and not score.adversary.active
    assert score.chance == pytest.approx(1 / 3, abs=0.01)


def test_two_classes_are_scored_by_auc():
    label, head = (LABEL == 0).astype(int), dense([2, 16, 2], "h")
    score = model_completion(
        SEEN, label, head, known=FEW, **{**QUICK, "classes": 2}, active=True
    )
    assert score.measure == "AUC" and score.value > 0.85
    assert score.adversary.active and score.more["most frequent"] > 0.6


def test_records_without_label_teach_as_well():
    """With one label a class the arcs fill up along themselves."""
    supervised, mixed = (
        model_completion(
            *(SEEN, LABEL, HEAD),
            known=np.arange(3),
            method=method,
            **{**QUICK, "steps": 150},
        ).value
        for method in ("supervised", "semi-supervised")
    )
    assert mixed > supervised + 0.02


@pytest.mark.parametrize("method", ["supervised", "semi-supervised"])
def test_no_label_that_is_not_known_is_read(method):
    known = np.isin(np.arange(300), FEW)
    fit = Fit(HEAD, 3, None, method, 10, 16, 1e-2)
    other = np.where(known, LABEL, 2 - LABEL)
    key, x = jax.random.key(0), jnp.asarray(X)
    one, same = (completed(fit, x, known, y, key) for y in (LABEL, other))
    np.testing.assert_array_equal(one, same)
    wrong = completed(fit, x, known, 2 - LABEL, key)
    assert np.abs(wrong - one).max() > 0.01


def test_a_bottom_of_ones_own_learns_with_the_head():
    """A bottom that has thrown away half: only who fits it further finds the classes."""
    bottom = jsplit.segment(
        lambda w, x: x @ w, init=lambda key, x: jnp.eye(2), inputs=["x"], name="h"
    )
    poor = jnp.diag(jnp.array([1.0, 0.0]))
    seen = SEEN._replace(sent={"h": jnp.asarray(X) @ poor})
    frozen, fitted = (
        model_completion(seen, LABEL, HEAD, known=FEW, bottom=b, **QUICK)
        for b in (None, (bottom, poor, {}))
    )
    assert fitted.value > frozen.value + 0.1


def test_what_an_untrained_bottom_gives_stands_beside():
    noise = Traffic(
        "client", np.zeros(300, int), sent={"h": jnp.asarray(RNG.normal(size=X.shape))}
    )
    score = model_completion(SEEN, LABEL, HEAD, known=FEW, untrained=noise, **QUICK)
    assert score.more["untrained bottom"] < 0.5 < score.value


NORMED = jsplit.segment(nnx.BatchNorm(2, rngs=nnx.Rngs(0)), inputs=["h"])
STEPS = SEEN._replace(step=np.arange(300) // 100)


@pytest.mark.parametrize(
    ("traffic", "head", "options", "says"),
    [
        (STEPS, HEAD, {}, "one model, got 3 steps"),
        (SEEN._replace(sent={}), HEAD, {}, "no activations"),
        (SEEN, NORMED, {}, "no statistics"),
        (SEEN, dense([2, 5], "h"), {}, "logit for each of 3 classes"),
        (SEEN, HEAD, {"known": [0, 3]}, "two classes at least"),
        (SEEN, HEAD, {"known": [300]}, "`known`"),
        (SEEN, HEAD, {"method": "x"}, "`method`"),
        (SEEN, HEAD, {"steps": 0}, "`steps`"),
        (SEEN._replace(fields={}), HEAD, {"bottom": (NORMED, {}, {})}, "`bottom`"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(traffic, head, options, says):
    with pytest.raises(ValueError, match=says):
        model_completion(traffic, LABEL, head, **{"known": FEW, **QUICK, **options})


def test_the_malicious_optimizer_is_the_authors_without_momentum():
    gradients = RNG.normal(size=(6, 40)).astype("float32")
    optimizer = malicious(optax.sgd(0.1), gamma=0.7)
    state, last, update = optimizer.init(jnp.zeros(40)), None, jax.jit(optimizer.update)
    for g in gradients:
        found, state = update(jnp.asarray(g), state)
        # MaliciousSGD of the authors' code, but for the 1e-7 under the fraction.
        if last is not None:
            g = g * np.clip(1 + 0.7 * g / last, 1, 5)
        last = g
        np.testing.assert_allclose(found, -0.1 * g, rtol=1e-5)


def test_the_malicious_optimizer_with_gamma_0_is_the_one_that_it_was():
    plain, off = optax.adam(0.1), malicious(optax.adam(0.1), gamma=0)
    states = [o.init(jnp.ones(3)) for o in (plain, off)]
    for g in RNG.normal(size=(4, 3)):
        one, states[0] = plain.update(jnp.asarray(g), states[0])
        same, states[1] = off.update(jnp.asarray(g), states[1])
        np.testing.assert_array_equal(one, same)


def test_a_bottom_trained_by_the_malicious_optimizer_moves_farther_in_a_split():
    bottom, top = dense([2, 8], "x", "h"), dense([8, 3], "h", "output")
    loss = optax.softmax_cross_entropy_with_integer_labels
    topology = jsplit.vanilla(bottom, top, loss=loss)
    batch, moved = {"x": X, "label": LABEL}, []
    for mine in (optax.sgd(0.1), malicious(optax.sgd(0.1))):
        trainer = jsplit.fused(topology, {"client": mine, "server": optax.sgd(0.1)})
        state = first = trainer.init(0, batch)
        for _ in range(5):
            state, _ = trainer.step(state, batch)
        pair = (s.parties["client"].params for s in (state, first))
        moved.append(float(optax.tree.norm(jax.tree.map(jnp.subtract, *pair))))
    assert moved[1] > 1.2 * moved[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gamma": -1}, "`gamma`"),
        ({"gamma": float("nan")}, "`gamma`"),
        ({"least": 2}, "`least`"),
        ({"most": 0.5}, "`least` and `most`"),
    ],
)
def test_factors_that_would_not_include_1_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        malicious(optax.sgd(0.1), **options)
