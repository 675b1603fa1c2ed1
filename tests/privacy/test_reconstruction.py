"""Reconstructions: closed forms of errors, the floor of who sees nothing, and who is worst off."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.privacy import psnr, reconstruction, squared_error, ssim

KEY = jax.random.key(0)


def images(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


def test_the_mse_of_an_offset_is_its_square():
    x = images(0, 5, 4, 3)
    off = np.arange(5.0)[:, None, None]
    assert np.asarray(squared_error(x, x + off)) == pytest.approx(off[:, 0, 0] ** 2)


@pytest.mark.parametrize("low, high", [(0, 1), (-1, 1), (0, 255)])
def test_psnr_is_that_of_the_mse_and_the_range(low, high):
    x = images(0, 4, 6, 6) * (high - low) + low
    guess = images(1, 4, 6, 6) * (high - low) + low
    want = 20 * np.log10(high - low) - 10 * np.log10(squared_error(x, guess))
    assert np.asarray(psnr(x, guess, (low, high))) == pytest.approx(want, abs=1e-4)
    # In units of the range it is the same error.
    unit = psnr((x - low) / (high - low), (guess - low) / (high - low), (0, 1))
    assert np.asarray(unit) == pytest.approx(want, abs=1e-3)
    assert np.isinf(psnr(x, x, (low, high))).all()


def plain_ssim(x: np.ndarray, y: np.ndarray, window: int, peak: float) -> float:
    """Of one image, window by window, as Wang et al. 2004 write it."""
    at = np.arange(window) - window // 2
    line = np.exp(-(at**2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    found = []
    for i in range(x.shape[0] - window + 1):
        for j in range(x.shape[1] - window + 1):
            a, b = (z[i : i + window, j : j + window] for z in (x, y))
            p, q = (weight * a).sum(), (weight * b).sum()
            v, w = (weight * (a - p) ** 2).sum(), (weight * (b - q) ** 2).sum()
            c = (weight * (a - p) * (b - q)).sum()
            c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
            top = (2 * p * q + c1) * (2 * c + c2)
            found.append(top / ((p * p + q * q + c1) * (v + w + c2)))
    return float(np.mean(found))


def test_ssim_is_the_published_formula_and_one_of_equal_images():
    x, guess = images(0, 3, 14, 13), images(1, 3, 14, 13)
    guess = 0.7 * x + 0.3 * guess
    want = [plain_ssim(a, b, 11, 1.0) for a, b in zip(x, guess, strict=True)]
    assert np.asarray(ssim(x, guess, (0, 1))) == pytest.approx(want, abs=1e-4)
    assert np.asarray(ssim(x, x, (0, 1))) == pytest.approx(1, abs=1e-5)
    # Whether images lie in (0, 1) or (-1, 1) is no matter of likeness.
    assert np.asarray(ssim(2 * x - 1, 2 * guess - 1, (-1, 1))) == pytest.approx(
        want, abs=1e-4
    )


def test_small_images_have_the_largest_odd_window_that_fits():
    x = images(0, 3, 8, 8)
    guess = 0.5 * x + 0.5 * images(1, 3, 8, 8)
    want = [plain_ssim(a, b, 7, 1.0) for a, b in zip(x, guess, strict=True)]
    assert np.asarray(ssim(x, guess, (0, 1))) == pytest.approx(want, abs=1e-4)
    assert reconstruction(x, guess, KEY, data_range=(0, 1), count=40).window == 7


def test_errors_can_be_differentiated_in_a_jit():
    x, guess = images(0, 2, 12, 12), images(1, 2, 12, 12)

    @jax.jit
    def loss(guess):
        return squared_error(x, guess).sum() - ssim(x, guess, (0, 1)).sum()

    gradient = jax.grad(loss)(jnp.asarray(guess))
    assert jnp.isfinite(gradient).all() and gradient.any()
    better = guess - 0.1 * np.asarray(gradient) / float(jnp.abs(gradient).max())
    assert float(loss(better)) < float(loss(guess))


def test_the_floor_is_the_mean_of_all_other_records():
    x = images(0, 9, 5)
    want = [np.mean((x[i] - np.delete(x, i, 0).mean(0)) ** 2) for i in range(9)]
    found = reconstruction(x, x, KEY, count=40)
    assert found.floors == pytest.approx(want, rel=1e-5)
    assert (found.mse.value, found.explained.value) == (0, 1)


def test_who_guesses_the_mean_record_has_found_out_nothing():
    x = images(0, 200, 6)
    mean = images(1, 200, 6).mean(0)
    found = reconstruction(x, np.tile(mean, (200, 1)), KEY, mean=mean, count=40)
    assert found.explained.value == pytest.approx(0, abs=1e-6)
    others = reconstruction(x, np.tile(mean, (200, 1)), KEY, count=100)
    assert others.explained.interval[0] < 0.02
    assert others.mse.value == pytest.approx(1 / 12, rel=0.05)  # of a uniform


def test_the_worst_off_are_those_of_the_smallest_error():
    x = images(0, 12, 4)
    off = np.array([5, 1, 3, 2, 4, 6, 7, 8, 9, 10, 11, 12.0])[:, None]
    found = reconstruction(x, x + off, KEY, count=40)
    assert found.worst(3).tolist() == [1, 3, 2]
    assert len(found.worst()) == 10 and len(found.worst(99)) == 12


def test_numbers_are_of_records_and_stand_within_their_intervals():
    x = images(0, 30, 12, 12, 3)
    guess = x + 0.2 * images(1, 30, 12, 12, 3) * np.arange(30)[:, None, None, None] / 30
    found = reconstruction(x, guess, KEY, data_range=(0, 1), count=200)
    assert found.psnr is not None and found.ssim is not None
    for part in (found.mse, found.floor, found.explained, found.ssim):
        assert part.interval[0] < part.value < part.interval[1]
        assert part.records == 30
    assert found.mse.value == pytest.approx(found.errors.mean())
    # Record 0 is exact, so decibels have no upper end.
    assert found.psnr.value == np.inf and np.isfinite(found.psnr.interval[0])


def test_images_are_compared_alike_in_blocks(monkeypatch):
    x, guess = images(0, 5, 9, 9), images(1, 5, 9, 9)
    found = reconstruction(x, guess, KEY, data_range=(0, 1), count=40).ssim
    monkeypatch.setattr("jsplit.privacy.measures.reconstructed._NUMBERS", 170)
    blocks = reconstruction(x, guess, KEY, data_range=(0, 1), count=40).ssim
    assert found is not None and blocks is not None
    assert blocks.value == pytest.approx(found.value, abs=1e-5)


def test_what_are_no_images_has_no_ssim_and_without_a_range_no_decibels():
    x = images(0, 10, 12)
    found = reconstruction(x, x + 0.1, KEY, count=40)
    assert found.psnr is None and found.ssim is None and found.window is None
    table = reconstruction(x, x + 0.1, KEY, data_range=(0, 1), count=40)
    assert table.psnr is not None and table.ssim is None
    assert table.psnr.value == pytest.approx(20, abs=1e-4)


X = images(0, 6, 8, 8)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: squared_error(X, X[:1]), r"`guess` must have the shape of `original`"),
        (lambda: squared_error(X, X * np.nan), "`guess` holds NaN .* in 6 of 6"),
        (lambda: reconstruction(X[:1], X[:1], KEY), "at least 2 records, got 1"),
        (lambda: psnr(X, X, (1, 0)), "`data_range` must be the smallest"),
        (lambda: psnr(X, X, 1.0), "`data_range` must be the smallest"),
        (lambda: psnr(2 * X - 1, X, (0, 1)), r"of 384 values outside `data_range`"),
        (lambda: ssim(X, X, (0, 1), 8), "`window` must be odd and at most 8"),
        (lambda: ssim(X, X, (0, 1), 9), "`window` must be odd and at most 8"),
        (lambda: ssim(X[:, 0], X[:, 0], (0, 1)), "must be .records, height, width"),
        (lambda: reconstruction(X, X, KEY, window=7), "`window` is of SSIM"),
        (lambda: reconstruction(X, X, KEY, mean=X[1:]), "`mean` must be one record"),
        (
            lambda: reconstruction(X, X, KEY).worst(0),
            "`count` must be a positive integer",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
