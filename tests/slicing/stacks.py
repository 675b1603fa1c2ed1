"""Models whose layers are stacked and run by a scan, as Flax and JAX write it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen, nnx

LAYERS = 4


class Block(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        return x + self.drop(jnp.tanh(self.norm(self.a(x))))


class Net(nnx.Module):
    """Statistics and dropout in every layer."""

    def __init__(self, rngs):
        make = nnx.vmap(Block, in_axes=0, out_axes=0)
        self.bottom = nnx.Linear(4, 4, rngs=rngs)
        self.middle = nnx.split_rngs(splits=LAYERS)(make)(rngs)
        self.top = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        run = nnx.scan(
            lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry
        )
        return self.top(run(self.middle, self.bottom(x)))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        h = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
        return x + linen.Dropout(0.2, deterministic=not train)(jnp.tanh(h)), None


class LinenNet(linen.Module):
    """As T5X and MaxText: layers along the second axis, each recomputed."""

    @linen.compact
    def __call__(self, x, train):
        layer = linen.remat(LinenBlock, static_argnums=(2,))
        stack = linen.scan(
            layer,
            variable_axes={"params": 1, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=linen.broadcast,
            length=LAYERS,
            unroll=2,
        )
        x, _ = stack(name="middle")(linen.Dense(4, name="bottom")(x), train)
        return linen.Dense(3, name="top")(x)


def function(params, x, mask, key, train):
    """A mask that no layer changes, a count of layers, a key for each, learned scales."""

    def layer(carry, own):
        x, mask, count, key = carry
        block, scale = own
        key, drawn = jax.random.split(key)
        noise = jax.random.normal(drawn, x.shape) * (0.1 if train else 0.0)
        h = jnp.tanh(x @ block["w"] + block["b"]) * scale / (1 + count)
        return (x + jnp.where(mask, h + noise, 0.0), mask, count + 1, key), None

    rows = (params["middle"], jnp.exp(params["middle"]["scale"]))
    begin = (x @ params["bottom"], mask, 0, key)
    carry, _ = jax.lax.scan(layer, begin, rows, unroll=3)
    return carry[0] @ params["top"]


def draw(key, x, mask):
    keys = jax.random.split(key, 5)
    wide = x.dtype
    return {
        "bottom": jax.random.normal(keys[0], (4, 4), wide) / 2,
        "middle": {
            "w": jax.random.normal(keys[1], (LAYERS, 4, 4), wide) / 2,
            "b": jax.random.normal(keys[2], (LAYERS, 4), wide) / 2,
            "scale": jax.random.normal(keys[3], (LAYERS, 1), wide) / 2,
        },
        "top": jax.random.normal(keys[4], (4, 3), wide) / 2,
    }


MODELS = {
    "nnx": (lambda: Net(nnx.Rngs(0)), {}),
    "linen": (LinenNet, {}),
    "function": (lambda: function, {"init": draw, "key": "key", "public": ["mask"]}),
}
