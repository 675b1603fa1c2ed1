"""What a record is, and whether it was trained on, from its activation alone."""

from __future__ import annotations

import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jsplit
from jsplit.privacy import Traffic, membership_inference, property_inference
from tests.privacy.seen import LOSS_OF_CLASSES, dense

DATA, DIGIT = load_digits(return_X_y=True)
X = (DATA / 16).astype("float32")
EVEN, HALF = (DIGIT % 2).astype("int32"), len(X) // 2
QUICK = {"steps": 150}


def seen_of(h):
    return Traffic("server", np.zeros(len(h), int), received={"h": h})


def bottoms(label, steps, batch, sizes=(24,), seed=0):
    """Activations of all digits by a bottom that learned from `batch`, and by one that did not."""
    net = dense([64, *sizes], "record", "h"), dense([sizes[-1], 10], "h", "output")
    topology = jsplit.vanilla(*net, loss=LOSS_OF_CLASSES)
    trainer = jsplit.fused(topology, optax.adam(1e-2))
    given = {"record": X[batch], "label": label[batch]}
    first = state = trainer.init(seed, given)
    for _ in range(steps):
        state, _ = trainer.step(state, given)

    def run(s):
        return net[0].apply(s.parties["client"].params["h"], {}, None, X)[0]

    return np.asarray(run(state)), np.asarray(run(first))


@pytest.fixture(scope="module")
def trained():
    return bottoms(DIGIT.astype("int32"), 60, np.arange(300))


def test_a_property_that_nobody_asked_for_is_read_off_the_cut(trained):
    h, before = trained
    score = property_inference(
        *(seen_of(h[:HALF]), EVEN[:HALF], h[HALF:], EVEN[HALF:]),
        untrained=(before[HALF:], seen_of(before[:HALF])),
        **QUICK,
    )
    assert score.measure == "AUC" and score.value > 0.9 and score.beats_chance
    assert abs(score.control - 0.5) < 0.12
    assert score.more["untrained bottom"] > 0.8
    assert score.adversary.labelled == len(X) - HALF


def test_of_more_than_two_classes_it_is_the_balanced_accuracy(trained):
    h, _ = trained
    score = property_inference(
        seen_of(h[:HALF]), DIGIT[:HALF], h[HALF:], DIGIT[HALF:], **QUICK
    )
    assert score.measure == "balanced accuracy" and score.value > 0.8
    assert score.chance == pytest.approx(0.1) and score.control < 0.25
    low, high = score.interval
    assert score.value - 0.1 < low < score.value < high < score.value + 0.1


def test_of_noise_no_property_is_read():
    h = np.random.default_rng(0).normal(size=(len(X), 24))
    score = property_inference(
        seen_of(h[:HALF]), EVEN[:HALF], h[HALF:], EVEN[HALF:], **QUICK
    )
    assert abs(score.value - 0.5) < 0.06 and not score.beats_chance


def test_a_bottom_that_keeps_its_records_as_parameters_knows_members():
    """Units of radial basis functions, about members or, before training, about nobody."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    members, others = order[:200], order[200:400]

    def near(centres):
        distance = ((X[:, None] - centres[None]) ** 2).sum(-1)
        return np.exp(-distance / 4)

    h, before = near(X[members]), near(rng.uniform(size=(200, 64)))
    here = np.concatenate([members[:100], others[:100]])
    there = np.concatenate([members[100:], others[100:]])
    is_member = np.repeat([1, 0], 100)
    score = membership_inference(
        *(seen_of(h[here]), is_member, h[there], is_member),
        untrained=(before[there], seen_of(before[here])),
        **QUICK,
    )
    assert score.beats_chance and score.value > 0.9
    assert abs(score.control - 0.5) < 0.12
    assert abs(score.more["shuffled members"] - 0.5) < 0.15


def test_a_norm_alone_tells_members():
    """Of directions that are equally likely a layer that is linear would read nothing."""
    member = np.arange(600) % 2
    h = np.random.default_rng(0).normal(size=(600, 6)) * (1 + member)[:, None]
    given = seen_of(h[:300]), member[:300], h[300:], member[300:]
    # A bottom that tells as much untrained has learned nothing: that is the control.
    untrained = h[300:], seen_of(h[:300])
    score = membership_inference(*given, untrained=untrained, **QUICK)
    assert score.value > 0.85 and score.control == score.value
    assert abs(score.more["shuffled members"] - 0.5) < 0.2
    assert score.interval[0] < score.value < score.interval[1] <= 1


SEEN, ANSWERS = seen_of(X[:50]), X[50:]


@pytest.mark.parametrize("attack", [property_inference, membership_inference])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"truth": EVEN[:49]}, "same records"),
        ({"truth": np.zeros(50, int)}, "`truth`"),
        ({"known": EVEN[51:]}, "same records"),
        ({"known": np.zeros(len(ANSWERS), int)}, "`known`"),
        ({"truth": EVEN[:50] + 1}, "`truth`"),
        ({"answers": None}, "`answers`"),
        ({"answers": ANSWERS[:, :5]}, r"\(64,\)"),
        ({"network": dense([64, 3], "h")}, "`network`"),
        ({"steps": 0}, "`steps`"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(attack, change, says):
    given = {"truth": EVEN[:50], "answers": ANSWERS, "known": EVEN[50:], **QUICK}
    with pytest.raises(ValueError, match=says):
        attack(SEEN, **given | change)
