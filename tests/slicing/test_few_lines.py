"""A published model is cut and trained in at most six lines of a user's code, and is the whole."""

from __future__ import annotations

import ast
import inspect
import textwrap

import jax
import jax.numpy as jnp
import optax
import pytest

import jsplit
from tests.slicing import test_published
from tests.slicing.test_published import (
    CASES,
    causal,
    graph,
    image,
    ones,
    options,
    own_gradient,
    per_example,
    row,
    tokens,
)

SGD = optax.sgd(1.0)


def lm1b(model, batch, loss):
    shared = ["inputs_segmentation"]
    parts = jsplit.split(model, batch, cuts=["block"], public=shared)
    topology = jsplit.vanilla(*parts.values(), loss=loss, public=shared)
    return jsplit.fused(topology, SGD)


def gemma(model, batch, loss):
    shared, cuts = ["positions", "attention_mask"], {"up": "embedder", "down": "final"}
    parts = jsplit.split(model, batch, cuts=cuts, public=shared, fixed={"cache": None})
    topology = jsplit.u_shaped(*parts.values(), loss=loss, public=shared)
    return jsplit.fused(topology, SGD)


def bert(model, batch, loss):
    told = {"fixed": options, "around": "carry"}  # the mask of padding
    parts = jsplit.split(model, batch, cuts={"up": "Embed_0", "down": "layer"}, **told)
    return jsplit.fused(jsplit.u_shaped(*parts.values(), loss=loss), SGD)


def t5x(model, batch, loss):
    told = {"flags": {"enable_dropout": True}, "fixed": {"decode": False}}
    shared = {"public": ["decoder_inputs"]}
    parts = jsplit.split(model, batch, cuts=["encoder"], **told, **shared)
    return jsplit.fused(jsplit.vanilla(*parts.values(), loss=loss, **shared), SGD)


def vae(model, batch, loss):
    parts = jsplit.split(model, batch, cuts=["encoder"], key="z_rng")
    return jsplit.fused(jsplit.vanilla(*parts.values(), loss=loss), SGD)


def vit(model, batch, loss):
    parts = jsplit.split(model, batch, cuts={"up": "embedding", "down": "encoder"})
    return jsplit.fused(jsplit.u_shaped(*parts.values(), loss=loss), SGD)


def mnist(model, batch, loss):
    parts = jsplit.split(model, batch, cuts={"up": "conv", "down": "dropout1"})
    return jsplit.fused(jsplit.u_shaped(*parts.values(), loss=loss), SGD)


def marked(model, batch, loss):
    parts = jsplit.split(model, batch)
    return jsplit.fused(jsplit.vanilla(*parts.values(), loss=loss), SGD)


# By case of the published models: a user's block, and what a batch has.
BLOCKS = {
    "lm1b": (lm1b, {"inputs": tokens, "inputs_segmentation": ones}),
    "gemma": (
        gemma,
        {"last_tokens": tokens, "positions": ones, "attention_mask": causal},
    ),
    "BERT of HF": (bert, {"input_ids": tokens, "attention_mask": tokens > 0}),
    "T5X": (t5x, {"encoder_inputs": tokens, "decoder_inputs": ones}),
    "VAE": (vae, {"x": row}),
    "ViT": (vit, {"inputs": image}),
    "mnist": (mnist, {"x": image}),
    "GNN": (marked, {"graph": graph}),
    "ResNet": (marked, {"x": image}),
    "sst2": (marked, {"token_ids": tokens, "length": jnp.array([3, 2])}),
}
DAILY = ("lm1b", "gemma")
SOME = [
    pytest.param(name, marks=() if name in DAILY else pytest.mark.slow)
    for name in BLOCKS
]


def lines_of(block) -> int:
    """The lines of code in the body of a function, as formatted, without comments."""
    source = textwrap.dedent(inspect.getsource(block))
    [function] = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    first = function.body[ast.get_docstring(function) is not None]
    body = source.splitlines()[first.lineno - 1 :]
    return sum(bool(x.strip()) and not x.strip().startswith("#") for x in body)


def test_every_published_model_is_cut_and_trained_in_at_most_six_lines():
    assert BLOCKS.keys() == CASES.keys()
    found = {name: lines_of(block) for name, (block, _) in BLOCKS.items()}
    assert max(found.values()) <= 6 and min(found.values()) >= 2, found
    assert lines_of(lines_of) == 6  # a control: without its text, and each line counts


@pytest.mark.parametrize("name", SOME)
def test_what_the_lines_train_is_what_plain_flax_trains(name, monkeypatch):
    """At a rate of 1 the move of all weights is the gradient of the whole model's own call."""
    (block, batch), seed = BLOCKS[name], jax.random.key(1)
    batch = {**batch, "label": jnp.zeros(2)}
    trainer = block(CASES[name].model, batch, per_example)
    # Nothing that sst2 returns is computed of its lengths.
    batch.pop("length", None)
    state = trainer.init(seed, batch)
    monkeypatch.setattr(test_published, "key", jax.random.fold_in(seed, 0))
    before, statistics = jsplit.variables(state)
    weights, gradient = own_gradient(CASES[name], before, statistics)
    after = jsplit.variables(trainer.step(state, batch)[0])[0]
    found = dict(jax.tree_util.tree_leaves_with_path(after))
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(weights),
        jax.tree.leaves(gradient),
        strict=True,
    )
    for (path, w), g in pairs:
        assert jnp.abs(found.pop(path) - (w - g)).max() <= 1e-5, path
    assert not found
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) > 1e-3
