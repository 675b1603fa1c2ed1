"""What one party decides, learns and keeps of its epochs, without a network."""

from __future__ import annotations

import argparse
import threading
from itertools import count
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.commands import epochs as command
from jsplit.fitting import History, Running
from jsplit.fitting.monitor import as_monitor
from jsplit.party import by_epochs, epochs_of_run
from jsplit.party.connection.interrupts import Missing
from jsplit.party.contract.epochs import Epochs, drafted
from jsplit.party.epoch_arguments import check_columns, monitor_of
from jsplit.party.epoch_losses import OwnLosses, added, row_of
from jsplit.party.epoch_verdicts import Word
from jsplit.party.epochs_of_run import EpochsOfRun
from jsplit.party.kept_epochs import Kept, KeptEpochs
from jsplit.party.results import Metrics
from jsplit.party.steps import Training
from jsplit.party.validating import Measured, Validating
from tests.party.federation import bits

STEPS, EPOCHS = 2, 4
HERE = SimpleNamespace(
    losses=[SimpleNamespace(name="loss", weight=1, party="server")], metrics=[]
)


def state_of(step):
    """A state of which all depends on its step."""
    x = jnp.float32(step)
    return jsplit.PartyState({"w": x}, {}, (), {}, jax.random.key(0), jnp.int32(step))


class Run:
    """The epochs of one party, of which each step is told its loss."""

    def __init__(
        self, losses, *, words=(), tells="", measured=None, weight="", **asked
    ):
        self.losses, self.said, self.words = losses, [], iter(words)
        self.faults = SimpleNamespace(count=0)
        self.store = SimpleNamespace(steps=(0,))
        self.kept = KeptEpochs(self.store, "schema", {})
        monitor = None if words else as_monitor("loss", "min", None, 0.0, False)
        name = "client" if words else "server"
        self.epochs = EpochsOfRun(
            Epochs(STEPS, 0, "server", tells),
            OwnLosses(HERE, name),
            self.kept,
            **{"monitor": monitor} | asked,
        )
        self.me = SimpleNamespace(
            party=name,
            local=SimpleNamespace(party=name),
            agreed=SimpleNamespace(steps=STEPS * EPOCHS, batch=4, weight=weight),
            incoming=SimpleNamespace(faults=self.faults),
            # Who computes no loss need not have weights.
            batch=lambda step: {} if words else {weight: np.full(4, step + 1)},
            end=None,
        )
        say = lambda step, batch, word, number: self.said.append((word, number))  # noqa: E731
        validating = SimpleNamespace(
            measure=lambda state, step: measured,
            say=say,
            verdict=lambda step: next(self.words),
        )
        self.epochs.over(self.me, validating)

    def goes(self, first=0, until=STEPS * EPOCHS):
        """Take steps from one on, each kept."""
        self.epochs.begin(first)
        for step in range(first, until):
            if step >= self.me.end:
                break
            self.faults.count += self.losses[step] is None
            loss = np.nan if self.losses[step] is None else self.losses[step]
            told = {"loss": loss} if self.epochs.losses.names else {}
            metrics = Metrics(step + 1, told, 0, 0, 0.1, 0.1, 0.0, 0.0, 1)
            self.epochs.after(state_of(step + 1), step, metrics)
            self.epochs.write(step + 1)
            self.store.steps = (*self.store.steps, step + 1)
        return self.epochs.now.history


def by_epoch(values):
    return [x for value in values for x in [value] * STEPS]


GO, BEST, STOP, LAST = Word.CONTINUE, Word.BEST, Word.STOP, Word.BEST_AND_STOP


@pytest.mark.parametrize(
    ("values", "asked", "words", "stopped"),
    [
        ([4, 3, 2, 1], {}, [BEST] * 4, ""),
        # Better than the one before it is not the best.
        ([1, 3, 2, 1], {}, [BEST, GO, GO, GO], ""),
        ([1, 3, 2, 1], {"patience": 2}, [BEST, GO, STOP], "patience"),
        ([2, 1, 1, 1], {"patience": 2}, [BEST, BEST, GO, STOP], "patience"),
        ([4, 3, 2, 1], {"patience": 1, "min_delta": 1.5}, [BEST, LAST], "patience"),
        ([4, 3, 2, 1], {"ends": 1}, [BEST, LAST], "callback"),
        ([1, 3, 2, 1], {"ends": 1, "patience": 1}, [BEST, STOP], "callback"),
    ],
)
def test_what_is_decided_is_said_and_the_run_ends_by_it(values, asked, words, stopped):
    given = {"patience": None, "min_delta": 0.0} | asked
    ends = given.pop("ends", None)
    epochs = Epochs(STEPS, 0, "server")
    monitor = monitor_of(epochs, "server", None, None, **given)
    told = []
    # What is no `True` ends nothing.
    calls = [lambda one: one.number == ends, lambda one: told.append(one) or "a word"]
    run = Run(by_epoch(values), tells="loss", monitor=monitor, callbacks=calls)
    history = run.goes()
    assert run.said == list(zip(words, values, strict=False))
    best = max(n for n, word in enumerate(words) if word.best)
    assert (history.best, len(history), history.stopped) == (best, len(words), stopped)
    assert run.me.end == STEPS * len(words) == history.steps
    assert [(x.number, x.best) for x in told] == [
        (n, w.best) for n, w in enumerate(words)
    ]
    # Called again, it has ended where it had.
    run.epochs.begin(run.me.end)
    assert run.me.end == STEPS * len(words)
    run.epochs.begin(STEPS)
    assert run.me.end == STEPS * EPOCHS
    # Another epoch than the last: its state is the best.
    run.epochs.begin(history.steps)
    ended = run.epochs.fitted(state_of(history.steps), interrupted=False)
    assert bits(ended.best) == bits(state_of(STEPS * (best + 1)))
    assert ended.history.stopped == (stopped or "epochs")
    # `on_end` is told of it too.
    assert run.epochs.now.history == ended.history


@pytest.mark.parametrize("tells", ["", "val_loss"])
def test_who_does_not_decide_has_what_it_was_told(tells):
    told = 0.25 if tells else None
    words = [(BEST, told), (GO, told), (STOP, told)]
    run = Run([0.0] * STEPS * EPOCHS, words=words, tells=tells, weight="counts")
    history = run.goes()
    assert [*history.rows] == [{tells: 0.25} if tells else {}] * 3
    assert (history.best, history.stopped, run.said) == (0, "verdict", [])
    assert history.monitor == (tells or "the verdict of server")


def test_what_was_measured_is_told_to_callbacks_and_steps_from_1_on():
    steps, told = [], []
    watching = SimpleNamespace(
        on_step=lambda step, metrics: steps.append((step, metrics.step)),
        on_epoch=told.append,
    )
    run = Run(
        by_epoch([4, 3, 2, 1]),
        measured=Measured({"loss": 0.5}, {"auc": 0.75}),
        callbacks=[watching],
        hyperparams={"rate": lambda epoch: epoch / 2},
    )
    history = run.goes()
    assert steps == [(n, n) for n in range(1, STEPS * EPOCHS + 1)]
    for number, epoch in enumerate(told):
        row = {"loss": 4 - number, "val_loss": 0.5, "val_auc": 0.75}
        assert epoch.row == history.rows[number] == {**row, "rate": number / 2}
        assert epoch.validation.metrics == {"auc": 0.75}
        assert float(epoch.validation.loss) == 0.5
        assert len(epoch.history) == number + 1
        assert bits(epoch.state.parties["server"]) == bits(
            state_of(STEPS * (number + 1))
        )


def test_each_epoch_has_its_own_seconds(monkeypatch):
    clock = count()
    asked = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(epochs_of_run, "time", asked)
    seconds = Run(by_epoch([4, 3, 2, 1])).goes().seconds
    assert len(seconds) == EPOCHS and max(seconds) == min(seconds)


def test_steps_that_are_left_out_count_for_nothing_also_after_going_back():
    run = Run([None, 2, 3, None, 4, 4, 5, 5])
    rows = run.goes().rows
    # Its number of faults stays, and what is computed again is counted anew.
    run.faults.count += 1
    assert run.goes(4).rows == rows
    assert [*rows][:2] == [{"loss": 2, "skipped": 1}, {"loss": 3, "skipped": 1}]


def test_weights_of_records_count_in_the_mean():
    assert Run([1, 2] * EPOCHS, weight="w").goes().rows[0] == {"loss": (4 + 16) / 12}


def test_who_goes_back_has_the_best_of_then():
    """Also who is stopped before it has measured again."""
    run = Run(by_epoch([4, 3, 2, 1]))
    run.goes(until=4)
    assert run.epochs.now.best == 4
    run.epochs.begin(3)
    found = run.epochs.fitted(state_of(3), interrupted=True)
    assert bits(found.best) == bits(state_of(2))
    assert (found.history.best, found.history.steps) == (0, 3)
    assert found.history.stopped == "interrupted"
    # Of this epoch others may still go on, and this party with them.
    run.epochs.begin(4)
    again = run.epochs.fitted(state_of(4), interrupted=False)
    assert bits(again.best) == bits(state_of(4))


def test_a_step_that_was_not_ended_is_not_in_what_there_is():
    run = Run(by_epoch([4, 3, 2, 1]))
    run.goes(until=6)
    found = run.epochs.fitted(state_of(3), interrupted=True)
    assert (found.history.steps, len(found.history)) == (3, 1)
    assert found.history.running.steps == 1 and bits(found.best) == bits(state_of(2))
    first = run.epochs.fitted(state_of(0), interrupted=True)
    assert first.history.best is None and bits(first.best) == bits(state_of(0))


def test_a_column_that_has_no_number_is_named():
    rates = {"rate": lambda epoch: [0.5, 0.25]}
    compared = as_monitor("rate", "min", None, 0.0, False)
    with pytest.raises(ValueError, match="`monitor` must be one of loss, got 'rate'"):
        Run(by_epoch([4, 3, 2, 1]), monitor=compared, hyperparams=rates).goes()


def test_a_record_of_epochs_can_be_read_as_often_as_it_is_gone_back_to():
    kept = KeptEpochs(SimpleNamespace(steps=(0, 5)), "schema", {"data": 1, "epochs": 2})
    record = Kept(History(({"loss": 0.5},), (1.0,), best=0, steps=5), 5)
    kept.write(5, record, state_of(5))
    assert kept.read(5, History()) == kept.read(5, History()) == record
    with pytest.raises(ValueError, match="step 3 is none of `jsplit.party.fit`"):
        kept.read(3, History())
    # What is other data may be so by another argument, which is named first.
    cases: list[tuple[dict[str, object], str]] = [
        ({"data": 2, "epochs": 2}, "data"),
        ({"data": 2, "epochs": 3}, "epochs"),
        ({"data": 1, "epochs": 2, "mode": "max"}, "mode"),
        ({"data": 1}, "epochs"),
    ]
    for others, name in cases:
        kept.settings = others
        with pytest.raises(ValueError, match=f"another `{name}`"):
            kept.read(5, History())


def test_the_record_of_a_checkpoint_is_there_before_it():
    """Whoever is killed between the two must not find one that is none of epochs."""
    calls = []
    me = SimpleNamespace(
        store=SimpleNamespace(
            save=lambda state: calls.append("checkpoint"),
            prune_before=lambda step: None,
            steps=(0,),
        ),
        network=SimpleNamespace(committed=int, durable=lambda steps: None),
    )
    epochs = SimpleNamespace(write=lambda step: calls.append(f"record {step}"))
    Training(me, None, bool, epochs=epochs)._save(state_of(7), last=False)
    assert calls == ["record 7", "checkpoint"]


def test_of_losses_that_others_compute_there_is_no_objective():
    both = [SimpleNamespace(name=n, weight=1, party=p) for n, p in ("aa", "bb")]
    both.append(SimpleNamespace(name="loss", weight=1, party="a"))
    mine = OwnLosses(SimpleNamespace(losses=both), "a")
    found = mine.columns({"a": 0.5, "loss": 2.0}, state_of(0))
    assert found == {"a": 0.5, "loss_alone": 2.0} and {*found} == mine.possible()
    assert mine.info({"a": 0.5, "loss": 2.0}, state_of(0)) is None


def test_the_strength_of_a_loss_is_that_of_the_state():
    weight = jsplit.Strength("half", 1.0)
    one = SimpleNamespace(name="loss", weight=weight, party="a")
    mine = OwnLosses(SimpleNamespace(losses=[one]), "a")
    state = state_of(0)._replace(strengths={"half": jnp.float32(0.5)})
    assert mine.columns({"loss": 3.0}, state) == {"loss": 1.5, "loss_alone": 3.0}


def test_a_batch_in_which_nothing_counts_leaves_the_mean_as_it_is():
    nothing = added(Running(), {"loss": np.nan}, 0.0)
    assert np.isnan(row_of(nothing)["loss"])
    more = added(added(nothing, {"loss": 0.5}, 2.0), None, 2.0)
    assert row_of(more) == {"loss": 0.5, "skipped": 1} and more.steps == 3


@pytest.mark.parametrize("name", ["monitor", "mode", "patience", "min_delta"])
def test_who_does_not_decide_says_nothing_of_how(name):
    given = {"column": None, "mode": None, "patience": None, "min_delta": 0.0}
    epochs = Epochs(STEPS, 8, "server")
    assert monitor_of(epochs, "client", **given) is None
    given["column" if name == "monitor" else name] = 1
    with pytest.raises(ValueError, match=f"`{name}` is for `server`"):
        monitor_of(epochs, "client", **given)


def test_what_is_compared_or_told_is_a_column_that_there_will_be():
    others = [
        SimpleNamespace(name=n, party=p) for n, p in (("a", "server"), ("b", "x"))
    ]
    losses = OwnLosses(SimpleNamespace(**vars(HERE) | {"metrics": others}), "server")

    def look(column="loss", tells="", rates=()):
        compared = as_monitor(column, "min", None, 0.0, True)
        epochs = Epochs(STEPS, 8, "server", tells)
        check_columns(epochs, compared, losses, dict.fromkeys(rates))

    look("val_a", "val_loss")
    look("rate", "rate", ["rate"])
    known = "loss, val_a, val_loss, got"
    for given in ({"column": "val_b"}, {"column": "rate"}):
        with pytest.raises(ValueError, match=f"`monitor` must be one of {known}"):
            look(**given)
    with pytest.raises(ValueError, match=f"`tells` of `epochs` must be one of {known}"):
        look(tells="val_b")


def test_nobody_is_more_than_two_batches_ahead_of_who_decides():
    log = []
    batches, size = 5, 4
    epochs = SimpleNamespace(
        steps=STEPS,
        validation=18,
        tells="",
        size_of=lambda batch, size: 2 + 2 * (batch < 4),
    )
    frames = SimpleNamespace(
        batches=batches,
        epochs=epochs,
        validating=None,
        agreed=SimpleNamespace(batch=size),
        decider="server",
        others=["client"],
        words=lambda party: batches,
        verdict=lambda party: 7,
    )

    def take(crossing, step, batch):
        log.append(("told", batch))
        word = Word.BEST if batch + 1 == batches else Word.MEASURED
        return [np.array([0, word], np.int32)]

    def evaluate(state, fields, batch, many, exchange):
        log.append(("measured", batch, len(fields)))
        return {}, ()

    def of(name):
        me = SimpleNamespace(
            party=name,
            agreed=SimpleNamespace(batch=size),
            incoming=None,
            local=SimpleNamespace(
                evaluate=evaluate, topology=SimpleNamespace(losses=[]), metrics=[]
            ),
            network=SimpleNamespace(
                take=take, send=lambda *given: log.append(("said", given[2]))
            ),
        )
        return Validating(me, frames, SimpleNamespace(take=lambda rows: rows))

    client = of("client")
    assert client.measure(state_of(2), 1) == ({}, {})
    assert client.verdict(1) == (Word.BEST, None)
    one, two, three, four, five = [("measured", n, 4 - 2 * (n == 4)) for n in range(5)]
    told = [("told", n) for n in range(5)]
    assert log == [one, two, told[0], three, told[1], four, told[2], five, *told[3:]]
    log.clear()
    of("server").measure(state_of(2), 1)
    said = [("said", n) for n in range(4)]
    assert log == [one, said[0], two, said[1], three, said[2], four, said[3], five]


def test_who_has_left_as_at_the_end_was_given_another_verdict():
    def me(done):
        return SimpleNamespace(
            party="north",
            agreed=SimpleNamespace(parties=["server", "north", "south"]),
            network=SimpleNamespace(member=SimpleNamespace(done=done), refuse=KeyError),
        )

    error = Missing("waited")
    assert by_epochs._of_two_verdicts(error, me(set()), "server") is error
    found = by_epochs._of_two_verdicts(error, me({2}), "server")
    assert isinstance(found, KeyError) and "`south` has left" in str(found)
    assert "`server` has told `north` nothing" in str(found)


def test_all_that_a_party_brings_comes_to_its_run(monkeypatch):
    class Looked(Exception):
        pass

    def prepare(agreed, name, task, brought):
        raise Looked(brought)

    monkeypatch.setattr(by_epochs, "prepare", prepare)
    epochs = party.epochs(2, records=8, decides="server")
    topology = jsplit.vanilla(
        jsplit.segment(lambda x: x, inputs=["x"], name="h"),
        jsplit.segment(lambda h: h, inputs=["h"], name="y"),
        loss=optax.squared_error,
    )
    data = {"x": np.ones((4, 3), "f"), "label": np.ones((4, 3), "f")}
    agreed = party.agreement(
        topology, data, addresses={"server": "127.0.0.1:9"}, epochs=epochs
    )
    names = ("own", "credentials", "ids", "ids_key", "optimizer", "links", "backward")
    names += ("kernels", "bound", "guard", "validation", "validation_ids", "state")
    given = {name: f"the {name}" for name in names}
    with pytest.raises(Looked) as found:
        party.fit(
            agreed, "client", **given, data=data, folder="f", record=print, norms=True
        )
    [brought] = found.value.args
    assert {name: getattr(brought, name) for name in names} == given
    assert brought.data is data and brought.checkpoint == "f"
    assert brought.watched == ("norms",)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"count": 0}, "`count`"),
        ({"validation": -1}, "`validation`"),
        ({"records": 0}, "`records`"),
        ({"records": 3}, "`records` of `epochs` is 3, and a batch takes 4"),
        ({"records": None}, "`records` of `epochs` must say how many"),
        ({"steps": 8}, "`steps` follows from `epochs`"),
        ({"given": {"count": 1}}, "what `jsplit.party.epochs` gives"),
    ],
)
def test_epochs_that_cannot_be_are_refused_where_they_are_said(change, wrong):
    given, steps = change.pop("given", None), change.pop("steps", None)
    with pytest.raises(ValueError, match=wrong):
        asked = given or party.epochs(**({"count": 3, "records": 22} | change))
        drafted(asked, steps, None, 4, [])


def test_the_first_loss_that_counts_decides_and_all_save_at_the_end_of_an_epoch():
    losses = [{"party": "a", "weight": 0}, {"party": "b", "weight": 1}]
    said = drafted(party.epochs(3, records=22), None, None, 4, losses)
    assert (said["steps"], said["checkpoint"]) == (15, 5)
    assert said["epochs"]["decides"] == "b"
    alone = drafted(party.epochs(3, records=22), None, 1, 4, losses[:1])
    assert (alone["checkpoint"], alone["epochs"]["decides"]) == (1, "a")


def test_what_a_command_says_counts_before_what_its_function_says(monkeypatch):
    asked = {}

    def fit(agreed, name, **given):
        asked.update(given)
        return party.Fitted(None, None, History(stopped="interrupted"))

    monkeypatch.setattr(party, "fit", fit)
    options = argparse.Namespace(
        monitor="loss", mode="max", patience=3, party="a", checkpoint="f", ids_key=None
    )
    gathered = SimpleNamespace(agreed=None, reach={"remind": 1.0}, bound={"h": 2.0})
    given = {
        "patience": 9,
        "min_delta": 0.5,
        "callbacks": [print],
        "keep_replies": True,
    }
    stop = threading.Event()
    assert command.fit(options, gathered, given, stop, SimpleNamespace(add=print))
    first, *_ = asked.pop("callbacks")
    assert first is print and asked == {
        "folder": "f",
        "ids_key": None,
        "stop": stop,
        "remind": 1.0,
        "bound": {"h": 2.0},
        "min_delta": 0.5,
        "monitor": "loss",
        "mode": "max",
        "patience": 3,
    }
