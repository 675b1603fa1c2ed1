"""A training that was stopped anywhere goes on as if it never had been, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import threading
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

import jsplit
from jsplit.fitting import saved
from jsplit.fitting.interrupts import interruptible
from tests.fitting.common import BATCH, RECORDS, algorithm, same, some, trainer

GIVEN = {
    "epochs": 2,
    "batch": BATCH,
    "validation": some(1),
    "class_weight": "balanced",
    "hyperparams": {"learning_rate": lambda epoch: 0.1 / (epoch + 1)},
    "monitor": "val_gap",
    "mode": "max",
}


class Killed(Exception):
    pass


class KilledAt:
    """Ends the process, as it were, after a step or in the callback after an epoch."""

    def __init__(self, step=None, epoch=None):
        self.step, self.epoch = step, epoch

    def on_step(self, step, info):
        if step == self.step:
            raise Killed

    def on_epoch(self, epoch):
        if epoch.number == self.epoch:
            raise Killed


def equal(one, other):
    return (
        same(one.state, other.state)
        and same(one.best, other.best)
        and repr(one.history.rows) == repr(other.history.rows)
        and (one.history.best, one.history.steps)
        == (other.history.best, other.history.steps)
    )


@cache
def whole():
    """The training that nobody stops: two epochs of three steps."""
    return jsplit.fit(trainer(), some(), **GIVEN)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "every", [2, pytest.param(1, marks=slow), pytest.param(None, marks=slow)]
)
def test_killed_at_any_step_it_goes_on_bit_for_bit(tmp_path, every):
    assert whole().history.steps == 6
    for step in range(1, 7):
        folder = tmp_path / f"{step}"
        with pytest.raises(Killed):
            jsplit.fit(
                trainer(),
                some(),
                folder=folder,
                every=every,
                callbacks=[KilledAt(step)],
                **GIVEN,
            )
        again = jsplit.fit(trainer(), some(), folder=folder, every=every, **GIVEN)
        assert equal(again, whole()), step


def test_killed_after_any_epoch_it_goes_on_and_a_file_of_rows_has_each_once(tmp_path):
    for epoch in range(2):
        folder, file = tmp_path / f"{epoch}", tmp_path / f"{epoch}.csv"
        watched = [jsplit.fitting.Csv(file)]
        with pytest.raises(Killed):
            killed = [*watched, KilledAt(epoch=epoch)]
            jsplit.fit(trainer(), some(), folder=folder, callbacks=killed, **GIVEN)
        told = []
        going = [*watched, lambda one: told.append(one.number)]
        again = jsplit.fit(trainer(), some(), folder=folder, callbacks=going, **GIVEN)
        # What was not kept is told again.
        assert equal(again, whole()) and told == [*range(epoch, 2)]
        lines = file.read_text().splitlines()
        assert [line.partition(",")[0] for line in lines] == ["epoch", "0", "1"]


def test_rounds_that_were_stopped_go_on_bit_for_bit(tmp_path):
    people = jsplit.population.quantity(RECORDS, clients=2, alpha=1.0)
    given = {**GIVEN, "population": people}
    all_rounds = jsplit.fit(algorithm(3), some(), **given)
    with pytest.raises(Killed):
        killed = [KilledAt(2)]
        jsplit.fit(algorithm(3), some(), folder=tmp_path, callbacks=killed, **given)
    again = jsplit.fit(algorithm(3), some(), folder=tmp_path, **given)
    assert equal(again, all_rounds)


@pytest.mark.parametrize("where", ["save", "_commit", "_tidy"])
def test_killed_while_it_is_written_a_checkpoint_is_the_old_or_the_new(
    tmp_path, monkeypatch, where
):
    """Before a state, between it and the file that names it, and before old ones are deleted."""
    jsplit.fit(trainer(), some(), folder=tmp_path, **{**GIVEN, "epochs": 1})

    def fails(*_):
        raise Killed

    with monkeypatch.context() as patched:
        owner = saved if where == "save" else saved.Checkpoints
        patched.setattr(owner, where, fails)
        with pytest.raises(Killed):
            jsplit.fit(trainer(), some(), folder=tmp_path, **GIVEN)
    assert equal(jsplit.fit(trainer(), some(), folder=tmp_path, **GIVEN), whole())
    states = {f.name for f in tmp_path.glob("state-*")}
    named = {os.readlink(tmp_path / name) for name in ("last", "best")}
    assert states == named
    best = jsplit.restore(tmp_path / "best", trainer().init(5, some()))
    assert same(best, whole().best)


def test_more_epochs_go_on_from_what_is_done_and_none_are_done_twice(tmp_path):
    jsplit.fit(trainer(), some(), folder=tmp_path, **{**GIVEN, "epochs": 1})
    more = jsplit.fit(trainer(), some(), folder=tmp_path, **GIVEN)
    assert equal(more, whole())
    again = jsplit.fit(
        trainer(), some(), folder=tmp_path, callbacks=[KilledAt(10)], **GIVEN
    )
    assert equal(again, whole()) and again.history.stopped == "epochs"
    anew = jsplit.fit(trainer(), some(), folder=tmp_path, resume=False, **GIVEN)
    assert equal(anew, whole()) and anew.history.seconds != again.history.seconds


def other_last(data):
    """The same records but for the last, which no first step reads."""
    x = data["x"].copy()
    x[-1] += 1
    return {**data, "x": x}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a training that was killed in the middle of its first epoch."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.raises(Killed):
        killed = [KilledAt(2)]
        jsplit.fit(trainer(), some(), folder=folder, every=1, callbacks=killed, **GIVEN)
    return folder


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"batch": 5}, "batch"),
        ({"key": 1}, "key"),
        ({"last": "drop"}, "last"),
        ({"shuffle": False}, "shuffle"),
        ({"class_weight": None}, "weight"),
        ({"monitor": "val_loss"}, "monitor"),
        ({"mode": "min"}, "mode"),
        ({"data": some(records=9)}, "records"),
        ({"data": some(2)}, "data"),
        ({"validation": some(2)}, "validation"),
        ({"validation": some(1, records=9)}, "validation"),
        ({"data": other_last(some())}, "data"),
        ({"validation": other_last(some(1))}, "validation"),
    ],
)
def test_another_training_is_not_taken_for_the_one_that_was_begun(begun, change, word):
    given = {"data": some(), **GIVEN, **change}
    if word == "data":
        # The same classes, and so the same weights, of other records.
        given["data"]["label"] = some()["label"]
    with pytest.raises(ValueError, match=f"`{word}`"):
        jsplit.fit(trainer(), given.pop("data"), folder=begun, **given)


def test_an_algorithm_is_told_that_other_records_came_which_no_first_step_reads(
    tmp_path,
):
    people = jsplit.population.iid(RECORDS, 2, seed=3)
    given = {"population": people, "batch": 2, "folder": tmp_path}
    jsplit.fit(algorithm(), some(), epochs=1, **given)
    read = people.round(some(), 0, batch=2).reads[0, 0]
    data = some()
    data["x"][[i for i in range(RECORDS) if i not in read]] += 1
    with pytest.raises(ValueError, match="`data`"):
        jsplit.fit(algorithm(), data, epochs=2, **given)


def test_a_folder_is_of_one_training_at_a_time(tmp_path):
    """Two would delete each other's states; after the one ends the other may begin."""
    said = []

    def begins_another(epoch):
        with pytest.raises(ValueError, match="in use by another training") as error:
            jsplit.fit(trainer(), some(), folder=tmp_path, resume=False, **GIVEN)
        said.append(error)

    given = {**GIVEN, "folder": tmp_path}
    one = jsplit.fit(trainer(), some(), callbacks=[begins_another], **given)
    assert len(said) == 2 and equal(one, whole())
    assert equal(jsplit.fit(trainer(), some(), **given), whole())


def test_a_folder_that_cannot_be_is_refused_before_a_step_is_taken(tmp_path):
    (tmp_path / "file").touch()
    taken = SimpleNamespace(on_step=lambda step, info: pytest.fail("a step was taken"))
    for folder in (tmp_path / "file", tmp_path / "file" / "more"):
        with pytest.raises(OSError):
            jsplit.fit(trainer(), some(), folder=folder, callbacks=[taken], **GIVEN)


@pytest.mark.parametrize("part", ["last", "best", "settings", "history"])
@pytest.mark.parametrize("change", ["lost", "other"])
def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path, part, change):
    jsplit.fit(trainer(), some(), folder=tmp_path, **{**GIVEN, "epochs": 1})
    file = tmp_path / "fit.json"
    said = json.loads(file.read_text())
    kept = {n: x for n, x in said.items() if n != part}
    file.write_text(json.dumps(kept if change == "lost" else {**kept, part: 3}))
    with pytest.raises(ValueError, match="fit.json is not what"):
        jsplit.fit(trainer(), some(), folder=tmp_path, **GIVEN)


def test_an_order_that_is_drawn_anew_cannot_go_on(tmp_path):
    rng = np.random.default_rng()

    class Loader:
        def __iter__(self):
            rows = rng.permutation(RECORDS)
            return ({n: x[r] for n, x in some().items()} for r in (rows[:5], rows[5:]))

    with pytest.raises(Killed):
        jsplit.fit(
            trainer(),
            Loader(),
            epochs=2,
            folder=tmp_path,
            every=1,
            callbacks=[KilledAt(2)],
        )
    with pytest.raises(ValueError, match="other batches in epoch 0"):
        jsplit.fit(trainer(), Loader(), epochs=2, folder=tmp_path)


def batches(count=3):
    """Records as they lie, in batches."""
    starts = range(0, count * BATCH, BATCH)
    return [{n: x[i : i + BATCH] for n, x in some().items()} for i in starts]


def test_an_epoch_that_gives_less_than_before_cannot_go_on(tmp_path):
    killed = {"every": 1, "callbacks": [KilledAt(3)]}
    with pytest.raises(Killed):
        jsplit.fit(trainer(), batches(), epochs=1, folder=tmp_path, **killed)
    for count in (0, 1):
        # It is looked at twice before anything is trained.
        counts = iter((3, 3, count))
        given = lambda epoch, counts=counts: batches(next(counts))  # noqa: E731
        with pytest.raises(ValueError, match=f"{count} batches in epoch 0"):
            jsplit.fit(trainer(), given, epochs=1, folder=tmp_path)
    again = jsplit.fit(trainer(), batches(2), epochs=1, folder=tmp_path)
    assert (again.history.steps, again.history.stopped) == (2, "epochs")


def test_batches_are_not_taken_for_arrays_nor_arrays_for_batches(begun, tmp_path):
    """What one of two trainings has no argument for is another argument."""
    killed = {"every": 1, "callbacks": [KilledAt(2)]}
    usual = {n: GIVEN[n] for n in ("epochs", "validation", "monitor", "mode")}
    with pytest.raises(Killed):
        jsplit.fit(trainer(), batches(), folder=tmp_path, **killed, **usual)
    given = {"batch": BATCH, "shuffle": False, **usual}
    for data, folder, more in ((some(), tmp_path, given), (batches(), begun, usual)):
        with pytest.raises(ValueError, match="another `batch`"):
            jsplit.fit(trainer(), data, folder=folder, **more)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "another"}'])
def test_a_file_of_somebody_else_is_not_taken_for_a_training(tmp_path, text):
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(ValueError, match="is not what `jsplit.fit` has written"):
        jsplit.fit(trainer(), some(), folder=tmp_path, **GIVEN)


def test_what_is_in_hand_goes_on_in_a_folder_with_the_best_of_before(tmp_path):
    # The loss falls, so by its maximum the first epoch is the best.
    most = {"batch": BATCH, "monitor": "loss", "mode": "max"}
    first = jsplit.fit(trainer(), some(), epochs=1, **most)
    wanted = jsplit.fit(trainer(), some(), epochs=3, **most)
    assert wanted.history.best == 0
    for step in (5, 8):
        given = {"state": first, "folder": tmp_path / f"{step}", "every": 1, **most}
        with pytest.raises(Killed):
            jsplit.fit(trainer(), some(), epochs=3, callbacks=[KilledAt(step)], **given)
        # The same call again: what the folder has counts before what was given.
        began = Began()
        again = jsplit.fit(trainer(), some(), epochs=3, callbacks=[began], **given)
        assert equal(again, wanted) and began.steps == step - 1
    with pytest.raises(ValueError, match="`monitor` `loss`, and now it is `val_loss`"):
        given = {"batch": BATCH, "validation": some(1)}
        jsplit.fit(trainer(), some(), epochs=3, state=first, **given)


class Began:
    def on_start(self, history):
        self.steps = history.steps


def test_between_epochs_it_is_kept_after_so_many_steps_of_all(tmp_path, monkeypatch):
    kept = []
    write = lambda self, fitted: kept.append(fitted.history.steps)  # noqa: E731
    monkeypatch.setattr(saved.Checkpoints, "write", write)
    given = {"epochs": 2, "batch": BATCH, "folder": tmp_path, "every": 2}
    jsplit.fit(trainer(), some(), **given)
    # An epoch has three.
    assert kept == [2, 3, 4, 6, 6]


def test_steps_that_were_left_out_before_it_was_killed_are_not_forgotten(tmp_path):
    data = some()
    # The order of the first epoch begins with it.
    data["x"][np.random.default_rng([0, 0]).permutation(RECORDS)[0]] = np.nan
    given = {"epochs": 1, "batch": BATCH, "folder": tmp_path, "every": 1}
    skipping = trainer(nonfinite="skip")
    with pytest.raises(Killed):
        jsplit.fit(skipping, data, callbacks=[KilledAt(3)], **given)
    again = jsplit.fit(skipping, data, **given)
    alone = jsplit.fit(skipping, data, **given | {"folder": None, "every": None})
    assert again.history.rows == alone.history.rows
    assert again.history.rows[0]["skipped"] == 1


class Interrupts:
    """Presses Ctrl-C, after a step or twice."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_step(self, step, info):
        if step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def _python_handles_ctrl_c():
    """A run of tests that a shell started in the background ignores Ctrl-C, as `fit` then does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_handles_ctrl_c")
@pytest.mark.parametrize(("step", "kept"), [(2, False), (3, True)])
def test_ctrl_c_ends_after_the_step_with_the_state_in_hand(tmp_path, step, kept):
    before = signal.getsignal(signal.SIGINT)
    folder = {"folder": tmp_path} if kept else {}
    stopped = jsplit.fit(
        trainer(), some(), callbacks=[Interrupts(step)], **folder, **GIVEN
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.history.stopped == "interrupted" and stopped.history.steps == step
    assert int(stopped.state.parties["server"].step) == step
    # Before the first epoch is done there is no better one than this.
    assert same(stopped.best, stopped.state)
    going_on = folder if kept else {"state": stopped}
    assert equal(jsplit.fit(trainer(), some(), **going_on, **GIVEN), whole())


@pytest.mark.usefixtures("_python_handles_ctrl_c")
def test_ctrl_c_while_it_is_measured_ends_after_the_epoch():
    pressed = [lambda epoch: os.kill(os.getpid(), signal.SIGINT)]
    stopped = jsplit.fit(trainer(), some(), callbacks=pressed, **GIVEN)
    assert stopped.history.stopped == "interrupted"
    assert (len(stopped.history), stopped.history.steps) == (1, 3)


def test_where_ctrl_c_is_ignored_or_another_thread_trains_nothing_is_changed():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as asked:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        found = []

        def elsewhere():
            with interruptible() as asked:
                found.append((asked.is_set(), signal.getsignal(signal.SIGINT)))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert found == [(False, signal.default_int_handler)] and not asked.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_handles_ctrl_c")
def test_a_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt):
        jsplit.fit(trainer(), some(), callbacks=[Interrupts(2, times=2)], **GIVEN)
