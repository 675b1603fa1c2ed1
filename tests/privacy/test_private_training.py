"""DP-SGD of a segment: exact clipping of each record, noise of the stated size, no other change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import private
from tests.party.federation import (
    Small,
    agreed_for,
    bits,
    checked,
    layer,
    optimizers,
    train_in_memory,
)
from tests.privacy.defended import (
    ALGORITHMS,
    BATCH,
    INTERPRETERS,
    PEOPLE,
    equal,
    layers,
    parameters,
    secrets,
    trained,
)
from tests.training.common import refused

PER = 32.0
both = pytest.mark.parametrize("interpreter", INTERPRETERS)
entropy = optax.sigmoid_binary_cross_entropy


def topology(which=(), **options):
    parts = [
        private(part, per=PER, **options) if i in which else part
        for i, part in enumerate(layers())
    ]
    nodes = [
        jsplit.Node("h", parts[0], "client"),
        jsplit.Node("logit", parts[1], "server"),
        jsplit.Loss("loss", entropy, "server", ["logit", "label"], per=PER),
    ]
    return jsplit.Topology(nodes, {"client": ["x"], "server": ["label"]})


def made(interpreter, *given, rate=1.0, **options):
    return INTERPRETERS[interpreter](*given, optax.sgd(rate), **options)


@both
def test_an_infinite_clip_without_noise_is_the_plain_run(interpreter):
    plain = trained(made(interpreter, topology()), steps=5)
    one = made(interpreter, topology((0, 1), clip=np.inf, scale=0))
    for a, b in zip(
        jax.tree.leaves(parameters(plain)),
        jax.tree.leaves(parameters(trained(one, steps=5))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@both
@pytest.mark.parametrize("clip", [0.05, 0.4, 100.0])
def test_each_record_is_clipped_as_by_hand_in_both_parts(interpreter, clip):
    one = made(interpreter, topology((0, 1), clip=clip, scale=0))
    state = one.init(0, BATCH)
    after, _ = one.step(state, BATCH)
    before = {**state.parties["client"].params, **state.parties["server"].params}

    def loss(params, x, y):
        logit = (jnp.tanh(x @ params["h"]) @ params["logit"])[0]
        return entropy(logit, y)

    sums = {n: 0.0 for n in before}
    shortened = 0
    for x, y in zip(BATCH["x"], BATCH["label"], strict=True):
        for n, g in jax.grad(loss)(before, x, y).items():
            norm = np.linalg.norm(g)
            shortened += norm > clip
            sums[n] = sums[n] + g * min(1, clip / norm)
    assert (shortened > 5) == (clip < 1)
    now = {**after.parties["client"].params, **after.parties["server"].params}
    for n, total in sums.items():
        moved = np.asarray(before[n] - now[n])
        np.testing.assert_allclose(moved, total / PER, atol=3e-6)


@both
def test_noise_has_the_stated_deviation_whatever_the_gradient_and_is_secret(
    interpreter,
):
    clip, scale = 0.5, 2.0
    wide = jsplit.segment(
        lambda w, x: jnp.tanh(x @ w),
        init=lambda key, x: jax.random.normal(key, (6, 800)),
        inputs=["x"],
        name="h",
    )
    top = jsplit.segment(
        lambda w, h: (h @ w)[:, 0],
        init=lambda key, h: jnp.ones((800, 1)) / 800,
        inputs=["h"],
        name="logit",
    )

    def after(scale, seed=5):
        bottom = private(wide, clip=clip, scale=scale, per=PER)
        whole = jsplit.vanilla(bottom, top, loss=entropy)
        one = made(interpreter, whole)
        state = secrets(one.init(0, BATCH), seed)
        return np.asarray(one.step(state, BATCH)[0].parties["client"].params["h"])

    noise = after(scale) - after(0.0)
    stated = scale * clip / PER
    error = 5 / np.sqrt(noise.size)
    assert abs(noise.std() / stated - 1) < error and abs(noise.mean() / stated) < error
    # It follows from the secret alone.
    assert (after(scale) == after(scale)).all()
    other = after(scale, seed=9) - after(0.0)
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < error


@both
def test_a_strength_of_0_is_without_noise_and_one_program_is_all(interpreter):
    noisy = jsplit.Strength("noise", 1.0)
    one = made(interpreter, topology((0,), clip=0.3, scale=noisy))
    off = trained(one, strengths={"noise": 0.0})
    bare = trained(made(interpreter, topology((0,), clip=0.3, scale=0)))
    assert equal(parameters(off), parameters(bare))
    assert not equal(parameters(trained(one)), parameters(bare))
    declared = one.init(0, BATCH).parties["client"].strengths
    assert {n: float(x) for n, x in declared.items()} == {"noise": 1.0}


def test_a_draw_is_of_its_step():
    one = made("fused", topology((0,), clip=1e-6, scale=1e6))
    state = secrets(one.init(0, BATCH))
    steps = []
    for _ in range(3):
        after, _ = one.step(state, BATCH)
        moved = (
            after.parties["client"].params["h"] - state.parties["client"].params["h"]
        )
        steps.append(np.asarray(moved).ravel())
        state = after
    assert np.abs(np.corrcoef(steps) - np.eye(3)).max() < 0.75


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_rounds_it_clips_and_each_client_draws_its_own(algorithm):
    drawn = PEOPLE.round(BATCH, 0, batch=16)

    def after(**options):
        top = topology((0,), **options) if options else topology()
        made = ALGORITHMS[algorithm](jsplit.fused(top, optax.sgd(0.5)))
        state, _ = made.step(made.init(0, drawn), drawn)
        return parameters(state)

    plain, free = after(), after(clip=np.inf, scale=0)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(free), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not equal(after(clip=0.1, scale=0), plain)
    noisy = after(clip=0.1, scale=1.0)
    assert np.isfinite(jax.tree.leaves(noisy)[0]).all()
    assert not equal(noisy, after(clip=0.1, scale=1.0)), "secrets are drawn anew"


def test_over_the_network_it_is_the_run_in_one_process():
    bottom = private(layer(["x"], "h"), clip=0.2, scale=0.5, per=8.0)
    whole = jsplit.vanilla(
        bottom, layer(["h"], "y", 1), loss=lambda y, label: (y - label) ** 2
    )
    rng = np.random.default_rng(0)
    batch = {
        n: rng.normal(size=(8, d)).astype("f4") for n, d in (("x", 3), ("label", 1))
    }
    problem = Small(whole, batch)
    results = checked(train_in_memory(agreed_for(problem, steps=3), problem))
    keys = {p: r.state.secret for p, r in results.items() if r.state.secret is not None}
    assert [*keys] == ["client"]
    one = jsplit.messages(whole, optimizers(whole))
    state = jsplit.with_secrets(one.init(3, batch), keys)
    for _ in range(3):
        state, _ = one.step(state, batch)
    for p, own in state.parties.items():
        assert bits(results[p].state) == bits(own), p


def test_what_has_no_gradient_of_one_record_is_refused():
    bottom = layers()[0]
    for bad in (0, -1, np.nan, True, "1"):
        refused("`clip`", lambda bad=bad: private(bottom, clip=bad, scale=1, per=1))
        refused("`per`", lambda bad=bad: private(bottom, clip=1, scale=1, per=bad))
    refused(
        "`clip` must be finite", lambda: private(bottom, clip=np.inf, scale=1, per=1)
    )
    once = private(bottom, clip=1, scale=1, per=1)
    refused("no noise already", lambda: private(once, clip=1, scale=1, per=1))
    fixed = jsplit.segment(lambda x: x, inputs=["x"])
    refused("parameters that are", lambda: private(fixed, clip=1, scale=1, per=1))

    def drops(w, key, x):
        return x @ w * jax.random.bernoulli(key, 0.5, (len(x), 1))

    def init(key, x):
        return jnp.ones((6, 5)), {}

    dropout = jsplit.Segment(
        init, lambda w, s, key, x, train=True: (drops(w, key, x), s), ("x",), "h"
    )
    counted = jsplit.Segment(
        lambda key, x: (jnp.ones((6, 5)), {"mean": jnp.zeros(6)}),
        lambda w, s, key, x, train=True: (x @ w, {"mean": x.mean(0)}),
        ("x",),
        "h",
    )
    for segment, message in ((dropout, "draws random"), (counted, "keeps statistics")):
        one = private(segment, clip=1.0, scale=1.0, per=1.0)
        whole = jsplit.vanilla(one, layers()[1], loss=entropy)
        refused(message, lambda whole=whole: made("fused", whole).init(0, BATCH))


def test_other_units_than_those_of_the_clip_are_refused():
    whole = topology((0,), clip=0.05, scale=0)
    refused("`loss_scale` cannot", lambda: made("fused", whole, loss_scale=64.0))
    refused("`microbatches=2` cannot", lambda: made("fused", whole, microbatches=2))
