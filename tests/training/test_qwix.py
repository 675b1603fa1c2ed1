"""LoRA and QLoRA by qwix, where it is installed: cut, they train as in the whole model.

Measured with qwix 0.1.8, JAX 0.10.2 and Flax 0.12.8.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit
from tests.training.common import close

qwix = pytest.importorskip("qwix")
# qwix and its use of Flax warn of names that will go.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.normal(size=(8, 16)).astype("f"),
    "label": RNG.normal(size=(8, 8)).astype("f"),
}
CUTS = {"up": "a", "down": "b"}
BASES = {"float32": {}, "int8": {"weight_qtype": jnp.int8}}
BASES["nf4"] = {"weight_qtype": "nf4", "tile_size": 8}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = (nnx.Linear(16, 16, rngs=rngs) for _ in range(2))
        self.c = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        return self.c(nnx.tanh(self.b(nnx.tanh(self.a(x)))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = jnp.tanh(linen.Dense(16, name="a")(x))
        return linen.Dense(8, name="c")(jnp.tanh(linen.Dense(16, name="b")(h)))


def loss(output, label):
    return ((output - label) ** 2).mean(-1)


def provider(base):
    normal = jax.nn.initializers.normal(0.3)
    return qwix.LoraProvider(
        module_path=".*", rank=2, alpha=2.0, lora_b_initializer=normal, **BASES[base]
    )


def is_adapter(path):
    return any("lora" in str(getattr(key, "key", key)) for key in path)


def trained(parts, steps=3):
    topology = jsplit.u_shaped(*parts.values(), loss=loss, fields=["x"])
    trainer = jsplit.messages(topology, optax.sgd(0.5))
    first = state = trainer.init(0, BATCH)
    for _ in range(steps):
        state, _ = trainer.step(state, BATCH)
    return trainer, first, state


@pytest.mark.parametrize("base", BASES)
def test_adapters_by_qwix_on_an_nnx_model_train_as_in_the_whole(base, tmp_path):
    x, y = BATCH["x"], BATCH["label"]
    model = qwix.apply_lora_to_model(
        Net(nnx.Rngs(0)), provider(base), x, rngs=nnx.Rngs(1)
    )
    parts = jsplit.split(model, x, cuts=CUTS, trainable=nnx.LoRAParam)
    trainer, first, state = trained(parts)
    graph, adapters, rest = nnx.split(model, nnx.LoRAParam, ...)
    slope = jax.jit(jax.grad(lambda a: loss(nnx.merge(graph, a, rest)(x), y).mean()))
    for _ in range(3):
        adapters = jax.tree.map(lambda p, g: p - 0.5 * g, adapters, slope(adapters))
    found = jsplit.variables(state)[0]
    for path, x in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(adapters)):
        assert is_adapter(path)
        close(dict(jax.tree_util.tree_leaves_with_path(found))[path], x, 1e-5)
    kernels = [found[n]["kernel"] for n in "abc"]
    if base != "float32":
        narrow = {"int8": jnp.int8, "nf4": jnp.uint4}[base]
        assert {k["array"]["qvalue"].dtype for k in kernels} == {jnp.dtype(narrow)}
    # Numbers of 4 bits too come back from a file, and have a hash.
    jsplit.save_trained(tmp_path, state, trainer)
    again = jsplit.restore_trained(tmp_path, first, trainer)
    for party, own in state.parties.items():
        pairs = zip(
            *map(jax.tree.leaves, (own.params, again.parties[party].params)),
            strict=True,
        )
        assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("base", ["float32", "int8"])
def test_adapters_by_qwix_on_a_linen_model_train_as_in_the_whole(base):
    x, y = BATCH["x"], BATCH["label"]
    model = qwix.apply_lora_to_model(LinenNet(), provider(base))
    variables = model.init(jax.random.key(0), x)
    parts = jsplit.split(model, x, cuts=CUTS, variables=variables, trainable=is_adapter)
    found = jsplit.variables(trained(parts)[2])[0]
    pairs, structure = jax.tree_util.tree_flatten_with_path(variables["params"])

    def whole(adapters):
        given = iter(adapters)
        leaves = [next(given) if is_adapter(p) else x for p, x in pairs]
        return structure.unflatten(leaves)

    @jax.jit
    @jax.grad
    def slope(adapters):
        return loss(model.apply({"params": whole(adapters)}, x), y).mean()

    adapters = [x for p, x in pairs if is_adapter(p)]
    for _ in range(3):
        adapters = [p - 0.5 * g for p, g in zip(adapters, slope(adapters), strict=True)]
    leaves = zip(*map(jax.tree.leaves, (found, whole(adapters))), strict=True)
    for a, b in leaves:
        close(a, b, 1e-5)
