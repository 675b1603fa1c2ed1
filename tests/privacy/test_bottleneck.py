"""An information bottleneck: its penalty is the divergence, its noise secret, gradients exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import information_bottleneck
from tests.party.federation import (
    Small,
    agreed_for,
    bits,
    checked,
    optimizers,
    small,
    train_in_memory,
)
from tests.privacy.defended import (
    ALGORITHMS,
    BATCH,
    INTERPRETERS,
    PEOPLE,
    draws,
    equal,
    pair,
    parameters,
    secrets,
    trained,
    trainer,
)
from tests.training.common import refused

both = pytest.mark.parametrize("interpreter", INTERPRETERS)


def made(interpreter, weight, deviation=1.0):
    nats, link = information_bottleneck("h", "client", weight, deviation=deviation)
    one = INTERPRETERS[interpreter]
    return trainer(one, {"h": (link, None)}, pair().add(nats)), nats, link


def each_its_own(noise):
    """One draw for all records would fall out of the difference of two of them."""
    count = len(noise)
    alike = np.corrcoef(noise.reshape(count, -1).T) - np.eye(noise[0].size)
    assert np.abs(alike).max() < 6 / np.sqrt(count)


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
def test_the_penalty_is_the_divergence_and_the_noise_has_its_deviation(deviation):
    _, nats, link = made("fused", 0.1, deviation)
    h = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    # By its definition, from many draws: the mean of log q(z) - log p(z).
    z = np.asarray(draws(link, jnp.asarray(h), 40_000), np.float64)
    log_q = -0.5 * ((z - h) / deviation) ** 2 - np.log(deviation)
    found = (log_q + 0.5 * z**2).sum(-1).mean(0)
    np.testing.assert_allclose(nats.fn(h), found, rtol=0.03)
    assert abs((z - h).std() / deviation - 1) < 5 / np.sqrt(2 * z.size)
    assert np.abs((z - h).mean(0)).max() < 5 * deviation / np.sqrt(40_000)
    each_its_own(z - h)
    assert link.secret and link.mechanism is not None


@both
def test_the_gradient_is_that_of_the_reparametrised_objective(interpreter):
    one, nats, link = made(interpreter, 0.1)
    assert nats.weight == 0.1 and link.secret
    state = secrets(one.init(0, BATCH))
    recording = jsplit.record(one)
    after, told = recording.step(state, BATCH)
    sent = next(x.value for at, x in told.crossed.items() if at[0] == "activation")
    client, server = (state.parties[p].params for p in ("client", "server"))
    noise = np.asarray(sent) - np.tanh(BATCH["x"] @ np.asarray(client["h"]))

    def objective(w):
        h = jnp.tanh(BATCH["x"] @ w)
        logit = ((h + noise) @ server["logit"])[:, 0]
        loss = jnp.mean(jnp.logaddexp(0, logit) - BATCH["label"] * logit)
        return loss + 0.1 * jnp.mean(jnp.sum(h**2, 1) / 2)

    moved = (client["h"] - after.parties["client"].params["h"]) / 0.1
    np.testing.assert_allclose(moved, jax.grad(objective)(client["h"]), atol=2e-6)


def learned(interpreter, weight, pull=True):
    """Means and logarithms of variances of five numbers, of which the top reads what arrives."""
    bottom = jsplit.segment(
        lambda w, x: x @ w,
        init=lambda key, x: jax.random.normal(key, (6, 10)) / 3,
        inputs=["x"],
        name="h",
    )
    top = jsplit.segment(
        lambda w, h: (jnp.tanh(h[:, :5]) @ w)[:, 0],
        init=lambda key, h: jnp.ones((5, 1)),
        inputs=["h"],
        name="logit",
    )
    whole = jsplit.vanilla(bottom, top, loss=optax.sigmoid_binary_cross_entropy)
    nats, link = information_bottleneck("h", "client", weight, deviation=None)
    link = link if pull else link._replace(pull=None)
    one = INTERPRETERS[interpreter]
    return (
        trainer(one, {"h": (link, None)}, whole.add(nats)),
        nats,
        link,
        whole.add(nats),
    )


def test_the_penalty_of_a_learned_deviation_is_the_divergence_and_0_at_the_prior():
    _, nats, link, _ = learned("fused", 0.1)
    h = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    z = np.asarray(draws(link, jnp.asarray(h), 40_000), np.float64)
    assert z.shape[-1] == 4, "logarithms of variances do not cross"
    mean, deviation = h[:, :4], np.exp(h[:, 4:] / 2)
    log_q = -0.5 * ((z - mean) / deviation) ** 2 - np.log(deviation)
    np.testing.assert_allclose(
        nats.fn(h), (log_q + 0.5 * z**2).sum(-1).mean(0), rtol=0.05
    )
    np.testing.assert_allclose(z.std(0), deviation, rtol=0.02)
    each_its_own(z - mean)
    assert (nats.fn(0 * h) == 0).all() and link.secret


@both
def test_a_learned_deviation_has_the_gradient_of_finite_differences(interpreter):
    one, _, _, _ = learned(interpreter, 0.1)
    state = secrets(one.init(0, BATCH))
    after, told = jsplit.record(one).step(state, BATCH)
    z = next(x.payload for at, x in told.crossed.items() if at[0] == "activation")
    before = np.asarray(state.parties["client"].params["h"], np.float64)
    top = np.asarray(state.parties["server"].params["logit"], np.float64)
    h = BATCH["x"] @ before
    noise = (np.asarray(z) - h[:, :5]) / np.exp(h[:, 5:] / 2)

    def objective(w):
        h = BATCH["x"] @ w
        mean, log_variance = h[:, :5], h[:, 5:]
        logit = (np.tanh(mean + np.exp(log_variance / 2) * noise) @ top)[:, 0]
        loss = np.mean(np.logaddexp(0, logit) - BATCH["label"] * logit)
        nats = np.sum(np.exp(log_variance) + mean**2 - 1 - log_variance, 1) / 2
        return loss + 0.1 * np.mean(nats)

    slope = np.zeros_like(before)
    for at in np.ndindex(before.shape):
        step = np.zeros_like(before)
        step[at] = 1e-5
        slope[at] = (objective(before + step) - objective(before - step)) / 2e-5
    moved = before - np.asarray(after.parties["client"].params["h"], np.float64)
    np.testing.assert_allclose(moved / 0.1, slope, atol=5e-6)


@pytest.mark.parametrize("algorithm", ["splitfed", "parallel"])
def test_in_rounds_a_deviation_is_learned_too(algorithm):
    drawn = PEOPLE.round(BATCH, 0, batch=8)

    def after(pull):
        made = ALGORITHMS[algorithm](learned("fused", 0.0, pull)[0])
        state, _ = made.step(made.init(0, drawn), drawn)
        return np.asarray(parameters(state)["client"]["h"])

    first, without = after(True), after(False)
    # Of weight 0 nothing but the noise moves the half of the deviations.
    start = np.asarray(
        learned("fused", 0.0)[0].init(0, BATCH).parties["client"].params["h"]
    )
    assert np.isfinite(first).all()
    assert (without[..., 5:] == start[:, 5:]).all() != (
        first[..., 5:] == start[:, 5:]
    ).all()


@both
def test_more_weight_lets_less_through_and_one_program_is_all(interpreter):
    one, nats, _ = made(interpreter, jsplit.Strength("nats", 0.0))
    through = []
    for weight in (0.0, 0.5, 2.0):
        state = trained(one, steps=30, strengths={"nats": weight})
        h = np.tanh(BATCH["x"] @ np.asarray(state.parties["client"].params["h"]))
        through.append(float(np.mean(nats.fn(h))))
    assert through[0] > 1.2 * through[1] > 1.44 * through[2]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_rounds_it_runs_and_is_not_the_plain_round(algorithm):
    drawn = PEOPLE.round(BATCH, 0, batch=8)

    def after(one):
        made = ALGORITHMS[algorithm](one)
        return parameters(made.step(made.init(0, drawn), drawn)[0])

    noisy, plain = after(made("fused", 0.1)[0]), after(trainer(jsplit.fused))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(noisy))
    assert not equal(noisy, plain)


@pytest.mark.parametrize("is_learned", [False, True])
def test_over_the_network_it_is_the_run_in_one_process(is_learned):
    problem = small("pair")
    nats, link = information_bottleneck("h", "client", 0.1)
    problem = Small(problem.topology.add(nats), problem.batch)
    if is_learned:
        _, _, link, whole = learned("fused", 0.1)
        problem = Small(whole, BATCH)
    jsplit.compress.register("bottleneck_noise", lambda: link, replace=True)
    agreed = agreed_for(problem, steps=3, links={"h": ["bottleneck_noise()", None]})
    results = checked(train_in_memory(agreed, problem))
    keys = {"client": results["client"].state.secret}
    one = jsplit.messages(
        problem.topology, optimizers(problem.topology), links={"h": (link, None)}
    )
    state = jsplit.with_secrets(one.init(3, problem.batch), keys)
    for _ in range(3):
        state, _ = one.step(state, problem.batch)
    for p, own in state.parties.items():
        assert bits(results[p].state) == bits(own), p


def test_what_is_no_bottleneck_is_refused():
    for bad in (0, -1.0, np.inf, True, "1"):
        refused("`deviation`", lambda bad=bad: made("fused", 1.0, bad))
    refused("`weight`", lambda: made("fused", -1.0))
    _, nats, link, _ = learned("fused", 1.0)
    refused("[batch, ..., 2 d]", lambda: nats.fn(jnp.ones((4, 3))))
    down = INTERPRETERS["fused"]
    refused("a cotangent has no `pull`", lambda: trainer(down, {"h": (None, link)}))
    refused(
        "`pull` behind", lambda: jsplit.chain(jsplit.compress.cast("bfloat16"), link)
    )
