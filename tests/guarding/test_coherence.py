"""Whether the cotangents of all records point the same way; windows, and what is said of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit import guarding
from jsplit.guarding import (
    Alarms,
    Evidence,
    Guard,
    begin,
    judge,
    measured,
    note,
    one_way,
)
from tests.training.common import refused

# One program: op by op, each shape of each operation is compiled for itself.
coherence = jax.jit(guarding.coherence)


def test_it_is_the_mean_product_of_two_records_over_the_mean_square():
    g = np.random.default_rng(0).normal(size=(7, 3)) + 0.5
    pairs = [g[i] @ g[j] for i in range(7) for j in range(7) if i != j]
    wanted = np.mean(pairs) / (g**2).sum(1).mean()
    assert np.isclose(coherence(jnp.asarray(g, "float32")), wanted, atol=1e-6)
    for scale in (1e-30, 1e30):
        scaled = jnp.asarray(g, "float32") * scale
        assert np.isclose(coherence(scaled), wanted, atol=1e-6)


def test_of_independent_cotangents_of_mean_zero_it_is_zero_in_the_mean():
    keys = jax.random.split(jax.random.key(0), 400)
    found = jax.vmap(lambda k: coherence(jax.random.normal(k, (8, 5))))(keys)
    assert abs(found.mean()) < 4 * found.std() / 20
    # With the product of each record by itself it would be 1/8.
    assert 4 * found.std() / 20 < 1 / 16


def test_where_the_first_bias_of_an_honest_server_is_learned_it_is_zero():
    keys = jax.random.split(jax.random.key(1), 4)
    h, w, y = (
        jax.random.normal(k, s)
        for k, s in zip(keys, ((64, 5), (5, 3), (64,)), strict=False)
    )

    def loss(h, b):
        return ((jnp.tanh(h @ w + b).sum(-1) - y) ** 2).mean()

    both = jax.jit(jax.grad(loss, (0, 1)))
    learn = jax.jit(
        lambda b: jax.lax.fori_loop(
            0, 3000, lambda _, b: b - 0.05 * jax.grad(loss, 1)(h, b), b
        )
    )
    b = learn(jnp.zeros(3))
    first = coherence(both(h, b + 3)[0])
    g, of_bias = both(h, b)
    # The law of the docstring, at any bias.
    far = both(h, b + 1)
    assert np.allclose(far[0].sum(0), w @ far[1], atol=1e-6)
    assert jnp.abs(of_bias).max() < 1e-4
    assert first > 0.1
    assert np.isclose(coherence(g), -1 / 63, atol=1e-3)


def test_cotangents_that_are_opposed_are_pushed_no_way():
    for pair in ((-0.5, 0.9), (0.9, -0.5)):
        assert one_way(*map(jnp.float32, pair)) == 0


def test_a_window_is_that_of_its_steps_whatever_their_scales():
    rows = jax.random.normal(jax.random.key(0), (4, 6, 3)) + 0.3
    rms = jnp.sqrt((rows**2).sum(-1).mean(-1))
    unit = (rows / rms[:, None, None]).reshape(24, 3)
    scales = jnp.array([1e-20, 1.0, 1e3, 1e20])[:, None, None]
    tally, _ = jax.lax.scan(
        lambda t, g: (note(t, g, g), None), begin(rows[0]), rows * scales
    )
    found = judge(tally, Guard(), "h", 3, 6, answered=False)
    directions = unit / jnp.linalg.norm(unit, axis=1, keepdims=True)
    wanted = np.sqrt(coherence(unit) * coherence(directions))
    assert np.isclose(found.statistic, wanted, atol=1e-5)
    assert (found.first, found.last, found.threshold) == (3, 6, Guard().one_way)


@pytest.mark.parametrize("answered", [False, True])
def test_steps_that_show_nothing_count_for_nothing(answered):
    u, w, gave = (
        jax.random.normal(jax.random.key(i), s)
        for i, s in enumerate(((6, 3), (3, 3), (6, 3)))
    )
    step = (u, gave @ w.T, u @ w, gave)
    seen = note(begin(u, gave), *step)
    more = note(seen, u, jnp.zeros_like(u), u @ w, gave)
    more = note(more, u, jnp.full_like(u, jnp.nan), u @ w, gave)
    one, other = (judge(t, Guard(), "u", 0, 2, answered=answered) for t in (seen, more))
    assert one == other and np.isfinite(one.statistic)
    # A window of such steps alone is no alarm.
    empty = note(begin(u, gave), u, jnp.zeros_like(u), u @ w, gave)
    found = judge(empty, Guard(), "u", 0, 0, answered=answered)
    assert np.isnan(found.statistic) and not found.suspicious
    assert "nothing to judge by" in str(found)


def test_each_test_is_suspicious_on_its_own_side():
    above = [(t, False, True) for t in ("one way", "excess coherence")]
    for test, low, high in [*above, ("chain rule", True, False)]:
        for statistic, wanted in ((0.01, low), (0.9, high)):
            found = Evidence("h", test, 0, 1, statistic, 0.3)
            assert found.suspicious == wanted
            assert ("suspicious" in str(found)) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": 0}, "`window`"),
        ({"window": 2.5}, "`window`"),
        ({"one_way": 0}, "`one_way` must be a number between 0 and 1, got 0"),
        ({"alone": 0}, "`alone`"),
        ({"chain_rule": float("nan")}, "`chain_rule`"),
        ({"chain_rule": "high"}, "`chain_rule`"),
        ({"excess": True}, "`excess`"),
    ],
)
def test_a_guard_of_other_numbers_is_refused(given, message):
    refused(message, lambda: Guard(**given))


def test_what_is_added_to_an_honest_cotangent_is_in_excess_of_what_was_given():
    keys = jax.random.split(jax.random.key(0), 3)
    u, w, noise = (jax.random.normal(k, (64, 8)) for k in keys)
    turn, _ = jnp.linalg.qr(w[:8])

    def excess(gave, added=0.0):
        returned = gave @ turn.T + added * jnp.eye(8)[0]
        tally = note(begin(u, gave), u, returned, u @ turn, gave)
        return float(measured(tally)[1]), tally

    # A turn leaves lengths and angles, so an honest excess is none, even where what was
    # given is itself one way, as of a regression that begins far off.
    for gave in (noise, noise + 1):
        assert excess(gave)[0] < 1e-5
    assert excess(noise, 1.5)[0] > 0.1
    # By itself the honest one would be suspicious.
    assert judge(excess(noise + 1)[1], Guard(), "h", 0, 0, answered=False).suspicious
    # What was given with a sum of 0 is less than alike, and makes nothing else suspicious.
    opposed = noise - noise.mean(0)
    tally = note(begin(u, opposed), u, w, u @ turn, opposed)
    assert np.isclose(measured(tally)[1], coherence(w), atol=1e-4)


def test_an_alarm_takes_so_many_suspicious_windows_in_a_row():
    alarms = Alarms(Guard(answered=2, alone=3))
    given = [("one way", x) for x in (0.5, 0.5, 0.01, 0.5, 0.5, 0.5, 0.5)]
    found = [alarms.add(Evidence("h", t, 0, 1, x, 0.11)) for t, x in given]
    assert found == [False] * 4 + [True] * 3
    # Windows of another value count by themselves, and with answers fewer are enough.
    given = [("excess coherence", 0.5), ("chain rule", 0.1)]
    found = [alarms.add(Evidence("up", t, 0, 1, x, 0.3)) for t, x in given]
    assert found == [False, True]


def test_a_window_of_nothing_ends_no_row_and_an_alarm_of_one_value_none_of_another():
    alarms = Alarms(Guard(alone=2))
    given = [Evidence("h", "one way", 0, 1, x, 0.11) for x in (0.5, np.nan, 0.5)]
    assert [alarms.add(e) for e in given] == [False, False, True]
    alarms = Alarms(Guard(alone=2))
    given = [Evidence(name, "one way", 0, 1, 0.5, 0.11) for name in "ab"]
    assert [alarms.any(given) for _ in range(2)] == [False, True]
    assert {v: c.row for v, c in alarms.counts.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("on", "of", "found"),
    [(1, 1, 10), (9, 10, 12), (1, 2, 25), (1, 4, 145), (1, 5, None)],
)
def test_who_attacks_in_more_than_a_fifth_of_all_windows_is_found_in_the_end(
    on, of, found
):
    """Whose row is always broken off is not safe for that, and no honest window is an alarm."""
    alarms = Alarms(Guard())
    given = [0.5 if n % of < on else 0.01 for n in range(1000)]
    told = [alarms.add(Evidence("h", "one way", 0, 1, x, 0.11)) for x in given]
    assert (told.index(True) + 1 if any(told) else None) == found
    assert not [t for t, x in zip(told, given, strict=True) if t and x < 0.11]
    if of > on and found:
        foul = sum(x > 0.11 for x in given)
        assert alarms.said("h") == f"{foul} of 1000 windows"


def test_a_start_that_is_suspicious_and_single_windows_later_are_no_alarm():
    """An honest vanilla run: nine windows at once, then one of a hundred."""
    alarms = Alarms(Guard())
    given = [0.5] * 9 + [0.5 if n % 100 == 99 else 0.01 for n in range(2000)]
    told = [alarms.add(Evidence("h", "one way", 0, 1, x, 0.11)) for x in given]
    assert not any(told)


def test_of_few_records_chance_makes_no_alarm_and_a_common_push_is_seen_all_the_same():
    """An honest body that turns and stretches what was given, in windows of 40 records."""
    keys = jax.random.split(jax.random.key(0), 2)
    gave = jax.random.normal(keys[0], (200, 40, 4))
    returned = gave @ jnp.diag(jnp.array([2.0, 1.0, 0.5, 0.25]))

    def window(gave, returned):
        return note(begin(returned, gave), returned, returned, gave, gave)

    for push, law in ((0.0, lambda p: p < 0.02), (2.0, lambda p: p > 0.98)):
        tallies = jax.vmap(window)(gave, returned + push)
        each = [jax.tree.map(lambda x, i=i: x[i], tallies) for i in range(200)]
        found = [judge(x, Guard(), "h", 0, 19, answered=True) for x in each]
        excess = [e for e in found if e.test == "excess coherence"]
        assert law(sum(e.suspicious for e in excess) / 200)
    # By the threshold of many records a tenth of the honest windows would be suspicious.
    of_chance = jax.vmap(lambda x: measured(x)[1])(jax.vmap(window)(gave, returned))
    assert (of_chance > Guard().excess).mean() > 0.1
    assert excess[0].threshold == 0.015 + 2 / 40
