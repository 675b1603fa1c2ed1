"""Sessions of what is split in other ways: equal to the whole model, or refused when it shows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from tests import decoders

TOKENS = np.arange(10, dtype=np.int32).reshape(2, 5) % decoders.VOCABULARY
LABEL = TOKENS[:, ::-1].copy()


def state_of(topology, **options):
    batch = {f: TOKENS if f == "tokens" else LABEL for f in topology.fields}
    trainer = jsplit.messages(topology, optax.sgd(0.1), **options)
    return trainer, trainer.init(0, batch)


def in_pieces(trainer, state, length=5):
    with jsplit.session(trainer, state, batch=2, length=length) as session:
        pieces = [TOKENS[:, :3], TOKENS[:, 3:4], TOKENS[:, 4:]]
        return np.concatenate([session({"tokens": x}) for x in pieces], 1)


def running():
    """A cache of sums of what came, of a segment that sums along positions."""

    def start(params, state, *h):
        return jnp.zeros((h[0].shape[0], decoders.WIDTH))

    def apply(params, state, total, h):
        sums = total[:, None] + h.cumsum(1)
        return sums @ params["w"], sums[:, -1]

    return jsplit.Cache(start, apply)


def summed(name="y", reads="h"):
    def init(key, h):
        return {"w": jax.random.normal(key, (decoders.WIDTH, decoders.WIDTH))}

    segment = jsplit.segment(
        lambda p, h: h.cumsum(1) @ p["w"], init=init, inputs=[reads], name=name
    )
    return jsplit.with_cache(segment, running())


def embedding():
    rngs = nnx.Rngs(0)
    return nnx.Embed(decoders.VOCABULARY, decoders.WIDTH, rngs=rngs)


def head():
    segment = jsplit.segment(embedding(), inputs="tokens", name="h")
    return jsplit.with_cache(segment, False)


def test_a_link_with_a_memory_crosses_as_in_inference_and_remembers_nothing():
    """As `predict` has it: what was lost of a piece is not added to the next."""
    link = jsplit.compress.error_feedback(jsplit.compress.quantize(8))
    topology = jsplit.vanilla(head(), summed(), loss=optax.squared_error)
    batch = {"tokens": TOKENS, "label": np.zeros((2, 5, decoders.WIDTH), np.float32)}
    found = []
    for links in ({"h": link}, {}):
        trainer = jsplit.messages(topology, optax.sgd(0.1), links=links)
        found.append(in_pieces(trainer, trainer.init(0, batch)))
    # To what eight bits lose; what is remembered of a piece before is as large as a value.
    lost = np.abs(found[0] - found[1]).max()
    assert 0 < lost < 0.02 * np.abs(found[1]).max()


class Masked(nnx.Module):
    """Attention that sees no padding, a token 0: the mask goes around the cut."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(decoders.VOCABULARY, decoders.WIDTH, rngs=rngs)
        self.first = nnx.Linear(decoders.WIDTH, decoders.WIDTH, rngs=rngs)
        self.last = nnx.Linear(decoders.WIDTH, decoders.VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        mask = (tokens > 0)[..., None]
        h = jnp.where(mask, self.first(self.embed(tokens)), 0.0)
        return self.last(jnp.where(mask, jnp.tanh(h), -1.0))


class Stack(nnx.Module):
    """Layers of one scan."""

    def __init__(self, rngs):
        make = nnx.vmap(lambda rngs: nnx.Linear(8, 8, rngs=rngs), in_axes=0, out_axes=0)
        self.embed = nnx.Embed(decoders.VOCABULARY, 8, rngs=rngs)
        self.middle = nnx.split_rngs(splits=4)(make)(rngs)

    def __call__(self, tokens):
        run = nnx.scan(
            lambda layer, x: x + jnp.tanh(layer(x)),
            in_axes=(0, nnx.Carry),
            out_axes=nnx.Carry,
        )
        return run(self.middle, self.embed(tokens))


@pytest.mark.parametrize(
    ("model", "cut", "around"),
    [(Masked, "first", "carry"), (Stack, "middle[2]", "refuse")],
    ids=["a carried mask", "layers of a scan"],
)
def test_what_needs_no_cache_is_the_whole_model_piece_by_piece(model, cut, around):
    net = model(nnx.Rngs(1))
    parts = jsplit.split(net, TOKENS, cuts={"h": cut}, around=around)
    cached = [jsplit.with_cache(p, False) for p in parts.values()]
    topology = jsplit.vanilla(*cached, loss=decoders.loss)
    trainer, state = state_of(topology)
    np.testing.assert_allclose(in_pieces(trainer, state), net(TOKENS), atol=1e-5)


class TiedNet(nnx.Module):
    """One table, frozen, for the embedding and the output layer of another party."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(decoders.VOCABULARY, 8, rngs=rngs)
        self.middle = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, tokens):
        return self.embed.attend(jnp.tanh(self.middle(self.embed(tokens))))


def test_a_frozen_weight_that_two_parties_have_a_copy_of_decodes_at_both():
    net = TiedNet(nnx.Rngs(1))
    parts = jsplit.split(
        net, TOKENS, cuts={"h": "embed"}, trainable=["middle"], copies=True
    )
    cached = [jsplit.with_cache(p, False) for p in parts.values()]
    topology = jsplit.vanilla(*cached, loss=decoders.loss)
    trainer, state = state_of(topology)
    np.testing.assert_allclose(in_pieces(trainer, state), net(TOKENS), atol=1e-5)


def test_weights_of_a_file_are_those_that_a_session_computes_with(tmp_path):
    save = pytest.importorskip("safetensors.flax").save_file
    net = TiedNet(nnx.Rngs(5))
    assert net.middle.bias is not None
    save(
        {
            "table": net.embed.embedding[...],
            "kernel": net.middle.kernel[...],
            "bias": net.middle.bias[...],
        },
        tmp_path / "weights.safetensors",
    )
    names = {
        "table": "embed.embedding",
        "kernel": "middle.kernel",
        "bias": "middle.bias",
    }
    shapes = nnx.eval_shape(lambda: TiedNet(nnx.Rngs(0)))
    parts = jsplit.split(
        shapes, TOKENS, cuts={"h": "embed"}, trainable=["middle"], copies=True
    )
    loaded = jsplit.load(parts, tmp_path / "weights.safetensors", names=names)
    cached = [jsplit.with_cache(p, False) for p in loaded.values()]
    trainer, state = state_of(jsplit.vanilla(*cached, loss=decoders.loss))
    np.testing.assert_allclose(in_pieces(trainer, state), net(TOKENS), atol=1e-5)


class Means(nnx.Module):
    """Each place sees the mean of all so far that are no padding, a token 0."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(decoders.VOCABULARY, decoders.WIDTH, rngs=rngs)
        self.first = nnx.Linear(decoders.WIDTH, decoders.WIDTH, rngs=rngs)
        self.last = nnx.Linear(decoders.WIDTH, decoders.VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        h, real = self.first(self.embed(tokens)), (tokens > 0)[..., None]
        return self.last((h * real).cumsum(1) / (1 + real.cumsum(1)))


def counting(last, mask):
    """A cache of sums of what is no padding, and of how many these are."""

    def start(params, state, *given):
        zeros = jnp.zeros((2, decoders.WIDTH))
        return zeros, jnp.zeros((2, 1))

    def apply(params, state, held, *given):
        h, real = mask(*given)
        sums = held[0][:, None] + (h * real).cumsum(1)
        counts = held[1][:, None] + real.cumsum(1)
        return last(params, sums / (1 + counts)), (sums[:, -1], counts[:, -1])

    return jsplit.Cache(start, apply)


def test_a_carried_mask_is_remembered_by_the_cache_of_who_reads_it():
    """Padding in the middle, and in other pieces: a mask of a place is of all calls after."""
    net = Means(nnx.Rngs(1))
    parts = jsplit.split(net, TOKENS, cuts={"h": "first"}, around="carry")
    head, tail = parts.values()
    [carried] = head.carried

    def last(params, means):
        return means @ params["last"]["kernel"] + params["last"]["bias"]

    def mask(given):
        real = given[carried.name]
        return given["h"], real if real.ndim == 3 else real[..., None]

    cached = jsplit.with_cache(tail, counting(last, mask))
    topology = jsplit.vanilla(
        jsplit.with_cache(head, False), cached, loss=decoders.loss
    )
    trainer, state = state_of(topology)
    np.testing.assert_allclose(in_pieces(trainer, state), net(TOKENS), atol=1e-5)
    # One that forgets which were padding is refused by the first call.
    wrong = jsplit.with_cache(tail, False)
    topology = jsplit.vanilla(jsplit.with_cache(head, False), wrong, loss=decoders.loss)
    trainer, state = state_of(topology)
    with pytest.raises(ValueError, match="gives something else by its cache than"):
        in_pieces(trainer, state)


def masked():
    """A mask that is a public field, which the server reads beside what comes."""

    def at_once(weights, h, mask):
        real = mask[..., None]
        return (h * real).cumsum(1) / (1 + real.cumsum(1)) @ weights

    segment = jsplit.segment(
        at_once,
        init=lambda key, h, mask: jax.random.normal(key, (h.shape[-1], 3)),
        inputs=["h", "attention_mask"],
        name="y",
    )
    last = lambda weights, means: means @ weights  # noqa: E731
    cache = counting(last, lambda h, mask: (h, mask[..., None]))
    tail = jsplit.with_cache(segment, cache)
    return jsplit.vanilla(
        head(), tail, loss=optax.squared_error, public=["attention_mask"]
    )


def test_a_mask_that_is_a_field_is_given_with_each_piece():
    topology, mask = masked(), (TOKENS > 0).astype(np.float32)
    label = np.zeros((2, 5, 3), np.float32)
    batch = {"tokens": TOKENS, "attention_mask": mask, "label": label}
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(0, batch)
    whole = trainer.predict(state, {"tokens": TOKENS, "attention_mask": mask})
    with jsplit.session(trainer, state, batch=2, length=7) as session:
        given = {"tokens": TOKENS, "attention_mask": mask}
        found = [
            session({f: x[:, at] for f, x in given.items()})
            for at in (slice(3), slice(3, 4), slice(4, 5))
        ]
        np.testing.assert_allclose(np.concatenate(found, 1), whole["y"], atol=1e-5)
        with pytest.raises(ValueError, match="must be of one field of tokens, it has"):
            jsplit.generate(session, TOKENS[:, :1], 1)
