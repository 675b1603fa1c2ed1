"""What a small Llama says between a clinic and servers is what it says in one place."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from experiments.common import clinic, llama
from experiments.common.plain_tokens import Whole
from experiments.network import clinic_asks
from tests.oracles import difference

TINY = replace(clinic.TWIN, layers=3, width=16, hidden=16, heads=2, groups=1)
PROMPT = np.array([[104, 101, 108, 108, 111]], np.int32)


def test_a_view_with_a_cache_gives_what_the_model_gives_at_once():
    """In pieces of any number of tokens; and the model stays as it was."""
    config = replace(TINY, layers=2, heads=4, groups=2)
    model = llama.Llama(config, rngs=nnx.Rngs(0))
    tokens = np.random.default_rng(0).integers(0, 256, (2, 7))
    view = clinic.decoding(model, 2, 7)

    @nnx.jit
    def say(model, tokens):
        return model(tokens)

    pieces = [say(view, tokens[:, at]) for at in (slice(3), slice(3, 7))]
    assert difference(np.concatenate(pieces, 1), say(model, tokens)) < 1e-5
    assert not jax.tree.leaves(nnx.state(model, nnx.Cache))


@pytest.mark.slow
def test_tokens_between_two_parties_are_those_of_the_whole_model(monkeypatch):
    monkeypatch.setattr(clinic, "TWIN", TINY)
    task, count = clinic.Task(small=True, batch=1, length=8), 12
    length = PROMPT.shape[1] + count
    whole = Whole(task, length)
    topology = clinic_asks.parted(task, [], 1)
    trainer = jsplit.messages(topology, optax.sgd(0.0))
    state = trainer.init(0, task.fields(0))
    with whole.begin() as say, clinic_asks.in_process(trainer, state, length) as split:
        found = [say(PROMPT, count), split(PROMPT, count)]
    assert np.array_equal(*found)
    after = whole.likeliest(np.concatenate([PROMPT, found[0]], 1))
    assert np.array_equal(found[0], after[:, PROMPT.shape[1] - 1 : -1])
    # A model that says one token for ever would say it with a broken cache too.
    assert len({*found[0][0].tolist()}) > 3


@pytest.mark.slow
def test_tokens_are_the_same_over_mtls_and_where_a_server_is_killed(tmp_path):
    task = clinic.Task(small=True, batch=1, length=8)
    found = clinic_asks.measure(tmp_path / "run", task, tokens=6, rounds=1)
    assert {*found["same"]} == {*clinic_asks.SAYS}
    assert all(found["same"].values())
    assert len({*found["tokens"]["whole"]}) > 2
