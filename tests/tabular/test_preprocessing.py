"""What is learned of a training part: as scikit-learn does, of nothing else, kept to the bit."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

import jsplit
from tests.core.brought import MARK

N = 60


def frame(seed=0, count=N):
    rng = np.random.default_rng(seed)
    x = rng.normal([5, -100, 0.01], [1, 30, 1e-3], (count, 3))
    x[rng.random((count, 3)) < 0.2] = np.nan
    x[:, 2] = np.nan_to_num(x[:, 2], nan=0.01)  # of this column nothing is missing
    wards = [
        None if u < 0.1 else str(w)
        for u, w in zip(rng.random(count), rng.choice([*"ABC"], count), strict=True)
    ]
    codes = rng.integers(1, 5, count)
    columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "ward": wards, "code": codes}
    return {"who": [f"{seed}-{i}" for i in range(count)], **columns, "ill": codes > 2}


def table(**changed):
    return jsplit.records({**frame(), **changed}, id="who")


def matrix(given):
    return np.stack([given[name] for name in "abc"], 1)


@pytest.mark.parametrize("fill", ["mean", "median", "zero"])
@pytest.mark.parametrize("scale", ["standard", "minmax", "robust"])
def test_numbers_are_those_of_scikit_learn(scale, fill):
    scalers = {
        "standard": StandardScaler,
        "minmax": MinMaxScaler,
        "robust": RobustScaler,
    }
    strategy = "constant" if fill == "zero" else fill
    theirs = make_pipeline(
        SimpleImputer(strategy=strategy, fill_value=0), scalers[scale]()
    )
    theirs.fit(matrix(frame()))
    recipe = jsplit.Numbers(["a", "b", "c"], scale=scale, fill=fill)
    fitted = jsplit.preprocessing(table(), {"x": recipe})
    assert fitted.names["x"] == ("a", "b", "c", "a is missing", "b is missing")
    for seed in (0, 1):  # of the training part, and of others
        given = frame(seed)
        found = fitted.fields(jsplit.records(given, "who"))["x"].array
        assert found.dtype == np.float32
        expected = theirs.transform(matrix(given))
        np.testing.assert_allclose(found[:, :3], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found[:, 3:], np.isnan(matrix(given)[:, :2]))


def test_categories_are_those_of_scikit_learn():
    given = frame()
    recipes = {
        "ward": jsplit.Categories("ward"),
        "both": jsplit.Categories(["ward", "code"]),
        "hot": jsplit.Categories(["ward", "code"], one_hot=True),
    }
    fitted = jsplit.preprocessing(jsplit.records(given, "who"), recipes)
    found = fitted.fields(jsplit.records(given, "who"))
    there = np.array([x is not None for x in given["ward"]])
    wards = np.array([x or "" for x in given["ward"]], object)[:, None]
    codes = found["ward"].array
    theirs = OrdinalEncoder().fit_transform(wards[there])[:, 0]
    np.testing.assert_array_equal(codes[there], theirs + 2)
    assert (codes[~there] == 1).all() and not there.all()
    np.testing.assert_array_equal(
        found["both"].array, np.stack([codes, given["code"] + 1], 1)
    )
    assert fitted.sizes == {"ward": (5,), "both": (5, 6), "hot": (5, 6)}
    hot = found["hot"].array
    assert hot.shape == (N, 11) == (N, len(fitted.names["hot"]))
    theirs = OneHotEncoder(sparse_output=False).fit_transform(given["code"][:, None])
    np.testing.assert_array_equal(hot[:, 7:], theirs)
    assert (hot.sum(1) == 2).all()


RECIPES = {
    "x": jsplit.Numbers(["a", "b", "c"]),
    "ward": jsplit.Categories("ward"),
    "label": jsplit.Labels("ill"),
}


def test_what_is_held_out_changes_nothing_that_is_fitted():
    whole = table()
    train, held = np.arange(40), np.arange(40, N)
    fitted = jsplit.preprocessing(whole.take(train), RECIPES)
    given = frame()
    given["a"] = given["a"].copy()
    given["a"][held] = 1e6
    given["ward"] = [*given["ward"][:40], *["a new one"] * 20]
    other = jsplit.preprocessing(jsplit.records(given, "who").take(train), RECIPES)
    assert other == fitted
    # And the law can fail: fitted on all, it does change.
    assert jsplit.preprocessing(jsplit.records(given, "who"), RECIPES) != fitted
    rows = [
        fitted.fields(whole)["x"].array[train],
        fitted.fields(whole.take(train))["x"].array,
    ]
    np.testing.assert_array_equal(*rows)


def test_it_comes_back_to_the_bit_and_is_read_without_jsplit(tmp_path):
    fitted = jsplit.preprocessing(table(), RECIPES)
    file = fitted.save(tmp_path / "state", "north/lab")
    again = jsplit.load_preprocessing(tmp_path / "state", "north/lab")
    assert again == fitted and file.stat().st_mode & 0o077 == 0
    for name, one in fitted.fields(table()).items():
        found = again.fields(table())[name].array
        assert found.tobytes() == one.array.tobytes() and found.dtype == one.array.dtype
    said = json.loads(file.read_text())["fields"]["x"]
    x = np.where(np.isnan(matrix(frame())), said["fill"], matrix(frame()))
    by_hand = (x - said["shift"]) / said["scale"]
    np.testing.assert_array_equal(
        by_hand.astype("f4"), fitted.fields(table())["x"].array[:, :3]
    )


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    file = jsplit.preprocessing(table(), RECIPES).save(tmp_path, "lab")
    whole = file.read_text()
    said = json.loads(whole)
    shorter = json.loads(whole)
    shorter["fields"]["x"]["shift"].pop()
    zero = json.loads(whole)
    zero["fields"]["x"]["scale"][0] = 0
    cases = {
        "not a whole preprocessing": [
            whole[:100],
            "[]",
            "{}",
            json.dumps(shorter),
            json.dumps(zero),
        ],
        "has the format 'jsplit preprocessing 9'": [
            json.dumps({**said, "format": "jsplit preprocessing 9"})
        ],
        "of another party than `lab`": [json.dumps({**said, "party": "clinic"})],
    }
    for message, texts in cases.items():
        for text in texts:
            file.write_text(text)
            with pytest.raises(ValueError, match=message):
                jsplit.load_preprocessing(tmp_path, "lab")
    with pytest.raises(ValueError, match="there is no file"):
        jsplit.load_preprocessing(tmp_path, "clinic")


def test_new_categories_rare_ones_and_missing_ones_have_codes(caplog):
    train = jsplit.records({"who": range(5), "ward": ["A", "A", "B", None, "C"]}, "who")
    fitted = jsplit.preprocessing(train, {"w": jsplit.Categories("ward")})
    new = jsplit.records({"who": range(4), "ward": ["A", "B", "Z", None]}, "who")
    with caplog.at_level(logging.INFO, "jsplit.records"):
        assert fitted.fields(new)["w"].array.tolist() == [2, 0, 0, 1]
    assert "2 of 4 values" in caplog.text and "Z" not in caplog.text
    every = jsplit.preprocessing(train, {"w": jsplit.Categories("ward", least=1)})
    assert every.fields(train)["w"].array.tolist() == [2, 2, 3, 1, 4]
    with pytest.raises(ValueError, match="must be text, as it was, got integers"):
        fitted.fields(jsplit.records({"who": [1], "ward": [7]}, "who"))
    # A table that has a missing integer has floats, of the same categories.
    ints = jsplit.records({"who": range(4), "n": [3, 3, 4, 4]}, "who")
    floats = jsplit.records({"who": range(2), "n": [4.0, math.nan]}, "who")
    fitted = jsplit.preprocessing(ints, {"n": jsplit.Categories("n")})
    assert fitted.fields(floats)["n"].array.tolist() == [3, 1]


def test_labels_are_numbers_of_classes_and_never_missing():
    given = jsplit.records({"who": range(3), "y": ["well", "ill", "ill"]}, "who")
    fitted = jsplit.preprocessing(given, {"label": jsplit.Labels("y")})
    assert fitted.fields(given)["label"].array.tolist() == [1, 0, 0]
    assert fitted.classes == {"label": ("ill", "well")}
    named = jsplit.preprocessing(given, {"label": jsplit.Labels("y", ["well", "ill"])})
    assert named.fields(given)["label"].array.tolist() == [0, 1, 1]
    assert fitted.fields(jsplit.records({"who": [1], "x": [1]}, "who")) == {}
    for values, said in (
        ([None, "ill"], "1 are missing"),
        ([MARK, "ill"], "1 are none of"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            fitted.fields(jsplit.records({"who": [1, 2], "y": values}, "who"))
        assert MARK not in str(error.value)


WRONG = {
    "all missing": ([None, None, None], jsplit.Numbers(["x"]), "has no value"),
    "infinite": (
        [1.0, math.inf, 2],
        jsplit.Numbers(["x"]),
        "1 of 3 values that are infinite",
    ),
    "text": ([MARK, None, "5"], jsplit.Numbers(["x"]), "2 of 3 entries are text"),
    "unfilled": (
        [1.0, None, 2],
        jsplit.Numbers(["x"], fill=None),
        "1 of 3 values missing",
    ),
    "no place": ([1.0, None, 2], jsplit.Numbers("x"), "no place for flags"),
    "too large": (
        [1e300, 0, 0],
        jsplit.Numbers(["x"], scale=None),
        "too large for float32",
    ),
    "images": (np.ones((3, 2)), jsplit.Numbers(["x"]), "is an array of"),
    "fractions": (
        [0.5, 1.5, 1.5],
        jsplit.Categories("x"),
        "3 of 3 values with fractions",
    ),
    "seldom": ([*"ABC"], jsplit.Categories("x"), "no category that is there 2 times"),
    "one class": (["a"] * 3, jsplit.Labels("x"), "has 1 classes"),
    "another": ([1.0, 2, 3], jsplit.Numbers(["y"]), "there is no column 'y'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_by_column_and_counts(name):
    column, recipe, said = WRONG[name]
    given = jsplit.records({"who": range(3), "x": column}, "who")
    with pytest.raises(ValueError, match=said) as error:
        jsplit.preprocessing(given, {"f": recipe})
    assert MARK not in str(error.value)


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        ([2, 1, 2], np.array([2, 1])),
        ([2, 1, 2], [2.0, 1.0]),
        ([True, False, True], np.array([True, False])),
        (["b", "a", "b"], np.array(["b", "a"])),
    ],
)
def test_classes_of_any_array_are_kept_in_a_file(tmp_path, column, classes):
    given = jsplit.records({"who": range(3), "y": column}, "who")
    fitted = jsplit.preprocessing(given, {"label": jsplit.Labels("y", classes)})
    assert fitted.fields(given)["label"].array.tolist() == [0, 1, 0]
    fitted.save(tmp_path, "lab")
    assert jsplit.load_preprocessing(tmp_path, "lab") == fitted


@pytest.mark.parametrize("scale", ["standard", "minmax", "robust"])
def test_columns_that_scikit_learn_does_not_scale_are_told(caplog, scale):
    columns = {"x": [1e-300, 2e-300, 4e-300], "y": [1.0, 2, 4]}
    given = jsplit.records({"who": range(3), **columns}, "who")
    with caplog.at_level(logging.WARNING, "jsplit.records"):
        jsplit.preprocessing(given, {"f": jsplit.Numbers(["x", "y"], scale=scale)})
    assert "`x` differs by so little" in caplog.text and "`y`" not in caplog.text


def test_constant_and_unflagged_columns_are_told(caplog):
    given = jsplit.records({"who": range(3), "x": [7.0] * 3, "y": [1.0, 2, 3]}, "who")
    with caplog.at_level(logging.WARNING, "jsplit.records"):
        fitted = jsplit.preprocessing(given, {"f": jsplit.Numbers(["x", "y"])})
    assert "`x` is constant" in caplog.text and "`y`" not in caplog.text
    assert (fitted.fields(given)["f"].array[:, 0] == 0).all()
    new = jsplit.records({"who": [1, 2], "x": [7.0, 7.0], "y": [None, 9.0]}, "who")
    with caplog.at_level(logging.WARNING, "jsplit.records"):
        found = fitted.fields(new)["f"].array
    assert "`y` has 1 of 2 values missing" in caplog.text and found[0, 1] == 0
    every = jsplit.preprocessing(given, {"f": jsplit.Numbers(["x", "y"], flags="all")})
    assert every.fields(new)["f"].array[:, 2:].tolist() == [[0, 1], [0, 0]]
    inf = jsplit.records({"who": range(3), "x": [1.0, math.inf, 3]}, "who")
    kept = jsplit.preprocessing(inf, {"f": jsplit.Numbers(["x"], infinite="missing")})
    np.testing.assert_allclose(kept.fields(inf)["f"].array[:, 1], [0, 1, 0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: jsplit.Numbers([]),
        lambda: jsplit.Numbers(["x", "x"]),
        lambda: jsplit.Numbers(["x"], scale="log"),
        lambda: jsplit.Numbers(["x"], fill="mode"),
        lambda: jsplit.Categories("x", least=0),
        lambda: jsplit.Labels(["x"]),
        lambda: jsplit.Labels("x", ["a", "a"]),
        lambda: jsplit.Labels("x", ["a", 1]),
        lambda: jsplit.Labels("x", ["a", None]),
        lambda: jsplit.Labels("x", [0, 1.5]),
        lambda: jsplit.Labels("x", [0.0, 0]),
        lambda: jsplit.Labels("x", {"a", "b"}),
        lambda: jsplit.Labels("x", "ab"),
        lambda: jsplit.Labels("x", []),
        lambda: jsplit.preprocessing(table(), {}),
        lambda: jsplit.preprocessing(table(), {"x": "a"}),
        lambda: jsplit.preprocessing(frame(), RECIPES),
    ],
)
def test_what_is_no_recipe_is_refused_where_it_is_built(make):
    with pytest.raises(ValueError, match="`"):
        make()
