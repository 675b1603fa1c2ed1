"""A small language model whose output layer is its embedding, in nnx and in linen; and the
row of the sweep in which it is split in U shape, so that one party has both.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

import jsplit

WORDS, WIDTH, LENGTH = 11, 8, 4
CUTS = {"up": "normed", "down": "block"}
PARTIES = {"embed": "client", "normed": "client", "block": "server", "last": "client"}
"""By the name of a layer."""


class NnxLM(nnx.Module):
    """Embedding and BatchNorm, a block, and dropout before the embedding is read again."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.normed = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.block = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.last = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, tokens):
        h = self.block(self.normed(self.embed(tokens)))
        return self.embed.attend(self.last(self.drop(nnx.tanh(h))).mean(1))


class LinenLM(linen.Module):
    """The same in linen."""

    @linen.compact
    def __call__(self, tokens, train):
        embed = linen.Embed(WORDS, WIDTH, name="embed")
        norm = linen.BatchNorm(use_running_average=not train, name="normed")
        h = linen.Dense(WIDTH, name="block")(norm(embed(tokens)))
        h = linen.Dropout(0.2, deterministic=not train)(jnp.tanh(h))
        return embed.attend(linen.LayerNorm(name="last")(h).mean(1))


def loss(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def data(batch: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(0, WORDS, (batch, LENGTH)).astype(np.int32),
        "label": rng.integers(0, WORDS, batch).astype(np.int32),
    }


def parts(whole, tokens, variables=None) -> dict[str, jsplit.Segment]:
    return jsplit.split(whole, tokens, cuts=CUTS, variables=variables)


def plain(rngs: int = 0) -> NnxLM:
    """Without dropout, where rounds draw it for each client."""
    model = NnxLM(nnx.Rngs(rngs))
    model.drop.rate = 0.0
    return model


def whole_and_topology(flax: str, tokens, widen):
    """The whole model, its first values if it is of linen, and it split in U shape."""
    variables = None
    if flax == "nnx":
        whole = NnxLM(nnx.Rngs(0))
        nnx.update(whole, widen(nnx.state(whole, nnx.Not(nnx.RngState))))
    else:
        whole = LinenLM()
        variables = widen(whole.init(jax.random.key(0), tokens, train=True))
    made = parts(whole, tokens, variables).values()
    return whole, variables, jsplit.u_shaped(*made, loss=loss)
