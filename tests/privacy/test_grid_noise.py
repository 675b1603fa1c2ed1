"""Noise on a grid: low bits that tell a value under float32 noise tell nothing any more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.privacy import (
    audit,
    gaussian,
    gaussian_epsilon,
    grid_laplace,
    grid_noise,
    laplace,
    on_grid,
)

GRID = 2.0**-12
DEVIATION = np.float32(20.0)
VALUES = [np.zeros(32, "float32"), np.full(32, 1 / np.sqrt(32), "float32")]
"""Both of norm 1 at most."""


def every_normal():
    """All numbers in the middle that `jax.random.normal` can give: of 23 bits each."""
    bits = np.arange(7 * 2**19, 9 * 2**19, dtype="uint32") | np.uint32(0x3F800000)
    unit = jax.lax.bitcast_convert_type(jnp.asarray(bits), jnp.float32) - 1
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(low, unit * (np.float32(1) - low) + low)
    return DEVIATION * (np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform))


def bare(x, key):
    return x + DEVIATION * jax.random.normal(key, x.shape)


def rounded(x, key):
    return on_grid(x, GRID) + grid_noise(key, x, 20.0, GRID)


def attacked(send, sums):
    """What an audit proves, by how many numbers are possible with one value, not the other."""
    tables = [np.unique(np.asarray(sums(x[0]))) for x in VALUES]

    def score(y):
        def possible(t):
            return (t[np.minimum(np.searchsorted(t, y), len(t) - 1)] == y).sum(-1)

        return possible(tables[1]) - possible(tables[0])

    sent = jax.jit(jax.vmap(send, (None, 0)))
    keys = jax.random.split(jax.random.key(7), (2, 300))
    outside, inside = (
        score(np.asarray(sent(x, k))) for x, k in zip(VALUES, keys, strict=True)
    )
    return audit(inside, outside, delta=1e-5, method="runs"), inside, outside


def test_low_bits_tell_a_value_under_float32_noise_and_not_on_a_grid():
    claimed = gaussian_epsilon(1e-5, 2 / 20)
    normals = every_normal()
    found, _, _ = attacked(bare, lambda x: x + normals)
    assert found.refutes(claimed)
    steps = jnp.round(normals / GRID) * GRID
    found, inside, outside = attacked(rounded, lambda x: on_grid(x, GRID) + steps)
    assert not found.refutes(claimed)
    wins = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
    assert abs(wins - 0.5) < 0.08


def test_sums_on_the_grid_are_exact_and_as_wide_as_they_should_be():
    noise = grid_noise(jax.random.key(0), np.zeros(40000), 20.0, GRID)
    many = np.asarray(noise, "float64") / GRID
    assert noise.dtype == jnp.float32 and (many == np.round(many)).all()
    assert np.std(noise) == pytest.approx(20.0, rel=0.02)
    value = np.asarray(on_grid(np.linspace(-1, 1, 40000), GRID), "float64")
    total = np.asarray(jnp.float32(value) + noise, "float64")
    assert (total == value + np.asarray(noise, "float64")).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("defence", [gaussian, laplace])
def test_the_sign_of_a_zero_does_not_cross(defence, dtype):
    """-0 + -0 is -0, and of no other two numbers: rounded values and noise have none."""
    link = defence(clip=1.0, scale=1.0)
    own = {f"{defence.__name__}_scale": jnp.float32(1)}
    send = jax.jit(lambda h, key: link.encode((), h, key, own)[0])
    sent = send(jnp.full((4000, 64), -1e-4, dtype), jax.random.key(1))
    zeros = np.asarray(sent, "float32") == 0
    assert sent.dtype == dtype and zeros.sum() > 20
    assert not np.signbit(np.asarray(sent, "float32")[zeros]).any()


def test_values_and_noise_on_a_grid_have_one_zero():
    key, like = jax.random.key(0), jnp.zeros(100_000)
    small = jnp.array([-0.0, -1e-6, -1e-30, 0.0])
    for made in (on_grid(small, GRID), jax.jit(lambda x: on_grid(x, GRID))(small)):
        assert (made == 0).all() and not np.signbit(made).any()
    for draw in (grid_noise, grid_laplace):
        noise = np.asarray(jax.jit(lambda d, draw=draw: draw(key, like, d, 0.25))(1.0))
        assert (noise == 0).any() and not np.signbit(noise[noise == 0]).any()
    assert np.isnan(on_grid(jnp.array([jnp.nan]), GRID)).all()


def test_rounding_makes_no_vector_longer():
    x = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
    on = np.asarray(on_grid(x, 0.25))
    assert (np.abs(on) <= np.abs(x)).all() and (on != 0).any()


def test_laplace_noise_on_a_grid_has_the_probabilities_that_its_epsilon_is_of():
    """Of every multiple, near 0 and far, with as many as there must be and with no holes."""
    draw = jax.jit(
        lambda b: grid_laplace(jax.random.key(1), jnp.zeros(100_000), b, 0.25)
    )
    for b in (0.1, 0.5, 5.0):
        many = np.asarray(draw(b), np.float64) / 0.25
        assert (many == np.round(many)).all()
        q = np.exp(-0.25 / b)
        for k in {0, 1, -1, 2, -2, 3, -5, 12, -40, 80}:
            p = (1 - q) / (1 + q) * q ** abs(k)
            error = 5 * np.sqrt(p / len(many)) + 5 / len(many)
            assert abs(np.mean(many == k) - p) < error, (b, k)
        at_least = np.mean(np.abs(many) >= 60)
        p = 2 * q**60 / (1 + q)
        assert abs(at_least - p) < 5 * np.sqrt(p / len(many)) + 5 / len(many)
    # Odd multiples are as likely as even ones at 100,000 steps: float32 has holes there.
    far = np.asarray(draw(0.25 * 100_000.0)) / 0.25
    far = far[np.abs(far) > 300_000]
    assert len(far) > 2500 and abs(np.mean(far % 2) - 0.5) < 5 / 2 / np.sqrt(len(far))
    assert np.isnan(draw(1e6)).all() and (np.asarray(draw(0.0)) == 0).all()


@pytest.mark.parametrize("grid", [0.0, 0.3, -0.5, float("inf"), float("nan")])
def test_a_grid_that_is_no_power_of_two_is_refused(grid):
    with pytest.raises(ValueError, match="`grid` must be a power of two"):
        on_grid(np.zeros(1), grid)


def test_noise_too_wide_for_its_grid_is_refused():
    with pytest.raises(ValueError, match="`deviation` must be at least 0 and below"):
        grid_noise(jax.random.key(0), np.zeros(1), 200.0, GRID)
    with pytest.raises(ValueError, match="`b` must be at least 0 and below"):
        grid_laplace(jax.random.key(0), np.zeros(1), 50.0, GRID)
