"""An attack that could not learn is refused; one that learned from other records is in doubt."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import (
    Adversary,
    Budget,
    Score,
    Traffic,
    best,
    decoder_attack,
    fsha,
    gradient_matching,
    hijack,
    inverted_tokens,
    malicious,
    membership_inference,
    model_completion,
    property_inference,
    sdar,
    unsplit_inversion,
)
from jsplit.privacy.attacks.inputs import feature_space
from jsplit.privacy.attacks.inputs.hijackers import hijackers_for

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
SEEN = Traffic("server", jnp.zeros(16, int), {"h": X[:, :3]})
BACK = Traffic(
    "client", jnp.zeros(16, int), returned={"h": X[:, :3]}, sent={"h": X[:, :3]}
)
LABEL = jnp.arange(16) % 2


def bottom_of(draw, after=lambda h: h):
    return jsplit.segment(lambda w, x: after(x @ w), init=draw, inputs=["x"])


BOTTOM = bottom_of(lambda key, x: jax.random.normal(key, (4, 3)))
HEAD = bottom_of(lambda key, h: jax.random.normal(key, (3, 2)))
LOSS = optax.softmax_cross_entropy_with_integer_labels
ASK = partial(jnp.matmul, b=jnp.ones((4, 3)))
ATTACKS = {
    "fsha": partial(fsha, BOTTOM, X, X),
    "hijack": partial(hijack, (3,), (4,), lambda h: h, inputs=["h", "x"]),
    "decoder": partial(decoder_attack, SEEN, X, X, ASK),
    "unsplit": partial(unsplit_inversion, SEEN, X, BOTTOM, data_range=(-5, 5)),
    "sdar": partial(sdar, [], X, X, LABEL, BOTTOM, HEAD),
    "matching": partial(gradient_matching, BACK, LABEL, HEAD, LOSS, classes=2),
    "completion": partial(
        model_completion, BACK, LABEL, HEAD, known=jnp.arange(4), classes=2
    ),
    "property": partial(property_inference, SEEN, LABEL, X[:, :3], LABEL),
    "membership": partial(membership_inference, SEEN, LABEL, X[:, :3], LABEL),
    "tokens": partial(
        inverted_tokens,
        Traffic("server", jnp.zeros(16, int), {"h": X[:, None]}),
        LABEL[:, None],
        LABEL[:, None],
        lambda t: X[:, None],
        vocabulary=2,
    ),
    "speed": partial(malicious, optax.sgd(0.1)),
}
RATES = {
    **{(name, "learning_rate"): 0 for name in ATTACKS if name not in ("sdar", "speed")},
    ("fsha", "learning_rate_judge"): 0,
    ("hijack", "learning_rate_judge"): 0,
    ("unsplit", "learning_rate_bottom"): 0,
    ("fsha", "gradient_penalty"): None,
    ("hijack", "gradient_penalty"): None,
    ("unsplit", "smooth"): None,
    ("sdar", "flip"): None,
    ("speed", "gamma"): None,
}


@pytest.mark.parametrize(("name", "argument"), RATES)
def test_a_rate_that_teaches_nothing_is_refused_by_its_name(name, argument):
    """Also 0 of a rate; of a weight 0 is none."""
    zero = RATES[name, argument]
    for bad in (np.nan, np.inf, -1e-3, True, "1", jnp.ones(2), *[zero] * (zero == 0)):
        with pytest.raises(ValueError, match=f"`{argument}` must be a"):
            ATTACKS[name](**{argument: bad})


def test_each_of_several_rates_is_looked_at():
    for given, message in (
        ({"learning_rates": (1e-3, 1e-3, np.nan, 1e-3)}, r"`learning_rates\[2\]`"),
        ({"learning_rates": 1e-3}, "`learning_rates` must be 4 numbers"),
        ({"adversarial": (0.1, -1.0)}, r"`adversarial\[1\]`"),
        ({"flip": 1.5}, "`flip` must be a share"),
    ):
        with pytest.raises(ValueError, match=message):
            ATTACKS["sdar"](**given)


def test_a_hijacker_s_encoder_is_never_negative_only_where_the_bottom_never_is(
    monkeypatch,
):
    """Not of first weights of 0, nor of positive ones on positive records."""
    told = []

    def made(*given):
        told.append(given[-1])
        return hijackers_for(*given)

    monkeypatch.setattr(feature_space, "hijackers_for", made)
    zero, one = (lambda key, x, n=n: jnp.full((4, 3), float(n)) for n in (0, 1))
    for draw, after, positive in (
        (zero, lambda h: h, False),
        (one, lambda h: h, False),
        (zero, jax.nn.relu, True),
        (one, jax.nn.sigmoid, True),
    ):
        fsha(bottom_of(draw, after), jnp.abs(X), jnp.abs(X), steps=1, width=1)
        assert told.pop() is positive


def test_public_records_in_other_units_put_an_attack_in_doubt():
    for attack in (partial(fsha, BOTTOM, X, steps=1, width=1),):
        assert attack(X + 0.01).score.doubt == ""
        assert "other units" in attack(255 * X + 128).score.doubt
        assert "do not vary" in attack(X / 255).score.doubt
    found = decoder_attack(SEEN, X, 255 * X + 128, ASK, steps=1)
    assert "other units" in str(found.score)


def test_an_attack_that_ended_in_nan_is_never_the_best():
    rest = 0.5, 0.5, True, Adversary("client", ""), Budget(0, 8, 0.1)
    nan = Score("broken", "label", "AUC", np.nan, (np.nan, np.nan), *rest)
    good = Score("norm", "label", "AUC", 0.7, (0.6, 0.8), *rest)
    assert best([nan, good]) is good and best([good, nan]) is good
