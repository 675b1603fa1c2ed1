"""Attacks on labels reach what theory says, and nothing where there is nothing."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jsplit.privacy import (
    Adversary,
    Budget,
    Score,
    Traffic,
    best,
    cosine_attack,
    direction_clusters,
    norm_attack,
)
from jsplit.privacy.attacks.labels.judging import auc_by_batch
from jsplit.privacy.attacks.labels.seen import Truth
from tests.privacy.seen import (
    LOSS_OF_CLASSES,
    loss_of_one_logit,
    of_cotangents,
    trained,
)

ATTACKS = [norm_attack, cosine_attack, direction_clusters]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


@pytest.fixture(scope="module")
def binary():
    return trained(loss_of_one_logit, 2)


def test_norms_of_two_gaussians_give_the_auc_of_the_formula():
    label = RNG.random(4000) < 0.3
    length = 20 + 1.5 * label + RNG.normal(size=4000)
    direction = RNG.normal(size=(4000, 5))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    score = norm_attack(of_cotangents(length[:, None] * direction), label)
    formula = NormalDist().cdf(1.5 / sqrt(2))
    low, high = score.interval
    assert low < formula < high
    assert high - low < 0.05


def test_cosines_that_overlap_by_two_thirds_give_the_auc_of_the_formula():
    label = np.arange(4000) % 2
    # Of class 1 between -1/2 and 1, of class 0 between -1 and 1/2.
    cosine = RNG.uniform(-1, 0.5, 4000) + 0.5 * label
    x = np.stack([cosine, np.sqrt(1 - cosine**2)], 1)
    x[1], label[1] = (1, 0), 1
    x *= RNG.uniform(0.1, 10, (4000, 1))  # lengths say nothing
    score = cosine_attack(of_cotangents(x), label, known=[1])
    low, high = score.interval
    assert low < 7 / 9 < high
    assert score.adversary.labelled == 1


def test_clusters_of_two_gaussians_give_the_auc_of_the_best_projection():
    label = np.arange(4000) % 2
    x = RNG.normal(size=(4000, 64))
    x[:, 0] += 2 * label - 1
    score = direction_clusters(of_cotangents(x), label)
    assert abs(score.value - NormalDist().cdf(2 / sqrt(2))) < 0.03


@pytest.mark.parametrize("attack", ATTACKS)
def test_labels_leak_to_a_client_and_neither_noise_nor_shuffled_labels_do(
    attack, binary
):
    score = attack(*binary)
    assert score.measure == "AUC" and score.beats_chance
    assert score.value > (0.65 if attack is norm_attack else 0.97)
    assert abs(score.control - 0.5) < 0.04
    assert abs(score.more["shuffled labels"] - 0.5) < 0.04
    assert score.more["max"] >= score.more["95 % quantile"] >= score.value
    assert score.more["batches"] == 12
    assert score.budget.records == 12 * 128


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_noise_does_not_beat_chance(attack):
    label = RNG.random(400) < 0.4
    # Too few records for luck to even out; of twenty one may be off, by 95 %.
    beaten = [
        attack(of_cotangents(RNG.normal(size=(400, 6))), label).beats_chance
        for _ in range(20)
    ]
    assert sum(beaten) <= 4


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_order_and_scale_of_records_do_not_matter(attack, binary):
    traffic, label = binary
    known = np.flatnonzero(label)[::97]
    named = {"known": known} if attack is cosine_attack else {}
    score = attack(traffic, label, **named)
    order = RNG.permutation(len(label))
    # Each step by a factor of its own, as if the loss were divided by something else;
    # so small that squares are 0 in 32 bits.
    factor = 1e-25 * (1.0 + traffic.step[order])
    x = np.asarray(traffic.returned["smashed"])[order] * factor[:, None]
    other = Traffic("client", traffic.step[order], returned={"h": x})
    if named:
        named = {"known": np.isin(order, known)}
    found = attack(other, label[order], **named)
    assert found.value == pytest.approx(score.value, abs=2e-3)


def test_longer_cotangents_are_of_the_rarer_class_whichever_it_is(binary):
    traffic, label = binary
    score = norm_attack(traffic, label)
    assert norm_attack(traffic, 1 - label).value == pytest.approx(score.value)
    wrong = norm_attack(traffic, label, rare=0)
    assert wrong.value == pytest.approx(1 - score.value)


def test_a_record_that_is_seen_in_several_steps_counts_once(binary):
    traffic, label = binary
    half = len(label) // 2
    ids, label = np.arange(len(label)) % half, np.tile(label[:half], 2)
    known = ids < 100
    options = {"ids": ids, "known": known}
    scores = [
        direction_clusters(traffic, label, **options),
        cosine_attack(traffic, label, ids=ids, known=known & (label == 1)),
        norm_attack(traffic, label, ids=ids),
    ]
    assert [s.budget.records for s in scores] == [half] * 3
    positive = int(label[:100].sum())
    assert [s.adversary.labelled for s in scores] == [100, positive, 0]
    assert scores[0].adversary.knows == "100 records with their labels"


def test_clusters_see_through_noise_that_hides_a_known_direction(binary):
    traffic, label = binary
    x = np.asarray(traffic.returned["smashed"])
    length = np.linalg.norm(x, axis=1).max() / sqrt(x.shape[1])
    noisy = of_cotangents(x + 0.7 * length * RNG.normal(size=x.shape), traffic.step)
    cosine, clusters = cosine_attack(noisy, label), direction_clusters(noisy, label)
    assert clusters.value > cosine.value + 0.05
    assert best([cosine, clusters]) is clusters


def test_clusters_keep_their_names_from_step_to_step():
    # Three directions that turn by a radian in 40 steps, and exchange places at last.
    label = RNG.integers(0, 3, 40 * 150)
    step = np.repeat(np.arange(40), 150)
    angle = 2 * np.pi * label / 3 + step / 12
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    x += 0.1 * RNG.normal(size=x.shape)
    score = direction_clusters(of_cotangents(x, step), label, classes=3, together=1)
    assert score.value > 0.99
    first = [int(np.flatnonzero(label == c)[0]) for c in range(3)]
    named = direction_clusters(
        of_cotangents(x, step), label, classes=3, known=first, together=1
    )
    assert named.value > 0.99 and named.adversary.labelled == 3
    assert named.chance == pytest.approx(named.more["most frequent"])


def test_steps_clustered_together_see_through_noise_that_hides_each_of_them():
    label = RNG.integers(0, 2, 2000)
    x = RNG.normal(size=(2000, 32))
    x[:, 0] += 2 * label - 1
    seen = of_cotangents(x, np.arange(2000) // 40)
    alone, joined = (direction_clusters(seen, label, together=n) for n in (1, 50))
    assert joined.value > alone.value + 0.15
    assert direction_clusters(seen, label).value == joined.value  # by default


def test_small_batches_are_clustered_together():
    label = RNG.integers(0, 4, 600)
    x = np.eye(8)[label] + 0.1 * RNG.normal(size=(600, 8))
    step = np.repeat(np.arange(200), 3)  # none has a record of each class
    score = direction_clusters(of_cotangents(x, step), label, classes=4)
    assert score.measure == "accuracy" and score.value > 0.99
    with pytest.raises(ValueError, match="`together`"):
        direction_clusters(of_cotangents(x, step), label, classes=4, together=1)


def test_a_cotangent_of_several_arrays_is_read_whole():
    label = np.arange(200) % 2
    part = RNG.normal(size=(200, 3)) + 4 * (2 * label - 1)[:, None]
    tree = {"noise": jnp.asarray(RNG.normal(size=(200, 2))), "h": part, "mask": None}
    seen = Traffic("client", np.zeros(200, int), returned={"cut": tree})
    assert cosine_attack(seen, label).value > 0.9


def test_labels_of_classes_leak_by_clusters():
    traffic, label = trained(LOSS_OF_CLASSES, 4, steps=4, size=256, outputs=4)
    score = direction_clusters(traffic, label, classes=4)
    assert score.value > 0.9 and score.beats_chance
    assert score.control < score.chance + 0.05 and score.chance < 0.4


def test_chance_of_groups_without_names_is_what_the_best_names_gain_by_luck():
    label = RNG.integers(0, 5, 100)
    score = direction_clusters(
        of_cotangents(RNG.normal(size=(100, 6))), label, classes=5
    )
    assert score.chance > score.more["most frequent"] + 0.02
    assert abs(score.value - score.chance) < 0.1 and not score.beats_chance


def test_the_mean_of_batches_lies_in_its_interval_as_often_as_said():
    formula = NormalDist().cdf(1 / sqrt(2))
    hits = 0
    for _ in range(200):
        label = (np.arange(300) % 3 == 0).astype(int)
        score = label + RNG.normal(size=300)
        truth = Truth(label, np.arange(300) // 60, np.ones(300, bool), 1.0)
        low, high = auc_by_batch(score, truth).interval
        hits += low < formula < high
    assert 0.9 < hits / 200 < 0.995


def test_the_auc_of_a_batch_is_that_of_scikit_learn_with_ties():
    label = RNG.integers(0, 2, 60)
    score = RNG.integers(0, 5, 60) + label
    truth = Truth(label, np.zeros(60, int), np.ones(60, bool), 1.0)
    found = auc_by_batch(score, truth)
    assert found.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_records_that_come_again_widen_the_interval():
    label = np.tile(np.arange(100) % 2, 4)
    x = np.tile(RNG.normal(size=(100, 3)) * (1 + np.arange(100) % 2)[:, None], (4, 1))
    step = np.repeat(np.arange(4), 100)
    ids = np.tile(np.arange(100), 4)
    once, again = (
        norm_attack(of_cotangents(x, step), label, rare=1, ids=i) for i in (None, ids)
    )
    width = np.ptp(again.interval) / np.ptp(once.interval)
    assert width == pytest.approx(2) and once.value == again.value


def test_batches_of_one_class_are_left_out_and_counted():
    label = np.concatenate([np.zeros(10, int), np.arange(20) % 2])
    x = RNG.normal(size=(30, 2))
    score = norm_attack(of_cotangents(x, np.arange(30) // 10), label)
    assert score.more["batches"] == 2 and score.more["batches of one class"] == 1


X, LABEL = RNG.normal(size=(20, 3)), np.arange(20) % 2
NOTHING = Traffic("client", np.zeros(20, int), sent={"h": X})
TWO = Traffic("client", np.zeros(20, int), returned={"a": X, "b": X})


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    ("traffic", "label", "says"),
    [
        (NOTHING, LABEL, "no cotangents that came to 'client'"),
        (TWO, LABEL, "`value` must say which of .*`a`, `b`"),
        (of_cotangents(X), LABEL[:9], "one class for each of 20 records"),
        (of_cotangents(X), np.zeros(20, int), "two classes at least"),
        (of_cotangents(X), LABEL + 1, "classes from 0 to 1"),
        (of_cotangents(X), LABEL + 0.5, "whole numbers"),
        (of_cotangents(X), np.where(LABEL, np.nan, 0), "whole numbers"),
        (of_cotangents(np.where(LABEL[:, None], np.nan, X)), LABEL, "in 10 of 20"),
        (of_cotangents(X, np.zeros(9, int)), LABEL[:9], "each of 9 records"),
        (of_cotangents(X, np.zeros(20)), LABEL, "`traffic.step`"),
        (
            of_cotangents(X, np.arange(20)),
            LABEL,
            "larger batches|`together`|to be told",
        ),
    ],
)
def test_what_cannot_be_attacked_or_scored_is_refused(attack, traffic, label, says):
    with pytest.raises(ValueError, match=says):
        attack(traffic, label)


@pytest.mark.parametrize(
    ("attack", "options", "says"),
    [
        (norm_attack, {"rare": 2}, "`rare`"),
        (norm_attack, {"value": "z"}, "`value` must be one of h"),
        (norm_attack, {"ids": np.arange(9)}, "`ids`"),
        (cosine_attack, {"known": [0]}, "class 1"),
        (cosine_attack, {"known": [20]}, "from 0 on"),
        (cosine_attack, {"known": []}, "`known`"),
        (cosine_attack, {"known": np.ones(20, bool)}, "not all"),
        (direction_clusters, {"known": [0]}, "each of 2 classes"),
        (direction_clusters, {"classes": 1}, "2 at least"),
        (direction_clusters, {"together": 0}, "`together`"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_by_its_name(attack, options, says):
    with pytest.raises(ValueError, match=says):
        attack(of_cotangents(X), LABEL, **options)


def score_of(name, value, interval, measure="AUC", larger=True):
    rest = Adversary("client", ""), Budget(0, 8, 0.1)
    return Score(name, "label", measure, value, interval, 0.5, 0.5, larger, *rest)


def test_the_score_of_a_set_is_that_of_the_attack_that_leaks_most():
    low = score_of("low", 0.6, (0.5, 0.7))
    wide, narrow = (
        score_of("wide", 0.8, (0.5, 1)),
        score_of("narrow", 0.8, (0.7, 0.9)),
    )
    assert best([low, wide, narrow]) is narrow
    errors = [
        score_of(n, v, (v, v), "MSE", False) for n, v in (("a", 0.1), ("b", 0.01))
    ]
    assert best(errors) is errors[1]
    with pytest.raises(ValueError, match="AUC of label, MSE of label"):
        best([low, errors[0]])
    with pytest.raises(ValueError, match="none"):
        best([])


def test_an_attack_is_repeatable_and_another_key_draws_another_control(binary):
    one, same = cosine_attack(*binary), cosine_attack(*binary)
    other = cosine_attack(*binary, key=jax.random.key(1))
    assert (one.value, one.control) == (same.value, same.control)
    assert one.control != other.control
