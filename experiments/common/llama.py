"""A language model of the shape of Llama, which a published file of weights fills.

RMSNorm before each half of a block, rotary positions, attention whose keys and values are
shared by groups of queries, a gated layer (SwiGLU), and one weight for the embedding and the
output layer: Touvron et al., LLaMA, https://arxiv.org/abs/2302.13971, as SmolLM2 has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

ADAPTED = ("q", "v")  # of each block's attention, as in LoRA's own experiments


@dataclass(frozen=True)
class Config:
    """How large a model is.

    Attributes:
        vocabulary: how many tokens there are.
        layers: how many blocks.
        width: of what goes from block to block.
        hidden: width of the gated layer.
        heads: of queries.
        groups: heads of keys and values; each serves `heads / groups` of queries.
        epsilon: what RMSNorm adds to a mean square.
        base: of the wavelengths of the positions.
    """

    vocabulary: int
    layers: int
    width: int
    hidden: int
    heads: int
    groups: int
    epsilon: float = 1e-5
    base: float = 10_000.0

    @property
    def size(self) -> int:
        """Width of a head."""
        return self.width // self.heads


def rotated(x: jax.Array, base: float, start: jax.Array | int = 0) -> jax.Array:
    """Turn each pair (2i, 2i + 1) of the last axis by its place times a wavelength of its own.

    GGUF's order of a head. Other files have the pairs (i, i + size / 2): see
    `names_of_transformers`.

    Args:
        x: [batch, time, heads, size].
        base: of the wavelengths.
        start: the place of the first.
    """
    time, size = x.shape[1], x.shape[-1]
    rate = base ** (-jnp.arange(0, size, 2) / size)
    angle = ((start + jnp.arange(time))[:, None] * rate)[:, None]
    cosine, sine = (f(angle).astype(x.dtype) for f in (jnp.cos, jnp.sin))
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = even * cosine - odd * sine, even * sine + odd * cosine
    return jnp.stack(turned, axis=-1).reshape(x.shape)


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)


class Attention(nnx.Module):
    """Causal attention; a place sees itself and those before it.

    It goes on piece by piece in a view of the model, as Flax's own attention does:
    `nnx.view(model, decode=True, batch_size=b, max_length=n)` has the same weights, and
    beside them keys and values of all places so far.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        shared = config.groups * config.size
        self.q = _dense(config.width, config.heads * config.size, rngs)
        self.k = _dense(config.width, shared, rngs)
        self.v = _dense(config.width, shared, rngs)
        self.out = _dense(config.heads * config.size, config.width, rngs)
        self.keys, self.values, self.place = (nnx.data(None) for _ in range(3))

    def set_view(
        self, decode: bool = False, batch_size: int = 1, max_length: int | None = None
    ) -> None:
        """What `nnx.view` calls of the copy that it gives.

        Args:
            decode: whether it has a cache.
            batch_size: how many sequences go side by side.
            max_length: the most places that they will have.
        """
        if not decode or max_length is None:
            self.keys = self.values = self.place = None
            return
        shape = (batch_size, max_length, self.config.groups, self.config.size)
        zeros = jnp.zeros(shape, self.k.param_dtype)
        self.keys, self.values = nnx.Cache(zeros), nnx.Cache(zeros)
        self.place = nnx.Cache(jnp.int32(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        q = self.q(x).reshape(*x.shape[:2], c.heads, c.size)
        k = self.k(x).reshape(*x.shape[:2], c.groups, c.size)
        v = self.v(x).reshape(*x.shape[:2], c.groups, c.size)
        if self.place is None:
            q, k = rotated(q, c.base), rotated(k, c.base)
            seen = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        else:
            start = self.place[...]
            q, k = rotated(q, c.base, start), rotated(k, c.base, start)
            for held, new in ((self.keys, k), (self.values, v)):
                at = (0, start, 0, 0)
                held[...] = jax.lax.dynamic_update_slice(held[...], new, at)
            asked = start + jnp.arange(x.shape[1])
            before = jnp.arange(self.keys.shape[1]) <= asked[:, None]
            seen = jax.nn.dot_product_attention(
                q, self.keys[...], self.values[...], mask=before[None, None]
            )
            self.place[...] = start + x.shape[1]
        return self.out(seen.reshape(*x.shape[:2], -1))


class Gated(nnx.Module):
    """A layer of which one half gates the other."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.gate = _dense(config.width, config.hidden, rngs)
        self.up = _dense(config.width, config.hidden, rngs)
        self.down = _dense(config.hidden, config.width, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention, then the gated layer, each added to what it reads."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.gated_norm = _norm(config, rngs)
        self.gated = Gated(config, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x))
        return x + self.gated(self.gated_norm(x))


def _norm(config: Config, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(config.width, epsilon=config.epsilon, rngs=rngs)


class Llama(nnx.Module):
    """The whole model: tokens [batch, time] to logits [batch, time, vocabulary].

    Padding is at the end of a row, where no earlier place sees it; a loss leaves it out.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embed = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = _norm(config, rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


class Blocks(nnx.Module):
    """The blocks of a model, one after the other: what a server has of a U-shape."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x


class Piece(nnx.Module):
    """What one slice of a cut model computes, with the same weights at the same paths.

    Args:
        model: the whole, of which it has a part.
        first: the number of its first block.
        last: the number of its last block.

    It begins with the embedding if it has the first block, and ends with the output layer
    if it has the last.
    """

    def __init__(self, model: Llama, first: int, last: int):
        count, self.first = len(model.blocks), first
        self.begins, self.ends = first == 0, last == count - 1
        self.embed = model.embed if self.begins or self.ends else None
        self.norm = model.norm if self.ends else None
        # A block keeps its number, which is in the path of its weights.
        own = range(first, last + 1)
        self.blocks = nnx.List(
            [b if i in own else nnx.data(None) for i, b in enumerate(model.blocks)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.begins:
            x = self.embed(x)
        for block in self.blocks:
            x = x if block is None else block(x)
        return self.embed.attend(self.norm(x)) if self.ends else x


def shapes_of(config: Config) -> Llama:
    """A model without arrays, for `jsplit.load` to fill."""
    return nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))


def adapted(model: Llama, rank: int, *, rngs: nnx.Rngs) -> Llama:
    """Put low-rank adapters around the queries and values of each block.

    Hu et al., LoRA, https://arxiv.org/abs/2106.09685. The second factor is zero, so that the
    model computes what it did. `trainable=nnx.LoRAParam` trains them alone.

    Args:
        model: it is changed in place; it may be without arrays, which adapters are not.
        rank: of the adapters.
        rngs: for their first factor.
    """
    for block in model.blocks:
        for name in ADAPTED:
            dense = getattr(block.attention, name)
            lora = nnx.LoRA(
                dense.in_features,
                rank,
                dense.out_features,
                base_module=dense,
                rngs=rngs,
            )
            setattr(block.attention, name, lora)
    return model


def _kernel(part: str, lora: bool) -> str:
    inner = ".base_module" if lora and part.rpartition(".")[2] in ADAPTED else ""
    return f"blocks.{{i}}.{part}{inner}.kernel"


def names_of_gguf(lora: bool = False) -> dict[str, Any]:
    """The `names` of `jsplit.load` for a GGUF file of this shape.

    Args:
        lora: whether the model is `adapted`.
    """
    dense = {
        "attn_q": "attention.q",
        "attn_k": "attention.k",
        "attn_v": "attention.v",
        "attn_output": "attention.out",
        "ffn_gate": "gated.gate",
        "ffn_up": "gated.up",
        "ffn_down": "gated.down",
    }
    names: dict[str, Any] = {
        "token_embd.weight": "embed.embedding",
        "output_norm.weight": "norm.scale",
        "blk.{i}.attn_norm.weight": "blocks.{i}.attention_norm.scale",
        "blk.{i}.ffn_norm.weight": "blocks.{i}.gated_norm.scale",
    }
    for entry, part in dense.items():
        names[f"blk.{{i}}.{entry}.weight"] = _kernel(part, lora), (1, 0)
    return names


def names_of_transformers(config: Config, lora: bool = False) -> Mapping[str, Any]:
    """The same for a safetensors file as the package transformers writes it.

    Args:
        config: of the model; queries and keys are reordered by heads.
        lora: whether the model is `adapted`.
    """

    def paired(weight: jax.Array) -> jax.Array:
        # There the pair of a place is half a head away, here it is the next.
        halves = weight.reshape(-1, 2, config.size // 2, weight.shape[1])
        return halves.swapaxes(1, 2).reshape(weight.shape).T

    dense: dict[str, tuple[str, Any]] = {
        "self_attn.q_proj": ("attention.q", paired),
        "self_attn.k_proj": ("attention.k", paired),
        "self_attn.v_proj": ("attention.v", (1, 0)),
        "self_attn.o_proj": ("attention.out", (1, 0)),
        "mlp.gate_proj": ("gated.gate", (1, 0)),
        "mlp.up_proj": ("gated.up", (1, 0)),
        "mlp.down_proj": ("gated.down", (1, 0)),
    }
    layer = "model.layers.{i}"
    names: dict[str, Any] = {
        "model.embed_tokens.weight": "embed.embedding",
        "model.norm.weight": "norm.scale",
        "lm_head.weight": None,  # the embedding again, where it is there
        f"{layer}.input_layernorm.weight": "blocks.{i}.attention_norm.scale",
        f"{layer}.post_attention_layernorm.weight": "blocks.{i}.gated_norm.scale",
    }
    for entry, (part, change) in dense.items():
        names[f"{layer}.{entry}.weight"] = _kernel(part, lora), change
    return names
