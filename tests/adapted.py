"""A small model with LoRA on a frozen base, in nnx, in linen and as a plain function; and the
row of the sweep in which it is split in U shape, so that two parties have adapters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen, nnx

import jsplit

WIDTH, OUT, RANK = 6, 3, 2
CUTS = {"up": "first", "down": "norm"}
PARTIES = {"first": "client", "second": "server", "norm": "server", "last": "client"}
"""By the name of a layer."""


class NnxNet(nnx.Module):
    """A base of `nnx.Param` beside adapters of `nnx.LoRAParam`; BatchNorm and dropout."""

    def __init__(self, rngs):
        def layer(out):
            return nnx.LoRALinear(WIDTH, out, lora_rank=RANK, rngs=rngs)

        self.first, self.second, self.last = layer(WIDTH), layer(WIDTH), layer(OUT)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        # LoRA begins with zeros, of which the other factor has no gradient.
        for one in (self.first, self.second, self.last):
            b = one.lora.lora_b
            b[...] = jax.random.normal(rngs.params(), b.shape, b.dtype) / 3

    def __call__(self, image):
        h = nnx.tanh(self.first(image))
        h = jsplit.cut(h, "first")
        h = jsplit.cut(nnx.tanh(self.norm(self.second(h))), "norm")
        return self.last(self.drop(h))


class LinenLoRA(linen.Module):
    out: int

    @linen.compact
    def __call__(self, x):
        def param(name, *shape):
            return self.param(name, linen.initializers.normal(0.4), shape)

        lora = param("lora_a", WIDTH, RANK) @ param("lora_b", RANK, self.out)
        return x @ param("kernel", WIDTH, self.out) + x @ lora


class LinenNet(linen.Module):
    """The same in linen, where a path says what is an adapter."""

    @linen.compact
    def __call__(self, image, train):
        h = linen.tanh(LinenLoRA(WIDTH, name="first")(image))
        h = LinenLoRA(WIDTH, name="second")(jsplit.cut(h, "first"))
        norm = linen.BatchNorm(use_running_average=not train, name="norm")
        h = jsplit.cut(linen.tanh(norm(h)), "norm")
        h = linen.Dropout(0.2, deterministic=not train)(h)
        return LinenLoRA(OUT, name="last")(h)


def plain(params, image):
    """The same as a function, without BatchNorm and dropout."""

    def layer(name, x):
        own = params[name]
        return x @ own["kernel"] + x @ own["lora_a"] @ own["lora_b"]

    h = jsplit.cut(jnp.tanh(layer("first", image)), "first")
    h = jsplit.cut(jnp.tanh(layer("second", h)), "norm")
    return layer("last", h)


def is_adapter(path) -> bool:
    """Of a path as JAX gives it, or as `trainable` does."""
    return any("lora_" in str(getattr(key, "key", key)) for key in path)


def _weights():
    keys = iter(jax.random.split(jax.random.key(0), 9))

    def layer(out):
        shapes = {
            "kernel": (WIDTH, out),
            "lora_a": (WIDTH, RANK),
            "lora_b": (RANK, out),
        }
        return {n: jax.random.normal(next(keys), s) * 0.4 for n, s in shapes.items()}

    return {"first": layer(WIDTH), "second": layer(WIDTH), "last": layer(OUT)}


TRAINABLE = {"nnx": nnx.LoRAParam, "linen": is_adapter, "function": ["*.lora_?"]}
"""By kind of model, how its adapters are told: a kind of variable, a predicate, a pattern."""


def whole_and_parts(flax: str, image, widen):
    """The whole model, its first values but for nnx, and its three parts."""
    told = {"cuts": {"up": "first", "down": "norm"}, "trainable": TRAINABLE[flax]}
    if flax == "nnx":
        whole = NnxNet(nnx.Rngs(0))
        nnx.update(whole, widen(nnx.state(whole, nnx.Not(nnx.RngState))))
        return whole, None, jsplit.split(whole, image, **told)
    if flax == "linen":
        whole = LinenNet()
        variables = widen(whole.init(jax.random.key(0), image, train=True))
        return whole, variables, jsplit.split(whole, image, variables=variables, **told)
    params = widen(_weights())
    parts = jsplit.split(
        plain, image, init=lambda key, x: params, inputs=["image"], **told
    )
    return plain, {"params": params}, parts
