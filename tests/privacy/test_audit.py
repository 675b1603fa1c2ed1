"""A lower bound by canaries lies below what is true, and above what a fault claims."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit.privacy import (
    Mechanism,
    audit,
    gaussian_epsilon,
    grid_noise,
    guarantee,
    laplace,
    on_grid,
)

GRID = 2.0**-12
DELTA = 1e-5


def scores(mu: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of canaries that were in, and that were not, seen through a Gaussian mechanism."""
    x = np.random.default_rng(seed).normal(size=(2, n))
    return x[0] + mu, x[1]


@pytest.mark.parametrize("method", ["one run", "runs"])
@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_the_lower_bound_lies_below_the_true_epsilon_and_above_0(method, mu):
    """In 20 audits of 95 % at most 4 may fail, with a probability of 0.997; all find something."""
    true = gaussian_epsilon(DELTA, mu)
    found = [
        audit(*scores(mu, 2000, seed), delta=DELTA, method=method).epsilon
        for seed in range(20)
    ]
    assert sum(e > true for e in found) <= 4
    assert np.median(found) > 0.2 * mu


@pytest.mark.parametrize("method", ["one run", "runs"])
def test_a_mechanism_without_noise_is_found_out(method):
    """It claims epsilon 1 and adds a hundredth of the noise."""
    found = audit(*scores(50.0, 1000, 0), delta=DELTA, method=method)
    assert found.refutes(3.0)
    claimed = gaussian_epsilon(DELTA, 0.25)
    honest = audit(*scores(0.25, 1000, 0), delta=DELTA, method=method)
    assert not honest.refutes(claimed)


def crossed(scale, done):
    """What is guaranteed of one sending, and its audit, by what the server decodes.

    Half of 2,000 canaries are at the norm to which the link clips, half opposite.

    Args:
        scale: what the link says of its noise.
        done: what it does.
    """

    def encode(h, key):
        norm = jnp.linalg.norm(h, axis=-1, keepdims=True)
        clipped = h / jnp.maximum(norm, 1)
        return on_grid(clipped, GRID) + grid_noise(key, h, done, GRID)

    noise = Mechanism("gaussian", clip=1.0, scale=scale, secret=True, grid=GRID)
    return decoded(
        jsplit.stateless(
            encode, lambda payload, like: payload, secret=True, mechanism=noise
        )
    )


def decoded(link):
    """What is guaranteed behind a link that clips to 1, and its audit."""
    links = {"smashed": link}
    fixed = jsplit.segment(lambda x: 1.0 * x)
    topology = jsplit.vanilla(
        fixed, fixed, loss=lambda y, label: (y.sum(-1) - label) ** 2
    )
    x = np.zeros((2000, 4), "float32")
    x[:, 0] = np.where(np.arange(2000) % 2, 5.0, -5.0)
    fields = {"x": x, "label": x[:, 0]}
    trainer = jsplit.fused(topology, None, links=links)
    state = trainer.init(0, fields)
    # Its size alone counts here: it is not of a run with a seed.
    seen = trainer.predict(state, {"x": x}, noise=jax.random.key(1))["output"][:, 0]
    run = {"steps": 1, "batch": 2000, "records": 2000}
    claimed = guarantee(topology, fields, links=links, **run).of("client", "server")
    return claimed, audit(np.asarray(seen)[1::2], np.asarray(seen)[::2], delta=1e-5)


def test_what_a_server_decodes_refutes_a_link_that_does_less_than_it_says():
    claimed, honest = crossed(4.0, 4.0)
    assert claimed.mu == pytest.approx(2 / 4)
    assert 0.1 < honest.epsilon and not honest.refutes(claimed.epsilon)
    claimed, faulty = crossed(4.0, 0.2)
    assert claimed.mu == pytest.approx(2 / 4) and faulty.refutes(claimed.epsilon)


def test_what_a_server_decodes_refutes_laplace_noise_that_is_less_than_it_says():
    def sent(done):
        link = laplace(1.0, done)
        assert isinstance(link.mechanism, Mechanism)
        return decoded(link._replace(mechanism=replace(link.mechanism, scale=2.0)))

    claimed, honest = sent(2.0)
    assert (claimed.epsilon, claimed.delta) == (1.0, 0.0)
    assert 0.1 < honest.epsilon and not honest.refutes(1.0)
    assert sent(0.2)[1].refutes(1.0)


@pytest.mark.parametrize("method", ["one run", "runs"])
def test_scores_that_say_nothing_prove_nothing(method):
    """Equal ones too, whose order in the arguments is the truth; and in 40 audits of noise."""
    same = audit(np.zeros(500), np.zeros(500), delta=DELTA, method=method)
    assert same.epsilon == 0
    found = [
        audit(*scores(0.0, 300, s), delta=0.0, method=method).epsilon > 0
        for s in range(40)
    ]
    assert sum(found) <= 6


def test_scores_that_found_the_threshold_are_not_counted():
    found = audit(*scores(1.0, 300, 0), delta=DELTA, method="runs")
    assert (found.canaries, found.guesses) == (600, 300)


def test_one_run_guesses_as_the_paper_s_program():
    """The numbers of Appendix D, written here with SciPy, of 1000 guesses of 1000 canaries."""
    stats = pytest.importorskip("scipy.stats")

    def p_value(m, r, v, epsilon, delta):
        q = 1 / (1 + np.exp(-epsilon))
        beta, alpha, total = stats.binom.sf(v - 1, r, q), 0.0, 0.0
        for i in range(1, v + 1):
            total += stats.binom.pmf(v - i, r, q)
            alpha = max(alpha, total / i)
        return beta + alpha * delta * 2 * m

    inside, outside = scores(1.0, 500, 3)
    found = audit(inside, outside, delta=DELTA, guesses=400)
    at = (found.canaries, found.guesses, found.correct)
    assert p_value(*at, found.epsilon, DELTA) == pytest.approx(0.05, rel=1e-4)


def test_more_tried_numbers_of_guesses_are_paid_for():
    inside, outside = scores(1.0, 500, 4)
    one = audit(inside, outside, delta=DELTA, guesses=1000)
    both = audit(inside, outside, delta=DELTA, guesses=[1000, 1000])
    assert both.epsilon < one.epsilon


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inside": np.zeros((2, 2))},
            r"`inside` must be a vector of scores, got shape",
        ),
        ({"outside": []}, "`outside` must be a vector of scores"),
        ({"inside": [np.nan]}, "`inside` has NaN"),
        ({"delta": 1.0}, r"`delta` must lie in \[0, 1\), got 1.0"),
        ({"confidence": 1.0}, r"`confidence` must lie in \(0, 1\)"),
        ({"method": "x"}, '`method` must be "one run" or "runs"'),
        ({"guesses": 5}, "`guesses` is 5, but there are only 4 canaries"),
        ({"guesses": []}, "`guesses` must be at least one number, got none"),
        ({"method": "runs", "inside": [1.0]}, "must have at least 2 scores each"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"inside": [1.0, 2.0], "outside": [0.0, 1.0], "delta": 0.0} | change
    with pytest.raises(ValueError, match=message):
        audit(given.pop("inside"), given.pop("outside"), **given)
