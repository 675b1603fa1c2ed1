"""A decoder learns to read records off activations, and learns nothing from shuffled pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import jsplit
from jsplit.privacy import Traffic, decoder_attack

X = jnp.asarray(load_digits(return_X_y=True)[0][:700].reshape(-1, 8, 8) / 16, "float32")
PRIVATE, PUBLIC = X[:200], X[200:]
W = jax.random.normal(jax.random.key(0), (64, 48)) / 8
QUICK = {"steps": 200, "data_range": (0, 1)}


def bottom(x):
    return jnp.tanh(x.reshape(len(x), -1) @ W)


def seen_of(h):
    return Traffic("server", np.zeros(len(h), int), received={"h": h})


SEEN = seen_of(bottom(PRIVATE))


@pytest.fixture(scope="module")
def found():
    return decoder_attack(SEEN, PRIVATE, PUBLIC, bottom, **QUICK)


def test_records_are_read_and_shuffled_pairs_teach_the_mean_at_best(found):
    score = found.score
    assert score.value < 0.35 * score.chance and score.beats_chance
    assert score.control > 0.97 * score.chance
    assert score.more["SSIM"] > 0.7 > score.more["control SSIM"] + 0.2
    assert score.adversary.public == 500 and score.budget.records == 200


def test_the_floor_is_the_mean_of_public_records(found):
    floor = jnp.mean((PRIVATE - PUBLIC.mean(0)) ** 2)
    assert found.score.chance == pytest.approx(float(floor), rel=1e-5)


def test_errors_are_those_of_the_reconstructions_and_worst_are_the_smallest(found):
    errors = ((np.asarray(PRIVATE) - found.reconstructed) ** 2).mean((1, 2))
    np.testing.assert_allclose(found.errors, errors, rtol=1e-5)
    assert found.score.value == pytest.approx(errors.mean(), rel=1e-5)
    assert found.errors[found.worst(5)].max() <= np.sort(errors)[4] + 1e-7
    assert found.reconstructed.min() >= 0 and found.reconstructed.max() <= 1


def test_a_number_that_no_public_record_varies_blows_no_guess_up():
    # As after rounding: few private records have another number there.
    asked, came = (bottom(x).at[:, 0].set(0) for x in (PUBLIC, PRIVATE))
    came = came.at[::2, 0].set(1)
    found = decoder_attack(seen_of(came), PRIVATE, PUBLIC, asked, steps=20)
    # Nor does any leave the range of public records, which whoever has them knows.
    assert PUBLIC.min() <= found.reconstructed.min()
    assert found.reconstructed.max() <= PUBLIC.max()
    assert found.score.value < 2 * found.score.chance


def test_noise_that_is_all_there_is_cannot_be_decoded():
    noise = jax.random.normal(jax.random.key(3), (700, 48))
    found = decoder_attack(seen_of(noise[:200]), PRIVATE, PUBLIC, noise[200:], **QUICK)
    assert found.score.value > 0.97 * found.score.chance
    assert not found.score.beats_chance


def test_a_scale_is_no_defence(found):
    other = decoder_attack(
        seen_of(1e4 * bottom(PRIVATE) - 7.0),
        PRIVATE,
        PUBLIC,
        lambda x: 1e4 * bottom(x) - 7.0,
        **QUICK,
    )
    assert other.score.value == pytest.approx(found.score.value, rel=0.1)


def test_a_picture_of_channels_is_decoded_by_convolutions():
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 6)) / 3

    def conv(x):
        form = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(
            x[..., None], kernel, (2, 2), "SAME", dimension_numbers=form
        )
        return jax.nn.relu(h)

    found = decoder_attack(seen_of(conv(PRIVATE)), PRIVATE, PUBLIC, conv, **QUICK)
    assert found.reconstructed.shape == PRIVATE.shape
    assert found.score.value < 0.2 * found.score.chance
    assert found.score.control > 0.97 * found.score.chance


def test_of_several_arrays_all_are_read():
    """One of them says nothing, so that whoever reads one alone finds nothing."""

    def pair(x):
        return {"a": jnp.zeros((len(x), 2)), "b": bottom(x)}

    found = decoder_attack(seen_of(bottom(PRIVATE)), PRIVATE, PUBLIC, bottom, **QUICK)
    seen = Traffic("server", np.zeros(200, int), received={"h": pair(PRIVATE)})
    both = decoder_attack(seen, PRIVATE, PUBLIC, pair, **QUICK)
    assert both.score.value < 1.3 * found.score.value


def test_a_decoder_of_ones_own_is_taken():
    def start(key, h):
        return 0.01 * jax.random.normal(key, (48, 64))

    own = jsplit.segment(
        lambda w, h: (h @ w).reshape(-1, 8, 8), init=start, inputs=["h"]
    )
    found = decoder_attack(SEEN, PRIVATE, PUBLIC, bottom, decoder=own, **QUICK)
    assert found.score.beats_chance


def test_private_records_that_are_public_are_counted():
    found = decoder_attack(
        SEEN, PRIVATE, jnp.concatenate([PRIVATE[:7], PUBLIC]), bottom, **QUICK
    )
    assert found.score.more["in public"] >= 7


FLAT = jsplit.segment(
    lambda w, h: h @ w, init=lambda key, h: jnp.zeros((48, 5)), inputs=["h"]
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"public": None}, "`public` must hold records of the same kind"),
        ({"public": PUBLIC[:2]}, "`public`"),
        ({"public": PUBLIC[:, :4]}, r"shape \(8, 8\)"),
        ({"query": None}, "`query`"),
        ({"query": bottom(PUBLIC)[:-1]}, "same records"),
        ({"query": lambda x: bottom(x)[:, :5]}, r"`query`.*\(48,\)"),
        ({"record": PRIVATE[:-1]}, "200 records"),
        ({"record": PRIVATE.at[0].set(jnp.nan)}, "NaN"),
        ({"decoder": FLAT}, "`decoder`"),
        ({"steps": 0}, "`steps`"),
        ({"traffic": SEEN._replace(received={})}, "no activations"),
        ({"traffic": SEEN._replace(step=np.arange(200))}, "one model"),
        ({"value": "other"}, "`value`"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(change, says):
    given = {"traffic": SEEN, "record": PRIVATE, "public": PUBLIC, "query": bottom}
    with pytest.raises(ValueError, match=says):
        decoder_attack(**given | QUICK | change)
