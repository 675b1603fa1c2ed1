"""A scale of cotangents: what float16 loses without it, and what becomes of it in a step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.rounds.common import FEEDBACK
from tests.training.common import INTERPRETERS, X, both, by_hand, close, refused, train

LABEL = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)
BATCH = {"x": X, "label": LABEL}
SMALL = 2.0**-30
"""By which a loss is multiplied whose cotangents float16 cannot hold."""


def parts(compute=None):
    def part(inputs, shape, seed):
        w = np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 2
        one = jsplit.segment(
            lambda w, h: jnp.tanh(h @ w), init=lambda *_: jnp.asarray(w), inputs=inputs
        )
        return jsplit.mixed_precision(one, compute) if compute else one

    return part(["x"], (4, 3), 2), part(["h"], (3, 2), 3)


def topology(compute=None, factor=1.0):
    """Parameters at the client and the server, the loss at a party that has none."""
    client, server = parts(compute)
    nodes = [
        jsplit.Node("h", client, "client"),
        jsplit.Node("y", server, "server", ["h"]),
        jsplit.Loss(
            "loss",
            lambda y, t: factor * ((y - t) ** 2).sum(-1),
            "judge",
            ["y", "label"],
        ),
    ]
    return jsplit.Topology(nodes, {"client": ["x"], "judge": ["label"]})


def weights(state):
    return state.parties["client"].params["h"], state.parties["server"].params["y"]


def scales(state):
    return [float(p.links["loss scale"].scale) for p in state.parties.values()]


def finite_steps(state):
    return [int(p.links["loss scale"].finite) for p in state.parties.values()]


@both
@pytest.mark.parametrize("scale", [2.0**28, jsplit.DynamicScale(2.0**28)])
def test_what_underflows_in_float16_trains_with_a_scale_as_in_float32(
    interpreter, scale
):
    make, optimizer = INTERPRETERS[interpreter], optax.sgd(0.2 / SMALL)
    narrow = topology(jnp.float16, SMALL)
    before = weights(make(narrow, optimizer).init(0, BATCH))
    lost, _ = train(make(narrow, optimizer), BATCH, 5)
    scaled, _ = train(make(narrow, optimizer, loss_scale=scale), BATCH, 5)
    wide, _ = train(make(topology(None, SMALL), optimizer), BATCH, 5)
    # The client's gradients are all 0 without a scale, so it does not move at all.
    assert (weights(lost)[0] == before[0]).all()
    assert np.abs(weights(wide)[0] - before[0]).max() > 0.1
    close(weights(scaled), weights(wide), 5e-3)


@both
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("scale", [2.0**15, jsplit.DynamicScale(2.0**10, interval=2)])
def test_a_power_of_two_changes_no_bit_in_float32(interpreter, microbatches, scale):
    make = INTERPRETERS[interpreter]
    optimizer = optax.chain(jsplit.clip_by_global_norm(0.5), optax.adam(0.05))
    told = {"microbatches": microbatches, "nonfinite": "skip"}
    plain, infos = train(make(topology(), optimizer, **told), BATCH, 5)
    scaled, same = train(
        make(topology(), optimizer, loss_scale=scale, **told), BATCH, 5
    )
    for a, b in zip(weights(plain), weights(scaled), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        [i.loss for i in infos], [i.loss for i in same], "losses are without the scale"
    )


def whole_by_hand(batch, dynamic, steps, factor=1.0):
    """The whole model in float16 with a dynamic scale, written out."""
    low, high = weights(jsplit.fused(topology(), optax.sgd(0.1)).init(0, batch))
    optimizer = optax.adam(0.05)
    w, scale, count, seen = (low, high), dynamic.initial, 0, []
    memory = optimizer.init(w)

    def loss(w):
        a, b = (x.astype(jnp.float16) for x in w)
        y = jnp.tanh(jnp.tanh(batch["x"].astype(jnp.float16) @ a) @ b)
        out = (y.astype(jnp.float32) - batch["label"]) ** 2
        return jnp.mean(factor * out.sum(-1))

    for _ in range(steps):
        g = jax.grad(lambda w, scale=scale: loss(w) * scale)(w)
        g = jax.tree.map(lambda x, scale=scale: x / scale, g)
        if all(bool(jnp.isfinite(x).all()) for x in g):
            updates, memory = optimizer.update(g, memory)
            w, count = optax.apply_updates(w, updates), count + 1
            if count == dynamic.interval:
                scale, count = scale * dynamic.growth, 0
        else:
            scale, count = max(scale * dynamic.backoff, dynamic.floor), 0
        seen.append(scale)
    return w, seen


@both
@pytest.mark.parametrize("backward", ["residuals", "recompute"])
def test_it_is_the_whole_models_with_a_scale_written_by_hand(interpreter, backward):
    # The first steps overflow; the scale comes down, and later goes up and over again.
    dynamic = jsplit.DynamicScale(2.0**21, interval=3)
    trainer = INTERPRETERS[interpreter](
        topology(jnp.float16), optax.adam(0.05), loss_scale=dynamic, backward=backward
    )
    state, seen = trainer.init(0, BATCH), []
    assert scales(state) == [2.0**21] * 3
    for _ in range(12):
        state, _ = trainer.step(state, BATCH)
        # All parties alike, the one without parameters too.
        assert len({*scales(state)}) == 1 and len({*finite_steps(state)}) == 1
        seen.append(scales(state)[0])
    w, expected = whole_by_hand(BATCH, dynamic, 12)
    assert seen == expected and min(seen) < max(seen[4:])
    close(weights(state), w, 2e-3)


def test_with_micro_batches_fused_equals_messages():
    dynamic, made = jsplit.DynamicScale(2.0**21, interval=3), topology(jnp.float16)
    states, seen = [], []
    for make in INTERPRETERS.values():
        trainer = make(made, optax.adam(0.05), loss_scale=dynamic, microbatches=2)
        state = trainer.init(0, BATCH)
        for _ in range(12):
            state, _ = trainer.step(state, BATCH)
            seen.append(scales(state))
        states.append(weights(state))
    assert seen[:12] == seen[12:] and seen[0] > seen[7] < seen[8]
    close(*states, 1e-6)


@both
def test_a_step_that_overflows_is_left_out_at_all_parties(interpreter):
    dynamic = jsplit.DynamicScale(2.0**40, backoff=2.0**-10, floor=2.0**15)
    # The optimizer makes finite numbers of an infinite gradient.
    optimizer = optax.chain(optax.clip(0.1), optax.adam(0.1))
    trainer = INTERPRETERS[interpreter](
        topology(jnp.float16), optimizer, loss_scale=dynamic, links={"h": FEEDBACK}
    )
    first = trainer.init(0, BATCH)
    after, info = trainer.step(first, BATCH)
    assert info.finite is not None
    assert any("the gradient of `h` at `client`" in x for x in info.finite.nonfinite())
    assert scales(after) == [2.0**30] * 3 and finite_steps(after) == [0] * 3
    for party, own in first.parties.items():
        new = after.parties[party]
        assert new.step == 1
        links = [{**p.links, "loss scale": None} for p in (own, new)]
        kept = [
            (p.params, p.state, p.optimizer, memory)
            for p, memory in zip((own, new), links, strict=True)
        ]
        assert all(map(np.array_equal, *map(jax.tree.leaves, kept)))
    for _ in range(3):
        after, _ = trainer.step(after, BATCH)
    # From the floor it does not go further down.
    assert scales(after) == [2.0**15] * 3 and finite_steps(after)[0] == 1


@both
def test_it_grows_after_so_many_steps_without_one_left_out(interpreter):
    dynamic = jsplit.DynamicScale(4.0, growth=8.0, interval=2, backoff=0.25)
    trainer = INTERPRETERS[interpreter](topology(), optax.sgd(0.1), loss_scale=dynamic)
    bad = {**BATCH, "x": np.full_like(X, np.nan)}
    state, seen = trainer.init(0, BATCH), []
    for batch in (BATCH, BATCH, BATCH, bad, BATCH, BATCH):
        state, _ = trainer.step(state, batch)
        seen.append((scales(state)[0], finite_steps(state)[0]))
    # A step left out begins the count anew.
    assert seen == [(4, 1), (32, 0), (32, 1), (8, 0), (8, 1), (64, 0)]


def test_it_never_grows_to_infinity():
    dynamic = jsplit.DynamicScale(2.0**126, interval=1)
    nothing = jsplit.Topology(
        [
            jsplit.Node("h", parts()[0], "client"),
            jsplit.Loss("loss", lambda h: 0 * h.sum(-1), "client", ["h"]),
        ],
        {"client": ["x"]},
    )
    state, _ = train(
        jsplit.fused(nothing, optax.sgd(0.1), loss_scale=dynamic), {"x": X}, 4
    )
    assert scales(state) == [2.0**127]


def test_penalties_are_scaled_as_losses_are():
    client, server = parts()
    found = []
    for scale in (None, 2.0**12):
        made = by_hand(
            jsplit.Node("h", client, "alice"),
            jsplit.Node("y", server, "bob", ["h"]),
            jsplit.Loss("loss", lambda y: (y**2).sum(-1), "bob", ["y"], weight=0.3),
            jsplit.Penalty(
                "l2", lambda w: (w**2).sum(), "alice", ["h.params"], weight=0.1
            ),
        )
        trainer = jsplit.fused(made, optax.sgd(0.1), loss_scale=scale)
        state, _ = train(trainer, {"x": X})
        found.append([p.params for p in state.parties.values()])
    assert all(map(np.array_equal, *map(jax.tree.leaves, found)))


@both
def test_a_saved_state_has_its_scale(interpreter, tmp_path):
    dynamic = jsplit.DynamicScale(2.0**6, interval=2)
    trainer = INTERPRETERS[interpreter](topology(), optax.sgd(0.1), loss_scale=dynamic)
    state, _ = train(trainer, BATCH, 3)
    jsplit.save(tmp_path / "saved", state)
    again = jsplit.restore(tmp_path / "saved", trainer.init(0, BATCH))
    assert scales(again) == [2.0**7] * 3 and finite_steps(again) == [1] * 3
    (after, _), (expected, _) = (trainer.step(s, BATCH) for s in (again, state))
    assert scales(after) == scales(expected) == [2.0**8] * 3
    close(weights(after), weights(expected), 0)


def test_links_see_what_is_scaled():
    links = {"h": jsplit.compress.cast(jnp.float16)}
    made = topology(None, SMALL)
    for scale, moves in ((None, False), (2.0**28, True)):
        trainer = jsplit.fused(
            made, optax.sgd(1 / SMALL), links=links, loss_scale=scale
        )
        state = trainer.init(0, BATCH)
        after, _ = trainer.step(state, BATCH)
        assert bool((weights(after)[0] != weights(state)[0]).any()) is moves


def test_a_scale_that_does_not_fit_is_refused():
    make, made, sgd = jsplit.fused, topology(), optax.sgd(0.1)
    for value in (0, -1.0, float("nan"), float("inf"), 1e39, True, "dynamic", [2.0]):
        refused(
            "`loss_scale` must be a number",
            lambda v=value: make(made, sgd, loss_scale=v),
        )
    for policy in ("refuse", "allow"):
        refused(
            f"`nonfinite` must be \"skip\" where `loss_scale` is dynamic, got '{policy}'",
            lambda p=policy: make(
                made, sgd, loss_scale=jsplit.DynamicScale(), nonfinite=p
            ),
        )
    scale = jsplit.DynamicScale
    refused("`growth` must be above 1, got 1.0", lambda: scale(growth=1))
    refused("`backoff` must be below 1, got 1.0", lambda: scale(backoff=1))
    refused("`backoff` must be a number above 0", lambda: scale(backoff=0))
    refused("`interval` must be", lambda: scale(interval=0))
    refused("`floor` must be at most `initial`", lambda: scale(initial=1, floor=2))
