"""A report refuses names that are none, and says beside a number that it is of few records."""

from __future__ import annotations

import json

import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import (
    Adversary,
    Budget,
    Finding,
    Outcome,
    Report,
    Score,
    leakage,
    report,
)
from jsplit.privacy.measures.batched import Dependence
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.reporting.records import Exposure

X = np.zeros((32, 3), "float32")
DATA = {"image": X, "label": np.arange(32) % 2}


def trainer():
    part = jsplit.segment(lambda w, x: x @ w, init=lambda key, x: np.eye(3))
    loss = optax.softmax_cross_entropy_with_integer_labels
    return jsplit.fused(
        jsplit.vanilla(part, part, loss=loss, fields=["image"]), optax.sgd(0.1)
    )


WRONG = {
    "near": ({"imgae": (0, 1)}, "`ranges` names 'imgae'.*near it is image"),
    "none": ({"y": (0, 1)}, "`ranges` names 'y'.*there are image, label"),
    "number": ({3: (0, 1)}, "`ranges` names 3"),
    "pairs": ([("image", (0, 1))], "`ranges` must be a dictionary"),
    "order": ({"image": (1, 0)}, "`ranges` of `image`"),
    "nan": ({"image": (0, float("nan"))}, "`ranges` of `image`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_ranges_must_be_of_fields_before_anything_is_trained(case):
    ranges, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        report(trainer(), DATA, ranges=ranges, epochs=10**9)
    with pytest.raises(ValueError, match=message):
        leakage(lambda point: trainer(), DATA, target="image", ranges=ranges)


def test_public_records_of_a_misspelt_field_are_refused():
    with pytest.raises(ValueError, match="lacks image, label and has 'imgae'.*image"):
        report(trainer(), DATA, public={"imgae": X}, epochs=10**9)


def test_a_point_and_its_name_are_one_cut_of_which_there_is_one_score():
    def model(w, x):
        return x @ w["a"] @ w["b"]

    def init(key, x):
        return {"a": np.eye(3), "b": np.eye(3)}

    (point, *_) = jsplit.cut_points(model, X, init=init)
    with pytest.raises(ValueError, match="`leakage` has several scores of the cut"):
        jsplit.plan(
            model,
            X,
            init=init,
            client=jsplit.Device(1e6),
            link=jsplit.Network(1e6),
            leakage={point: 0.1, point.name: 0.2},
        )


def of(records):
    """A report of a score and a measure of so many records."""
    rest = Adversary("server", "nothing"), Budget(0, records, 0.1)
    score = Score("norm", "label", "AUC", 0.9, (0.8, 1.0), 0.5, 0.5, True, *rest)
    one = Estimate(0.25, (0.125, 0.375), records, "bootstrap")
    measured = Exposure("h", "server", "x", False, Dependence(one, one, one, 2, 1.0))
    found = Finding("h", "after training", score)
    outcome = Outcome("none", 1, 2, 2, 2, findings=(found,), exposures=(measured,))
    return Report((outcome,))


def test_a_number_of_few_records_is_marked_wherever_it_stands():
    few, enough = of(2), of(20)
    for told in (str(few), few.markdown(), few.html()):
        # The best attack, every attack, and both measures.
        assert told.count("of only 2 records") == 4
    for told in (str(enough), enough.markdown(), enough.html(), enough.json()):
        assert "of only" not in told
    notes = json.loads(few.json())["outcomes"][0]["findings"][0]["note"]
    assert notes == "only 2 records" and "; only 2 records" in str(
        few.outcomes[0].best[0]
    )
    back = Report.from_json(few.json())
    assert back.outcomes == few.outcomes
    assert "of only 1 record " in of(1).markdown()
