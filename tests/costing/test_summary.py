"""What a summary tells is what the state and the messages of a step are."""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.core.trees import nbytes
from jsplit.costing import Choice, CutPlan, Work
from jsplit.fitting import History
from jsplit.population import Population
from jsplit.privacy import Outcome, Report
from tests.helpers import make_problem
from tests.house.source import listed

EVIL = "<script>alert('x')</script>\"&"


@cache
def summed():
    problem = make_problem("u_shaped", "mlp", "nnx")
    trainer = jsplit.fused(problem.topology, optax.adam(1e-3))
    # Shapes are enough, so nothing is compiled.
    state = jax.eval_shape(lambda: trainer.init(0, problem.batch))
    return problem, state, jsplit.summary(problem.topology, state, problem.batch)


def test_numbers_and_bytes_are_those_of_the_state():
    problem, state, found = summed()
    assert found.parties.keys() == state.parties.keys()
    for party, own in state.parties.items():
        told = found.parties[party]
        sizes = sum(x.size for x in jax.tree.leaves(own.params))
        assert told.trained + told.frozen == sizes
        assert told.params == nbytes(own.params)
        assert told.optimizer == nbytes(own.optimizer)
        rows = [r for r in found.rows if r.party == party]
        statistics = sum(r.bytes for r in rows if r.kind == "statistics")
        assert statistics == nbytes(own.state)
        assert sum(r.bytes for r in rows) == told.params + statistics
    messages = jsplit.cost(problem.topology, problem.batch).messages
    assert found.messages == messages and messages


def test_what_is_frozen_is_told_and_depth_puts_arrays_together():
    def init(key, x):
        return {"a": {"w": jnp.ones(3), "b": jnp.ones(())}, "table": jnp.arange(4)}

    part = jsplit.segment(lambda p, x: x * p["a"]["w"] + p["a"]["b"], init=init)
    top = jsplit.segment(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    topology = jsplit.vanilla(part, top, loss=lambda o, y: o.mean(-1) - y)
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    state = trainer.init(0, {"x": jnp.ones((2, 3)), "label": jnp.ones(2)})
    every = {r.path: r for r in jsplit.summary(topology, state).rows}
    assert every["a.w"].shape == (3,) and every["a.w"].kind == "trained"
    assert every["table"].kind == "frozen"
    assert every["mean"].kind == "statistics" and every["scale"].kind == "trained"
    sums = jsplit.summary(topology, state).parties
    assert (sums["client"].trained, sums["client"].frozen) == (4, 4)
    assert (sums["server"].trained, sums["server"].statistics) == (6, 6)
    few = {r.path: r for r in jsplit.summary(topology, state, depth=1).rows}
    assert {"a", "table"} < few.keys() and "a.w" not in few
    assert (few["a"].numbers, few["a"].bytes, few["a"].shape) == (4, 16, None)
    # One party's state, as it has it on its own machine.
    mine = jsplit.TrainState({"client": state.parties["client"]})
    assert {r.party for r in jsplit.summary(topology, mine).rows} == {"client"}


def test_what_is_no_state_of_the_topology_is_refused():
    problem, state, _ = summed()
    other = jsplit.vanilla(*[jsplit.segment(lambda x: x)] * 2, loss=max)
    with pytest.raises(ValueError, match="`state` must be a jsplit.TrainState"):
        jsplit.summary(problem.topology, state.parties)
    with pytest.raises(ValueError, match="another topology|has the party"):
        jsplit.summary(other, state)
    with pytest.raises(ValueError, match="`depth` must be a positive integer"):
        jsplit.summary(problem.topology, state, depth=0)


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def shown():
    """Everything that a notebook shows as HTML, each with a name that would be a script."""
    part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: jnp.ones(3))
    topology = jsplit.vanilla(
        part, part, loss=lambda y, label: y[:, 0], client=EVIL, server="server"
    )
    x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (3, 1))
    batch = {"x": x, "label": label}
    state = jax.eval_shape(
        lambda: jsplit.fused(topology, optax.sgd(0.1)).init(
            0, {"x": jnp.ones((8, 3)), "label": jnp.ones((8, 1))}
        )
    )
    point = jsplit.CutPoint(EVIL, (4,), "float32", 8, 32, 16, 8.0, 8.0)
    work = Work(16, 40.0)
    choice = Choice(point, 0.5, 300, work, 64, None, True, True)
    yield "topology", topology
    yield "cost", jsplit.cost(topology, batch)
    yield "plan", CutPlan((choice,))
    yield "population", Population((np.arange(3), np.arange(5)), (EVIL, "b"))
    yield "history", History(({EVIL: 0.5},), best=0, monitor=EVIL)
    yield "summary", jsplit.summary(topology, state, batch)
    yield "views", jsplit.privacy.views(topology, batch)
    yield "report", Report((Outcome(EVIL, 100, 64, 640, 160, {"loss": 0.5}),))


def test_html_of_a_notebook_holds_no_tag_of_a_name_and_all_that_is_printed():
    """Nor a style sheet, which would hold for the whole notebook, nor a page within one."""
    plain = {"div", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    plain |= {"ul", "li"}
    known = {type(x) for _, x in shown()}
    public = [x for x in listed().values() if hasattr(x, "_repr_html_")]
    assert known >= {*public}
    for name, x in shown():
        page = x._repr_html_()
        parsed = _Tags()
        parsed.feed(page)
        assert "table" in parsed.tags <= plain, name
        assert parsed.attributes <= {"style"}, name
        # Shown as the text that it is, and nothing else is.
        assert EVIL in parsed.text, name
        assert "<script" not in page and "color:#" not in page, name
        assert len(page) < 20_000, name


def test_a_population_of_many_shows_few():
    many = Population(
        tuple(np.arange(2) for _ in range(500)), tuple(map(str, range(500)))
    )
    page = many._repr_html_()
    assert page.count("<tr>") == 21 and "and 480 more" in page
