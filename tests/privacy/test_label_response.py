"""Randomized response: drawn once for each record, with the probability that is stated."""

from __future__ import annotations

import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import (
    label_response,
    response_epsilon,
    response_mechanism,
    unbiased_loss,
)
from tests.privacy.defended import BATCH, equal, parameters, trained, trainer
from tests.training.common import refused

KEY = bytes(range(32))
COUNT = 20_000
IDS = [f"record {i}" for i in range(COUNT)]


def answers(labels, classes=2, epsilon=1.0, key=KEY, ids=None):
    ids = IDS[: len(labels)] if ids is None else ids
    return label_response(labels, ids, classes=classes, epsilon=epsilon, key=key)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 1.0), (2, 3.0), (5, 1.0)])
def test_a_label_is_kept_as_often_as_stated_and_others_are_said_alike(classes, epsilon):
    labels = np.arange(COUNT) % classes
    said = answers(labels, classes, epsilon)
    keep = np.exp(epsilon) / (np.exp(epsilon) + classes - 1)
    error = 5 / np.sqrt(COUNT)
    assert abs((said == labels).mean() - keep) < error
    shift = np.bincount((said - labels) % classes, minlength=classes) / COUNT
    assert np.abs(shift[1:] - (1 - keep) / (classes - 1)).max() < error
    # And of each class by itself, so that none is more private than another.
    for c in range(classes):
        mine = labels == c
        assert abs((said[mine] == c).mean() - keep) < 5 / np.sqrt(mine.sum())


def test_a_record_has_one_answer_in_any_order_and_choice_of_records():
    labels = np.arange(COUNT) % 3
    said = answers(labels, 3)
    order = np.random.default_rng(0).permutation(COUNT)[:500]
    again = answers(labels[order], 3, ids=[IDS[i] for i in order])
    assert (again == said[order]).all()
    # Of a key that ends in another byte it is another draw: as often alike as two independent ones.
    other = answers(labels, 3, key=KEY[:-1] + b"!")
    keep = response_mechanism(3, 1.0).keep
    alike = keep**2 + (1 - keep) ** 2 / 2
    assert abs((other == said).mean() - alike) < 5 / np.sqrt(COUNT)


def test_infinity_is_the_label_and_0_says_nothing():
    labels = np.arange(COUNT) % 2
    assert (answers(labels, epsilon=np.inf) == labels).all()
    assert abs((answers(labels, epsilon=0.0) == labels).mean() - 0.5) < 0.02
    off = {**BATCH, "label": answers(BATCH["label"], epsilon=np.inf)}
    assert off["label"].dtype == BATCH["label"].dtype
    one = trainer(jsplit.fused)
    assert equal(parameters(trained(one, off)), parameters(trained(one)))
    column = answers(labels[:, None].astype(np.float32))
    assert column.shape == (COUNT, 1) and column.dtype == np.float32


def test_ids_are_the_same_however_they_are_written():
    labels = np.arange(200) % 2
    one = answers(labels, ids=range(200))
    assert (answers(labels, ids=np.arange(200.0)) == one).all()
    assert (answers(labels, ids=[str(i) for i in range(200)]) != one).any()


def test_its_mechanism_has_the_epsilon_that_was_asked_for():
    found = response_mechanism(5, 1.5)
    assert abs(response_epsilon(found.keep, found.classes) - 1.5) < 1e-12
    assert found.fault() is None and found.per == "record"


def test_the_unbiased_loss_is_the_true_one_in_expectation():
    entropy = optax.softmax_cross_entropy_with_integer_labels
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    label = np.array([0, 1, 2, 1])
    fn = unbiased_loss(entropy, 3, 1.0)
    keep = response_mechanism(3, 1.0).keep
    flip = (1 - keep) / 2
    # Over all that may be said, each with its probability.
    mean = sum(
        (keep if shift == 0 else flip) * fn(logits, (label + shift) % 3)
        for shift in range(3)
    )
    np.testing.assert_allclose(mean, entropy(logits, label), rtol=1e-5)
    biased = keep * entropy(logits, label) + flip * sum(
        entropy(logits, (label + s) % 3) for s in (1, 2)
    )
    assert np.abs(biased - entropy(logits, label)).max() > 0.1


def test_what_names_no_record_once_or_no_class_is_refused():
    labels = np.arange(10) % 2
    refused("`ids` must name each", lambda: answers(labels, ids=range(9)))
    refused("name 1 that", lambda: answers(labels, ids=[0, *range(9)]))
    refused("whole numbers from 0 to 1; 5 of", lambda: answers(labels + 1))
    refused("whole numbers", lambda: answers(labels + 0.5))
    refused(
        "`labels` must be class numbers", lambda: answers(np.ones((3, 2)), ids="abc")
    )
    refused("`key` must be 16", lambda: answers(labels, key=b"short"))
    refused("`key` must be 16", lambda: answers(labels, key=7))
    refused("`epsilon`", lambda: answers(labels, epsilon=-1))
    refused("`classes`", lambda: answers(labels, classes=1))
    refused("`epsilon` must be above 0", lambda: unbiased_loss(abs, 2, 0.0))


@pytest.mark.parametrize(
    ("dtype", "classes"), [("int8", 200), ("uint8", 1000), ("bool", 3), ("f2", 3000)]
)
def test_labels_that_cannot_hold_every_answer_are_refused(dtype, classes):
    """An int8 would answer with negative numbers, and a uint8 with other classes."""
    labels = np.zeros(4, dtype)
    refused(f"cannot hold the class {classes - 1}", lambda: answers(labels, classes))
    assert answers(labels, 2).dtype == labels.dtype
