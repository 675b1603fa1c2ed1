"""DP-SGD of a segment: exact clipping of each record, noise of the stated size, no other change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import Mechanism, audit, guarantee, private
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
    # Clipped and rounded: by half a step of the grid at most, of each record.
    pairs = zip(*(jax.tree.leaves(parameters(x)) for x in (off, bare)), strict=True)
    assert max(np.abs(a - b).max() for a, b in pairs) < 3 * 32 * 0.3 / PER / 2**13
    assert not equal(parameters(trained(one)), parameters(bare))
    declared = one.init(0, BATCH).parties["client"].strengths
    assert {n: float(x) for n, x in declared.items()} == {"noise": 1.0}


def test_a_draw_is_of_its_step():
    one = made("fused", topology((0,), clip=1e-6, scale=40.0))
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


def pulled(noise, gradients, clip=1.0, cotangent=1.0):
    """The gradient of one segment, whose records have these gradients, and its segment."""
    one = jsplit.segment(
        lambda w, x: x @ w, init=lambda key, x: jnp.zeros(x.shape[1]), inputs=["x"]
    )
    one = private(one, clip=clip, scale=noise, per=1.0)
    x = jnp.asarray(gradients, jnp.float32)
    _, pull = jax.vjp(
        lambda w: one.apply(w, {}, None, x)[0], jnp.zeros(x.shape[1], jnp.float32)
    )
    return pull(jnp.full(len(x), cotangent, jnp.float32))[0], one


def test_clipped_gradients_and_noise_are_multiples_of_one_step_and_none_gets_longer():
    x = (
        np.random.default_rng(0).normal(size=(300, 40))
        * np.logspace(-3, 1, 300)[:, None]
    )
    _, one = pulled(1.0, x)
    noise = one.noise
    assert noise is not None and isinstance(noise.mechanism, Mechanism)
    step = noise.mechanism.grid
    assert step == 2.0**-13
    rows = jax.vmap(lambda row: pulled(1.0, row[None])[0])(jnp.asarray(x))
    exact = np.asarray(rows, np.float64)
    sizes = np.linalg.norm(x, axis=1)
    assert np.linalg.norm(exact, axis=1).max() <= 1
    assert (exact / step == np.round(exact / step)).all()
    # To the nearest, so that small numbers stay unbiased and near.
    short = x * np.minimum(1, (1 - step * np.sqrt(40) / 2) / sizes)[:, None]
    assert np.abs(exact - short).max() < 0.51 * step
    assert abs((exact - short).mean()) < 0.02 * step
    total, _ = pulled(1.0, x)
    assert (np.asarray(total, np.float64) == exact.sum(0)).all()
    noisy = np.asarray(noise.add(jax.random.key(0), total, jnp.float32(1)), np.float64)
    assert (noisy / step == np.round(noisy / step)).all() and (noisy != total).any()


def test_the_norm_of_a_record_is_over_all_arrays_of_the_segment():
    one = jsplit.segment(
        lambda w, x: x @ w["a"] + 2 * x @ w["b"],
        init=lambda key, x: {"a": jnp.zeros(2), "b": jnp.zeros(2)},
        inputs=["x"],
    )
    one = private(one, clip=1.0, scale=0.0, per=1.0)
    zeros = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    x = jnp.array([[3.0, 4.0]])
    found = jax.grad(lambda w: one.apply(w, {}, None, x)[0].sum())(zeros)
    for name, times in (("a", 1), ("b", 2)):
        np.testing.assert_allclose(
            found[name], times * np.array([0.6, 0.8]) / 5**0.5, rtol=1e-6
        )


def test_arrays_of_one_shape_get_noise_of_their_own():
    """Equal noise on both would be known from what is made of their difference."""
    one = jsplit.segment(
        lambda w, x: x @ w["a"] + x @ w["b"],
        init=lambda key, x: {"a": jnp.zeros(400), "b": jnp.zeros(400)},
        inputs=["x"],
    )
    noise = private(one, clip=1.0, scale=1.0, per=1.0).noise
    assert noise is not None
    zeros = {"a": jnp.zeros(400), "b": jnp.zeros(400)}
    found = noise.add(jax.random.key(0), zeros, jnp.float32(1))
    assert abs(np.corrcoef(found["a"], found["b"])[0, 1]) < 5 / np.sqrt(400)


def test_a_sum_of_many_records_is_exact_and_a_fault_in_one_is_seen():
    """A sum is exact, and is cut off where one with noise would not be exact any more."""
    many = np.repeat([[1 / 3, 0, 0], [0, 1 / 3, 0]], [70_000, 1021], axis=0)
    total = np.asarray(pulled(1.0, many)[0])
    third = np.round(2**13 / 3) * 2.0**-13
    assert (total == [(2**23 - 1) * 2.0**-13, 1021 * third, 0]).all()
    assert np.isnan(pulled(1.0, np.array([[1.0], [np.nan]]))[0]).all()
    refused("at most 131071 records", lambda: pulled(1.0, np.ones((131_072, 1))))


def test_an_outsider_refutes_dp_sgd_that_does_less_than_it_says():
    """Canaries, each with a direction of its own: its gradient or the opposite one."""
    n = 1500
    signs = np.where(np.arange(n) % 2, 1.0, -1.0).astype("f4")
    batch = {"x": np.eye(n, dtype="f4"), "label": signs}

    def trained(scale):
        bottom = jsplit.segment(
            lambda w, x: x @ w, init=lambda key, x: jnp.zeros(n), inputs=["x"], name="h"
        )
        bottom = private(bottom, clip=1.0, scale=scale, per=1.0)
        top = jsplit.segment(lambda h: h, inputs=["h"], name="y")
        nodes = [
            jsplit.Node("h", bottom, "client"),
            jsplit.Node("y", top, "server"),
            jsplit.Loss(
                "loss",
                lambda y, label: -2 * y * label,
                "server",
                "y label".split(),
                per=1.0,
            ),
        ]
        return jsplit.Topology(nodes, {"client": ["x"], "server": ["label"]})

    def run(says, does):
        one = made("fused", trained(does))
        state = secrets(one.init(0, batch), 11)
        seen = np.asarray(one.step(state, batch)[0].parties["client"].params["h"])
        stated = trained(says)
        noise = stated.node["h"].segment.noise
        assert noise and isinstance(noise.mechanism, Mechanism)
        claimed = guarantee(
            stated,
            batch,
            steps=1,
            batch=n,
            records=n,
            dp_sgd={"h": noise.mechanism},
            delta=1e-5,
        ).of("server", "whoever gets the trained parameters", "labels")
        assert claimed.mu == pytest.approx(2 / says)
        return claimed, audit(seen[signs > 0], seen[signs < 0], delta=1e-5)

    claimed, honest = run(4.0, 4.0)
    assert 0 < honest.epsilon and not honest.refutes(claimed.epsilon)
    claimed, faulty = run(4.0, 0.2)
    assert faulty.refutes(claimed.epsilon)


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


def test_where_clients_step_together_what_they_share_gets_one_draw_of_noise():
    """The server's part runs on the batch of all, and has a secret for each client."""
    scale, clip = 2.0, 0.5
    top = jsplit.segment(
        lambda w, h: (h @ w).mean(1),
        init=lambda key, h: jnp.zeros((5, 800)),
        inputs=["h"],
        name="logit",
    )
    top = private(top, clip=clip, scale=scale, per=PER)
    # Nothing but noise moves anything that can be measured.
    whole = jsplit.vanilla(layers()[0], top, loss=lambda *x: entropy(*x) * 1e-9)
    one = ALGORITHMS["parallel"](jsplit.fused(whole, optax.sgd(1.0)))
    drawn = PEOPLE.round(BATCH, 0, batch=16)
    at = [one.init(0, drawn)]
    for _ in range(2):
        at.append(one.step(at[-1], drawn)[0])
    values = [np.asarray(s.parties["server"].params["logit"]) for s in at]
    first, second = np.diff(values, axis=0)
    error = 5 / np.sqrt(first.size)
    assert abs(first.std() / (scale * clip / PER) - 1) < error
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < error


@pytest.mark.parametrize("clip", [1e-30, 1e-22, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_record_is_as_long_as_the_clip_however_small_or_large_the_two_are(
    clip, scale
):
    """In float32 the squares of what is below 1e-19 are 0, and above 1e19 infinite."""
    part = jsplit.segment(
        lambda w, x: x @ w, init=lambda key, x: jnp.ones((3, 2)), inputs=["x"]
    )
    one = private(part, clip=clip, scale=scale, per=1.0)

    @jax.jit
    def gradient(x):
        return jax.grad(lambda w: one.apply(w, {}, None, x)[0].sum())(jnp.ones((3, 2)))

    for size in (0.5, 3.0, 1e3, 1e7, 1e25):
        x = jnp.float32(clip * size) * jnp.array([[1.0, 2.0, -1.0]])
        found = np.linalg.norm(np.asarray(gradient(x), float)) / clip
        true = size * np.sqrt(12)
        assert found <= 1 + 1e-6 and found > 0.99 * min(1, true)


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
    refused(
        "`scale` must be at most 40", lambda: private(bottom, clip=1, scale=41, per=1)
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
    narrow = jsplit.segment(
        lambda w, x: x @ w,
        init=lambda key, x: jnp.ones((6, 5), jnp.bfloat16),
        inputs=["x"],
        name="h",
    )
    for segment, message in (
        (dropout, "draws random"),
        (counted, "keeps statistics"),
        (narrow, "float32 or float64, got bfloat16"),
    ):
        one = private(segment, clip=1.0, scale=1.0, per=1.0)
        whole = jsplit.vanilla(one, layers()[1], loss=entropy)
        refused(message, lambda whole=whole: made("fused", whole).init(0, BATCH))


def test_other_units_than_those_of_the_clip_are_refused():
    whole = topology((0,), clip=0.05, scale=0)
    refused("`loss_scale` cannot", lambda: made("fused", whole, loss_scale=64.0))
    refused("`microbatches=2` cannot", lambda: made("fused", whole, microbatches=2))


def test_an_optimizer_that_reads_the_loss_is_refused_beside_noise():
    """The loss has no noise, and a rate that follows from it tells of the records."""
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())

    def begins(which, optimizer, scale=1.0):
        whole = topology(which, clip=1.0, scale=scale)
        return jsplit.fused(whole, {"client": optax.sgd(0.1)} | optimizer).init(
            0, BATCH
        )

    reads = "reads the loss, which has no noise"
    server, told = {"server": plateau}, jsplit.with_loss(plateau)
    refused(reads, lambda: begins((1,), server))
    refused(reads, lambda: begins((1,), server, jsplit.Strength("noise", 0.0)))
    refused(reads, lambda: begins((0,), {"client": told, "server": optax.adam(0.1)}))
    # No noise, or that of another party; and what is given the loss and reads it not.
    begins((1,), server, 0.0)
    begins((0,), server)
    begins((1,), {"server": optax.chain(optax.clip(1.0), optax.adam(1))})
