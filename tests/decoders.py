"""Small language models in nnx and linen, each as parts, and as a whole in plain Flax."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import jsplit

VOCABULARY, WIDTH, LENGTH = 11, 8, 12
LARGE = jax.nn.initializers.normal(1.0)  # so that what was said changes what comes


def causal(h):
    return linen.make_causal_mask(h[..., 0])


class Embed(nnx.Module):
    """Tokens and their places; the place of the next is a cache."""

    def __init__(self, rngs):
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, embedding_init=LARGE, rngs=rngs)
        self.places = nnx.Embed(LENGTH, WIDTH, embedding_init=LARGE, rngs=rngs)
        self.index = nnx.data(None)

    def init_cache(self, shape):
        self.index = nnx.Cache(jnp.int32(0))

    def __call__(self, tokens):
        start = 0 if self.index is None else self.index[...]
        if self.index is not None:
            self.index[...] = start + tokens.shape[1]
        return self.tokens(tokens) + self.places(start + jnp.arange(tokens.shape[1]))


class Attend(nnx.Module):
    """Flax's own attention, which decodes one position at a time."""

    def __init__(self, rngs):
        self.layer = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)

    def __call__(self, h):
        return h + self.layer(h, mask=None if self.layer.decode else causal(h))


class Own(nnx.Module):
    """Attention as somebody writes it: a cache of keys, any number of positions."""

    def __init__(self, rngs):
        self.ask, self.say = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2))
        self.kept, self.index = nnx.data(None), nnx.data(None)

    def init_cache(self, shape):
        self.kept = nnx.Cache(jnp.zeros(shape))
        self.index = nnx.Cache(jnp.int32(0))

    def __call__(self, h):
        count, keys, start = h.shape[1], h, 0
        if self.kept is not None and self.index is not None:
            start = self.index[...]
            keys = jax.lax.dynamic_update_slice(self.kept[...], h, (0, start, 0))
            self.kept[...], self.index[...] = keys, start + count
        seen = jnp.arange(keys.shape[1]) <= start + jnp.arange(count)[:, None]
        scores = jnp.einsum("btd,bsd->bts", self.ask(h), keys)
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e9))
        return h + self.say(weights @ keys)


class Head(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, h):
        # Far apart, so that no two tokens are as likely as each other to rounding.
        return 20 * self.out(self.norm(h))


class LinenEmbed(linen.Module):
    decode: bool = False

    @linen.compact
    def __call__(self, tokens):
        start = 0
        if self.decode:
            there = self.has_variable("cache", "index")
            index = self.variable("cache", "index", lambda: jnp.int32(0))
            start = index.value
            index.value += tokens.shape[1] if there else 0
        h = linen.Embed(VOCABULARY, WIDTH, embedding_init=LARGE, name="tokens")(tokens)
        places = linen.Embed(LENGTH, WIDTH, embedding_init=LARGE, name="places")
        return h + places(start + jnp.arange(tokens.shape[1]))


class LinenAttend(linen.Module):
    decode: bool = False

    @linen.compact
    def __call__(self, h):
        layer = linen.MultiHeadDotProductAttention(2, decode=self.decode)
        return h + layer(h, mask=None if self.decode else causal(h))


class LinenHead(linen.Module):
    @linen.compact
    def __call__(self, h):
        return 20 * linen.Dense(VOCABULARY)(linen.LayerNorm()(h))


def decoding(module):
    """What makes a module that decodes of one that was trained, as Flax's examples do."""

    def make(batch, length):
        decoder = nnx.clone(module)
        for _, layer in nnx.iter_modules(decoder):
            if isinstance(layer, Embed | Own | nnx.MultiHeadAttention):
                layer.init_cache((batch, length, WIDTH))
            if isinstance(layer, nnx.MultiHeadAttention):
                layer.decode = True
        return decoder

    return make


class Parts(NamedTuple):
    """Segments embed, two of attention, head; and the whole, as a function of tokens."""

    segments: list[jsplit.Segment]
    modules: list

    def whole(self, state):
        """Logits of whole sequences, by plain Flax, of what a state has learned."""
        params = {}
        for own in state.parties.values():
            params |= own.params

        @jax.jit
        def padded(tokens):
            h = tokens
            for name, module in zip("abcd", self.modules, strict=True):
                if isinstance(module, nnx.Module):
                    module = nnx.clone(module)
                    nnx.update(module, params[name])
                    h = module(h)
                else:
                    h = module.apply({"params": params[name]}, h)
            return h

        # Of one length, so that it is compiled once: what comes later changes nothing.
        def logits(tokens):
            count = tokens.shape[1]
            filled = np.zeros((len(tokens), LENGTH), np.int32)
            filled[:, :count] = tokens
            return padded(filled)[:, :count]

        return logits


def nnx_parts() -> Parts:
    rngs = nnx.Rngs(1)
    modules = [Embed(rngs), Attend(rngs), Own(rngs), Head(rngs)]
    return _parts(modules, [decoding(m) for m in modules[:3]])


def linen_parts() -> Parts:
    modules = [LinenEmbed(), LinenAttend(), LinenAttend(), LinenHead()]
    return _parts(modules, [LinenEmbed(True), LinenAttend(True), LinenAttend(True)])


def _parts(modules, decoders) -> Parts:
    inputs = ["tokens", "a", "b", "c"]
    segments = [
        jsplit.segment(m, inputs=[i], name=n)
        for m, i, n in zip(modules, inputs, "abcd", strict=True)
    ]
    cached = [jsplit.with_cache(s, d) for s, d in zip(segments, decoders, strict=False)]
    return Parts([*cached, segments[3]], modules)


def loss(logits, label):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)[
        ..., 0
    ].mean(-1)


WHO = {
    "vanilla": ["client", "client", "server", "server"],
    "u_shaped": ["client", "server", "server", "client"],
    "chain": ["client", "one", "two", "three"],
}


def topology_of(parts: Parts, configuration: str) -> jsplit.Topology:
    """Who has which part; labels lie where the logits are."""
    who = WHO[configuration]
    nodes = [
        jsplit.Node(s.name, s, p) for s, p in zip(parts.segments, who, strict=True)
    ]
    holds = {"client": ["tokens"]}
    holds.setdefault(who[-1], [])
    holds[who[-1]] = [*holds[who[-1]], "label"]
    return jsplit.Topology(
        [*nodes, jsplit.Loss("loss", loss, who[-1], ["d", "label"])], holds
    )


BATCH = {
    "tokens": np.arange(10, dtype=np.int32).reshape(2, 5) % VOCABULARY,
    "label": np.arange(3, 13, dtype=np.int32).reshape(2, 5) % VOCABULARY,
}


def generated(logits, prompt, steps, key=None, temperature=1.0):
    """Tokens by the whole model, which is given all of them anew for each."""
    tokens = np.asarray(prompt)
    for _ in range(steps):
        last = logits(tokens)[:, -1]
        if key is None:
            new = last.argmax(-1)
        else:
            own = jax.random.fold_in(key, tokens.shape[1])
            new = jax.random.categorical(own, last / temperature)
        tokens = np.concatenate([tokens, np.asarray(new)[:, None]], 1)
    return tokens[:, prompt.shape[1] :]
