"""A surrogate head that matches cotangents finds the labels of a U-shape, up to their names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit.privacy import Traffic, gradient_matching
from tests.privacy.seen import LOSS_OF_CLASSES, dense, trained

QUICK = {"steps": 120, "learning_rate": 3e-2, "restarts": 2}


@pytest.fixture(scope="module")
def classes():
    # The same cotangents come to a client with the bottom and to a body of a U-shape.
    return trained(LOSS_OF_CLASSES, 4, steps=1, size=256, outputs=4)


HEAD = dense([8, 4], "smashed")


def test_labels_are_found_by_the_form_of_the_head_alone(classes):
    score = gradient_matching(*classes, HEAD, LOSS_OF_CLASSES, classes=4, **QUICK)
    assert score.value > 0.95 and score.beats_chance
    assert score.more["untrained head"] < score.value
    assert score.more["mismatch"] < 0.05
    assert score.control < score.chance + 0.08
    assert score.more["shuffled labels"] < score.chance + 0.08
    assert score.budget.steps == 240


def test_a_record_of_each_class_gives_names(classes):
    label = classes[1]
    known = [int(np.flatnonzero(label == c)[0]) for c in range(4)]
    run = gradient_matching(
        *classes, HEAD, LOSS_OF_CLASSES, classes=4, known=known, **QUICK
    )
    assert run.value > 0.95 and run.adversary.labelled == 4
    with pytest.raises(ValueError, match="each of 4 classes"):
        gradient_matching(
            *classes, HEAD, LOSS_OF_CLASSES, classes=4, known=known[:3], **QUICK
        )


def test_the_scale_of_a_loss_does_not_matter(classes):
    traffic, label = classes
    small = {"smashed": 1e-25 * traffic.returned["smashed"]}
    scores = [
        gradient_matching(t, label, HEAD, LOSS_OF_CLASSES, classes=4, **QUICK).value
        for t in (traffic, traffic._replace(returned=small))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_a_head_that_is_given_and_not_drawn_is_refused(classes):
    """It may be the true one, and its score that of who has it."""
    given = jax.random.normal(jax.random.key(0), (8, 4))
    head = jsplit.segment(
        lambda w, h: h @ w, init=lambda key, h: given, inputs=["smashed"]
    )
    with pytest.raises(ValueError, match="`head` must draw"):
        gradient_matching(*classes, head, LOSS_OF_CLASSES, classes=4, **QUICK)


def test_without_the_value_or_its_cotangent_there_is_nothing_to_match(classes):
    traffic, label = classes
    for without, says in (("sent", "`traffic.sent`"), ("returned", "no cotangents")):
        with pytest.raises(ValueError, match=says):
            gradient_matching(
                traffic._replace(**{without: {}}),
                *(label, HEAD, LOSS_OF_CLASSES),
                classes=4,
            )
    with pytest.raises(ValueError, match="`restarts`"):
        gradient_matching(*classes, HEAD, LOSS_OF_CLASSES, classes=4, restarts=0)


def test_a_saturated_head_has_no_infinite_gradient():
    """Where the surrogate is right to the last bit its cotangent is 0."""
    h = 1e4 * jax.random.normal(jax.random.key(0), (32, 8))
    label = jnp.arange(32) % 4
    cotangent = jax.random.normal(jax.random.key(1), (32, 8))
    seen = Traffic(
        "server",
        np.zeros(32, int),
        returned={"smashed": cotangent},
        sent={"smashed": h},
    )
    score = gradient_matching(seen, label, HEAD, LOSS_OF_CLASSES, classes=4, steps=5)
    # A head of NaN matches nothing: all its cosines count as 0.
    assert score.more["mismatch"] < 0.95
