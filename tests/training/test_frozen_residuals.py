"""What a frozen base alone gives is computed again in the backward pass, and not kept."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.jaxprs.computed_again import computed_again
from jsplit.jaxprs.flat import flatten
from jsplit.training import executor, vjp
from tests.training.common import close

WIDTH, LAYERS, STEPS = 32, 4, 2
X = np.random.default_rng(0).normal(size=(4, WIDTH)).astype(np.float32)
BATCH = {"x": X, "label": X}
CUTS = {"up": "layers.0", "down": "layers.2"}
RATE = 0.5


class Int8(nnx.Module):
    """A matrix of 8-bit numbers with a scale for each column, as QLoRA's base."""

    def __init__(self, rngs):
        weight = jax.random.normal(rngs.params(), (WIDTH, WIDTH)) / WIDTH**0.5
        scale = jnp.abs(weight).max(0, keepdims=True) / 127
        self.scale = nnx.Param(scale)
        self.kernel = nnx.Param(jnp.round(weight / scale).astype(jnp.int8))

    def __call__(self, x):
        return x @ (self.kernel[...].astype(jnp.float32) * self.scale[...])


def dense(dtype):
    def made(rngs):
        return nnx.Linear(WIDTH, WIDTH, use_bias=False, dtype=dtype, rngs=rngs)

    return made


BASES = {"float32": dense(None), "bfloat16": dense(jnp.bfloat16), "int8": Int8}


class Net(nnx.Module):
    def __init__(self, base):
        rngs, normal = nnx.Rngs(0), nnx.initializers.normal(0.3)
        self.layers = nnx.List(
            nnx.LoRA(
                WIDTH, 2, WIDTH, base_module=layer, b_initializer=normal, rngs=rngs
            )
            for layer in [BASES[base](rngs) for _ in range(LAYERS)]
        )

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.tanh(layer(x))
        return x


def loss(output, label):
    return ((output.astype(jnp.float32) - label) ** 2).mean(-1)


def topology(base):
    parts = jsplit.split(Net(base), X, cuts=CUTS, trainable=nnx.LoRAParam)
    return jsplit.u_shaped(*parts.values(), loss=loss, fields=["x"])


def _trained(base):
    """All parameters after some steps, and the bytes that each party keeps in between."""
    trainer = jsplit.messages(topology(base), optax.sgd(RATE))
    state, left = trainer.init(0, BATCH), {}
    run = executor.run_program

    def looked_at(program, store, carrier):
        run(program, store, carrier)
        for name in program.writes:
            if getattr(name, "kind", "") in ("vjp", "halfway"):
                sizes = [x.nbytes for x in jax.tree.leaves(store[name])]
                left[name] = sum(sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "run_program", looked_at)
        for _ in range(STEPS):
            state, _ = trainer.step(state, BATCH)
    return jsplit.variables(state)[0], left


trained = cache(_trained)


@pytest.mark.parametrize("base", ["int8", "bfloat16"])
def test_no_party_keeps_more_of_a_narrow_base_than_of_a_plain_one(base):
    plain, found = trained("float32")[1], trained(base)[1]
    assert found == plain


def test_cost_says_of_a_narrow_base_what_it_says_of_a_plain_one():
    plain, found = (
        jsplit.cost(topology(base), BATCH, optimizer=optax.sgd(RATE)).parties
        for base in ("float32", "int8")
    )
    for party, own in plain.items():
        assert found[party].activations == own.activations


@pytest.mark.parametrize("base", ["int8", "bfloat16"])
def test_the_numbers_are_those_of_what_is_kept_bit_for_bit(base, monkeypatch):
    monkeypatch.setattr(vjp, "computed_again", lambda *_: None)
    kept, left = _trained(base)
    again, less = trained(base)
    assert sum(left.values()) > sum(less.values()) + WIDTH * WIDTH
    pairs = zip(*map(jax.tree.leaves, (kept, again)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_they_are_those_of_plain_flax():
    graph, adapters, rest = nnx.split(Net("int8"), nnx.LoRAParam, ...)
    slope = jax.jit(jax.grad(lambda a: loss(nnx.merge(graph, a, rest)(X), X).mean()))
    for _ in range(STEPS):
        adapters = jax.tree.map(lambda p, g: p - RATE * g, adapters, slope(adapters))
    found = dict(jax.tree_util.tree_leaves_with_path(trained("int8")[0]))
    for path, x in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(adapters)):
        close(found[path], x, 1e-5)


def test_what_is_read_from_elsewhere_costs_a_product_or_is_approximated_is_kept():
    w, other = jnp.arange(4.0).reshape(2, 2), jnp.ones((2, 2))

    def run(w, other):
        places = jnp.arange(3.0) * 2
        return w, (w * 2).T, w @ w, (w @ w) * 2, w * other, places, jnp.cos(w), other

    flat = flatten(jax.make_jaxpr(run)(w, other))
    found = computed_again(flat, flat.outvars, [None, flat.invars[0]])
    assert found is not None and found.numbers == (1, 5)
    expected = run(w, other)
    for number, x in zip(found.numbers, found([other, w]), strict=True):
        close(x, expected[number], 1e-7)
    assert computed_again(flat, flat.outvars[2:4], [flat.invars[0]]) is None


def test_an_array_of_the_trace_around_it_is_not_taken_for_a_constant():
    seen = []

    @jax.jit
    def around(x, w):
        flat = flatten(jax.make_jaxpr(lambda w: (w * 2, w * x))(w))
        seen.append(computed_again(flat, flat.outvars, flat.invars))
        return x

    around(X, X)
    assert seen[0].numbers == (0,)
