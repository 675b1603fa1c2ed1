"""Fields and ids as users bring them: read where that is safe, else told without a value."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit.core.ids import listed
from jsplit.core.trees import as_arrays, as_weight
from tests.core.brought import FLOATS, INTEGERS, MARK, Column, Table, Tensor, faults

X = np.arange(6, dtype=np.float32).reshape(3, 2)
SAME = {
    "big-endian": X.astype(">f4"),
    "little-endian": X.astype("<f4"),
    "nothing masked": np.ma.masked_array(X, mask=np.zeros_like(X, bool)),
    "a class of its own": X.view(type("Own", (np.ndarray,), {})),
    "a tensor": Tensor(X),
    "a table of one kind": Table(Column(X[:, 0]), Column(X[:, 1])),
    "a table of two": Table(
        Column(X[:, 0].astype(int)), Column(X[:, 1].astype("float32"))
    ),
    "a table of nullable columns": Table(
        Column(X[:, 0].astype(int), INTEGERS), Column(X[:, 1], FLOATS)
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_what_can_be_read_holds_the_same_values(name):
    found = as_arrays({"x": SAME[name], "y": {"part": X}})
    assert type(found["x"]) is np.ndarray and found["x"].dtype.isnative
    np.testing.assert_array_equal(found["x"], X)
    assert found["y"]["part"] is X


def test_what_is_an_array_already_is_not_touched():
    fields = {
        "x": X,
        "y": [jnp.ones(3), {"z": np.arange(3)}],
        "b": np.ones(3, bool),
        "bf": np.asarray(jnp.ones(3, jnp.bfloat16)),
    }
    plain = {name: fields[name] for name in ("x", "y", "b")}
    assert as_arrays(plain) is plain
    assert as_arrays(fields)["bf"].dtype == jnp.bfloat16


def test_missing_floats_are_nan_and_missing_integers_are_refused():
    found = as_arrays({"x": Column([1.5, None], FLOATS)})["x"]
    assert found.dtype == np.float32 and found[0] == 1.5 and np.isnan(found[1])
    with pytest.raises(ValueError, match="`x` of the batch has 1 values missing"):
        as_arrays({"x": Column([1, None], INTEGERS)})


REFUSED = {
    "masked": "is a masked array with 1 of 24 values masked",
    "strings": "must hold numbers, got <U11",
    "objects": "must hold numbers, got object",
    "a list of strings": "must hold numbers, got str",
    "too large": "holds 24 integers of int64 that do not fit into int32",
    "missing": "has 4 values missing",
    "categories": "must hold numbers, got Kind",
    "a table with words": "in column 2 of 2, must hold numbers",
    "a table that rounds": "in column 2 of 2, holds integers that float32 rounds",
    "unreadable": r"is a Refusing that cannot be read as an array of numbers \(TypeError",
    "anything": "must hold numbers, got object",
    "structured": "must hold numbers, got Void",
    "a table of records": "must hold numbers",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named_in_one_line(name):
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        as_arrays({"scan": faults()[name]})
    assert "field `scan` of the batch" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_integers_that_fit_are_fields_and_those_that_would_wrap_are_refused_in_training():
    low = jsplit.segment(lambda record: 1.0 * record, inputs=["record"])
    squares = lambda y, label: (y - label) ** 2  # noqa: E731
    topology = jsplit.vanilla(low, low, loss=squares, public="record")
    trainer = jsplit.fused(topology, {})
    good = {"record": np.arange(4), "label": np.arange(4)}
    state = trainer.init(0, good)
    assert float(trainer.evaluate(state, good).loss) == 0
    wrong = {**good, "record": np.array([0, 1, 2, 2**31])}
    with pytest.raises(
        ValueError, match="field `record` of the batch holds 1 integers"
    ):
        trainer.step(state, wrong)


def test_weights_are_read_as_fields_are():
    for given in (
        [1, 0, 1],
        (1, 0, 1),
        Column([1.0, 0.0, 1.0]),
        np.array([1, 0, 1], ">i8"),
    ):
        np.testing.assert_array_equal(as_weight(given), [1, 0, 1])
    assert as_weight(None) is None
    with pytest.raises(ValueError, match="`weight` must hold numbers, got object") as e:
        as_weight(np.array([MARK, 1], object))
    assert MARK not in str(e.value)


def test_pandas_and_polars_are_what_their_stand_ins_are():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {"a": [0, 2, 4], "b": pandas.Series([1, 3, 5], dtype="Int64")}
    )
    np.testing.assert_array_equal(as_arrays({"x": table})["x"], X)
    missing = pandas.Series([1, None], dtype="Int64")
    with pytest.raises(ValueError, match="1 values missing"):
        as_arrays({"x": missing})
    for name in ("category", "str", "datetime64[ns]"):
        odd = pandas.Series(["2020-01-01"]).astype(name)
        with pytest.raises(ValueError, match="`x` of the batch must hold numbers") as e:
            as_arrays({"x": odd})
        assert "2020" not in str(e.value)


IDS = {
    "a list": ["a", "b"],
    "a column": np.array([["a"], ["b"]]),
    "a list of rows": [["a"], ["b"]],
    "a table of one column": Table(Column(["a", "b"])),
    "a column of a table": Column(["a", "b"]),
    "what goes by once": (x for x in "ab"),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_are_one_entry_for_each_record(name):
    assert listed("ids", IDS[name]) == ["a", "b"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (Table(Column([MARK]), Column([MARK])), "must be one column, got a table of 2"),
        (np.full((2, 2), MARK), r"must be a vector, .* got shape \(2, 2\)"),
        ({MARK}, "must be a list, one for each record, got set"),
        (MARK, "must be a list, one for each record, got str"),
        ({MARK: 1}, "must be a list, one for each record, got dict"),
        (np.ma.masked_array([1, 2], mask=[0, 1]), "with 1 of 2 values masked"),
        ([MARK + "\ud800", "b"], "`ids` of 2 records: 1 hold lone surrogates"),
        ([MARK + "e\u0301", MARK + "\u00e9"], "1 are another one's in all but Unicode"),
    ],
)
def test_ids_that_are_none_are_told_in_counts(ids, message):
    with pytest.raises(ValueError, match=message) as error:
        listed("ids", ids)
    assert MARK not in str(error.value)


def test_one_name_written_in_two_ways_is_one_id_and_that_is_logged(caplog):
    assert listed("ids", ["e\u0301", "b"]) == listed("ids", ["\u00e9", "b"])
    assert "1 are taken in Unicode's normal form NFC" in caplog.text
    assert "\u00e9" not in caplog.text and "e\u0301" not in caplog.text


def test_records_without_a_group_are_refused_and_not_left_out():
    for groups in (["a", None, "b"], np.array([0.0, np.nan, 1.0])):
        with pytest.raises(ValueError, match="of 3 records: 1 are missing"):
            jsplit.population.grouped(groups)
        with pytest.raises(ValueError, match="of 3 records: 1 are missing"):
            jsplit.population.dirichlet(groups, clients=2, alpha=1.0)
    assert jsplit.population.grouped(Column(["b", "a", "b"])).names == ("a", "b")


class Labelled(Column):
    """A column whose rows have labels, as those of pandas do."""

    iloc = None

    def __init__(self, values, labels):
        super().__init__(values)
        self.index = Labels(labels)


class Labels(list):
    def equals(self, other):
        return list(self) == list(other)


def test_tables_whose_rows_are_in_another_order_are_refused():
    """Pandas would pair them by their labels; here they are taken by their place."""
    x, y = Labelled([1.0, 2.0], ["MARKED-7731", "b"]), [0.0, 1.0]
    same = {"x": x, "y": Labelled(y, ["MARKED-7731", "b"])}
    assert np.array_equal(as_arrays(same)["y"], y)
    with pytest.raises(ValueError, match="`y` of the batch and `x` have rows") as error:
        as_arrays({"x": x, "y": Labelled(y, ["b", "MARKED-7731"])})
    assert "MARKED" not in str(error.value)
    # What has no labels is in the order of whoever brings it.
    assert as_arrays({"x": x, "y": np.array(y)})["x"].shape == (2,)


def test_bytes_of_no_type_are_no_numbers():
    with pytest.raises(ValueError, match="field `x` of the batch"):
        as_arrays({"x": np.zeros(3, "V4")})
    assert as_arrays({"x": np.zeros(3, jnp.bfloat16)})["x"].dtype == jnp.bfloat16
