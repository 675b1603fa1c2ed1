"""Models after the published shape of others, cut as they are: equal to the whole.

Each has a call as its library has it (keys, modes, caches, options, inputs that may be
left out), and is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit

B, T, V, W = 2, 4, 7, 4
key = jax.random.key(3)
tokens = jnp.array([[1, 2, 3, 0], [4, 5, 0, 0]])
ones = jnp.ones((B, T), jnp.int32)
row = jnp.linspace(-1, 1, B * W).reshape(B, W)
image = jnp.linspace(-1, 1, B * 16).reshape(B, 4, 4, 1)


class Encoder(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = linen.relu(linen.Dense(W, name="fc1")(x))
        return linen.Dense(3, name="mean")(h), linen.Dense(3, name="logvar")(h)


class VAE(linen.Module):
    """Of flax's own example `vae`."""

    def setup(self):
        self.encoder, self.decoder = Encoder(), linen.Dense(W)

    def __call__(self, x, z_rng):
        mean, logvar = self.encoder(x)
        z = mean + jax.random.normal(z_rng, mean.shape) * jnp.exp(0.5 * logvar)
        return self.decoder(z), mean, logvar


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, mask=None, deterministic=True):
        h = linen.LayerNorm()(x)
        h = linen.MultiHeadDotProductAttention(2)(h, mask=mask)
        return x + linen.Dropout(0.3, deterministic=deterministic)(h)


class LM(linen.Module):
    """lm1b: packed sequences, whose positions and segments may be left out."""

    train: bool = True

    @linen.compact
    def __call__(self, inputs, inputs_positions=None, inputs_segmentation=None):
        mask = linen.make_causal_mask(inputs)
        if inputs_segmentation is not None:
            same = inputs_segmentation, inputs_segmentation, jnp.equal
            mask = linen.combine_masks(mask, linen.make_attention_mask(*same))
        places = jnp.arange(T) if inputs_positions is None else inputs_positions
        x = linen.Embed(V, W)(inputs) + linen.Embed(T, W, name="places")(places)
        x = Block(name="block")(x, mask, not self.train)
        return linen.Dense(V)(linen.LayerNorm()(x))


class Bert(linen.Module):
    """The modules of HF's Flax: every input and option by keyword, two kinds of result."""

    @linen.compact
    def __call__(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        deterministic: bool = True,
        output_attentions: bool = False,
        return_dict: bool = True,
    ):
        x = linen.Embed(V, W)(input_ids)
        if token_type_ids is not None:
            x += linen.Embed(2, W)(token_type_ids)
        mask = None if attention_mask is None else attention_mask[:, None, None] > 0
        x = Block(name="layer")(x, mask, deterministic)
        logits = linen.Dense(3, name="classifier")(x[:, 0])
        return {"logits": logits, "hidden_states": x} if return_dict else logits


class Seq2Seq(linen.Module):
    """T5X: encoder and decoder, and a mode flag with a name of its own."""

    @linen.compact
    def __call__(
        self,
        encoder_inputs,
        decoder_inputs,
        decoder_positions=None,
        *,
        enable_dropout: bool = True,
        decode: bool,
    ):
        assert decode is False and decoder_positions is None
        memory = Block(name="encoder")(
            linen.Embed(V, W)(encoder_inputs), deterministic=not enable_dropout
        )
        y = linen.Embed(V, W)(decoder_inputs)
        y += linen.MultiHeadDotProductAttention(2)(y, memory)
        return linen.Dense(V)(y)


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.qkv = nnx.Linear(W, 3 * W, rngs=rngs)

    def __call__(self, x, segment_pos, cache, attn_mask):
        q, k, v = jnp.split(self.qkv(x) + segment_pos[..., None], 3, -1)
        if cache is not None:
            k, v = cache["k"] + k, cache["v"] + v
            cache = {"k": k, "v": v}
        scores = jnp.where(attn_mask, q @ k.swapaxes(-1, -2), -1e9)
        return cache, x + jax.nn.softmax(scores) @ v


class Gemma(nnx.Module):
    """Flax's example `gemma`: a cache that training does not have."""

    def __init__(self, rngs):
        self.embedder = nnx.Embed(V, W, rngs=rngs)
        self.layers = nnx.List([Attention(rngs)])
        self.final, self.out = nnx.RMSNorm(W, rngs=rngs), nnx.Linear(W, V, rngs=rngs)

    def __call__(self, last_tokens, positions, cache, attention_mask):
        x = self.embedder(last_tokens)
        _, x = self.layers[0](x, positions, cache, attention_mask)
        return self.out(self.final(x)), cache


class ViT(linen.Module):
    @linen.compact
    def __call__(self, inputs, *, train):
        x = linen.Conv(W, (2, 2), (2, 2), name="embedding")(inputs)
        x = Block(name="encoder")(x.reshape(len(x), -1, W), deterministic=not train)
        return linen.Dense(3, name="head")(x.mean(1))


class CNN(nnx.Module):
    """Flax's example `mnist`, and bonsai's: random streams are an argument."""

    def __init__(self, rngs):
        self.conv, self.norm = (
            nnx.Conv(1, W, (3, 3), rngs=rngs),
            nnx.BatchNorm(W, rngs=rngs),
        )
        self.dropout1, self.dropout2 = nnx.Dropout(0.3), nnx.Dropout(0.3)
        self.linear = nnx.Linear(W * 16, 3, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        x = self.dropout1(nnx.relu(self.norm(self.conv(x))), rngs=rngs)
        return self.dropout2(self.linear(x.reshape(len(x), -1)), rngs=rngs)


class GNN(nnx.Module):
    """A graph is one input: a dictionary with a list in it, and what it lacks is `None`."""

    def __init__(self, rngs):
        self.message, self.readout = (nnx.Linear(W, W, rngs=rngs) for _ in range(2))

    def __call__(self, graph):
        near, far = graph["edges"]
        assert graph["globals"] is None
        h = nnx.relu(near @ self.message(graph["nodes"]) + far @ graph["nodes"])
        return self.readout(jsplit.cut(h, "message").mean(1))


class ResNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool = True):
        def norm(x):
            return linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = jsplit.cut(linen.relu(norm(linen.Conv(W, (3, 3))(x))), "stem")
        x = linen.relu(x + norm(linen.Conv(W, (3, 3))(x)))
        return linen.Dense(3)(x.mean((1, 2)))


class Classifier(linen.Module):
    """Flax's example `sst2`: lengths beside the tokens."""

    @linen.compact
    def __call__(self, token_ids, length, *, deterministic=None):
        x = linen.Embed(V, W, name="embedder")(token_ids)
        x = linen.Dropout(0.3)(x, deterministic=deterministic)
        x = jsplit.cut(linen.tanh(linen.Dense(W)(x)), "embedded")
        # Its first carry has the dtype that its parameters are made in.
        cell = linen.GRUCell(W, param_dtype=jnp.result_type(float))
        x = linen.RNN(cell, name="encoder")(x, seq_lengths=length)
        return linen.Dense(2)(x[:, -1])


graph = {"nodes": jnp.ones((B, 3, W)), "edges": [jnp.ones((B, 3, 3))] * 2}
graph["globals"] = None
causal = jnp.tril(jnp.ones((B, T, T), bool))
bert = {"input_ids": tokens, "attention_mask": tokens > 0, "label": jnp.zeros(B)}
options = {"output_attentions": False, "return_dict": False}


class Case(NamedTuple):
    """A model, how it is cut, and its own call, `call(model, train)`."""

    model: Any
    example: tuple
    cuts: Any
    told: Mapping[str, Any]
    call: Callable
    inputs: tuple


def nnx_call(*args):
    return lambda model, train: model(*args)


CASES = {
    "VAE": Case(
        VAE(),
        (row,),
        ["encoder"],
        {"key": "z_rng"},
        lambda model, train: model(row, key),
        ("x",),
    ),
    "lm1b": Case(
        LM(),
        (tokens, None, ones),
        ["block"],
        {},
        lambda model, train: model(tokens, inputs_segmentation=ones),
        ("inputs", "inputs_segmentation"),
    ),
    "BERT of HF": Case(
        Bert(),
        (bert,),
        ["layer"],
        {"fixed": options},
        lambda model, train: model(
            tokens, tokens > 0, deterministic=not train, return_dict=False
        ),
        ("input_ids", "attention_mask"),
    ),
    "T5X": Case(
        Seq2Seq(),
        (tokens, ones),
        ["encoder"],
        {"flags": {"enable_dropout": True}, "fixed": {"decode": False}},
        lambda model, train: model(tokens, ones, enable_dropout=train, decode=False),
        ("encoder_inputs", "decoder_inputs"),
    ),
    "gemma": Case(
        Gemma(nnx.Rngs(0)),
        (tokens, ones, None, causal),
        {"h": "final"},
        {},
        nnx_call(tokens, ones, None, causal),
        ("last_tokens", "positions", "attention_mask"),
    ),
    "ViT": Case(
        ViT(),
        (image,),
        ["encoder"],
        {},
        lambda model, train: model(image, train=train),
        ("inputs",),
    ),
    "mnist": Case(
        CNN(nnx.Rngs(0)),
        (image,),
        ["dropout1"],
        {},
        lambda model, train: model(image, rngs=nnx.Rngs(key)),
        ("x",),
    ),
    "GNN": Case(GNN(nnx.Rngs(0)), (graph,), None, {}, nnx_call(graph), ("graph",)),
    "ResNet": Case(
        ResNet(), (image,), None, {}, lambda model, train: model(image, train), ("x",)
    ),
    "sst2": Case(
        Classifier(),
        (tokens, jnp.array([3, 2])),
        None,
        {},
        lambda model, train: model(tokens, jnp.array([3, 2]), deterministic=not train),
        ("token_ids", "length"),
    ),
}


def nested(trees):
    """The trees of several slices as the whole's."""
    found: dict = {}
    for tree in trees:
        for name, value in tree.items():
            inner = isinstance(value, dict) and name in found
            found[name] = nested([found[name], value]) if inner else value
    return found


def values_of(case):
    """The inputs that the example gives."""
    values = [x for x in case.example if x is not None]
    if "label" in (values[0] if isinstance(values[0], dict) else ()):
        values = [values[0][name] for name in case.inputs]
    return values


def own_call(case, params, state, train):
    """What the model itself gives, in plain Flax."""
    if isinstance(case.model, nnx.Module):
        model = nnx.clone(case.model)
        (model.train if train else model.eval)()
        return case.call(model, train)
    variables = {"params": nested(params.values()), **nested(state.values())}
    apply = case.model.apply
    return case.call(
        lambda *args, **named: apply(
            variables, *args, **named, rngs=key, mutable=["batch_stats"]
        )[0],
        train,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_published_model_is_cut_as_it_is_and_equals_its_own_call(case):
    parts = jsplit.split(case.model, *case.example, cuts=case.cuts, **case.told)
    assert len(parts) == 2
    joined = jsplit.join(parts, inputs=case.inputs)

    values = values_of(case)
    params, state = joined.init(key, *values)
    for train in (True, False):
        run = partial(joined.apply, train=train)
        ours, _ = jax.jit(run)(params, state, key, *values)
        theirs = jax.jit(partial(own_call, case, train=train))(params, state)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_a_step_of_models_with_keys_equals_the_whole():
    label = jnp.array([0, 1])
    cross = optax.softmax_cross_entropy_with_integer_labels
    batch = {"x": image, "label": label}
    model = CNN(nnx.Rngs(0))
    parts = jsplit.split(model, batch, cuts=["dropout1"])
    split = jsplit.messages(jsplit.vanilla(*parts.values(), loss=cross), optax.sgd(0.5))
    whole = jsplit.fused(jsplit.whole(model, batch, loss=cross), optax.sgd(0.5))
    trained = [t.step(t.init(0, batch), batch)[0] for t in (split, whole)]
    ours, theirs = (jax.tree.leaves(jsplit.variables(s)) for s in trained)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def per_example(output, label):
    """A number per example that every floating result is in."""
    floats = [
        x for x in jax.tree.leaves(output) if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return sum((x.reshape(len(x), -1) ** 2).mean(-1) for x in floats)


def wide(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
    )


def own_gradient(case, params, state):
    """The model's own weights, and their gradient by plain Flax in training mode."""
    if isinstance(case.model, nnx.Module):
        graph, weights, rest = nnx.split(case.model, nnx.Param, ...)

        def cost(weights):
            model = nnx.merge(graph, weights, rest, copy=True)
            model.train()
            return jnp.mean(per_example(case.call(model, True), None))

        return map(nnx.to_pure_dict, (weights, jax.grad(cost)(weights)))

    def cost(weights):
        output = own_call(case, {"whole": weights}, {"whole": state}, True)
        return jnp.mean(per_example(output, None))

    return params, jax.grad(cost)(params)


def published_topology(case, widen=lambda tree: tree):
    """The two parts of a model at two parties, and a batch; what both read, both hold."""
    model, told = case.model, case.told
    if isinstance(model, nnx.Module):
        model = nnx.clone(model)
        nnx.update(model, widen(nnx.state(model, nnx.Not(nnx.RngState))))
    else:
        parts = jsplit.split(model, *case.example, cuts=case.cuts, **told)
        params, state = first_of(parts, case)
        first = {"params": nested(params.values()), **nested(state.values())}
        told = {**told, "variables": widen(first)}
    case = case._replace(model=model)
    parts = jsplit.split(model, *case.example, cuts=case.cuts, **told)
    first, second = parts.values()
    batch = dict(zip(case.inputs, values_of(case), strict=True))
    batch |= {"label": jnp.zeros(B)}
    nodes = [
        jsplit.Node(first.name, first, "client"),
        jsplit.Node("output", second, "server"),
        jsplit.Loss("loss", per_example, "server", ["output", "label"]),
    ]
    second_reads = [i for i in second.inputs or () if i in batch]
    first_reads = first.inputs or ()
    holds = {"client": list(first_reads), "server": [*second_reads, "label"]}
    read = {*first_reads, *second_reads, "label"}
    batch = {f: x for f, x in batch.items() if f in read}
    return case, jsplit.Topology(nodes, holds), batch


def first_of(parts, case):
    return jsplit.join(parts, inputs=case.inputs).init(key, *values_of(case))


DAILY = ("BERT of HF", "GNN")
SOME = [
    pytest.param(name, marks=() if name in DAILY else pytest.mark.slow)
    for name in CASES
]


@pytest.mark.parametrize("case", SOME)
def test_a_step_of_a_published_model_moves_it_by_its_own_gradient(case, monkeypatch):
    """In float64, by `messages`: the move at a rate of 1 is the gradient of plain Flax."""
    seed = jax.random.key(1)
    with jax.enable_x64(True):
        case, split, batch = published_topology(CASES[case], wide)
        trainer = jsplit.messages(split, optax.sgd(1.0))
        state = trainer.init(seed, batch)
        monkeypatch.setitem(globals(), "key", jax.random.fold_in(seed, 0))
        before, statistics = jsplit.variables(state)
        weights, gradient = own_gradient(case, before, statistics)
        after = jsplit.variables(trainer.step(state, batch)[0])[0]
        found = dict(jax.tree_util.tree_leaves_with_path(after))
        slopes = jax.tree.leaves(gradient)
        for (path, w), g in zip(
            jax.tree_util.tree_leaves_with_path(weights), slopes, strict=True
        ):
            size = max(float(jnp.abs(g).max()), 1e-3)
            assert jnp.abs(found.pop(path) - (w - g)).max() <= 1e-9 * size, path
        assert not found
