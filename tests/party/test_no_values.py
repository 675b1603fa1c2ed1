"""No error, warning or line of a log has a value of a record in it, whatever a user brings."""

from __future__ import annotations

import logging
import traceback
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import party
from jsplit.commands.functions import said, whence
from tests.core.brought import MARK, NUMBER, Column, Table, faults

N = 8
FAULTS = faults(N)
IDS = {
    "a table": Table(Column([MARK] * N), Column([MARK] * N)),
    "one string": MARK,
    "a set": {MARK},
    "twice": [MARK] * N,
    "too few": [f"{MARK} {i}" for i in range(3)],
    "surrogates": [f"{MARK} \udc00 {i}" for i in range(N)],
    "two forms": [f"{MARK} {x}" for x in ("e\u0301", "\u00e9", *range(6))],
    "normalised": [f"{MARK} e\u0301 {i}" for i in range(N - 1)],
    "floats": [NUMBER + 0.5] * N,
    "missing": [MARK, None] * (N // 2),
    "bytes": [MARK.encode()] * N,
    "rows": np.full((N, 2), NUMBER),
}


@cache
def parts():
    def init(key, x):
        return jnp.ones((3, 3)) / 3

    low = jsplit.segment(lambda p, x: x @ p, init=init, inputs=["x"], name="h")
    high = jsplit.segment(lambda p, h: h @ p, init=init, inputs=["h"], name="y")
    topology = jsplit.vanilla(low, high, loss=lambda y, label: (y - label) ** 2)
    good = {"x": np.ones((N, 3), np.float32), "label": np.ones((N, 3), np.float32)}
    sgd = optax.sgd(0.1)
    trainers = [make(topology, sgd) for make in (jsplit.fused, jsplit.messages)]
    agreed = party.agreement(
        topology, good, steps=1, addresses={"server": "localhost:8476"}
    )
    return topology, good, trainers, agreed, trainers[0].init(0, good), init


def attempts(bad):
    """Each door of jsplit that takes a field or more, with `bad` in the place of one."""
    topology, good, trainers, agreed, state, init = parts()
    own = {n.name: n.segment for n in topology.segments}
    people = jsplit.population.iid(N - 2, 2)
    relay = jsplit.rounds.take_turns(trainers[0], client="client")
    drawn = people.round(good, 0, batch=2)
    model = lambda w, x: jnp.tanh(jsplit.cut(x @ w, "h")) @ w  # noqa: E731
    device, line = jsplit.Device(flops=1e6), jsplit.Network(bits=1e6)

    def run(data, ids=None):
        return party.run(
            agreed,
            "client",
            {"h": own["h"]},
            data,
            ids=ids,
            optimizer=optax.sgd(0.1),
            credentials=party.PlaintextWithoutIdentity("client"),
            transport=NOBODY,
        )

    for name in ("x", "label"):
        batch = {**good, name: bad}
        for trainer in trainers:
            yield lambda t=trainer, b=batch: t.init(0, b)
            yield lambda t=trainer, b=batch: t.step(state, b)
            yield lambda t=trainer, b=batch: t.evaluate(state, b)
        yield lambda b=batch: people.round(b, 0, batch=2)
        yield lambda b=batch: people.global_batches(b, 0, batch=2)
        mine = drawn._replace(fields=batch)
        yield lambda r=mine: relay.init(0, r)
        yield lambda r=mine: relay.evaluate(relay.init(0, drawn), r)
        yield lambda b=batch: jsplit.cost(topology, b)
        yield lambda b=batch: party.agreement(
            topology, b, steps=1, addresses={"server": "localhost:8476"}
        )
        yield lambda b=batch: party.batches(agreed, b, ids=range(N))
    for trainer in trainers:
        yield lambda t=trainer: t.predict(state, {"x": bad})
        yield lambda t=trainer: t.evaluate(state, good, weight=bad)
        yield lambda t=trainer: t.step(state, good, weight=bad)
    yield lambda: relay.predict(relay.init(0, drawn), {"x": bad})
    yield lambda: jsplit.export(topology, state, {"x": bad})
    yield lambda: jsplit.split(model, bad, init=init)
    yield lambda: jsplit.split(model, {"x": bad, "label": bad}, init=init)
    yield lambda: jsplit.cut_points(model, bad, init=init)
    yield lambda: jsplit.plan(model, bad, init=init, client=device, link=line)
    yield lambda: run({"x": bad})
    yield lambda: run(lambda step: {"x": bad})
    yield lambda: run(lambda step: bad)
    yield lambda: jsplit.population.grouped(bad)
    yield lambda: jsplit.population.dirichlet(bad, clients=2, alpha=1.0)


def misplaced(bad):
    """Doors at which a field stands in the place of another argument."""
    topology, good, trainers, _, state, init = parts()
    people, sgd = jsplit.population.iid(N - 2, 2), optax.sgd(0.1)
    for trainer in trainers:
        yield lambda t=trainer: t.step(state, bad)
        yield lambda t=trainer: t.init(bad, good)
        yield lambda t=trainer: t.step(bad, good)
    yield lambda: people.round(good, 0, batch=bad)
    yield lambda: people.round(good, 0, dropout=bad)
    yield lambda: jsplit.segment(lambda w, x: x, init=init, inputs=bad)
    yield lambda: jsplit.fused(topology, sgd, kernels=bad)
    yield lambda: jsplit.fused(topology, sgd, backward=bad)
    yield lambda: jsplit.fused(topology, sgd, links={"h": bad})
    yield lambda: jsplit.cost(bad, good)
    yield lambda: jsplit.rounds.take_turns(trainers[0], client=bad)
    yield lambda: jsplit.compress.quantize(bad)


def of_ids(ids):
    topology, good, _, agreed, _, _ = parts()
    own = {n.name: n.segment for n in topology.segments}
    given = {"credentials": party.PlaintextWithoutIdentity("client"), "ids": ids}
    given["transport"] = NOBODY
    yield lambda: party.batches(agreed, good, ids=ids)
    yield lambda: jsplit.population.grouped(ids)
    yield lambda: party.run(
        agreed,
        "client",
        {"h": own["h"]},
        {"x": good["x"]},
        optimizer=optax.sgd(0.1),
        **given,
    )


class Nobody:
    """A transport by which nobody is reached: what was not refused before ends here."""

    def __getattr__(self, name):
        raise RuntimeError("nobody is there")


NOBODY = Nobody()


def words_of(work) -> str:
    """All that is said while something is done: error, traceback and warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            work()
            said_of_it = ""
        except Exception as error:
            said_of_it = "".join(traceback.format_exception(error)) + repr(error)
    return said_of_it + "".join(str(w.message) for w in seen)


def hides_values(words: str) -> bool:
    return MARK not in words and str(NUMBER) not in words and "7.731" not in words


@pytest.mark.parametrize("name", FAULTS)
def test_no_message_has_a_value_of_a_field(name, caplog):
    caplog.set_level(logging.DEBUG)
    refused = 0
    for work in attempts(FAULTS[name]):
        words = words_of(work)
        assert hides_values(words), words
        refused += bool(words)
    assert refused > 30  # most doors are shut, so something has been read
    assert hides_values(caplog.text)


@pytest.mark.parametrize(
    "bad", [np.full((N, 3), NUMBER), [float(NUMBER)] * N, jnp.full(N, NUMBER)], ids=type
)
def test_no_message_has_a_value_of_a_field_in_the_place_of_something_else(bad):
    for work in misplaced(bad):
        words = words_of(work)
        assert words and hides_values(words), words


@pytest.mark.parametrize("name", IDS)
def test_no_message_has_an_id_in_it(name, caplog):
    caplog.set_level(logging.DEBUG)
    for work in of_ids(IDS[name]):
        words = words_of(work)
        assert hides_values(words), words
    assert hides_values(caplog.text)


def test_the_command_says_what_the_user_says_and_not_what_a_conversion_quotes(tmp_path):
    file = tmp_path / "hospital.py"
    file.write_text(
        f"def quotes(x):\n    return float('{MARK}')\n"
        "def says(x):\n    raise ValueError('my file has no rows')\n"
    )
    found: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), found)
    for name, words in (("quotes", "ValueError"), ("says", "my file has no rows")):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            found[name](0)
        where = whence(error.value, f"{file}:{name}")
        text = said(error.value, where)
        assert words in text and MARK not in text and "raised in" in where


def test_the_text_of_a_result_has_what_was_measured_and_no_weights_and_no_outputs():
    """Who prints it wants the loss; outputs are of records, and what is printed is logged."""
    mark = jnp.full(3, NUMBER)
    state = jsplit.PartyState(
        {"h": mark}, {"h": mark}, (mark,), {}, jax.random.key(0), jnp.int32(9)
    )
    result = party.Result(state, 9, {"loss": 0.5}, {"auc": 0.75}, {"y": mark})
    assert "0.5" in repr(result) and "0.75" in repr(result)
    assert f"{NUMBER}" not in repr(result) and "Array" not in repr(result)
