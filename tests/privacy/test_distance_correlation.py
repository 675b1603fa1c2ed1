"""Distance correlation: closed forms, what it may not depend on, its gradient, and its batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.privacy import dependence, distance_correlation
from jsplit.privacy.measures.distances import pairwise

both = pytest.mark.parametrize("corrected", [False, True])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def plain(x: np.ndarray, y: np.ndarray, exponent: float = 1.0) -> float:
    """The definition, without a matrix product: a slow and clear twin."""

    def centred(z: np.ndarray) -> np.ndarray:
        d = np.linalg.norm(z[:, None] - z[None], axis=-1) ** exponent
        return d - d.mean(0) - d.mean(1)[:, None] + d.mean()

    a, b = centred(x), centred(y)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


def plain_corrected(x: np.ndarray, y: np.ndarray) -> float:
    """U-centred products: Székely and Rizzo 2014, equation 2.3 and what stands above it."""

    def centred(z: np.ndarray) -> np.ndarray:
        d = np.linalg.norm(z[:, None] - z[None], axis=-1)
        n = len(d)
        a = d - d.sum(0) / (n - 2) - d.sum(1)[:, None] / (n - 2)
        a += d.sum() / ((n - 1) * (n - 2))
        return a * (1 - np.eye(n))

    a, b = centred(x), centred(y)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7, 2.0])
def test_biased_it_is_the_definition(exponent):
    x, y = normal(0, 30, 3), normal(1, 30, 2)
    y[:, 0] += x[:, 0] ** 2
    found = distance_correlation(x, y, exponent=exponent)
    assert float(found) == pytest.approx(plain(x, y, exponent), abs=2e-6)


def test_corrected_it_is_the_u_centred_product():
    x, y = normal(0, 30, 3), normal(1, 30, 2)
    y[:, 0] += x[:, 0] ** 2
    found = distance_correlation(x, y, corrected=True)
    assert float(found) == pytest.approx(plain_corrected(x, y), abs=2e-6)


@pytest.mark.parametrize(("records", "biased"), [(512, 0.64), (128, 0.85), (32, 0.96)])
def test_of_independent_values_it_is_large_and_corrected_it_is_nothing(records, biased):
    """Of 128 against 64 numbers, the mean of four draws."""
    x = jax.random.normal(jax.random.key(0), (4, records, 128))
    y = jax.random.normal(jax.random.key(1), (4, records, 64))
    found = jax.jit(jax.vmap(distance_correlation))(x, y)
    assert float(found.mean()) == pytest.approx(biased, abs=0.01)
    corrected = jax.jit(
        jax.vmap(lambda x, y: distance_correlation(x, y, corrected=True))
    )(x, y)
    assert abs(float(corrected.mean())) < 0.02


@both
def test_of_a_rotated_scaled_and_shifted_copy_it_is_one(corrected):
    x = normal(0, 40, 3)
    rotation, _ = np.linalg.qr(normal(1, 3, 3))
    found = distance_correlation(x, 7 - 3 * x @ rotation, corrected=corrected)
    assert float(found) == pytest.approx(1, abs=1e-5)
    line = distance_correlation(x[:, 0], -2 * x[:, 0] + 5, corrected=corrected)
    assert float(line) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_of_two_normal_numbers_it_is_the_closed_form(rho):
    """Székely, Rizzo and Bakirov 2007, theorem 7; corrected it estimates the square."""
    x, noise = normal(3, 2, 1500)
    y = rho * x + np.sqrt(1 - rho**2) * noise
    # With the correlation of these records, so that the sampling error is left out.
    r = float(np.corrcoef(x, y)[0, 1])
    square = r * np.arcsin(r) + np.sqrt(1 - r**2) - r * np.arcsin(r / 2)
    square = (square - np.sqrt(4 - r**2) + 1) / (1 + np.pi / 3 - np.sqrt(3))
    found = float(distance_correlation(x, y, corrected=True))
    assert found == pytest.approx(square, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_of_squared_distances_it_is_the_absolute_pearson_correlation(seed):
    """So it misses all that is not linear, which plain distances do not."""
    x, noise = normal(seed, 2, 50)
    y = 0.4 * x + noise
    found = float(distance_correlation(x, y, exponent=2))
    assert found == pytest.approx(abs(np.corrcoef(x, y)[0, 1]), abs=1e-5)
    even = np.concatenate([x, -x])
    assert float(distance_correlation(even, even**2, exponent=2)) < 1e-3
    assert float(distance_correlation(even, even**2)) > 0.3


@both
def test_it_does_not_depend_on_order_unit_or_origin(corrected):
    x, y = normal(0, 40, 3), normal(1, 40, 2)
    y[:, 0] += x[:, 0]
    want = float(distance_correlation(x, y, corrected=corrected))
    order = np.random.default_rng(2).permutation(40)
    changed = [
        (x[order], y[order]),
        (y, x),
        (1e-12 * x, 1e-12 * y),
        (x + 100, y),
        ({"a": x[:, :1], "b": x[:, 1:].reshape(40, 1, 2)}, y),
    ]
    for a, b in changed:
        found = float(distance_correlation(a, b, corrected=corrected))
        assert found == pytest.approx(want, abs=1e-4)


def test_narrow_and_whole_numbers_are_measured_as_their_values():
    x, y = normal(0, 40, 3), np.random.default_rng(1).integers(0, 255, (40, 2, 2))
    narrow = jnp.asarray(x, jnp.bfloat16)
    want = distance_correlation(np.asarray(narrow, np.float32), y * 1.0)
    for z in (narrow, np.asarray(narrow)):  # of NumPy it is a type of ml_dtypes
        found = distance_correlation(z, y.astype("uint8"))
        assert found.dtype == jnp.float32 and float(found) == float(want)
    # As JAX would cut them to 32 bits, these would be others.
    large = y.astype("int64") << 40
    assert float(distance_correlation(x, large)) == pytest.approx(
        float(distance_correlation(x, y)), abs=1e-5
    )


@both
def test_what_weighs_nothing_may_hold_anything_and_counts_for_nothing(corrected):
    x, y = normal(0, 24, 3), normal(1, 24, 2)
    weight = (np.arange(24) < 20) * 1.0
    x[20:], y[20:] = 1e6, -1e6
    found = jax.jit(lambda w: distance_correlation(x, y, w, corrected=corrected))(
        weight
    )
    want = distance_correlation(x[:20], y[:20], corrected=corrected)
    assert float(found) == pytest.approx(float(want), abs=2e-6)


def test_a_weight_of_two_is_the_record_twice():
    x, y = normal(0, 20, 3), normal(1, 20, 2)
    weight = 1.0 + (np.arange(20) % 3 == 0)
    rows = np.repeat(np.arange(20), weight.astype(int))
    found = distance_correlation(x, y, weight)
    want = distance_correlation(x[rows], y[rows])
    assert float(found) == pytest.approx(float(want), abs=2e-6)


def test_corrected_with_weights_it_is_unbiased_too():
    """Weights that know nothing of the records; biased they leave 0.6."""
    x = jax.random.normal(jax.random.key(0), (300, 20, 4))
    y = jax.random.normal(jax.random.key(1), (300, 20, 4))
    weight = jax.random.uniform(jax.random.key(2), (300, 20), minval=0.2, maxval=3)

    def corrected(x, y, w):
        return distance_correlation(x, y, w, corrected=True)

    found = jax.jit(jax.vmap(corrected))(x, y, weight)
    error = float(found.std()) / np.sqrt(300)
    assert abs(float(found.mean())) < 3 * error < 0.03
    biased = jax.jit(jax.vmap(distance_correlation))(x, y, weight)
    assert float(biased.mean()) > 0.5


@both
@pytest.mark.parametrize("exponent", [0.8, 1.0, 2.0])
def test_its_gradient_is_that_of_finite_differences(corrected, exponent):
    with jax.enable_x64(True):
        x, y = jnp.asarray(normal(0, 12, 3)), jnp.asarray(normal(1, 12, 2))
        weight = jnp.asarray(np.random.default_rng(2).uniform(0.5, 2, 12))
        along = jnp.asarray(normal(3, 12, 2))

        @jax.jit
        def at(step, weight):
            return distance_correlation(
                x, y + step * along, weight, corrected=corrected, exponent=exponent
            )

        slope = (at(1e-5, weight) - at(-1e-5, weight)) / 2e-5
        assert float(jax.grad(at)(0.0, weight)) == pytest.approx(float(slope), rel=1e-6)
        assert abs(float(slope)) > 1e-3


@both
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_its_gradient_is_finite_at_equal_records(corrected, exponent):
    x, y = jnp.asarray(normal(0, 12, 40)), jnp.asarray(normal(1, 12, 30) + 50)
    some = y.at[3].set(y[7]).at[5].set(y[7])

    @jax.jit
    @jax.value_and_grad
    def at(y):
        return distance_correlation(x, y, corrected=corrected, exponent=exponent)

    for equal in (some, jnp.ones_like(y), jnp.zeros_like(y)):
        found, gradient = at(equal)
        assert jnp.isfinite(gradient).all()
        assert (float(found) == 0) == (equal is not some)
    assert float(jnp.abs(gradient).max()) == 0


def test_its_gradient_is_finite_where_it_is_nothing_though_both_values_differ():
    """All four pairs of two values each: independent to the last digit."""
    x, y = jnp.array([0.0, 0, 1, 1]), jnp.array([0.0, 1, 0, 1])
    found, gradient = jax.jit(jax.value_and_grad(distance_correlation))(x, y)
    assert float(found) == 0 and jnp.isfinite(gradient).all()


def test_what_differs_by_rounding_is_at_no_distance():
    """Not at what rounding leaves of a difference: a thousandth of a record's size."""
    x = normal(0, 60, 50).astype("float32")
    twice = np.concatenate([x, x * np.float32(1 + 1.2e-7)])
    distances = pairwise(jnp.asarray(twice), 1.0)
    assert not jnp.diagonal(distances[:60, 60:]).any()
    exact = np.linalg.norm(x[:, None] - x[None], axis=-1)
    # In a unit of their own, a power of 2.
    unit = float(distances[0, 1] / exact[0, 1])
    assert np.log2(unit) == pytest.approx(round(np.log2(unit)), abs=1e-5)
    assert np.asarray(distances[:60, :60]) / unit == pytest.approx(exact, abs=1e-4)


@both
def test_traced_a_batch_in_which_nothing_counts_gives_nothing(corrected):
    x, y = jnp.asarray(normal(0, 8, 3)), jnp.asarray(normal(1, 8, 3))

    @jax.jit
    def at(y, weight):
        return distance_correlation(x, y, weight, corrected=corrected)

    found, gradient = jax.value_and_grad(at)(y, jnp.zeros(8))
    assert float(found) == 0 and not gradient.any()


def test_over_batches_it_is_the_mean_of_them_with_what_nothing_gives():
    x, noise = normal(0, 520, 6), normal(1, 520, 6)
    found = dependence(x, x + noise, jax.random.key(0), batch=64)
    assert (found.batch, found.biased.records) == (64, 512)
    nothing = dependence(x, noise, jax.random.key(0), batch=64)
    low, high = nothing.biased.interval
    assert low < found.shuffled.value < high  # shuffled pairs are independent
    assert found.biased.interval[0] > high
    assert found.corrected.interval[0] > 0.2 > abs(nothing.corrected.value)
    assert "batches of 64" in str(found)
    again = dependence(x, x + noise, jax.random.key(0), batch=64)
    assert again == found != dependence(x, x + noise, jax.random.key(1), batch=64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:9], y, {}), "same records, got 9 and 10"),
        (lambda x, y: (x[:1], y[:1], {}), "at least 2 records, got 1"),
        (lambda x, y: (x[:3], y[:3], {"corrected": True}), "at least 4 records, got 3"),
        (lambda x, y: (x.at[4].set(jnp.nan), y, {}), "`x` holds NaN .* in 1 of 10"),
        (lambda x, y: (x, y / 0, {}), "`y` holds NaN or infinity in 10 of 10"),
        (lambda x, y: (x, y, {"exponent": 2.5}), "`exponent` must be above 0"),
        (lambda x, y: (x, y, {"weight": jnp.ones(9)}), "`weight` must be one number"),
        (lambda x, y: (x, y, {"weight": -jnp.ones(10)}), "must not be negative"),
        (lambda x, y: (x, y, {"weight": jnp.zeros(10)}), "at least 2 records, got 0"),
        (lambda x, y: (jnp.float32(3), y, {}), "`x` must have one row for each"),
        (lambda x, y: (np.array(["a"] * 10), y, {}), "`x` must hold real numbers"),
        (lambda x, y: ((), y, {}), "got no array"),
        (lambda x, y: (jax.random.split(jax.random.key(0), 10), y, {}), "real numbers"),
        (lambda x, y: (x + 1j, y, {}), "real numbers, got complex64"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, said):
    x, y = jnp.ones((10, 2)).cumsum(0), jnp.ones((10, 3)).cumsum(0)
    x, y, settings = change(x, y)
    with pytest.raises(ValueError, match=said):
        distance_correlation(x, y, **settings)


def test_fewer_than_two_batches_are_refused():
    with pytest.raises(ValueError, match="at least 256 records, got 200"):
        dependence(np.ones(200), np.ones(200), jax.random.key(0))
    with pytest.raises(ValueError, match="`batch` must be at least 4"):
        dependence(np.ones(200), np.ones(200), jax.random.key(0), batch=3)
    with pytest.raises(ValueError, match="`key` must be a PRNG key"):
        dependence(np.ones(300), np.ones(300), 0)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("unit", [1e-35, 1e-25, 1e-12, 1e12, 1e25, 1e37])
def test_the_unit_of_a_value_does_not_matter_however_small_or_large(unit, corrected):
    """Cotangents of a mean over a large batch are tiny, and would look as if they said nothing."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    x, small = x / np.abs(x).max(), np.float32(unit)
    plain = distance_correlation(x, x**3, corrected=corrected)
    scaled = distance_correlation(x * small, x**3, corrected=corrected)
    np.testing.assert_allclose(scaled, plain, rtol=2e-3)
    slope = jax.jit(
        jax.grad(lambda v: distance_correlation(v, x**3, corrected=corrected))
    )(x * small)
    # A derivative by something of 1e37 is itself no number of 32 bits.
    assert jnp.isfinite(slope).all() and (unit > 1e30 or jnp.abs(slope).max() > 0)
