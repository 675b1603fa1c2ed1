"""The blocks of a Llama as they decode: the same weights, and a cache of keys and values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.common import llama


class Blocks(nnx.Module):
    """The blocks of a model, one after the other: what a server has of a U-shape."""

    def __init__(self, config: llama.Config, *, rngs: nnx.Rngs):
        blocks = [llama.Block(config, rngs=rngs) for _ in range(config.layers)]
        self.blocks = nnx.List(blocks)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x


class DecodingAttention(llama.Attention):
    """Attention to all places so far, of which keys and values are kept."""

    def __init__(self, own: llama.Attention, batch: int, length: int):
        c = self.config = own.config
        self.q, self.k, self.v, self.out = own.q, own.k, own.v, own.out
        shape = (batch, length, c.groups, c.size)
        self.keys, self.values = (nnx.Cache(jnp.zeros(shape)) for _ in range(2))
        self.index = nnx.Cache(jnp.int32(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        c, start, count = self.config, self.index[...], x.shape[1]
        q = self.q(x).reshape(*x.shape[:2], c.heads, c.size)
        k = self.k(x).reshape(*x.shape[:2], c.groups, c.size)
        v = self.v(x).reshape(*x.shape[:2], c.groups, c.size)
        q, k = (llama.rotated(y, c.base, start) for y in (q, k))
        at = (0, start, 0, 0)
        self.keys[...] = jax.lax.dynamic_update_slice(self.keys[...], k, at)
        self.values[...] = jax.lax.dynamic_update_slice(self.values[...], v, at)
        self.index[...] = start + count
        places = jnp.arange(self.keys[...].shape[1])
        mask = places <= start + jnp.arange(count)[:, None]
        seen = jax.nn.dot_product_attention(
            q, self.keys[...], self.values[...], mask=mask[None, None]
        )
        return self.out(seen.reshape(*x.shape[:2], -1))


class DecodingBlock(llama.Block):
    """A block whose attention decodes."""

    def __init__(self, own: llama.Block, batch: int, length: int):
        self.attention_norm, self.gated_norm = own.attention_norm, own.gated_norm
        self.gated = own.gated
        self.attention = DecodingAttention(own.attention, batch, length)


class DecodingBlocks(Blocks):
    """What `jsplit.with_cache` takes for `Blocks`, for one batch and length."""

    def __init__(self, own: Blocks, batch: int, length: int):
        made = [DecodingBlock(block, batch, length) for block in own.blocks]
        self.blocks = nnx.List(made)
