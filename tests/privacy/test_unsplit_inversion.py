"""Records and parameters are found together from activations and the form of the bottom."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import jsplit
from jsplit.privacy import Traffic, unsplit_inversion

X = jnp.asarray(load_digits(return_X_y=True)[0][:24].reshape(-1, 8, 8) / 16, "float32")
RANGE = {"data_range": (0, 1)}


def apply(params, x):
    form = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(
        x[..., None], params[0], (1, 1), "SAME", dimension_numbers=form
    )
    return jnp.tanh(h + params[1])


def init(key, x):
    keys, ends = jax.random.split(key), {"minval": -1 / 3, "maxval": 1 / 3}
    shapes = (3, 3, 1, 6), (6,)
    return [jax.random.uniform(k, s, **ends) for k, s in zip(keys, shapes, strict=True)]


CONV = jsplit.segment(apply, init=init, inputs=["x"])
SECRET = CONV.init(jax.random.key(77), X)[0]


def seen_of(h):
    return Traffic("server", np.zeros(len(h), int), received={"h": h})


SEEN = seen_of(apply(SECRET, X))


@pytest.fixture(scope="module")
def found():
    return unsplit_inversion(SEEN, X, CONV, steps=700, restarts=1, **RANGE)


def test_pictures_behind_one_convolution_are_found_from_its_form(found):
    score = found.score
    assert score.value < 0.01 and score.beats_chance
    assert score.control > 0.9 * score.chance
    assert score.more["mismatch"] < 0.01
    assert score.adversary.public == 0 and not score.adversary.active


def test_without_steps_to_speak_of_nothing_is_found():
    found = unsplit_inversion(SEEN, X, CONV, steps=1, **RANGE)
    assert found.score.value > found.score.chance


@cache
def short(restarts=1, smooth=0.03):
    options = {"steps": 60, "restarts": restarts, "smooth": smooth}
    return unsplit_inversion(SEEN, X, CONV, **options, **RANGE)


def test_of_several_starts_the_one_that_matches_best_counts():
    one, best = short(), short(4)
    assert best.score.more["mismatch"] < one.score.more["mismatch"]
    assert best.score.budget.steps == 4 * one.score.budget.steps


def test_the_control_starts_as_the_attack_does_and_does_not_see_what_came():
    score = short().score
    assert score.control != pytest.approx(score.value, rel=0.02)


def test_guesses_are_the_smoother_the_more_that_counts():
    rough, smooth = (
        np.abs(np.diff(short(smooth=s).reconstructed, axis=1)).mean()
        for s in (0.03, 3.0)
    )
    assert smooth < 0.7 * rough


def test_behind_a_relu_the_brightness_of_first_guesses_decides_what_is_found():
    """The bias makes up for another brightness: only the mismatch tells the right start."""

    def relu(params, x):
        form = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(
            x[..., None], params[0], (1, 1), "SAME", dimension_numbers=form
        )
        return jax.nn.relu(h + params[1])

    form = jsplit.segment(relu, init=init, inputs=["x"])
    seen, options = seen_of(relu(SECRET, X)), {"steps": 300, **RANGE}
    middle, some = (
        unsplit_inversion(seen, X, form, restarts=n, **options).score for n in (1, 6)
    )
    assert some.more["mismatch"] < middle.more["mismatch"]
    assert some.value < 0.5 * middle.value


def test_records_of_another_range_are_found_as_well(found):
    """The bottom reads them as it read the others, so that activations are the same."""

    def moved(params, x):
        return apply(params, (x + 3) / 6)

    form = jsplit.segment(moved, init=init, inputs=["x"])
    other = unsplit_inversion(
        SEEN, 6 * X - 3, form, steps=700, restarts=1, data_range=(-3, 3)
    )
    assert other.score.value < 36 * 0.01
    # In decibels of the range, it is the same attack.
    assert other.score.more["PSNR"] == pytest.approx(found.score.more["PSNR"], abs=6)


def test_rows_of_a_table_are_no_pictures():
    """No smoothness is assumed of what has no neighbours."""
    x = X.reshape(24, 64)[:, 20:30]

    def start(key, x):
        return jax.random.normal(key, (10, 20)) / 3

    form = jsplit.segment(lambda w, x: jnp.tanh(x @ w), init=start, inputs=["x"])
    h = jnp.tanh(x @ start(jax.random.key(5), x))
    seen, options = seen_of(h), {"steps": 50, "restarts": 1, **RANGE}
    plain, smooth = (
        unsplit_inversion(seen, x, form, smooth=s, **options) for s in (0, 9.0)
    )
    np.testing.assert_array_equal(plain.reconstructed, smooth.reconstructed)


GIVEN = jsplit.segment(apply, init=lambda key, x: SECRET, inputs=["x"])
SMALL = jsplit.segment(
    lambda w, x: x.reshape(len(x), -1) @ w,
    init=lambda key, x: jax.random.normal(key, (64, 3)),
    inputs=["x"],
)


@pytest.mark.parametrize(
    ("bottom", "change", "says"),
    [
        (GIVEN, {}, "`bottom` must draw"),
        (SMALL, {}, "`bottom` must make 384 numbers"),
        (CONV, {"data_range": (0, 0.5)}, "`data_range`"),
        (CONV, {"steps": 0}, "`steps`"),
        (CONV, {"restarts": 0}, "`restarts`"),
        (CONV, {"smooth": -1}, "`smooth`"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(bottom, change, says):
    with pytest.raises(ValueError, match=says):
        unsplit_inversion(SEEN, X, bottom, **RANGE | change)


def test_activations_of_several_steps_are_of_several_models():
    with pytest.raises(ValueError, match="one model"):
        unsplit_inversion(SEEN._replace(step=np.arange(24)), X, CONV, **RANGE)
