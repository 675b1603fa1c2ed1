"""Losses and weights of entries of examples, as tokens: one mean over all that count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.training.common import both, close

RNG = np.random.default_rng(0)
PER_TOKEN = optax.softmax_cross_entropy_with_integer_labels


def segments(dtype="float32"):
    table, head = (RNG.normal(size=(5, 5)).astype(dtype) for _ in range(2))
    bottom = jsplit.segment(
        lambda w, tokens: jnp.tanh(w[tokens]), init=lambda *_: jnp.asarray(table)
    )
    top = jsplit.segment(
        lambda w, h: h @ w,
        init=lambda *_: jnp.asarray(head),
        inputs=["smashed"],
        name="logits",
    )
    return bottom, top


PARTS = segments()


def topology(loss, *more, parts=PARTS):
    made = jsplit.vanilla(*parts, loss=loss)
    return made.add(*more) if more else made


def batch_of(*shape):
    return {n: RNG.integers(0, 5, shape).astype(np.int32) for n in ("tokens", "label")}


BATCH = batch_of(4, 6)
# Lengths of very different size, and one token that counts twice.
MASK = (np.arange(6) < np.array([6, 1, 2, 0])[:, None]).astype("f")
MASK[0, 3] = 2


def params_of(state):
    return {n: x for p in state.parties.values() for n, x in p.params.items()}


def masked(params, batch, mask):
    logits = jnp.tanh(params["smashed"][batch["tokens"]]) @ params["logits"]
    per = jnp.where(mask > 0, PER_TOKEN(logits, batch["label"]), 0)
    return (per * mask).sum() / mask.sum()


def stepped(trainer, batch, weight):
    state = trainer.init(0, batch)
    before = params_of(state)
    state, info = trainer.step(state, batch, weight)
    return before, params_of(state), info.loss


@both
@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_mean_over_tokens_is_one_whatever_micro_batches_they_are_in(
    interpreter, microbatches
):
    made = getattr(jsplit, interpreter)(
        topology(PER_TOKEN), optax.sgd(1.0), microbatches=microbatches
    )
    # Labels that are no classes, where nothing counts.
    batch = BATCH | {"label": np.where(MASK > 0, BATCH["label"], -100)}
    before, after, loss = stepped(made, batch, MASK)
    value, gradient = jax.value_and_grad(masked)(before, BATCH, MASK)
    close(loss, value, 1e-5)
    close(jax.tree.map(jnp.subtract, before, after), gradient, 1e-5)


def test_in_64_bits_it_is_that_to_1e9():
    with jax.enable_x64(True):
        made = topology(PER_TOKEN, parts=segments("float64"))
        trainer = jsplit.fused(made, optax.sgd(1.0), microbatches=4)
        before, after, loss = stepped(trainer, BATCH, MASK.astype(float))
        value, gradient = jax.value_and_grad(masked)(before, BATCH, MASK.astype(float))
        close(loss, value, 1e-9)
        close(jax.tree.map(jnp.subtract, before, after), gradient, 1e-9)


def test_weights_of_examples_count_all_their_tokens():
    trainer = jsplit.fused(topology(PER_TOKEN), optax.sgd(1.0))
    weight = np.array([1, 0, 3, 2], "f")
    coarse = stepped(trainer, BATCH, weight)
    fine = stepped(trainer, BATCH, np.repeat(weight[:, None], 6, 1))
    mean = jsplit.fused(topology(lambda o, y: PER_TOKEN(o, y).mean(-1)), optax.sgd(1.0))
    for other in (fine, stepped(mean, BATCH, weight)):
        close(coarse, other, 1e-6)
    # Without weights all tokens count alike.
    close(stepped(trainer, BATCH, None), stepped(mean, BATCH, None), 1e-6)


def test_targets_that_are_missing_leave_no_nan():
    def squared(o, y):
        return (o.sum(-1) - y) ** 2

    y = RNG.normal(size=(4, 6)).astype("f")
    trainer = jsplit.fused(topology(squared), optax.sgd(0.1))
    found = [
        stepped(trainer, BATCH | {"label": np.where(MASK > 0, y, bad)}, MASK)
        for bad in (0, np.nan, np.inf)
    ]
    close(found[0], found[1], 0)
    close(found[0], found[2], 0)
    with pytest.raises(jsplit.NotFinite):
        stepped(trainer, BATCH | {"label": np.full_like(y, np.nan)}, MASK)


def test_a_sum_over_tokens_is_divided_by_its_constant():
    parts = [
        jsplit.Node("smashed", PARTS[0], "client"),
        jsplit.Node("logits", PARTS[1], "server"),
    ]
    loss = jsplit.Loss("loss", PER_TOKEN, "server", ["logits", "label"], per=10)
    made = jsplit.Topology([*parts, loss], {"client": ["tokens"], "server": ["label"]})
    for count in (1, 2):
        trainer = jsplit.fused(made, optax.sgd(1.0), microbatches=count)
        before, _, found = stepped(trainer, BATCH, MASK)
        close(found, masked(before, BATCH, MASK) * MASK.sum() / 10, 1e-5)


def test_a_loss_that_takes_weights_gets_those_of_examples():
    seen = []

    def weighted(logits, weight):
        seen.append(jnp.shape(weight))
        return jnp.mean(logits.mean((1, 2)) * weight)

    more = jsplit.Penalty("more", weighted, "server", "logits", 0.1)
    trainer = jsplit.fused(topology(PER_TOKEN, more), optax.sgd(1.0))
    state = trainer.init(0, BATCH)
    seen.clear()
    found = trainer.evaluate(state, BATCH, MASK).losses["more"]
    share = MASK.sum(1) / MASK.sum()
    logits = trainer.predict(state, {"tokens": BATCH["tokens"]})["logits"]
    close(found, (logits.mean((1, 2)) * share).sum(), 1e-5)
    assert set(seen) == {(4,)}


@pytest.mark.parametrize(
    ("loss", "weight", "why"),
    [
        # Of each example one number, though tokens have weights.
        (
            lambda o, y: PER_TOKEN(o, y).mean(-1),
            MASK,
            r"for each, \[4,6\], got float32\[4\]",
        ),
        (PER_TOKEN, MASK[:, :5], r"for each, \[4,5\], got float32\[4,6\]"),
        (
            PER_TOKEN,
            MASK.T,
            r"each of the 4 examples, or \[4, ...\], got shape \(6, 4\)",
        ),
        # Classes are no entries of which each has a loss.
        (lambda o, y: o, None, "or one for each example, got"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes(loss, weight, why):
    trainer = jsplit.fused(topology(loss), optax.sgd(1.0))
    with pytest.raises(ValueError, match=why):
        trainer.step(
            jsplit.fused(topology(PER_TOKEN), optax.sgd(1.0)).init(0, BATCH),
            BATCH,
            weight,
        )


def test_a_set_of_several_lengths_is_one_mean_over_its_tokens():
    def right(o, y):
        return (o.argmax(-1) == y).astype("float32")

    def count(y, weight):
        return float((y * weight).sum())

    more = (
        jsplit.Loss("accuracy", right, "server", ["logits", "label"], weight=0),
        jsplit.Metric("labels", count, "server", "label", weighted=True),
    )
    trainer = jsplit.fused(topology(PER_TOKEN, more[0]), optax.sgd(1.0))
    state, short = trainer.init(0, BATCH), batch_of(3, 2)
    pairs = [(BATCH, MASK), (short, np.ones((3, 2), "f"))]
    found = trainer.evaluate(state, pairs)
    terms = [masked(params_of(state), *pair) * pair[1].sum() for pair in pairs]
    close(found.loss, sum(terms) / (MASK.sum() + 6), 1e-5)
    assert found.losses["accuracy"].shape == ()
    with pytest.raises(ValueError, match="loss `accuracy` is of each entry"):
        trainer.evaluate(state, [pairs[0], (short, np.ones(3, "f"))])
    # Of one length nothing is unclear.
    assert np.isfinite(trainer.evaluate(state, [BATCH, BATCH]).loss)

    trainer = jsplit.fused(topology(PER_TOKEN, more[1]), optax.sgd(1.0))
    found = trainer.evaluate(state, BATCH, MASK).metrics["labels"]
    assert found == (BATCH["label"] * MASK).sum()
    with pytest.raises(ValueError, match="`labels` .* fill them up to one size"):
        trainer.evaluate(state, pairs)
