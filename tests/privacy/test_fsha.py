"""A malicious server makes a client's bottom its encoder, in a vanilla split and in a U-shape."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jsplit
from jsplit.privacy import Hijackers, fsha, hijack
from jsplit.privacy.attacks.inputs.hijackers import hijackers_for
from jsplit.privacy.attacks.inputs.hijacking import (
    Client,
    Hijacker,
    hijacked_step,
    start_client,
    start_hijacker,
)
from tests.privacy.seen import dense

X = jnp.asarray(load_digits(return_X_y=True)[0].reshape(-1, 8, 8) / 8 - 1, "float32")
FLAT = X.reshape(len(X), 64)
MINE = Hijackers(*(dense(s, "x") for s in ([64, 6], [6, 64], [6, 5, 1])))
RATE = 0.1


def first(client):
    """Both sides before their first step, and the first batches."""
    key = jax.random.key(3)
    hijacker = Hijacker(MINE, (1e-3, 1e-3), 10.0)
    theirs = start_client(client, FLAT[:16], key)
    own = start_hijacker(hijacker, FLAT, jnp.zeros((16, 6)), key)
    return hijacker, theirs, own


def after(client):
    hijacker, theirs, own = first(client)
    batches = FLAT[:16], FLAT[16:32]
    return hijacked_step(client, hijacker, theirs, own, *batches, jax.random.key(0))


BOTTOM = dense([64, 6], "record", "h")
CLIENT = Client(BOTTOM, optax.sgd(RATE))


def given(segment, params, inputs, name):
    def apply(p, h):
        return segment.apply(p, {}, None, h, train=False)[0]

    return jsplit.segment(apply, init=lambda key, h: params, inputs=[inputs], name=name)


def trained_split(topology, batch):
    still = dict.fromkeys(topology.parties, optax.set_to_zero())
    trainer = jsplit.fused(topology, still | {"client": optax.sgd(RATE)})
    state, _ = trainer.step(trainer.init(0, batch), batch)
    return state.parties["client"].params["h"]


def judge():
    _, theirs, own = first(CLIENT)
    return theirs.params, own.params[1]


def test_a_client_of_a_split_cannot_tell_that_its_server_is_a_discriminator():
    """The same update of the bottom, to rounding, as in a vanilla split of other segments."""
    bottom, score = judge()
    topology = jsplit.vanilla(
        given(BOTTOM, bottom, "record", "h"),
        given(MINE.discriminator, score, "h", "output"),
        loss=lambda output, label: output[:, 0],
    )
    found = trained_split(topology, {"record": FLAT[:16], "label": jnp.zeros(16)})
    expected = after(CLIENT)[0].params
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected
    )
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, bottom)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_the_body_of_a_u_shape_hijacks_as_well_as_a_server_with_the_labels():
    """It need not derive what it sends back from what the tail sent it."""
    bottom, _ = judge()
    agreed = jsplit.u_shaped(
        given(BOTTOM, bottom, "record", "h"),
        jsplit.segment(lambda h: h[:, :2], inputs=["h"], name="k"),
        given(dense([2, 3], "k"), [(jnp.ones((2, 3)), jnp.zeros(3))], "k", "output"),
        loss=optax.softmax_cross_entropy_with_integer_labels,
    )
    hijacker = hijack(
        *((6,), (64,), lambda h: h[:, :2]),
        inputs=["h", "public"],
        name="k",
        networks=MINE,
        learning_rate=1e-3,
        learning_rate_judge=1e-3,
        gradient_penalty=10.0,
    )
    node = jsplit.Node("k", hijacker.segment, party="server", inputs=["h", "public"])
    topology = agreed.replace("server", [node], holds=["public"])
    trainer = jsplit.fused(topology, optax.sgd(RATE))
    batch = {"record": FLAT[:16], "public": FLAT[16:32], "label": jnp.arange(16) % 3}
    state = trainer.init(0, batch)
    # The networks of the comparison, in the place of those that were drawn.
    server = state.parties["server"]
    own = {"k": {**server.state["k"], "hijacker": first(CLIENT)[2]}}
    parties = {**state.parties, "server": server._replace(state=own)}
    state, _ = trainer.step(state._replace(parties=parties), batch)
    theirs, mine = after(CLIENT)

    def same(a, b):
        return np.testing.assert_allclose(a, b, atol=1e-6)

    jax.tree.map(same, state.parties["client"].params["h"], theirs.params)
    # Of its own it learns the same: the discriminator's penalty draws from another key.
    found = state.parties["server"].state["k"]
    jax.tree.map(same, found["hijacker"].params[0], mine.params[0])
    guess = hijacker.reconstructed(found, jnp.ones((5, 6)))
    assert guess.shape == (5, 64)


def test_a_penalty_of_the_clients_adds_to_what_it_was_sent():
    plain, _ = after(CLIENT)
    with_penalty, _ = after(CLIENT._replace(penalty=lambda x, h: 0.5 * (h**2).sum()))
    start = start_client(CLIENT, FLAT[:16], jax.random.key(3))
    h, _ = BOTTOM.apply(start.params, {}, None, FLAT[:16])
    expected = plain.params[0][0] - RATE * FLAT[:16].T @ h
    np.testing.assert_allclose(with_penalty.params[0][0], expected, atol=1e-4)


def test_the_hijacker_learns_to_tell_the_two_sides_apart():
    """Its discriminator goes up on its own side and down on the client's, as the authors'."""
    hijacker, theirs, own = first(CLIENT)
    hijacker = hijacker._replace(gradient_penalty=0.0)
    h, _ = BOTTOM.apply(theirs.params, {}, None, FLAT[:16])

    def gap(pair, score):
        mine, _ = MINE.encoder.apply(pair["encoder"], {}, None, FLAT[16:32])

        def run(h):
            return MINE.discriminator.apply(score, {}, None, h)[0].mean()

        return float(run(h) - run(mine))

    before = gap(own.params[0], own.params[1])
    batches = FLAT[:16], FLAT[16:32]
    _, then = hijacked_step(CLIENT, hijacker, theirs, own, *batches, jax.random.key(0))
    assert gap(own.params[0], then.params[1]) > before


def test_a_step_of_the_hijackers_pair_makes_the_error_of_public_records_smaller():
    """It is a step of Adam down the gradient of that error, and of nothing else."""
    hijacker, _, own = first(CLIENT)
    _, then = after(CLIENT)

    def error(pair):
        mine, _ = MINE.encoder.apply(pair["encoder"], {}, None, FLAT[16:32])
        guess, _ = MINE.decoder.apply(pair["decoder"], {}, None, mine)
        return jnp.mean((guess - FLAT[16:32]) ** 2)

    pair, optimizer = own.params[0], optax.adam(hijacker.rates[0])
    updates, _ = optimizer.update(jax.grad(error)(pair), optimizer.init(pair))
    # Encoder and decoder; a gradient of 0 but for rounding may have either sign.
    for found, expected in zip(
        *map(jax.tree.leaves, (then.params[0], optax.apply_updates(pair, updates))),
        strict=True,
    ):
        assert float((jnp.abs(found - expected) < 1e-4).mean()) > 0.98


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_the_penalty_pulls_the_slope_of_the_discriminator_to_one(length):
    hijacker, theirs, own = first(CLIENT)
    line = dense([6, 1], "x")
    nets = MINE._replace(discriminator=line)
    hijacker = hijacker._replace(nets=nets, gradient_penalty=1e4)
    own = start_hijacker(hijacker, FLAT, jnp.zeros((16, 6)), jax.random.key(3))
    weight = jnp.ones((6, 1)) * length / 6**0.5
    own = own._replace(params=(own.params[0], [(weight, jnp.zeros(1))]))
    batches = FLAT[:16], FLAT[16:32]
    _, then = hijacked_step(CLIENT, hijacker, theirs, own, *batches, jax.random.key(0))
    found = jnp.linalg.norm(then.params[1][0][0])
    assert (found > length) == (length < 1)


def test_the_control_is_of_a_bottom_that_was_not_hijacked():
    """So it differs where the bottom moved, and where it did not it is the value itself."""

    def found(optimizer):
        given = BOTTOM, FLAT[:40], FLAT[40:80]
        return fsha(*given, optimizer=optimizer, networks=MINE, steps=2).score

    still, moved = found(optax.set_to_zero()), found(optax.sgd(1.0))
    np.testing.assert_allclose(still.control, still.value, rtol=1e-6)
    assert abs(moved.control / moved.value - 1) > 1e-3


def test_networks_fit_records_and_activations_of_any_size():
    for activation, record in (
        ((4, 4, 3), (8, 8)),
        ((7, 7, 5), (28, 28, 1)),
        ((5, 5, 2), (9, 9, 3)),
        ((8, 8, 4), (8, 8)),
        ((6,), (8, 8)),
    ):
        nets = hijackers_for(activation, record, 2)
        x, h = jnp.zeros((2, *record)), jnp.zeros((2, *activation))
        for net, read, shape in (
            (nets.encoder, x, activation),
            (nets.decoder, h, record),
            (nets.discriminator, h, (1,)),
        ):
            params, _ = jax.eval_shape(net.init, jax.random.key(0), read)

            def run(p, x, net=net):
                return net.apply(p, {}, None, x)[0]

            assert jax.eval_shape(run, params, read).shape == (2, *shape)


def test_an_encoder_is_linear_and_both_ends_are_those_of_what_they_imitate():
    x, y = jax.random.normal(jax.random.key(0), (2, 3, 8, 8))

    def encoded(positive, x):
        net = hijackers_for((4, 4, 3), (8, 8), 2, (-1.0, 3.0), positive).encoder
        params, _ = net.init(jax.random.key(1), x)
        return net.apply(params, {}, None, x)[0]

    plain = partial(encoded, False)
    np.testing.assert_allclose(
        plain(x + y) + plain(0 * x), plain(x) + plain(y), atol=1e-5
    )
    np.testing.assert_array_equal(encoded(True, x), jax.nn.relu(plain(x)))
    assert (plain(x) < 0).any()
    decoder = hijackers_for((4, 4, 3), (8, 8), 2, (-1.0, 3.0)).decoder
    h = 100 * jax.random.normal(jax.random.key(2), (3, 4, 4, 3))
    params, _ = decoder.init(jax.random.key(1), h)
    made = decoder.apply(params, {}, None, h)[0]
    assert made.min() == -1 and made.max() == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"public": None}, "`public`"),
        ({"public": FLAT[:, :5]}, r"shape \(64,\)"),
        ({"networks": MINE._replace(decoder=MINE.encoder)}, r"`networks.decoder` must"),
        ({"data_range": (0, 1)}, "`data_range`"),
        ({"steps": 0}, "`steps`"),
        ({"width": 0}, "`width`"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    given = {"record": FLAT[:40], "public": FLAT[40:], "steps": 1, "networks": MINE}
    with pytest.raises(ValueError, match=says):
        fsha(BOTTOM, **given | change)


def conv_bottom():
    form = ("NHWC", "HWIO", "NHWC")

    def init(key, x):
        a, b = jax.random.split(key)
        one = jax.random.normal(a, (3, 3, 1, 16)) / 2, jnp.zeros(16)
        return one, (jax.random.normal(b, (3, 3, 16, 32)) / 9, jnp.zeros(32))

    def apply(params, x):
        h = x[..., None]
        for (weight, bias), stride in zip(params, (1, 2), strict=True):
            h = jax.lax.conv_general_dilated(
                h, weight, (stride, stride), "SAME", dimension_numbers=form
            )
            h = jax.nn.relu(h + bias)
        return h

    return jsplit.segment(apply, init=init, inputs=["x"])


@pytest.mark.slow
def test_a_hijacked_client_gives_its_pictures_away_and_one_that_is_not_does_not():
    found = fsha(
        *(conv_bottom(), X[:800], X[800:]),
        optimizer=optax.adam(1e-3),
        width=16,
        data_range=(-1, 1),
        steps=500,
        learning_rate=1e-3,
        learning_rate_judge=1e-3,
    )
    score = found.score
    assert score.beats_chance and score.value < 0.65 * score.chance
    assert score.control > score.chance
    way = [score.more[f"MSE after {n} steps"] for n in (0, 125, 250, 375)]
    assert sorted(way, reverse=True) == way and score.value < way[-1]


RANGE = "`data_range` must be the smallest"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data_range": (1, 0)}, RANGE),
        ({"data_range": (0, float("nan"))}, RANGE),
        ({"data_range": (0, 1, 2)}, RANGE),
        ({"data_range": 3}, RANGE),
        ({"positive": "no"}, "`positive` must be True or False"),
    ],
)
def test_a_hijacker_does_not_end_in_what_is_no_range(options, match):
    """NaN would be its every guess, and a range that is turned round would be learned."""
    with pytest.raises(ValueError, match=match):
        hijack((3,), (4,), lambda h: h, inputs=["h", "x"], width=2, **options)
