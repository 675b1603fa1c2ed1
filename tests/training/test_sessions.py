"""Sessions in one process: piece by piece they give what the whole model gives at once."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.training import generating, same_pieces
from tests import decoders
from tests.decoders import BATCH, LENGTH

PROMPT = BATCH["tokens"][:, :4]


@cache
def served(kind, configuration):
    parts = {"nnx": decoders.nnx_parts, "linen": decoders.linen_parts}[kind]()
    topology = decoders.topology_of(parts, configuration)
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    return trainer, state, parts.whole(state)


@pytest.mark.parametrize(
    ("kind", "configuration"),
    [
        ("nnx", "u_shaped"),
        ("linen", "vanilla"),
        pytest.param("nnx", "chain", marks=pytest.mark.slow),
    ],
)
def test_tokens_are_those_of_the_whole_model(kind, configuration):
    """The most likely ones, and drawn ones; the whole is plain Flax without any cache."""
    trainer, state, whole = served(kind, configuration)
    key = jax.random.key(5)
    for how in ({}, {"key": key, "temperature": 20.0}):
        with jsplit.session(trainer, state, batch=2, length=LENGTH) as session:
            got = jsplit.generate(session, PROMPT, 5, **how)
        np.testing.assert_array_equal(got, decoders.generated(whole, PROMPT, 5, **how))
        assert len({*got.ravel().tolist()}) > 3  # not one token again and again


def test_pieces_of_two_sessions_in_turn_are_the_whole_sequences():
    trainer, state, whole = served("linen", "vanilla")
    tokens = np.arange(16).reshape(2, 8) % 7
    wanted = whole(tokens)
    with (
        jsplit.session(trainer, state, length=LENGTH) as one,
        jsplit.session(trainer, state, length=LENGTH) as two,
    ):
        got = [[], []]
        for piece in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7)):
            for i, session in enumerate((one, two)):
                got[i].append(session({"tokens": tokens[i : i + 1, piece]}))
        assert one.position == 7
    for i in range(2):
        found = jnp.concatenate(got[i], 1)[0]
        np.testing.assert_allclose(found, wanted[i, :7], atol=1e-4)


def trained(server):
    """A client that squares, and a server; all without parameters."""
    client = jsplit.segment(lambda x: x * x, inputs="x", name="h")
    topology = jsplit.vanilla(client, server, loss=optax.squared_error)
    trainer = jsplit.messages(topology, {})
    x = np.arange(1.0, 7.0, dtype=np.float32).reshape(1, 6)
    return trainer, trainer.init(0, {"x": x, "label": x}), x


def adding(by=1.0):
    """Sums of all so far, and a cache that adds `by` times what comes."""
    sums = jsplit.segment(lambda h: h.cumsum(1), inputs="h", name="y")

    def add(params, state, total, h):
        found = total[:, None] + by * h.cumsum(1)
        return found, found[:, -1]

    start = lambda params, state, h: jnp.zeros(h.shape[:1], h.dtype)  # noqa: E731
    return jsplit.with_cache(sums, jsplit.Cache(start, add))


def begun(server, count=3, **options):
    trainer, state, x = trained(server)
    session = jsplit.session(trainer, state, **{"length": 6, **options})
    return session, x, session({"x": x[:, :count]})


def test_a_segment_that_needs_those_before_and_has_no_cache_is_refused():
    forgetful = jsplit.segment(lambda h: h.cumsum(1), inputs="h", name="y")
    forgetful = jsplit.with_cache(forgetful, False)
    both = jsplit.vanilla(
        jsplit.segment(lambda x: (x * x).cumsum(1), inputs="x", name="h"),
        forgetful,
        loss=optax.squared_error,
    )
    trainer, x = jsplit.messages(both, {}), jnp.ones((1, 3))
    state = trainer.init(0, {"x": x, "label": x})
    session = jsplit.session(trainer, state, length=6)
    with pytest.raises(ValueError, match="`h` has no cache, and what it gives"):
        session({"x": x})


def test_a_cache_that_gives_something_else_than_the_segment_is_refused():
    with pytest.raises(ValueError, match="`y` gives something else by its cache"):
        begun(adding(by=1.1))
    _, x, y = begun(adding())
    np.testing.assert_allclose(y, (x * x)[:, :3].cumsum(1))


def test_a_sequence_longer_than_its_caches_is_refused():
    session, x, _ = begun(adding())
    with pytest.raises(
        ValueError, match="`length` of the session is 6 positions, and 3"
    ):
        session({"x": x[:, :4]})
    assert session({"x": x[:, 3:]}).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "count", "why"),
    [
        ({}, 1, "`h` has no cache, and from one position it does not show"),
        ({"batch": 2}, 3, r"`x` must be \[2, positions, ...\], got \[1, 3\]"),
        ({"length": 0}, 3, "`length` must be"),
    ],
)
def test_what_does_not_fit_a_session_is_refused(options, count, why):
    with pytest.raises(ValueError, match=why):
        begun(adding(), count, **options)


def test_a_topology_without_any_cache_has_no_sessions():
    trainer, state, _ = trained(jsplit.segment(lambda h: h, inputs="h", name="y"))
    with pytest.raises(ValueError, match="no segment of `trainer` has a cache"):
        jsplit.session(trainer, state, length=6)


def test_a_session_that_is_over_computes_nothing():
    session, x, _ = begun(adding())
    session.close()
    with pytest.raises(ValueError, match="the session is over"):
        session({"x": x})


def test_a_wide_cache_is_not_taken_for_that_of_a_narrow_segment():
    assert adding().cache is not None
    assert jsplit.mixed_precision(adding()).cache is None


def test_caches_of_flax_of_another_length_are_refused():
    """They would write over their last position, without a word."""
    parts = decoders.nnx_parts()
    own = jsplit.with_cache(
        parts.segments[2], decoders.decoding(parts.modules[2])(1, 5)
    )
    like = jax.ShapeDtypeStruct((1, 9, decoders.WIDTH), "float32")
    with pytest.raises(ValueError, match="`length` is 9, and no axis of the caches"):
        assert own.cache is not None
        own.cache.init({}, {}, like)


def test_tokens_that_would_be_too_many_or_of_nan_are_refused():
    session, x, _ = begun(jsplit.with_cache(_logits(), False), count=2)
    with pytest.raises(
        ValueError, match="would have 8 positions, and its `length` is 6"
    ):
        jsplit.generate(_of_tokens(session), np.ones((1, 1), int), 6)
    with pytest.raises(jsplit.NotFinite, match="a logit at position 2 is NaN"):
        jsplit.generate(_of_tokens(session), np.ones((1, 1), int), 2)
    with pytest.raises(ValueError, match="`tokens` must not be negative"):
        jsplit.generate(_of_tokens(session), np.array([[1, -1]]), 1)


def _logits():
    """Nothing but NaN, of five tokens."""
    nan = lambda h: jnp.broadcast_to(h[..., None] * jnp.nan, (*h.shape, 5))  # noqa: E731
    return jsplit.segment(nan, inputs="h", name="y")


def _of_tokens(session):
    """The same session, whose field of floats takes tokens."""
    ask = type(session).__call__

    class Of:
        fields, batch, length = session.fields, session.batch, session.length
        position = property(lambda self: session.position)

        def __call__(self, fields):
            return ask(session, {f: x.astype("float32") for f, x in fields.items()})

    return Of()


def test_generation_ends_where_all_sequences_have_ended():
    trainer, state, whole = served("linen", "vanilla")
    full = decoders.generated(whole, PROMPT, 5)
    end = int(full[0, 1])
    with jsplit.session(trainer, state, batch=2, length=LENGTH) as session:
        got = jsplit.generate(session, PROMPT, 5, end=end)
    for row, wanted in zip(got, full, strict=True):
        at = [*wanted].index(end) if end in wanted else 5
        np.testing.assert_array_equal(row[: at + 1], wanted[: at + 1][: len(row)])
        assert (row[at:] == end).all()


class Some(nnx.Module):
    """Some layers of a net, at the paths that they have there."""

    def __init__(self, net, *names):
        self.names = names
        for name in names:
            setattr(self, name, getattr(net, name))

    def __call__(self, h):
        for name in self.names:
            h = getattr(self, name)(h)
        return h


class Tail(nnx.Module):
    """The end of a net whose last layer is its embedding."""

    def __init__(self, net):
        self.a, self.norm = net.a, net.norm

    def __call__(self, h):
        return 3 * self.a.tokens.attend(self.norm(h))


class Tied(Tail):
    """A language model with one weight for embedding and output layer."""

    def __init__(self):
        rngs = nnx.Rngs(2)
        self.a, self.c = decoders.Embed(rngs), decoders.Own(rngs)
        self.norm = nnx.LayerNorm(decoders.WIDTH, rngs=rngs)

    def __call__(self, tokens):
        return super().__call__(self.c(self.a(tokens)))


@pytest.mark.slow
def test_slices_of_a_split_model_decode_by_modules_of_the_same_parameters():
    """At lengths that the model was not split at, too; a tied weight is one."""
    net, tokens = Tied(), BATCH["tokens"]
    parts = jsplit.split(net, tokens, cuts={"up": "a", "down": "c"})
    up = jsplit.with_cache(parts["up"], decoders.decoding(Some(net, "a")))
    down = jsplit.with_cache(parts["down"], decoders.decoding(Some(net, "c")))
    top = jsplit.with_cache(parts["output"], Tail(net))
    topology = jsplit.u_shaped(up, down, top, loss=decoders.loss)
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    whole = jax.jit(lambda tokens: net(tokens))

    def logits(tokens):
        count = tokens.shape[1]
        return whole(np.pad(tokens, [(0, 0), (0, LENGTH - count)]))[:, :count]

    for prompt in (tokens, tokens[:, :3]):
        with jsplit.session(trainer, state, batch=2, length=LENGTH) as session:
            got = jsplit.generate(session, prompt, 6)
        expected = decoders.generated(logits, prompt, 6)
        np.testing.assert_array_equal(got, expected)
        assert len({*got.ravel().tolist()}) > 3


def stuck():
    """Sums of all so far, whose cache stays as it is after each call."""
    sums = jsplit.segment(lambda h: h.cumsum(1), inputs="h", name="y")
    add = lambda params, state, total, h: (total[:, None] + h.cumsum(1), total)  # noqa: E731
    start = lambda params, state, h: jnp.zeros(h.shape[:1], h.dtype)  # noqa: E731
    return jsplit.with_cache(sums, jsplit.Cache(start, add))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["stuck", "none"])
def test_a_cache_that_does_not_go_on_is_refused_in_the_first_call(kind, count):
    """All at once it is right; the second call would be wrong without a word."""
    sums = jsplit.segment(lambda h: h.cumsum(1), inputs="h", name="y")
    server = stuck() if kind == "stuck" else jsplit.with_cache(sums, False)
    client = jsplit.segment(lambda x: x * x, inputs="x", name="h")
    client = jsplit.with_cache(client, False)
    topology = jsplit.vanilla(client, server, loss=optax.squared_error)
    trainer, x = jsplit.messages(topology, {}), jnp.ones((1, 3))
    state = trainer.init(0, {"x": x, "label": x})
    session = jsplit.session(trainer, state, length=6)
    with pytest.raises(ValueError, match="`y` gives something else by its cache"):
        session({"x": x[:, :count]})


def test_masked_logits_are_compared_by_the_others():
    """-inf is -inf, and does not make room for whatever the others are."""
    masked = jnp.array([[[1.0, -jnp.inf]]])
    assert same_pieces._close(masked, masked)
    assert not same_pieces._close(masked, masked + 0.1)


TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(300, 8)), "float32")


def following(prompt, **how):
    """Tokens after a prompt, each one more than that before it, of 300."""
    embed = jsplit.segment(lambda tokens: jnp.sin(TABLE[tokens]), name="h")
    embed = jsplit.with_cache(embed, False)
    near = lambda h: -((h[..., None, :] - jnp.sin(TABLE)) ** 2).sum(-1)  # noqa: E731
    head = jsplit.segment(lambda h: jnp.roll(near(h), 1, -1), inputs="h", name="y")
    head = jsplit.with_cache(head, False)
    topology = jsplit.vanilla(embed, head, loss=optax.squared_error)
    trainer, prompt = jsplit.messages(topology, {}), np.asarray(prompt)
    label = np.zeros((*prompt.shape, 300), np.float32)
    state = trainer.init(0, {"tokens": prompt, "label": label})
    with jsplit.session(trainer, state, length=9) as session:
        return jsplit.generate(session, prompt, 4, **how).tolist()


def test_a_token_that_the_dtype_of_the_prompt_cannot_hold_is_refused():
    """It would be given to the model as another one, 256 as 0."""
    assert following(np.array([[252, 253]], np.int32)) == [[254, 255, 256, 257]]
    with pytest.raises(ValueError, match="`tokens` are uint8, and a token after them"):
        following(np.array([[252, 253]], np.uint8))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (
            {"temperature": 0.7},
            "`temperature` is of tokens that are drawn: give a `key`",
        ),
        ({"top_k": 3}, "`top_k` is of tokens that are drawn: give a `key`"),
        ({"temperature": 1e-42}, "`temperature` must be positive, from 1e-30 on"),
        ({"temperature": float("inf")}, "`temperature` must be positive"),
        ({"temperature": float("nan")}, "`temperature` must be positive"),
        ({"temperature": "hot"}, "`temperature` must be positive"),
        ({"end": 2.5}, "`end` must be one token, an integer, got 2.5"),
        ({"tokens": [[-1, 2]]}, "`tokens` must not be negative"),
        ({"key": 3}, "`key` must be a PRNG key, as jax.random.key"),
        (
            {"key": jax.random.split(jax.random.key(0), 2)},
            r"`key` must be one key, or \[1\] of them, got \[2\]",
        ),
    ],
)
def test_what_would_draw_other_tokens_than_meant_is_refused(how, why):
    class Never:
        fields, batch, length, position = ("tokens",), 1, 9, 0

    tokens = how.get("tokens", [[1, 2]])
    options = {k: v for k, v in how.items() if k != "tokens"}
    with pytest.raises(ValueError, match=why):
        jsplit.generate(Never(), tokens, 3, **options)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_with_a_key_for_each_a_sequence_draws_what_it_draws_alone(impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 3)
    logits = jax.random.normal(jax.random.key(1), (3, 40))
    found, _ = generating._pick(logits, keys, 5, 1.0, None)
    for i in range(3):
        alone = jax.random.categorical(jax.random.fold_in(keys[i], 5), logits[i])
        assert found[i] == alone


def test_a_row_of_logits_of_which_none_is_finite_has_no_token():
    logits = jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])
    assert generating._pick(logits[:1], None, 0, 1.0, None)[1]
    assert not generating._pick(logits, None, 0, 1.0, None)[1]


def test_tokens_that_are_no_integers_are_refused_by_name():
    embed = nnx.Embed(5, 4, rngs=nnx.Rngs(0))
    head = jsplit.with_cache(jsplit.segment(embed, inputs="tokens", name="h"), False)
    top = jsplit.segment(jnp.sin, inputs="h", name="y")
    topology = jsplit.vanilla(
        head, jsplit.with_cache(top, False), loss=optax.squared_error
    )
    trainer, tokens = jsplit.messages(topology, {"client": optax.sgd(0.1)}), PROMPT % 5
    like = {"tokens": tokens, "label": np.zeros((2, 4, 4), np.float32)}
    session = jsplit.session(trainer, trainer.init(0, like), batch=2, length=6)
    with pytest.raises(ValueError, match="^`tokens` must be integers, got float32"):
        session({"tokens": tokens.astype("float32")})
    assert session({"tokens": tokens}).shape == (2, 4, 4)
