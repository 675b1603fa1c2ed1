"""Tables with ids: read or refused, joined by id, and never beside records of others in silence."""

from __future__ import annotations

import functools
import logging
import traceback
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit.core.identified import Identified
from jsplit.core.trees import as_arrays
from jsplit.party.contract.ids_key import told
from jsplit.party.contract.record_order import Records
from jsplit.party.epoch_arguments import weighted_of
from tests.core.brought import INTEGERS, MARK, NUMBER, Column, faults

KEY = b"a secret of all who hold records"


def table(ids, **columns):
    return jsplit.records({"who": ids, **columns}, id="who")


def three(seed=0):
    """Three tables of other records, each in an order of its own, as dictionaries too."""
    rng = np.random.default_rng(seed)
    people = [f"patient {i}" for i in range(40)]
    found = {}
    for party in ("lab", "clinic", "server"):
        ids = [*rng.permutation(people)[:30]]
        found[party] = {i: float(rng.normal()) for i in ids}
    return found


def of(rows):
    return table([*rows], x=np.array([*rows.values()]))


def test_alignment_is_an_inner_join_in_one_order():
    rows = three()
    found = jsplit.align({party: of(x) for party, x in rows.items()})
    common = sorted(set.intersection(*map(set, rows.values())))  # bytes of ASCII text
    assert 0 < found.kept == len(common) < 30
    for party, x in rows.items():
        assert [*found.tables[party].ids] == common
        np.testing.assert_array_equal(
            found.tables[party].column("x"), [x[i] for i in common]
        )
        assert found.lost[party] == 30 - len(common)
        for other, y in rows.items():
            if other != party:
                assert found.absent[party][other] == len({*x} - {*y})
    assert "patient" not in str(found) + repr(found)


def test_alignment_is_that_of_pandas():
    pandas = pytest.importorskip("pandas")
    rows = three()
    frames = {
        p: pandas.DataFrame({"who": [*x], p: [*x.values()]}) for p, x in rows.items()
    }
    joined = functools.reduce(
        lambda a, b: a.merge(b, on="who", how="inner"), frames.values()
    ).sort_values("who")
    read = {p: jsplit.records(f, id="who") for p, f in frames.items()}
    found = jsplit.align(read)
    for party in rows:
        np.testing.assert_array_equal(
            found.tables[party].column(party), joined[party].to_numpy()
        )
    by_index = jsplit.records(frames["lab"].set_index("who"), id="who")
    assert [*by_index.ids] == [*read["lab"].ids]


def test_permuting_the_rows_of_one_party_changes_nothing():
    tables = {party: of(x) for party, x in three().items()}
    found = jsplit.align(tables)
    rows = np.random.default_rng(1).permutation(30)
    tables["clinic"] = tables["clinic"].take(rows)
    again = jsplit.align(tables)
    for party, one in found.tables.items():
        assert [*one.ids] == [*again.tables[party].ids]
        np.testing.assert_array_equal(one.column("x"), again.tables[party].column("x"))
    assert again.absent == found.absent


@pytest.mark.parametrize("kind", [str, lambda i: 7 * int(i)])
def test_tags_align_as_ids_do_and_the_order_is_that_of_a_run(kind):
    tables = {
        party: table([kind(i.split()[1]) for i in x], x=[*x.values()])
        for party, x in three().items()
    }
    whole = jsplit.align(tables)
    for party, own in tables.items():
        tags = {p: jsplit.party.tags(t, KEY) for p, t in tables.items()}
        found = jsplit.party.align({**tags, party: own}, KEY)
        assert [*found.tables] == [party]
        assert [*found.tables[party].ids] == [*whole.tables[party].ids]
        assert found.absent == whole.absent and found.had == whole.had
        order = Records({}, found.tables[party].ids).order
        assert order is not None and (np.diff(order) == 1).all()
    other = jsplit.party.tags(tables["lab"], KEY[::-1])
    with pytest.raises(ValueError, match="no record is at all parties"):
        jsplit.party.align({"clinic": tables["clinic"], "lab": other}, KEY)


def test_parties_divide_records_alike_each_by_itself():
    found = jsplit.align({party: of(x) for party, x in three().items()})
    parts = [t.split(0.3, seed=5) for t in found.tables.values()]
    for train, held in parts:
        assert [*train.ids] == [*parts[0][0].ids] and [*held.ids] == [*parts[0][1].ids]
    more = of({i: 0.0 for i in [*found.tables["lab"].ids, *map(str, range(99))]})
    assert {*parts[0][1].ids} <= {*more.split(0.3, seed=5)[1].ids}
    share = len(table(range(5000)).split(0.3)[1]) / 5000
    assert abs(share - 0.3) < 0.03  # four standard deviations


@functools.cache
def trainers():
    low = jsplit.segment(lambda x: x**2, inputs="a", name="h")
    both = jsplit.segment(lambda x: x**3, inputs="b", name="g")
    top = jsplit.segment(lambda h: h, inputs="sum", name="y")
    topology = jsplit.vertical(
        {"lab": low, "clinic": both},
        top,
        loss=lambda y, label: (y - label) ** 2,
        merge=lambda h, g: h + g,
        public=["a", "b"],  # nothing is learnt here that would hide them
    )
    return [make(topology, optax.sgd(0.1)) for make in (jsplit.fused, jsplit.messages)]


def test_fields_of_other_records_are_refused_wherever_a_batch_goes():
    lab, clinic = table([3, 1, 2], a=[3.0, 1, 2]), table([1, 2, 3], b=[1.0, 2, 3])
    fields = {"a": lab["a"], "b": clinic["b"], "label": clinic["b"]}
    good = jsplit.align({"lab": lab, "clinic": clinic}).tables
    right = {
        "a": good["lab"]["a"],
        "b": good["clinic"]["b"],
        "label": np.zeros(3, np.float32),
    }
    rows = np.array([2, 0])
    some = {name: x[rows] for name, x in right.items()}
    torn = {**some, "b": right["b"][rows[::-1]]}
    for trainer in trainers():
        state = trainer.init(0, right)
        _, info = trainer.step(state, some)
        assert float(info.loss) == pytest.approx((36**2 + 2**2) / 2)
        for bad in (fields, torn):
            for call in (trainer.init, trainer.step, trainer.evaluate, trainer.predict):
                with pytest.raises(ValueError, match="are of other records") as error:
                    call(0 if call == trainer.init else state, bad)
                assert not any(f" {i} " in str(error.value) for i in (1, 2, 3))


def test_fields_bring_their_ids_to_a_run_over_the_network():
    one = table(["b", "a", "c"], x=[2.0, 1, 3])
    plain, brought = Records({"x": one["x"].array}, one.ids), Records({"x": one["x"]})
    assert plain.digest == brought.digest is not None
    np.testing.assert_array_equal(brought.take(np.arange(3))["x"], [1, 2, 3])
    with pytest.raises(ValueError, match="`ids` are not those that the fields"):
        Records({"x": one["x"]}, ["a", "b", "c"])


def test_records_without_ids_are_told_of_where_others_have_some_too(caplog):
    plain, own = Records({"x": np.ones(40)}), Records({"x": np.ones(40)}, range(40))
    told(own, "", alone=False)
    told(plain, "", alone=True)
    assert "no ids" not in caplog.text
    assert told(plain, "north", alone=False) is None
    assert "the records of `north` have no ids" in caplog.text


def test_a_field_is_read_as_its_array():
    x = table([2, 1], x=[0.5, 1.5])["x"]
    assert as_arrays({"x": x})["x"] is not x and (np.asarray(x) == [0.5, 1.5]).all()
    turned, first = x[::-1], x[np.array([True, False])]
    assert isinstance(turned, Identified) and [*turned.ids] == [1, 2]
    assert isinstance(first, Identified) and [*first.ids] == [2]
    assert isinstance(whole := x[...], Identified) and whole.whose.same(x.whose)
    assert x[0] == 0.5 and len(x) == 2 and [*x] == [0.5, 1.5]
    assert "0.5" not in repr(x)


IDS = {
    "twice": ([MARK, MARK], "1 are there more than once"),
    "missing": ([MARK, None], "1 are missing"),
    "nan": ([5.0, np.nan], "1 are missing"),
    "written": ([MARK, "nan"], "1 are missing"),
    "empty": ([MARK, ""], "1 are missing"),
    "two kinds": ([MARK, 1], "1 are text and 1 are numbers"),
    "spaces": ([MARK, f" {MARK}2"], "1 have spaces around them"),
    "fractions": ([1.5, 2.0], "1 are neither strings nor integers"),
    "rounded": ([2.0**53, 1.0], "1 are floats so large"),
    "rounded in 32 bits": (np.array([2**24, 2**24 - 1], "f4"), "1 are floats so large"),
    "truth": ([True, False], "2 are true or false"),
    "none": ([], "at least one record"),
    "a nullable column": (Column([1, None], INTEGERS), "1 are missing"),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_that_are_none_are_refused_by_counts(name):
    ids, said = IDS[name]
    with pytest.raises(ValueError, match=said) as error:
        jsplit.records({"x": [1.0] * 2}, id=ids)
    assert MARK not in str(error.value)


COLUMNS = {
    "both": (["4", 5.0], "1 entries that are text and 1 that are numbers"),
    "dates": (np.array(["2020-01-01"] * 2, "M8[D]"), "neither numbers nor text"),
    "spans": (np.array([1, 2], "m8[D]"), "neither numbers nor text"),
    "length": ([1.0], "has 1 entries for 2 records"),
    "large": ([2**53 + 1, None], "does not hold"),
    "larger": (np.array([2**64 - 1, 1], "u8"), "does not fit"),
    "larger still": ([2**70, 1], "does not fit"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_would_lose_something_are_refused(name):
    column, said = COLUMNS[name]
    with pytest.raises(ValueError, match=said) as error:
        table([1, 2], column=column)
    assert "column `column`" in str(error.value) and "20" not in str(error.value)


def test_a_table_is_read_from_what_holds_columns():
    whole = np.array([(3, 0.5, "a"), (1, 1.5, "b")], "i8,f4,U1")
    whole.dtype.names = "who", "x", "ward"
    columns = {name: whole[name] for name in whole.dtype.names}
    lists = {name: x.tolist() for name, x in columns.items()}
    masked = {**lists, "x": np.ma.masked_array([0.5, 9.0], [False, True])}
    for frame in (whole, columns, lists):
        found = jsplit.records(frame, id="who")
        assert [*found.ids] == [3, 1] and found.column("x").tolist() == [0.5, 1.5]
        assert found.column("ward").tolist() == ["a", "b"]
    assert np.isnan(jsplit.records(masked, "who").column("x")).tolist() == [False, True]
    assert [*jsplit.records(lists, "who", columns=["x"]).columns] == ["x"]
    assert table(np.array([2.0, 1.0])).ids == [2, 1]  # integers, as a table has them
    scans = table([1, 2], scan=np.ones((2, 3, 3), np.float32))
    assert scans["scan"].shape == (2, 3, 3)
    with pytest.raises(ValueError, match="`id` must be one of the columns"):
        jsplit.records(lists, id="patient")
    for frame in ([1, 2], "who", np.ones((2, 2))):
        with pytest.raises(ValueError, match="`frame` must be a table"):
            jsplit.records(frame, id="who")


class Labelled(Column):
    """A column of pandas whose rows have labels."""

    def __init__(self, values, labels):
        super().__init__(values)
        self.index = Labels(labels)

    def __len__(self):
        return len(self.values)


class Labels(tuple):
    def equals(self, other):
        return self == other


def test_columns_and_ids_of_rows_with_other_labels_are_refused():
    x, who = Labelled([1.0, 2.0], "ab"), Labelled([5, 6], "ba")
    for frame, given in (({"who": who, "x": x}, "who"), ({"x": x}, who)):
        with pytest.raises(ValueError, match="rows with other labels"):
            jsplit.records(frame, id=given)
    assert jsplit.records({"x": x}, id=Labelled([5, 6], "ab")).ids == [5, 6]


def test_columns_of_another_table_are_refused_beside_other_ids():
    one = table([3, 1], x=[0.5, 1.5], scan=np.ones((2, 2, 2)))
    for ids in ([1, 3], ["3", "1"]):
        for name in ("x", "scan"):
            with pytest.raises(ValueError, match=f"`{name}` of `frame` is of other"):
                table(ids, **{name: one[name]})
    assert table([3, 1], x=one["x"]).column("x").tolist() == [0.5, 1.5]


def test_ids_of_rows_with_other_labels_are_refused_beside_the_fields_of_a_party():
    x, who = Labelled([1.0, 2.0], "ab"), Labelled([5, 6], "ba")
    with pytest.raises(ValueError, match="rows with other labels"):
        Records({"x": x}, who)
    assert Records({"x": x}, Labelled([5, 6], "ab")).digest is not None


def test_class_weights_of_a_party_are_no_product_with_those_of_other_records():
    one = table([1, 2], label=[0, 1], w=[1.0, 2.0])
    agreed = SimpleNamespace(weight="w", rotation=None)
    good, bad = ({"label": one["label"], "w": w} for w in (one["w"], one["w"][::-1]))
    made = weighted_of(agreed, good, {0: 0.5, 1: 2.0}, "label")
    assert made is not None and made["w"].tolist() == [0.5, 4.0]
    with pytest.raises(ValueError, match="are of other records"):
        weighted_of(agreed, bad, {0: 0.5, 1: 2.0}, "label")


def test_two_keys_of_one_name_are_refused_and_arrays_of_jax_are_columns():
    with pytest.raises(ValueError, match="one name for each column, got 1 of 3"):
        jsplit.records({"who": [1, 2], 1: [3, 4], "1": [5, 6]}, id="who")
    scans = table([1, 2], scan=jax.numpy.ones((2, 3)))
    assert scans.column("scan").shape == (2, 3)


@pytest.mark.parametrize(
    "rows", [1, [0.0], [[0, 1]], [3], [-4], ["a"], [True, None, True], [True]]
)
def test_rows_that_are_none_are_refused_by_name(rows):
    with pytest.raises(ValueError, match="`rows` must"):
        table([1, 2, 3]).take(rows)


def test_weights_of_other_records_are_refused_wherever_a_batch_goes():
    one = table([1, 2, 3], a=[1.0, 2, 3], w=[1.0, 2, 3])
    batch = {"a": one["a"], "b": one["a"], "label": np.zeros(3, np.float32)}
    other = one["w"][::-1]
    labelled = Labelled([1.0, 2, 3], "abc")
    labels = {"a": labelled, "b": labelled, "label": batch["label"]}
    turned = Labelled([1.0, 2, 3], "cba")
    people = jsplit.population.iid(3, 1)
    for trainer in trainers():
        state = trainer.init(0, batch)
        for fields, good, bad in (
            (batch, one["w"], other),
            (labels, Labelled([1.0, 2, 3], "abc"), turned),
        ):
            calls = [
                lambda w, f=fields, t=trainer, s=state: t.step(s, f, w),
                lambda w, f=fields, t=trainer, s=state: t.evaluate(s, f, w),
                lambda w, f=fields, t=trainer, s=state: t.evaluate(s, [(f, w)]),
                lambda w, f=fields, t=trainer: jsplit.fit(t, f, epochs=1, weight=w),
                lambda w, f=fields: people.round(f, 0, batch=3).counting(w),
            ]
            for call in calls:
                call(good)
                with pytest.raises(ValueError, match="`(weight|counts)`.* other "):
                    call(bad)


def test_pandas_and_polars_are_read_alike():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    columns = {"who": ["b", "a"], "x": [1.5, None], "ward": ["A", None], "n": [1, 2]}
    frame = pandas.DataFrame(columns)
    odd = frame.assign(
        n=frame["n"].astype("Int64"), ward=frame["ward"].astype("category")
    )
    for one in (frame, odd, polars.DataFrame(columns)):
        found = jsplit.records(one, id="who")
        assert [*found.ids] == ["b", "a"] and found.column("n").tolist() == [1, 2]
        assert found.column("ward").tolist() == ["A", None]
        assert np.isnan(found.column("x")).tolist() == [False, True]


def test_ids_written_in_other_ways_are_suspected(caplog):
    lab = table(["P-001", "p2", "p9"], x=[1.0, 2, 3])
    clinic = table(["p001", "P2", "p9"], x=[1.0, 2, 3])
    with caplog.at_level(logging.WARNING, "jsplit.ids"):
        found = jsplit.align({"lab": lab, "clinic": clinic})
    assert found.kept == 1 and found.nearly == 2 and "2 more would be" in caplog.text
    assert "p9" not in caplog.text
    with pytest.raises(ValueError, match="`lab` has integers, `clinic` has text"):
        jsplit.align({"lab": table([1, 2]), "clinic": table(["1", "2"])})
    with pytest.raises(
        ValueError, match="no record is at all parties.*2 more would be"
    ):
        jsplit.align({"lab": table(["A", "B"]), "clinic": table(["a", "b"])})


FAULTS = faults(3)


@pytest.mark.parametrize("name", FAULTS)
def test_no_error_has_a_value_or_an_id_in_it(name, caplog):
    for given in (
        {"who": FAULTS[name], "x": [1.0] * 3},
        {"who": range(3), "x": FAULTS[name]},
    ):
        try:
            table = jsplit.records(given, id="who")
            jsplit.preprocessing(
                table, {"f": jsplit.Numbers(["x"]), "g": jsplit.Categories("x")}
            )
        except ValueError as error:
            said = "".join(traceback.format_exception(error))
            # The lines of the code that Python quotes have names alone.
            assert MARK not in said and str(NUMBER) not in said
    assert MARK not in caplog.text and str(NUMBER) not in caplog.text
