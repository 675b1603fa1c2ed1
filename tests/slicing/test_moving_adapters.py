"""Adapters go with their layers to where the model is cut elsewhere, and copies with them."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit

LAYERS, W, V = 3, 2, 5
rng = np.random.default_rng(0)
TOKENS = rng.integers(1, V, (4, 5)).astype("int32") * (np.arange(5) < 4)
BATCH = {"tokens": TOKENS, "label": TOKENS}
SHAPES = {"w": (W, W), "a": (W, 2), "b": (2, W)}


def init(key, tokens):
    keys = iter(jax.random.split(jax.random.key(7), 4))
    layers = {n: jax.random.normal(next(keys), (LAYERS, *s)) for n, s in SHAPES.items()}
    return {"e": jax.random.normal(next(keys), (V, W)), "blocks": layers}


def model(p, tokens):
    """A table that is the output layer too, a mask in every layer, an adapter in each."""
    real = (tokens > 0)[..., None]

    def layer(h, own):
        more = h @ own["a"] @ own["b"]
        return h + jnp.tanh(h @ own["w"] + more) * real, None

    return jax.lax.scan(layer, p["e"][tokens], p["blocks"])[0] @ p["e"].T


entropy = optax.softmax_cross_entropy_with_integer_labels


@cache
def topology_at(place):
    parts = jsplit.split(
        model,
        TOKENS,
        init=init,
        cuts={"h": f"blocks[{place}]"},
        around="carry",
        trainable=["blocks.a", "blocks.b"],
        copies=True,
    )
    return jsplit.vanilla(*parts.values(), loss=entropy)


@cache
def cut_at(place):
    return jsplit.fused(topology_at(place), optax.adam(0.1))


@cache
def trained():
    """Two steps, with weights of the tokens."""
    trainer, state = cut_at(1), cut_at(1).init(0, BATCH)
    for _ in range(2):
        state, _ = trainer.step(state, BATCH, weight=(TOKENS > 0).astype("float32"))
    return state


def by_hand():
    """The same of the whole model, by plain Optax on the adapters."""
    params = init(None, None)
    base = {"w": params["blocks"]["w"]}
    weight = TOKENS > 0

    def loss(own):
        whole = params | {"blocks": base | own}
        return (entropy(model(whole, TOKENS), TOKENS) * weight).sum() / weight.sum()

    own = {n: params["blocks"][n] for n in "ab"}
    optimizer = optax.adam(0.1)
    memory, gradient = optimizer.init(own), jax.jit(jax.grad(loss))
    for _ in range(2):
        updates, memory = optimizer.update(gradient(own), memory)
        own = optax.apply_updates(own, updates)
    return {**params, "blocks": {**base, **dict(own)}}


def test_adapters_of_a_tied_masked_stack_train_as_in_the_whole_model_and_move():
    wanted = by_hand()
    found, _ = jsplit.variables(trained())
    assert found["blocks"]["w"].shape == (LAYERS, W, W)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted
    )
    moved = jsplit.load_variables(cut_at(2).init(3, BATCH), found)
    for state, place in ((trained(), 1), (moved, 2)):
        output = cut_at(place).predict(state, {"tokens": TOKENS})["output"]
        np.testing.assert_allclose(output, model(found, TOKENS), atol=1e-5)


def test_with_copies_and_a_mask_that_is_carried_other_lengths_are_the_whole_model_s():
    """Predicted and exported, from a cut between the layers of a scan."""
    found, _ = jsplit.variables(trained())
    longer = np.concatenate([TOKENS, TOKENS[:, :3]], 1)[:3]
    wanted = model(found, longer)
    output = cut_at(1).predict(trained(), {"tokens": longer})["output"]
    np.testing.assert_allclose(output, wanted, atol=1e-5)
    options = {"free": {"tokens": ["time"]}, "constraints": ["time >= 2"]}
    made = jsplit.export(topology_at(1), trained(), BATCH, **options)
    first, last = (next(iter(x.values())) for x in made.values())
    np.testing.assert_allclose(last.call(first.call(longer)), wanted, atol=1e-5)


def test_files_of_adapters_alone_are_read_where_the_cut_is_the_same(tmp_path):
    """Elsewhere the hash of the base would be of other leaves: it is said what to do."""
    jsplit.save_trained(tmp_path, trained(), cut_at(1))
    for place in (1, 2):
        with pytest.raises(ValueError, match=r"holds what is trained alone.*_trained"):
            jsplit.restore_weights(tmp_path, cut_at(place).init(0, BATCH))
    again = jsplit.restore_trained(tmp_path, cut_at(1).init(0, BATCH), cut_at(1))
    moved = jsplit.load_variables(cut_at(2).init(0, BATCH), *jsplit.variables(again))
    for a, b in zip(*map(jsplit.variables, (moved, trained())), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_parts_of_one_stack_at_one_node_are_no_weights_of_an_optimizer():
    """A mask by path would not mean them; `split` never makes them."""
    pieces = {"0:1 of 2": jnp.ones(3), "1:2 of 2": jnp.ones(3)}
    first = jsplit.segment(
        lambda p, x: x * p["w"]["0:1 of 2"] + p["w"]["1:2 of 2"],
        init=lambda key, x: {"w": pieces},
        inputs=["x"],
    )
    last = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
    topology = jsplit.vanilla(first, last, loss=optax.squared_error)
    batch = {"x": np.ones((2, 3), "float32"), "label": np.ones(2, "float32")}
    with pytest.raises(ValueError, match="several parts of one stack of layers"):
        jsplit.fused(topology, optax.sgd(0.1)).init(0, batch)
