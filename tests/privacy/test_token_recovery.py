"""Tokens are read off activations by their nearest embedding, and by an inverter behind a block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import Traffic, inverted_tokens, nearest_tokens

WORDS, WIDTH, LENGTH = 60, 24, 8
KEYS = jax.random.split(jax.random.key(0), 8)
TABLE = jax.random.normal(KEYS[0], (WORDS, WIDTH))
PLACES = 3 * jax.random.normal(KEYS[1], (LENGTH, WIDTH))
# Frequencies as of words, so that chance is not 1 of all.
LOGITS = -jnp.log(jnp.arange(1, WORDS + 1.0))
TEXT = jax.random.categorical(KEYS[2], LOGITS, shape=(400, LENGTH))
PRIVATE, PUBLIC = TEXT[:100], TEXT[100:]
MIX = [jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in KEYS[3:6]]


def block(tokens):
    """One head of attention and a dense layer, without the residual: rows are turned."""
    x = TABLE[tokens]
    weight = jax.nn.softmax((x @ MIX[0]) @ (x @ MIX[1]).swapaxes(1, 2) / 5)
    return jnp.tanh((x + 0.3 * weight @ x) @ MIX[2])


def seen_of(h):
    count = len(jax.tree.leaves(h)[0])
    return Traffic("server", np.zeros(count, int), received={"h": h})


QUICK = {"vocabulary": WORDS, "steps": 150}


@pytest.fixture(scope="module")
def inverted():
    return inverted_tokens(seen_of(block(PRIVATE)), PRIVATE, PUBLIC, block, **QUICK)


def test_an_embedding_is_read_by_its_nearest_row_whatever_its_scale():
    found = nearest_tokens(seen_of(9 * TABLE[PRIVATE] + 5), PRIVATE, TABLE)
    score = found.score
    assert score.value == 1 and score.more["records read whole"] == 1
    assert score.control < score.chance + 0.05
    np.testing.assert_array_equal(found.reconstructed, PRIVATE)


def test_of_an_activation_that_carries_a_mask_the_activation_is_read(inverted):
    """As `around="carry"` sends it with the padding mask of a language model."""

    def carrying(tokens):
        return {"h": block(tokens), "mask of tokens": tokens > 0}

    seen = seen_of({"h": 9 * TABLE[PRIVATE] + 5, "mask of tokens": PRIVATE > 0})
    assert nearest_tokens(seen, PRIVATE, TABLE).score.value == 1
    given = seen_of(carrying(PRIVATE)), PRIVATE, PUBLIC, carrying
    found = inverted_tokens(*given, **QUICK)
    np.testing.assert_array_equal(found.reconstructed, inverted.reconstructed)


def test_noise_makes_some_tokens_unreadable_and_errors_are_by_record():
    h = TABLE[PRIVATE] + 1.2 * jax.random.normal(KEYS[6], (100, LENGTH, WIDTH))
    found = nearest_tokens(seen_of(h), PRIVATE, TABLE)
    wrong = (found.reconstructed != np.asarray(PRIVATE)).mean(1)
    np.testing.assert_allclose(found.errors, wrong)
    assert 0.3 < found.score.value < 0.99
    low, high = found.score.interval
    assert low < found.score.value < high
    assert found.score.value == pytest.approx(1 - wrong.mean())


def test_positions_that_are_added_hide_tokens_from_who_does_not_take_them_off():
    given = seen_of(TABLE[PRIVATE] + PLACES), PRIVATE, TABLE
    off = nearest_tokens(*given, positions=PLACES).score
    on = nearest_tokens(*given).score
    assert off.value == 1 and on.value < 0.9


def test_behind_a_block_an_inverter_reads_what_the_nearest_row_does_not(inverted):
    score = inverted.score
    nearest = nearest_tokens(seen_of(block(PRIVATE)), PRIVATE, TABLE).score
    assert score.value > 0.9 > 0.4 > nearest.value
    assert score.control < score.chance + 0.05
    assert score.beats_chance and score.adversary.public == 300


def test_chance_is_the_most_frequent_token(inverted):
    share = float((PRIVATE == 0).mean())
    assert inverted.score.chance == pytest.approx(share)


def test_noise_that_is_all_there_is_gives_no_token():
    h = jax.random.normal(KEYS[7], (400, LENGTH, WIDTH))
    found = inverted_tokens(seen_of(h[:100]), PRIVATE, PUBLIC, h[100:], **QUICK)
    assert found.score.value < found.score.chance + 0.03
    assert not found.score.beats_chance


def test_a_hidden_layer_reads_what_no_linear_inverter_can():
    """The sign of an activation is drawn, so that its mean says nothing."""
    sign = jax.random.rademacher(KEYS[6], (400, LENGTH, 1))
    few, given = TEXT % 4, {"vocabulary": 4, "steps": 300}
    h = sign * jnp.eye(4, WIDTH)[few]
    pairs = seen_of(h[:100]), few[:100], few[100:], h[100:]
    linear = inverted_tokens(*pairs, **given).score.value
    hidden = inverted_tokens(*pairs, hidden=32, **given).score.value
    assert hidden > 0.95 > 0.8 > linear


def test_fillers_do_not_count():
    filled = PRIVATE.at[:, 5:].set(-1)
    short = nearest_tokens(seen_of(TABLE[PRIVATE]), filled, TABLE)
    wrong = nearest_tokens(
        seen_of(TABLE[PRIVATE].at[:, 5:].set(0)), filled, TABLE
    ).score
    assert short.score.value == 1 and (short.reconstructed[:, 5:] == -1).all()
    assert wrong.value == 1
    public = PUBLIC.at[:, 5:].set(-1)
    found = inverted_tokens(seen_of(block(PRIVATE)), filled, public, block, **QUICK)
    assert found.score.value > 0.85


SEEN = seen_of(TABLE[PRIVATE])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"public": None}, "`public`"),
        ({"public": PUBLIC.astype(float)}, "`public`"),
        ({"query": block(PUBLIC)[:-1]}, "`query`"),
        ({"query": lambda tokens: {}}, "`query`"),
        ({"query": lambda tokens: 0.0}, "`query`"),
        ({"tokens": PRIVATE[:, :3]}, "`tokens`"),
        ({"tokens": -jnp.ones_like(PRIVATE)}, "`tokens`"),
        ({"vocabulary": 20}, "below `vocabulary`"),
        ({"hidden": 0, "steps": 0}, "`steps`"),
        ({"traffic": seen_of(TABLE[PRIVATE][:, 0])}, "`tokens`"),
    ],
)
def test_what_does_not_fit_an_inverter_is_refused_by_its_name(change, says):
    given = {"traffic": SEEN, "tokens": PRIVATE, "public": PUBLIC, "query": block}
    with pytest.raises(ValueError, match=says):
        inverted_tokens(**given | QUICK | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"table": TABLE[:, :5]}, "`table`"),
        ({"table": TABLE[:20]}, "`table`"),
        ({"positions": PLACES[:3]}, "`positions`"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_its_name(change, says):
    with pytest.raises(ValueError, match=says):
        nearest_tokens(**{"traffic": SEEN, "tokens": PRIVATE, "table": TABLE} | change)


def language_model(p, tokens):
    h = p["e"][tokens] + 0.1 * jnp.tanh(p["e"][tokens].mean(1, keepdims=True))
    return jnp.tanh(jsplit.cut(h, "h") @ p["a"])


def reported(**given):
    def init(key, tokens):
        return {"e": TABLE, "a": MIX[0]}

    text = {"tokens": np.asarray(PRIVATE[:32])}
    parts = jsplit.split(language_model, text, init=init, trainable=["a"])
    topology = jsplit.vanilla(*parts.values(), loss=optax.squared_error)
    text["label"] = np.zeros((32, LENGTH, WIDTH), "float32")
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    public = {"tokens": np.asarray(PUBLIC), "label": np.zeros((300, LENGTH, WIDTH))}
    tried = [a for a in jsplit.privacy.attempts() if a.tokens]
    options = {"attacks": tried, "epochs": 1, "batch": 8, "watched": 1, "steps": 100}
    given = {k: v for k, v in {"public": public, **given}.items() if v is not None}
    return jsplit.privacy.report(trainer, text, **options | given)["none"]


@pytest.mark.slow
def test_a_report_recovers_tokens_by_a_public_table_and_by_public_text():
    found = reported(tables={"tokens": TABLE})
    scores = {f.score.attack: f.score for f in found.findings}
    assert scores["nearest embedding"].value > 0.9
    assert scores["token inverter"].value > 0.9
    assert {s.adversary.party for s in scores.values()} == {"server"}
    assert "recovery of tokens" not in {u.what for u in found.untested}


@pytest.mark.slow
def test_a_report_says_which_table_or_text_was_not_given():
    found = reported(public=None)
    assert not found.findings
    why = {u.what: u.why for u in found.untested}
    assert "(`tables`)" in why["nearest embedding"]
    assert "(`public`)" in why["token inverter"]


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"token": TABLE}, "near it is tokens"),
        ({"label": TABLE}, "does not hold tokens"),
        ({"tokens": TABLE[0]}, r"\[vocabulary, width\]"),
        (TABLE, "by field"),
    ],
)
def test_a_table_of_a_report_that_does_not_fit_is_refused(tables, says):
    with pytest.raises(ValueError, match=says):
        reported(tables=tables)
