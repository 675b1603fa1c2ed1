"""An example of weight 0 is left out, whatever it holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from tests.helpers import cross_entropy
from tests.training.common import INTERPRETERS, both, close, well

ROWS = 8
OUT = np.array([1, 6])
RNG = np.random.default_rng(0)


def embedded():
    """A client with a table of ids and a field that is a pytree, a server with labels."""

    class Whole(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Embed(5, 3, rngs=rngs)
            self.low = nnx.Linear(4, 3, rngs=rngs)
            self.high = nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, id, x):
            h = self.low(jnp.log(x["size"])) + self.table(id)
            return self.high(jsplit.cut(nnx.tanh(h), "smashed"))

    batch = whole_batch()
    fields = {n: batch[n] for n in ("id", "x")}
    return jsplit.split(Whole(nnx.Rngs(0)), *fields.values())


def whole_batch():
    size = np.exp(RNG.normal(size=(ROWS, 4))).astype(np.float32)
    ids = RNG.integers(0, 5, ROWS).astype(np.int32)
    return {"id": ids, "x": {"size": size}, "label": (ids % 3).astype(np.int32)}


PARTS = embedded()
TOPOLOGY = jsplit.vanilla(*PARTS.values(), loss=cross_entropy)
BATCH = whole_batch()
WEIGHT = np.where(np.isin(np.arange(ROWS), OUT), 0, np.arange(1.0, ROWS + 1)).astype(
    "f"
)


def spoilt(number, label, id):
    """The batch, with these in every row that is left out."""
    new = jax.tree.map(np.copy, BATCH)
    new["x"]["size"][OUT], new["label"][OUT], new["id"][OUT] = number, label, id
    return new


WRONG = {
    "nan": (np.nan, 0, 0),
    "inf": (np.inf, 0, 0),
    "too large": (1.0, 99, 99),
    "negative": (-1.0, -7, -7),
}


def steps(trainer, batch, weight):
    state = trainer.init(0, BATCH)
    measured = trainer.evaluate(state, batch, weight)
    infos = []
    for _ in range(2):
        state, info = trainer.step(state, batch, weight)
        infos.append(info)
    assert all(well(i) for i in infos)
    kept = [(p.params, p.optimizer) for p in state.parties.values()]
    return kept, infos[-1].loss, measured.loss


@both
@pytest.mark.parametrize("parts", [1, 2])
def test_what_is_left_out_may_hold_anything(interpreter, parts):
    trainer = INTERPRETERS[interpreter](TOPOLOGY, optax.adam(0.1), microbatches=parts)
    zeros = steps(trainer, spoilt(0, 0, 0), WEIGHT)
    for wrong in WRONG.values():
        found = steps(trainer, spoilt(*wrong), WEIGHT)
        jax.tree.map(np.testing.assert_array_equal, found, zeros)


@both
def test_what_is_left_out_is_as_if_it_were_not_there(interpreter):
    trainer = INTERPRETERS[interpreter](TOPOLOGY, optax.adam(0.1))
    found = steps(trainer, spoilt(*WRONG["nan"]), WEIGHT)
    there = WEIGHT > 0
    rest = jax.tree.map(lambda x: x[there], BATCH)
    close(found[1:], steps(trainer, rest, WEIGHT[there])[1:], 1e-5)


def test_what_is_left_out_of_one_batch_of_a_set_may_hold_anything():
    trainer = jsplit.fused(TOPOLOGY, optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    sets = [
        [(spoilt(*wrong), WEIGHT), (BATCH, np.ones(ROWS))]
        for wrong in ((0, 0, 0), *WRONG.values())
    ]
    zeros, *others = (trainer.evaluate(state, batches).loss for batches in sets)
    assert np.isfinite(zeros) and all(x == zeros for x in others)


def test_a_batch_in_which_all_are_left_out_moves_nothing_by_its_gradient():
    trainer = jsplit.fused(TOPOLOGY, optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    wrong = jax.tree.map(lambda x: np.full_like(x, -9), BATCH)
    new, info = trainer.step(state, wrong, np.zeros(ROWS))
    assert info.loss == 0
    for party in state.parties:
        close(new.parties[party].params, state.parties[party].params, 0)


def test_a_loss_that_leaves_rows_out_itself_is_left_alone():
    """Labels of -1 that the loss masks are no class numbers out of range."""

    def masked(logits, label):
        seen = label >= 0
        terms = cross_entropy(logits, jnp.where(seen, label, 0))
        return jnp.where(seen, terms, 0)

    topology = jsplit.vanilla(*PARTS.values(), loss=masked)
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    label = BATCH["label"].copy()
    label[OUT] = -1
    _, info = trainer.step(state, {**BATCH, "label": label})
    assert well(info) and np.isfinite(info.loss)


@both
@pytest.mark.parametrize("bad", [-1, np.nan, np.inf])
def test_weights_are_from_0_on(interpreter, bad):
    trainer = INTERPRETERS[interpreter](TOPOLOGY, optax.sgd(0.1))
    state, wrong = trainer.init(0, BATCH), WEIGHT.copy()
    wrong[3] = bad
    for call in (trainer.step, trainer.evaluate):
        with pytest.raises(
            ValueError, match="`weight` must hold weights from 0 on: 1 of 8"
        ):
            call(state, BATCH, wrong)
