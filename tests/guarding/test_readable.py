"""What a bottom's last layer drops hides nothing of what it learns from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.guarding import Guard, begin, chain_rule, coherence, judge, measured, note
from jsplit.guarding.readable import readable

KEYS = jax.random.split(jax.random.key(0), 6)
H = jax.nn.relu(jax.random.normal(KEYS[0], (32, 8)))
PUSHED = 0.3 * jax.random.normal(KEYS[1], H.shape) + 1
JUNK = 30 * jax.random.normal(KEYS[2], H.shape)


NOTE = jax.jit(note)
NOISE = jax.random.normal(KEYS[3], H.shape)


def pushed(sent, returned, *answers):
    gave = answers[1] if answers else None
    return NOTE(begin(sent, gave), sent, returned, *answers)


@pytest.mark.parametrize(
    "junk", [JUNK, jnp.nan, 1e38 * jnp.sign(JUNK)], ids=["large", "nan", "1e38"]
)
def test_what_comes_to_dead_places_hides_nothing(junk):
    clean = pushed(H, jnp.where(H == 0, 0, PUSHED))
    hidden = pushed(H, jnp.where(H == 0, junk, PUSHED))
    for tally in (clean, hidden):
        assert judge(tally, Guard(), "h", 0, 0, answered=False).suspicious
    assert np.allclose(clean.total[1], hidden.total[1], atol=1e-4)
    finite = bool(jnp.isfinite(junk).all())
    assert float(hidden.spoiled) == 1 - finite and float(clean.spoiled) == 0
    if finite:
        # By all places alone it would be hidden.
        assert abs(coherence(jnp.where(H == 0, junk, PUSHED))) < 0.05


def test_who_hides_at_places_that_are_not_dead_is_seen_among_all():
    # A link that sends the largest numbers alone gives zeros that learn all the same.
    live = 0.1 * NOISE
    tally = pushed(H, jnp.where(H == 0, PUSHED, live))
    assert judge(tally, Guard(), "h", 0, 0, answered=False).suspicious
    # And the live ones alone show nothing.
    assert float(coherence(jnp.where(H == 0, 0, live))) < 0.05


@pytest.mark.parametrize(
    "ends",
    [lambda x: jnp.clip(4 * x, 0, 6), lambda x: jnp.maximum(x, -0.5)],
    ids=["two ends", "one end"],
)
def test_dead_are_the_ends_of_an_activation_and_nothing_of_one_without(ends):
    x = jax.random.normal(KEYS[4], H.shape)
    all_places, live = readable(ends(x), jnp.ones_like(x))
    assert all_places.all()
    slope = jax.vmap(jax.vmap(jax.grad(ends)))(x)
    assert np.array_equal(live, slope != 0)
    assert readable(x, x).all()


def test_an_honest_cotangent_at_dead_places_does_not_stand_for_the_chain_rule():
    w, gave = PUSHED[:8] - 1, NOISE
    honest, answer = gave @ w.T, H @ w
    hijacked = jnp.where(H == 0, 100 * honest, JUNK)
    least = Guard().chain_rule
    assert float(chain_rule(H, hijacked, answer, gave)) > least
    assert measured(pushed(H, honest, answer, gave))[2] > least
    tally = pushed(H, hijacked, answer, gave)
    assert measured(tally)[2] < least
    assert judge(tally, Guard(), "h", 0, 0, answered=True).suspicious
    # Nor does junk there stand for an excess of none: that of the live ones counts.
    drowned = jnp.where(H == 0, JUNK, PUSHED)
    assert measured(pushed(H, drowned, answer, gave))[1] > 0.3 > coherence(drowned)


def test_what_is_not_finite_is_left_out_and_the_rest_is_judged():
    # A record none of whose numbers are finite is as if it had not been there.
    some = measured(pushed(PUSHED, PUSHED.at[6:].set(jnp.nan)))[0]
    six = PUSHED[:6]
    assert np.allclose(some, measured(pushed(six, six))[0], atol=1e-5)
    # Of answers with such a number, the chain rule is that of the others.
    w = PUSHED[:8] - 1
    answer, gave = PUSHED @ w, NOISE.at[:, 3].set(0)
    tally = pushed(PUSHED, JUNK, answer.at[0, 3].set(jnp.nan), gave)
    wanted = chain_rule(PUSHED, JUNK, answer.at[:, 3].set(0), gave)
    assert np.allclose(measured(tally)[2], wanted, atol=1e-5)
    assert float(tally.spoiled) == 1
    # So is one of what the party itself gave.
    tally = pushed(PUSHED, JUNK, PUSHED @ w, NOISE.at[5, 2].set(jnp.nan))
    wanted = chain_rule(PUSHED, JUNK, PUSHED @ w, NOISE.at[5, 2].set(0))
    assert np.allclose(measured(tally)[2], wanted, atol=1e-5)


def test_an_answer_too_large_to_be_added_up_does_not_switch_the_chain_rule_off():
    # A tail that begins with a ReLU has no use for it, and gives 0 for it.
    answer, gave = (
        (PUSHED @ (PUSHED[:8] - 1)).at[:, 3].set(-3e38),
        NOISE.at[:, 3].set(0),
    )
    tally = pushed(PUSHED, JUNK, answer, gave)
    assert float(measured(tally)[2]) < Guard().chain_rule
    assert judge(tally, Guard(), "h", 0, 0, answered=True).suspicious
