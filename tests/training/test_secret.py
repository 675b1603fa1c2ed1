"""Secret noise: no receiver takes it off, no call repeats another's, a replay repeats itself."""

from __future__ import annotations

import logging
import pprint
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.training.common import INTERPRETERS, both, close, refused

SIGMA, STEPS = 0.5, 2
WIDTH, SIZE = 32, 64
X = np.random.default_rng(0).normal(size=(SIZE, 8)).astype(np.float32)
BATCH = {"x": X, "y": X[:, :1]}
ERROR = 5 / np.sqrt(2 * SIZE * WIDTH)
"""Five standard errors of a deviation that is found from so many numbers, relative."""


def noisy(sigma=SIGMA, secret=True, **options):
    def encode(value, key):
        return value + sigma * jax.random.normal(key, value.shape)

    return jsplit.stateless(
        encode, lambda payload, like: payload, secret=secret, **options
    )


def echoed(noises):
    """A topology that sends a field as it is, and a metric that keeps what came of it."""

    def keep(o, y):
        noises.append(np.asarray(o))
        return 0.0

    return jsplit.vanilla(
        jsplit.segment(lambda x: x, inputs=["x"]),
        jsplit.segment(lambda h: h, inputs=["h"], name="out"),
        loss=lambda o, y: ((o - y) ** 2).mean(-1),
        label="y",
    ).add(jsplit.Metric("kept", keep, "server", ["out", "y"]))


def pair(kept=lambda h: h):
    """A client and a server that keeps in its statistics what it was sent last."""
    bottom = jsplit.segment(
        lambda w, x: x @ w,
        init=lambda key, x: jax.random.normal(key, (8, WIDTH)) / 3,
        inputs=["x"],
    )

    def init(key, h):
        return jnp.full((WIDTH, 1), 0.1), {"seen": jnp.zeros_like(kept(h))}

    def apply(w, state, key, h, train=True):
        return h @ w, {"seen": kept(h)}

    top = jsplit.Segment(init, apply, inputs=("h",), name="y_hat")
    return jsplit.vanilla(
        bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )


def trainer_of(interpreter, link, **options):
    make = INTERPRETERS[interpreter]
    return make(pair(), optax.sgd(0.1), links={"smashed": (link, None)}, **options)


def seen(state):
    return state.parties["server"].state["y_hat"]["seen"]


def what_the_receiver_computes(state, step):
    """The noise, by the code of the link, the agreed key and the step: all public."""
    key = jax.random.fold_in(state.parties["server"].key, step)
    key = jax.random.fold_in(key, crc32(b"activation/smashed/client/server"))
    return SIGMA * jax.random.normal(key, (SIZE, WIDTH))


@both
@pytest.mark.parametrize("secret", [False, True])
def test_a_receiver_takes_public_noise_off_and_secret_noise_it_cannot(
    interpreter, secret
):
    trainer = trainer_of(interpreter, noisy(secret=secret))
    state = trainer.init(0, BATCH)
    clean = X @ state.parties["client"].params["smashed"]
    after, _ = trainer.step(state, BATCH)
    view = seen(after)
    assert abs(np.std(view - clean) / SIGMA - 1) < ERROR
    left = np.std(view - what_the_receiver_computes(state, 0) - clean)
    if secret:
        # Its guess is noise like any other, and comes on top.
        assert abs(left / (np.sqrt(2) * SIGMA) - 1) < ERROR
    else:
        assert left < 1e-6


@both
def test_two_calls_and_two_batches_of_one_call_draw_different_noise(interpreter):
    noises = []
    topology = echoed(noises)
    batch = {"x": np.ones((256, 8), np.float32), "y": np.ones((256, 8), np.float32)}
    make = INTERPRETERS[interpreter]
    trainer = make(topology, {}, links={"smashed": noisy()})
    state = trainer.init(0, batch)
    a, b = (trainer.predict(state, {"x": batch["x"]})["out"] for _ in range(2))
    trainer.evaluate(state, [batch, batch])
    assert len(noises[0]) == 512
    error = 5 / np.sqrt(2 * a.size)
    for one, other in (
        (a, b),
        (noises[0][:256], noises[0][256:]),
        (a, noises[0][:256]),
    ):
        assert abs(np.std(one - other) / (np.sqrt(2) * SIGMA) - 1) < error
    # Whoever gives the key of the call has it again.
    again = [
        trainer.predict(state, {"x": batch["x"]}, noise=jax.random.key(1))["out"]
        for _ in range(2)
    ]
    assert (again[0] == again[1]).all()


@both
def test_public_noise_is_what_it_was_and_needs_no_secret(interpreter):
    trainer = trainer_of(interpreter, noisy(secret=False))
    state = trainer.init(0, BATCH)
    assert all(p.secret is None for p in state.parties.values())
    predictions = [trainer.predict(state, {"x": X})["y_hat"] for _ in range(2)]
    assert (predictions[0] == predictions[1]).all()
    ours = {"client": jax.random.key(7)}
    refused("`secrets` names `client`", lambda: jsplit.with_secrets(state, ours))


@pytest.mark.parametrize("microbatches", [1, 2])
def test_with_one_secret_fused_equals_messages_and_each_micro_batch_draws_anew(
    microbatches,
):
    states = []
    for interpreter in INTERPRETERS:
        make = INTERPRETERS[interpreter]
        trainer = make(
            pair(),
            optax.sgd(0.1),
            links={"smashed": (noisy(), noisy(0.01))},
            microbatches=microbatches,
        )
        keys = {"client": jax.random.key(7), "server": jax.random.key(8)}
        state = jsplit.with_secrets(trainer.init(0, BATCH), keys)
        for _ in range(STEPS):
            state, _ = trainer.step(state, BATCH)
        states.append(state)
    one, other = ([p.params for p in s.parties.values()] for s in states)
    close(one, other, 1e-7)
    assert (seen(states[0]) == seen(states[1])).all()
    if microbatches == 2:
        # Each half of one value twice: what differs is noise, of two halves.
        twice = {"x": np.concatenate([X, X]), "y": np.concatenate([X, X])[:, :1]}
        still = jsplit.messages(
            pair(),
            optax.sgd(0.0),
            links={"smashed": (noisy(), None)},
            microbatches=2,
        )
        state = still.init(0, twice)
        clean = X @ state.parties["client"].params["smashed"]
        whole = jsplit.with_secrets(state, {"client": jax.random.key(7)})
        last = seen(still.step(whole, twice)[0]) - clean
        key = jax.random.fold_in(jax.random.key(7), 0)
        name = crc32(b"activation/smashed/client/server")
        first, second = (
            SIGMA
            * jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, micro), name), clean.shape
            )
            for micro in range(2)
        )
        close(last, second, 1e-5)
        assert np.std(last - first) > SIGMA


@both
def test_a_step_replayed_from_a_checkpoint_repeats_the_bits(interpreter, tmp_path):
    trainer = trainer_of(interpreter, noisy())
    state, _ = trainer.step(trainer.init(0, BATCH), BATCH)
    jsplit.save(tmp_path, state)
    other = trainer.init(0, BATCH)
    assert (other.parties["client"].secret != state.parties["client"].secret).all()
    back = jsplit.restore(tmp_path, other)
    new, again = (trainer.step(s, BATCH)[0] for s in (state, back))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), new, again))
    # A step with the other's secret is another one.
    assert (seen(trainer.step(other, BATCH)[0]) != seen(state)).any()


def test_a_checkpoint_without_the_secret_is_refused_and_so_is_one_too_many(tmp_path):
    plain, secret = (trainer_of("fused", noisy(secret=s)) for s in (False, True))
    without, having = plain.init(0, BATCH), secret.init(0, BATCH)
    jsplit.save(tmp_path / "old", without)
    jsplit.save(tmp_path / "new", having)
    refused(
        "client.npz has no secret key of its party",
        lambda: jsplit.restore(tmp_path / "old", having),
    )
    refused(
        "client.npz has a secret key of its party",
        lambda: jsplit.restore(tmp_path / "new", without),
    )
    refused("`client` has no secret key", lambda: secret.step(without, BATCH))
    refused("`client` has a secret key", lambda: plain.step(having, BATCH))


def test_a_partys_checkpoint_holds_its_own_secret_alone(tmp_path):
    trainer = jsplit.fused(
        pair(), optax.sgd(0.1), links={"smashed": (noisy(), noisy())}
    )
    state = trainer.init(0, BATCH)
    words = {
        p: np.asarray(jax.random.key_data(x.secret)).tobytes()
        for p, x in state.parties.items()
    }
    assert len({*words.values()}) == 2
    for file in jsplit.save(tmp_path, state):
        held = file.read_bytes()
        assert [p for p in words if words[p] in held] == [file.stem]


format_, pp = "{}".format, pprint.pformat


def test_a_secret_is_shown_by_nothing():
    trainer = trainer_of("fused", noisy())
    state = trainer.init(0, BATCH)
    words = [str(w) for w in jax.random.key_data(state.parties["client"].secret)]
    wrong = state._replace(parties={"client": state.parties["client"]})
    with pytest.raises(ValueError) as error:
        trainer.step(wrong, BATCH)
    own = state.parties["client"]
    fields = own._asdict()
    with pytest.raises(ValueError) as other:
        # Of JAX: another tree in its place, whose text it shows.
        jax.tree.map(lambda x, y: x, [1], own)
    record = logging.LogRecord("", 0, "", 0, "%s %r", (own, fields), None)
    texts = [
        f(x) for x in (own, fields, state, [own]) for f in (repr, str, format_, pp)
    ]
    texts += [str(e.value) for e in (error, other)] + [record.getMessage()]
    texts += [repr(trainer), str(jax.tree.structure(state)), f"{fields}", pp([fields])]
    assert not [w for w in words for text in texts if w in text]
    assert "secret=<hidden>" in repr(state) and "'secret': <hidden>" in pp(fields)
    # It is the same dictionary but for its text, also to JAX.
    plain = dict(zip(own._fields, own, strict=True))
    assert fields == plain and fields["secret"] is own.secret
    one, two = (jax.tree.leaves_with_path(x) for x in (fields, plain))
    assert [p for p, _ in one] == [p for p, _ in two]
    assert type(jax.tree.map(lambda x: x, fields)) is type(fields)


def test_init_is_a_function_of_the_key_in_all_but_secrets():
    trainer = trainer_of("fused", noisy())
    states = [trainer.init(3, BATCH) for _ in range(2)]
    secrets = [s.parties["client"].secret for s in states]
    assert secrets[0] != secrets[1]
    bare = [{p: x._replace(secret=None) for p, x in s.parties.items()} for s in states]
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), *bare))
    key = jax.random.key(7)
    given = trainer.init(3, BATCH, secrets={"client": key})
    assert given.parties["client"].secret == key


def test_what_the_system_draws_is_refused_within_a_program():
    trainer = trainer_of("fused", noisy())
    state = trainer.init(0, BATCH)
    keys = jax.random.split(jax.random.key(0), 2)
    fields = {"x": X}

    def over(keys):
        return jax.lax.scan(lambda c, k: (c, trainer.predict(state, fields)), 0, keys)

    for call in (
        lambda: jax.jit(lambda: trainer.predict(state, fields))(),
        lambda: jax.jit(lambda s: trainer.evaluate(s, BATCH).loss)(state),
        lambda: jax.vmap(lambda x: trainer.predict(state, {"x": x}))(jnp.stack([X, X])),
        lambda: over(keys),
    ):
        refused("`noise` must be given within jit, vmap or scan", call)
    for call in (
        lambda: jax.jit(lambda: trainer.init(0, BATCH))(),
        lambda: jax.vmap(lambda k: trainer.init(k, BATCH))(keys),
    ):
        refused("`secrets` must be given within jit, vmap or scan", call)

    # With keys of one's own each lane has its own noise.
    made = jax.vmap(lambda k, s: trainer.init(k, BATCH, secrets={"client": s}))
    states = made(keys, keys)
    found = jax.vmap(lambda s, k: trainer.predict(s, fields, noise=k)["y_hat"])
    outputs = found(states, keys)
    alone = trainer.predict(state_of(states, 1), fields, noise=keys[1])["y_hat"]
    close(outputs[1], alone, 1e-5)
    assert (outputs[0] != outputs[1]).any()


def state_of(states, lane):
    return jax.tree.map(lambda x: x[lane], states)


def test_a_step_of_inference_never_draws_what_training_drew():
    """Else a value sent both ways would be the same noise twice, and their difference clean."""
    trainer = trainer_of("fused", noisy())
    state = trainer.init(0, BATCH, secrets={"client": jax.random.key(7)})
    after, _ = trainer.step(state, BATCH)
    clean = X @ state.parties["client"].params["smashed"]
    drawn = np.asarray(seen(after) - clean).ravel()
    outputs = []
    for number in range(3):
        key = jax.random.wrap_key_data(jnp.array([0, number], jnp.uint32))
        top = state.parties["server"].params["y_hat"]
        found = trainer.predict(state, {"x": X}, noise=key)["y_hat"] - clean @ top
        outputs.append(np.asarray(found).ravel())
        assert (
            abs(
                np.corrcoef(outputs[-1], (drawn.reshape(SIZE, WIDTH) @ top)[:, 0])[0, 1]
            )
            < 0.6
        )
    assert (outputs[0] != outputs[1]).any() and (outputs[1] != outputs[2]).any()


def test_keys_that_are_none_and_secrets_that_are_not_secret_are_refused():
    trainer = jsplit.fused(
        pair(), optax.sgd(0.1), links={"smashed": (noisy(), noisy())}
    )
    state = trainer.init(0, BATCH)
    key = jax.random.key(7)

    def give(**secrets):
        return lambda: jsplit.with_secrets(state, secrets)

    refused("two that are the same", give(client=key, server=key))
    refused("the key that all parties know", give(client=state.parties["client"].key))
    refused("`secrets` names `lab`", give(lab=key))
    refused("`secrets` of `client` must be key<fry>[]", give(client=7))
    refused("got key<rbg>[]", give(client=jax.random.key(7, impl="rbg")))
    refused("got key<fry>[2]", give(client=jax.random.split(key)))
    refused(
        "`noise` must be one PRNG key",
        lambda: trainer.predict(state, {"x": X}, noise=3),
    )
    refused("`state` must be", lambda: jsplit.with_secrets({}, {}))


def test_in_a_chain_each_link_has_a_key_of_its_own_and_quantize_stays_alone_as_it_was():
    chained = jsplit.chain(noisy(), noisy(), jsplit.compress.quantize(8))
    assert chained.secret and not jsplit.chain(jsplit.compress.quantize(8)).secret
    chained = jsplit.chain(noisy(), noisy())
    value = jnp.zeros((64, 64))
    payload, _ = chained.encode(chained.init(value), value, jax.random.key(0))
    # Two of the same key would add up to twice the deviation.
    assert abs(np.std(payload) / (np.sqrt(2) * SIGMA) - 1) < 5 / np.sqrt(2 * value.size)


def test_a_secret_link_with_memory_and_a_mechanism_keeps_both():
    made = noisy(mechanism="gaussian", strengths={"sigma": 1.0})
    both_of = jsplit.chain(made, jsplit.compress.quantize(8))
    assert both_of.mechanism == ("gaussian", None)
    assert both_of.strengths == {"sigma": 1.0}
    assert jsplit.chain(noisy(), noisy()).mechanism is None
    other = noisy(strengths={"sigma": 2.0})
    refused("two strengths `sigma`", lambda: jsplit.chain(made, other))
    assert hash(made) != hash(other)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_under_a_loss_scale_noise_on_cotangents_has_its_stated_deviation(dtype):
    """A link that states a number sees cotangents without the scale, in float32."""
    seen_dtypes = []

    def encode(value, key):
        seen_dtypes.append(value.dtype)
        noise = 0.01 * jax.random.normal(key, value.shape)
        return value + noise.astype(value.dtype)

    link = jsplit.stateless(encode, lambda p, like: p, secret=True)
    bottom = jsplit.segment(
        lambda w, x: (x @ w).astype(dtype),
        init=lambda key, x: jnp.full((8, 4), 0.1),
        inputs=["x"],
    )
    top = jsplit.segment(
        lambda w, h: h.astype("float32") @ w,
        init=lambda key, h: jnp.full((4, 1), 0.1),
        inputs=["h"],
    )
    topology = jsplit.vanilla(
        bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )
    for interpreter in INTERPRETERS:
        moved = []
        for scale in (None, 1024.0):
            trainer = INTERPRETERS[interpreter](
                topology,
                optax.sgd(0.1),
                links={"smashed": (None, link)},
                loss_scale=scale,
            )
            state = trainer.init(0, BATCH, secrets={"server": jax.random.key(8)})
            after, info = trainer.step(state, BATCH)
            moved.append(after.parties["client"].params["smashed"])
            if interpreter == "messages":
                cost = jsplit.cost(
                    topology, BATCH, links={"smashed": (None, link)}, loss_scale=scale
                )
                assert cost.messages == info.messages
                wide = 4 if scale or dtype == "float32" else 2
                assert info.messages[1].bytes == SIZE * 4 * wide
        tolerance = 1e-6 if dtype == "float32" else 2e-3
        close(*moved, tolerance)
    assert {*map(str, seen_dtypes)} >= {"float32"}
