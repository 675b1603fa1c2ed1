"""Numbers that are very large or small change no score: in 32 bits their squares overflow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.privacy import (
    Traffic,
    cosine_attack,
    direction_clusters,
    norm_attack,
    reconstruction,
)

RNG = np.random.default_rng(0)
LABEL = np.arange(64) % 4 == 0
# Long ones of one direction and short ones of the other, but for one of each.
LONG = np.where(LABEL, -9.0, 1.0)
LONG[[0, 1]] = [-0.5, 8.0]
ROWS = LONG[:, None] * (1 + RNG.uniform(size=(64, 6)) / 10)


def seen(rows):
    step = np.repeat(np.arange(4), 16)
    return Traffic("client", step, returned={"h": jnp.asarray(rows, "float32")})


@pytest.mark.parametrize("attack", [norm_attack, cosine_attack, direction_clusters])
@pytest.mark.parametrize("size", [1e-30, 1e30, 2e37])
def test_an_attack_scores_alike_whatever_the_size_of_cotangents(attack, size):
    expected = attack(seen(ROWS), LABEL).value
    assert expected > 0.9
    assert attack(seen(ROWS * size), LABEL).value == expected


def test_one_cotangent_of_1e30_hides_no_other_s_norm():
    huge = ROWS.copy()
    huge[4] *= 1e30
    expected = norm_attack(seen(ROWS), LABEL).value
    # It was among the longest before.
    assert norm_attack(seen(huge), LABEL).value >= expected


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_share_that_is_reconstructed_does_not_depend_on_the_unit(size):
    x = jnp.asarray(RNG.normal(size=(20, 5)), "float32")
    guess = 0.9 * x
    key = jax.random.key(0)
    plain = reconstruction(x, guess, key, count=200)
    sized = reconstruction(x * size, guess * size, key, count=200)
    assert sized.explained.value == pytest.approx(plain.explained.value, rel=1e-4)
    assert sized.mse.value == pytest.approx(plain.mse.value * size**2, rel=1e-4)
