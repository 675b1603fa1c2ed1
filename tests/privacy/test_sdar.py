"""A passive server that watches a training reads records without asking the bottom anything."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jsplit
from jsplit.privacy import Traffic, Watched, decoder_attack, sdar, views
from jsplit.privacy.attacks.inputs.simulating import (
    PARTS,
    Came,
    costs,
    simulated_step,
    start,
)
from jsplit.privacy.attacks.inputs.simulators import simulator_for
from tests.privacy.seen import LOSS_OF_CLASSES, dense

X, Y = load_digits(return_X_y=True)
# In another order: the file's records stand by writer.
ORDER = np.random.default_rng(0).permutation(len(X))
X, Y = jnp.asarray(X[ORDER] / 16, "float32"), jnp.asarray(Y[ORDER])
MINE, LABEL, PUBLIC, KNOWN = X[:900], Y[:900], X[900:], Y[900:]


def drawn(key, x):
    return jax.random.normal(key, (64, 32)) / 8


BOTTOM = jsplit.segment(lambda w, x: jnp.tanh(2 * x @ w), init=drawn, inputs=["record"])
TOP = dense([32, 10], "h")
MIDDLE, HEAD = dense([32, 16], "h"), dense([16, 10], "k")
QUICK = {"learning_rates": (2e-3, 1e-3, 2e-3, 1e-5), "adversarial": (0.1, 1e-5)}
QUICK |= {"width": 16}


def watched(top, head, steps):
    """What a server has of a training, and last of the trained model."""
    parts = [BOTTOM, top, *([head] if head else [])]
    params = [
        s.init(k, None)[0] for s, k in zip(parts, jax.random.split(KEY), strict=False)
    ]
    if head:
        params.append(head.init(KEY, None)[0])
    optimizer = optax.adam(2e-3)
    memory = optimizer.init(params)

    @jax.jit
    def step(params, memory, x, y):
        def cost(params):
            h = x
            for part, own in zip(parts, params, strict=True):
                h, _ = part.apply(own, {}, None, h)
            return LOSS_OF_CLASSES(h, y).mean()

        updates, memory = optimizer.update(jax.grad(cost)(params), memory)
        return optax.apply_updates(params, updates), memory

    def seen(x, y):
        h, _ = BOTTOM.apply(params[0], {}, None, x)
        fields = {} if head else {"label": y}
        number = np.zeros(len(x), int)
        return Watched(Traffic("server", number, {"h": h}, fields=fields), params[1])

    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = rng.choice(len(MINE), 64)
        yield seen(MINE[rows], LABEL[rows])
        params, memory = step(params, memory, MINE[rows], LABEL[rows])
    yield seen(MINE, LABEL)


KEY = jax.random.key(2)


@cache
def of_vanilla():
    items = [*watched(TOP, None, 400)]
    found = sdar(items, MINE, PUBLIC, KNOWN, BOTTOM, TOP, data_range=(0, 1), **QUICK)
    return items, found.inversion


@pytest.mark.slow
def test_records_are_read_beyond_what_labels_tell_and_noise_tells_nothing():
    score = of_vanilla()[1].score
    of_class = jnp.stack([PUBLIC[KNOWN == n].mean(0) for n in range(10)])[LABEL]
    np.testing.assert_allclose(
        score.chance, jnp.mean((of_class - MINE) ** 2), rtol=1e-5
    )
    assert score.beats_chance and score.value < 0.85 * score.chance
    assert score.control > score.chance
    adversary = score.adversary
    assert (adversary.active, adversary.public) == (False, len(PUBLIC))
    assert score.budget.steps == 400


@pytest.mark.slow
def test_a_decoder_of_a_bottom_that_it_drew_itself_reads_nothing():
    """What an adversary has that may ask the bottom nothing, and simulates nothing."""
    items, _ = of_vanilla()
    other, _ = BOTTOM.init(jax.random.key(9), None)

    def query(x):
        return BOTTOM.apply(other, {}, None, x)[0]

    seen = items[-1].traffic
    score = decoder_attack(seen, MINE, PUBLIC, query, steps=100).score
    assert score.value > score.chance


@pytest.mark.slow
def test_labels_of_a_u_shape_are_inferred_by_a_simulated_head():
    found = sdar(
        *(watched(MIDDLE, HEAD, 300), MINE, PUBLIC, KNOWN, BOTTOM, MIDDLE),
        head=HEAD,
        truth=LABEL,
        **QUICK,
    )
    score = found.labels
    assert score is not None and score.beats_chance and score.value > 0.25
    assert abs(score.control - score.chance) < 0.1
    assert found.inversion.score.control > found.inversion.score.chance


def small(head=None):
    """Both sides before a step, on few records."""
    came = Came(jax.random.normal(KEY, (6, 32)), LABEL[:6], TOP.init(KEY, None)[0], {})
    options = (1e-3, 1e-3, 1e-3, 1e-3), (0.3, 0.2), 0.0
    how = simulator_for(
        (BOTTOM, TOP, head, None), options, came, PUBLIC, np.asarray(KNOWN), 2
    )
    own = start(how, came, PUBLIC[:6], KNOWN[:6], KEY)
    return how, own, came


def test_each_part_goes_down_its_own_cost_by_finite_differences():
    """A step changes a part along the slope of its cost, others held still."""
    how, own, came = small()
    run = jax.jit(lambda own: costs(how, own, came, PUBLIC[:6], KNOWN[:6], KEY)[0])

    def total(params):
        found = run(own._replace(params=params))
        return jnp.stack([found[p] for p in PARTS]).sum()

    slopes = jax.grad(total)(own.params)
    for part in PARTS:
        way = slopes[part]
        size = optax.tree.norm(way)
        assert size > 0

        def moved(by, part=part, way=way, size=size):
            params = jax.tree.map(lambda p, d: p + by * d / size, own.params[part], way)
            return float(run(own._replace(params=own.params | {part: params}))[part])

        found = (moved(1e-2) - moved(-1e-2)) / 2e-2
        np.testing.assert_allclose(found, size, rtol=0.05)
    after = simulated_step(how, own, came, PUBLIC[:6], KNOWN[:6], KEY)
    before = run(own)
    for part in PARTS:
        params = own.params | {part: after.params[part]}
        assert run(own._replace(params=params))[part] < before[part]


def test_the_simulator_is_to_be_taken_for_real_and_the_judge_not_to_take_it():
    """By closed forms: a judge of logit 0 costs log 2 for each side, that it fools another."""
    how, own, came = small()
    still = jax.tree.map(jnp.zeros_like, own.params)
    flat = own._replace(params=own.params | {p: still[p] for p in ("judge", "critic")})
    found, _ = costs(how, flat, came, PUBLIC[:6], KNOWN[:6], KEY)
    h, _ = BOTTOM.apply(own.params["simulated"]["bottom"], {}, None, PUBLIC[:6])
    task = LOSS_OF_CLASSES(TOP.apply(came.params, {}, None, h)[0], KNOWN[:6]).mean()
    np.testing.assert_allclose(found["judge"], 2 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(found["simulated"], task + 0.3 * np.log(2), rtol=1e-5)


def test_it_is_refused_by_proof_where_nothing_can_be_inverted():
    topology = jsplit.vanilla(BOTTOM, TOP, loss=LOSS_OF_CLASSES)
    view = views(topology)["client"]
    with pytest.raises(ValueError, match=r"`view` of .*nothing to invert"):
        sdar([], MINE, PUBLIC, KNOWN, BOTTOM, TOP, view=view)


NOTHING = Traffic("server", np.zeros(4, int), {"h": jnp.ones((4, 32))})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, r"`training` has no field.*`head`"),
        ({"training": []}, "`training` must hold a step"),
        ({"known": KNOWN[:5]}, "`known`"),
        ({"public": None}, "`public`"),
        ({"width": 0}, "`width`"),
        ({"bottom": dense([64, 5], "x"), "head": HEAD}, "`bottom` must make"),
        ({"decoder": dense([32, 5], "h"), "head": HEAD}, "`decoder` must give"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    item = Watched(NOTHING, MIDDLE.init(KEY, None)[0])
    given = {"training": [item] * 2, "record": MINE[:4], "public": PUBLIC}
    given |= {"known": KNOWN, "bottom": BOTTOM, "top": MIDDLE}
    with pytest.raises(ValueError, match=says):
        sdar(**given | change)
