"""What is the best, when it is enough, and what is told: decisions, tables, pictures, callbacks."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest

import jsplit
from jsplit.fitting.calling import callbacks_of, tell_end
from jsplit.fitting.monitor import as_monitor
from tests.fitting.common import BATCH, same, some, trainer

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "best", "at_two"),
    [
        ([3.0, 2.0, 1.0], 2, None),
        ([1.0, 2.0, 3.0], 0, 2),
        ([1.0, 1.0, 1.0], 0, 2),  # as good is no better
        ([NAN, 2.0, 1.0], 2, None),  # NaN is worse than any number
        ([2.0, NAN, NAN], 0, 2),
        ([NAN, NAN, NAN], 0, 2),
        ([3.0, 2.95, 2.9], 2, 2),  # the best is what is best, patience wants more
        ([3.0, 4.0, 2.0, 2.5, 2.6], 2, 4),
        ([0.2, 0.0, 0.0], 1, 2),  # what is no more than `min_delta` is no improvement
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_is_the_first_of_the_best_and_patience_counts_since_it(
    values, best, at_two, sign
):
    mode = "min" if sign > 0 else "max"
    rows = [{"score": sign * x} for x in values]
    monitor = as_monitor("score", mode, 2, 0.2, False)
    assert monitor.best(rows) == best
    worn = [n for n in range(1, len(rows) + 1) if monitor.worn_out(rows[:n])]
    assert worn[:1] == ([] if at_two is None else [at_two + 1])


def test_a_training_without_improvement_ends_and_gives_the_best_state():
    """With the score known beforehand: by a rate that turns what was learned around."""
    rates = [0.1, 0.1, -0.3, -0.3, -0.3]
    states = []
    fitted = jsplit.fit(
        trainer(),
        some(),
        epochs=5,
        batch=BATCH,
        patience=2,
        hyperparams={"learning_rate": lambda epoch: rates[epoch]},
        validation=some(),
        callbacks=[lambda epoch: states.append((epoch.best, epoch.state))],
    )
    history = fitted.history
    assert history.best is not None
    assert history.stopped == "patience" and len(history) == history.best + 3 < 5
    assert [best for best, _ in states].index(False) == history.best + 1
    assert same(fitted.best, states[history.best][1])
    assert same(fitted.state, states[-1][1])
    assert history.best == int(np.argmin(history["val_loss"]))
    # In its last epoch as well, it is by its patience that it ended.
    ended = jsplit.fit(
        trainer(),
        some(),
        epochs=len(history),
        batch=BATCH,
        patience=2,
        validation=some(),
        state=fitted,
    )
    assert ended.history == history


def test_a_callback_that_says_so_ends_the_training(tmp_path):
    calls = []

    class Watching:
        def on_start(self, history):
            calls.append(("start", len(history)))

        def on_step(self, step, info):
            calls.append(("step", step, info.loss.shape))

        def on_epoch(self, epoch):
            calls.append(("epoch", epoch.number, epoch.best))
            assert set(epoch.validation.metrics) == {"gap"}
            return True

        def on_end(self, history):
            calls.append(("end", history.stopped))

    given = {"epochs": 3, "batch": 5, "validation": some(), "folder": tmp_path}
    jsplit.fit(trainer(), some(), callbacks=[Watching()], **given)
    assert calls == [
        ("start", 0),
        ("step", 1, ()),
        ("step", 2, ()),
        ("epoch", 0, True),
        ("end", "callback"),
    ]
    # Who makes the same call again has it as it was ended.
    again = jsplit.fit(trainer(), some(), callbacks=[Watching()], **given)
    assert calls[5:] == [("start", 1), ("end", "callback")] and len(again.history) == 1
    # Who has it in hand goes on.
    more = jsplit.fit(trainer(), some(), state=again, **given | {"folder": None})
    assert (len(more.history), more.history.stopped) == (3, "epochs")


def test_true_alone_ends_a_training_and_every_callback_is_told_before():
    told = []
    ends = lambda epoch: epoch.number == 1  # noqa: E731
    speaks = lambda epoch: told.append(epoch.number) or "a word"  # noqa: E731
    both = [ends, speaks]
    found = jsplit.fit(trainer(), some(), epochs=3, batch=5, callbacks=both)
    assert told == [0, 1] and found.history.stopped == "callback"


def test_an_object_that_can_be_called_is_told_of_epochs_by_its_method():
    class Both:
        def __call__(self, epoch):
            raise AssertionError

        def on_epoch(self, epoch):
            return epoch

    one = Both()
    assert [call(3) for call in callbacks_of([one, abs], "on_epoch")] == [3, 3]
    assert callbacks_of([one, abs], "on_step") == []


@pytest.mark.parametrize(
    ("said", "epochs"),
    [
        (True, 1),
        (np.bool_(True), 1),
        (np.array(True), 1),
        (jax.numpy.array(True), 1),
        (False, 2),
        (np.bool_(False), 2),
        (1, 2),
        ("yes", 2),
        (None, 2),
        (np.array([True, True]), 2),
    ],
)
def test_any_true_of_a_callback_ends_and_nothing_else(said, epochs):
    fitted = jsplit.fit(
        trainer(), some(), epochs=2, batch=5, callbacks=[lambda epoch: said]
    )
    assert len(fitted.history) == epochs


def test_what_is_told_of_an_epoch_cannot_be_changed():
    def changes(epoch):
        with pytest.raises(TypeError):
            epoch.row["loss"] = -1.0

    fitted = jsplit.fit(trainer(), some(), epochs=1, batch=5, callbacks=[changes])
    assert fitted.history["loss"][0] > 0


def test_at_an_error_every_callback_ends():
    ended = []

    class Fails:
        def on_epoch(self, epoch):
            raise OSError

        def on_end(self, history):
            ended.append(len(history))

    with pytest.raises(OSError):
        jsplit.fit(trainer(), some(), epochs=1, batch=5, callbacks=[Fails()])
    assert ended == [1]


def test_whatever_one_callback_raises_at_the_end_the_others_are_told_of_it():
    ended = []

    def fails(history):
        raise OSError

    first, last = (lambda history, n=n: ended.append(n) for n in (1, 2))
    them = [SimpleNamespace(on_end=call) for call in (first, fails, last)]
    with pytest.raises(OSError):
        tell_end(them, HISTORY)
    assert ended == [1, 2]


HISTORY = jsplit.fitting.History(
    ({"loss": 0.5, "val_loss": 0.25, "val_auc": 0.75}, {"loss": 0.5, "val_loss": NAN}),
    (1.0, 2.0),
    best=0,
    monitor="val_loss",
    steps=9,
    running=jsplit.fitting.Running(steps=3),
)


def test_a_history_is_a_table_a_page_a_picture_and_arrays():
    text = str(HISTORY)
    assert "best: epoch 0 by val_loss; 3 steps into epoch 2" in text
    assert text.splitlines()[0].split()[-1] == "seconds" and "0 *" in text
    page = HISTORY._repr_html_()
    assert page.count("<tr>") == 3 and ">0.75</td>" in page
    np.testing.assert_array_equal(HISTORY["val_auc"], [0.75, NAN])
    with pytest.raises(KeyError, match="val_auc"):
        HISTORY["auc"]
    figure = HISTORY.plot()
    assert [a.get_title() for a in figure.axes] == ["loss", "auc"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert {"training", "validation"} <= {*lines}
    np.testing.assert_array_equal(lines["validation"].get_ydata(), [0.25, NAN])


def test_a_picture_of_many_columns_is_as_wide_as_one_of_few():
    rows = ({f"measure {n}": float(n) for n in range(7)},)
    drawn = jsplit.fitting.History(rows).plot()
    assert [a.get_title() for a in drawn.axes] == [*rows[0]]
    assert drawn.get_figwidth() < 11 < drawn.get_figheight() * 2


@pytest.mark.parametrize("count", (1, 2, 3, 7, 12, 200))
def test_epochs_of_a_picture_are_whole_and_there(count):
    rows = tuple({"loss": 1 / (n + 1), "val_loss": 2.0} for n in range(count))
    for axes in jsplit.fitting.History(rows).plot().axes:
        ticks = axes.get_xticks()
        inside = [x for x in ticks if -0.5 < x < count - 0.5]
        assert inside and all(x == round(x) for x in ticks)


def told(history=HISTORY):
    return jsplit.fitting.Epoch(1, history.rows[0], None, False, None, history)


def test_what_trackers_are_told_is_the_row_by_epoch(monkeypatch):
    """Of packages that need not be installed; `rich` is."""
    said = []

    class Writer:
        def __init__(self, folder, purge_step):
            said.append((folder, purge_step))

        def add_scalar(self, *given):
            said.append(given)

        def flush(self): ...

        def close(self):
            said.append("closed")

    def package(name, **holds):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(holds)

    package("tensorboardX", SummaryWriter=Writer)
    package("mlflow", log_metrics=lambda row, step: said.append((row, step)))
    run = SimpleNamespace(log=lambda row, step: said.append((row, step)))
    board = jsplit.fitting.TensorBoard("board")
    board.on_start(HISTORY)
    board.on_epoch(told())
    board.on_end(HISTORY)
    row = dict(HISTORY.rows[0])
    assert said[0] == ("board", 2) and said[-1] == "closed"
    assert said[1:-1] == [(name, x, 1) for name, x in row.items()]
    for callback in (jsplit.fitting.Mlflow(), jsplit.fitting.Wandb(run)):
        callback.on_epoch(told())
        assert said.pop() == (row, 1)


def test_a_bar_moves_and_leaves_the_terminal(capsys):
    bar = jsplit.fitting.Progress(epochs=2)
    bar.on_end(HISTORY)  # of one that was never started
    bar.on_start(HISTORY)
    assert bar._bar.tasks[0].completed == 2
    bar.on_end(HISTORY)
    bar.on_start(jsplit.fitting.History())
    bar.on_epoch(told())
    assert bar._bar.tasks[0].completed == 2
    bar.on_end(HISTORY)
    assert "val_auc 0.75" in capsys.readouterr().out


def test_a_file_of_rows_has_each_number_in_its_column(tmp_path):
    written = jsplit.fitting.Csv(tmp_path / "history.csv")
    written.on_start(HISTORY)
    before = (tmp_path / "history.csv").read_text()
    written.on_epoch(told())
    assert (tmp_path / "history.csv").read_text() == before
    assert before.splitlines() == [
        "epoch,loss,val_loss,val_auc,seconds",
        "0,0.5,0.25,0.75,1.0",
        "1,0.5,nan,,2.0",
    ]


@pytest.mark.parametrize("package", ["rich", "tensorboardX", "mlflow"])
def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, package):
    for name in (package, f"{package}.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    callback, call = {
        "rich": (jsplit.fitting.Progress(1), lambda x: x.on_start(HISTORY)),
        "tensorboardX": (
            jsplit.fitting.TensorBoard("x"),
            lambda x: x.on_start(HISTORY),
        ),
        "mlflow": (jsplit.fitting.Mlflow(), lambda x: x.on_epoch(told())),
    }[package]
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*jsplit\[track\]"):
        call(callback)
