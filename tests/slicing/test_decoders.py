"""Slices of a whole model that decodes: each goes on piece by piece with caches of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit

WORDS, WIDTH = 7, 4


class Net(nnx.Module):
    """Places that must know how many came before, and a layer that looks back, adapted."""

    def __init__(self, rngs):
        self.embed, self.places = (nnx.Embed(WORDS, WIDTH, rngs=rngs) for _ in "ab")
        self.layers = nnx.List(
            [nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs) for _ in "ab"]
        )
        base = nnx.Linear(WIDTH, WORDS, rngs=rngs)
        self.out = nnx.LoRA(WIDTH, 1, WORDS, base_module=base, rngs=rngs)
        self.decode, self.at = False, nnx.Cache(jnp.int32(0))

    def set_view(self, decode=None, **rest):
        self.decode = self.decode if decode is None else decode
        return rest

    def __call__(self, tokens):
        places = jnp.arange(tokens.shape[1])
        if self.decode:
            places = places + self.at[...]
            self.at[...] += tokens.shape[1]
        h = self.embed(tokens) + self.places(places)
        for layer in self.layers:
            mask = None if self.decode else nnx.make_causal_mask(h[..., 0])
            h = layer(h, mask=mask)
        return self.out(h)


TOKENS = np.array([[1, 2, 3, 4, 5], [3, 1, 6, 0, 2]], "int32")


def viewed(net):
    """What `decoding=` takes: the module in the mode in which it decodes."""
    return lambda batch, length: nnx.view(
        net, decode=True, batch_size=batch, max_length=length
    )


def goes_on_as_whole(net, topology, tokens=TOKENS):
    """A session over a model in slices gives, piece by piece, what the whole gives at once."""
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    label = np.zeros((*tokens.shape, WORDS), "f")
    state = trainer.init(0, {"tokens": tokens, "label": label})
    with jsplit.session(trainer, state, batch=len(tokens), length=6) as session:
        pieces = (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:])
        found = np.concatenate([session({"tokens": x}) for x in pieces], 1)
    np.testing.assert_allclose(found, net(tokens), atol=1e-5)


def cut(net, **told):
    cuts = {"up": "layers.0", "down": "layers.1"}
    return jsplit.split(net, TOKENS, cuts=cuts, trainable=nnx.LoRAParam, **told)


def test_slices_of_a_model_that_decodes_are_the_whole_piece_by_piece():
    net = Net(nnx.Rngs(0))

    parts = cut(net, decoding=viewed(net))
    topology = jsplit.u_shaped(*parts.values(), loss=optax.squared_error)
    goes_on_as_whole(net, topology)


class Running(nnx.Module):
    """Each place sees the sum of all so far; one of a stack, whose cache is of all layers."""

    def __init__(self, rngs):
        self.mix = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.past, self.at = nnx.data(None), nnx.data(None)

    def set_view(self, decode=None, batch_size=None, max_length=None, **rest):
        if decode:
            self.past = nnx.Cache(jnp.zeros((3, batch_size, max_length, WIDTH)))
            self.at = nnx.Cache(jnp.zeros(3, "int32"))
        return rest

    def __call__(self, x):
        sums = jnp.cumsum(x, 1)
        if self.at is not None and self.past is not None:
            at = self.at[...]
            past = jax.lax.dynamic_update_slice(self.past[...], x, (0, at, 0))
            self.past[...], self.at[...] = past, at + x.shape[1]
            sums = jax.lax.dynamic_slice_in_dim(past.cumsum(1), at, x.shape[1], 1)
        return x + jnp.tanh(self.mix(sums))


class Stacked(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.layers = nnx.split_rngs(splits=3)(nnx.vmap(Running))(rngs)
        self.out = nnx.Linear(WIDTH, WORDS, rngs=rngs)

    def __call__(self, tokens):
        run = nnx.scan(
            lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry
        )
        return self.out(run(self.layers, self.embed(tokens)))


# 3 is also how many layers there are.
@pytest.mark.parametrize("batch", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_divided_stack_of_layers_goes_on_piece_by_piece(batch):
    net, tokens = Stacked(nnx.Rngs(0)), TOKENS[np.arange(batch) % 2]

    cuts = {"up": "layers[1]", "down": "layers[2]"}
    parts = jsplit.split(net, tokens, cuts=cuts, decoding=viewed(net))
    topology = jsplit.u_shaped(*parts.values(), loss=optax.squared_error)
    goes_on_as_whole(net, topology, tokens)


@pytest.mark.parametrize("given", [Net(nnx.Rngs(0)), True, "decode"])
def test_what_gives_no_model_that_decodes_is_refused(given):
    with pytest.raises(ValueError, match=r"`decoding` must be a function of \(batch"):
        cut(Net(nnx.Rngs(0)), decoding=given)


def test_what_decodes_without_the_parameters_of_its_slice_is_refused_by_their_path():
    """An nnx.Dict has the key `1`, an nnx.List the place 1."""
    net = Net(nnx.Rngs(0))

    class Middle(nnx.Module):
        def __init__(self):
            self.layers = nnx.Dict({"1": net.layers[1]})

        def __call__(self, h):
            return self.layers["1"](h)

    middle = jsplit.with_cache(cut(net)["down"], lambda batch, length: Middle())
    params, state = middle.init(jax.random.key(0))
    assert middle.cache is not None
    with pytest.raises(
        ValueError, match=r"without a parameter at `layers\.1\..*nnx.List"
    ):
        middle.cache.init(params, state, jnp.zeros((1, 4, WIDTH)))


class Scanned(nnx.Module):
    """Layers that one scan runs, each with an attention and so a cache of its own."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def layers(rngs):
            return nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)

        self.embed, self.layers = nnx.Embed(WORDS, WIDTH, rngs=rngs), layers(rngs)
        self.out = nnx.Linear(WIDTH, WORDS, rngs=rngs)

    def __call__(self, tokens):
        mask = None if self.layers.decode else nnx.make_causal_mask(tokens)

        def run(h, layer):
            return h + layer(h, mask=mask)

        across = nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.out(across(self.embed(tokens), self.layers))


@pytest.mark.slow
@pytest.mark.parametrize("at", ["embed", "layers[1]"], ids=["around", "amid"])
@pytest.mark.parametrize("batch", [2, 3], ids=["as example", "as many as layers"])
def test_layers_of_a_scan_have_a_cache_each(batch, at):
    net = Scanned(nnx.Rngs(0))

    parts = jsplit.split(net, TOKENS, cuts={"h": at}, decoding=viewed(net))
    topology = jsplit.vanilla(*parts.values(), loss=optax.squared_error)
    goes_on_as_whole(net, topology, TOKENS[np.arange(batch) % 2])


def test_what_decodes_and_cannot_be_cut_is_refused_by_name():
    """And not by what Flax, or the model, says of it."""

    class Other(Net):
        def __call__(self, tokens):
            raise TypeError("what is a token?")

    other = Other(nnx.Rngs(0))
    down = cut(Net(nnx.Rngs(0)), decoding=lambda batch, length: other)["down"]
    params, state = down.init(jax.random.key(0))
    assert down.cache is not None
    with pytest.raises(
        ValueError, match="`decoding` gives for batch 1 and length 4.*Type"
    ):
        down.cache.init(params, state, jnp.zeros((1, 4, WIDTH)))


class Counting(nnx.Module):
    """Each place sees how many real tokens came before, which are kept.

    What is kept is read by what comes after it, or (`late`) by the next call alone.
    """

    def __init__(self, late, rngs):
        self.mix, self.late = nnx.Linear(WIDTH, WIDTH, rngs=rngs), late
        self.past, self.at = nnx.data(None), nnx.data(None)

    def set_view(self, decode=None, batch_size=None, max_length=None, **rest):
        if decode:
            self.past = nnx.Cache(jnp.zeros((batch_size, max_length), bool))
            self.at = nnx.Cache(jnp.int32(0))
        return rest

    def __call__(self, x, real):
        count = jnp.cumsum(real, 1)
        if self.at is not None and self.past is not None:
            at, past = self.at[...], self.past[...]
            new = jax.lax.dynamic_update_slice_in_dim(past, real, at, 1)
            self.past[...], self.at[...] = new, at + x.shape[1]
            within = jnp.arange(new.shape[1]) < at
            count += ((past if self.late else new) & within).sum(1, keepdims=True)
        return x + jnp.tanh(self.mix(x)) * count[..., None]


class Padded(nnx.Module):
    def __init__(self, late, rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.layers = nnx.List([Counting(late, rngs) for _ in range(3)])

    def __call__(self, tokens):
        h, real = self.embed(tokens), tokens > 0
        for layer in self.layers:
            h = layer(h, real)
        return self.embed.attend(h)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_a_mask_that_is_carried_is_kept_in_the_caches_behind_the_cut(late):
    net = Padded(late, nnx.Rngs(0))

    cuts = {"up": "layers.0", "down": "layers.1"}
    parts = jsplit.split(net, TOKENS, cuts=cuts, around="carry", decoding=viewed(net))
    topology = jsplit.u_shaped(*parts.values(), loss=optax.squared_error)
    goes_on_as_whole(net, topology)


class Ignoring(Padded):
    """It reads no mask where it decodes, since a session has no filler."""

    def set_view(self, decode=None, **rest):
        self.decode = bool(decode)
        return rest

    def __call__(self, tokens):
        real = jnp.ones(tokens.shape, bool) if self.decode else tokens > 0
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h, real)
        return self.embed.attend(h)


@pytest.mark.slow
def test_what_decodes_without_what_is_carried_is_refused_by_its_name():
    net = Ignoring(False, nnx.Rngs(0))
    net.decode = False

    cuts = {"up": "layers.0", "down": "layers.1"}
    parts = jsplit.split(net, TOKENS, cuts=cuts, around="carry", decoding=viewed(net))
    params, state = parts["up"].init(jax.random.key(0), TOKENS)
    cache = parts["up"].cache
    assert cache is not None
    with pytest.raises(ValueError, match="carries `mask of tokens` with the cut `up`"):
        cache.init(params, state, TOKENS)
