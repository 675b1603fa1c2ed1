"""What crossed in a round, by client and step, is what the same steps record one by one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.compress import cast
from jsplit.privacy import traffic_of, watch
from tests.rounds.common import ALGORITHMS, people
from tests.training.common import close, refused

SIZES, RATE = (4, 6, 2), 0.5
UP = ("activation", "smashed", "client", "server")
DOWN = ("cotangent", "smashed", "server", "client")
DATA = {
    "x": np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32),
    "label": np.arange(12) % 3,
}
LOCAL = [n for n in ALGORITHMS if not n.startswith(("parallel", "large"))]
TOGETHER = ["parallel", "parallel, shared", "large batch"]


def layer(i, o, act, name):
    return jsplit.segment(
        lambda w, x: act(x @ w),
        init=lambda key, x: jax.random.normal(key, (i, o)),
        inputs=[name],
    )


@functools.cache
def trainer_of(microbatches=1):
    topology = jsplit.vanilla(
        layer(4, 5, jnp.tanh, "x"),
        layer(5, 3, jnp.asarray, "h"),
        loss=optax.softmax_cross_entropy_with_integer_labels,
    )
    links = {"smashed": (cast(jnp.float16), None)}
    return jsplit.fused(
        topology, optax.sgd(RATE), links=links, microbatches=microbatches
    )


def recorded(algorithm, **options) -> jsplit.rounds.Algorithm:
    return jsplit.record(algorithm, **options)


def drawn(seed=0):
    return people(SIZES, seed).round(DATA, 0, batch=2)


def batch_of(draw, k, s):
    return {f: x[draw.reads[k, s]] for f, x in DATA.items()}


def norm_by_node(gradient):
    return {n: optax.tree.norm(x) for n, x in gradient.items()}


def by_hand(trainer, sharing, state, draw):
    """Every client by itself with the single trainer, from what `sharing` gives it."""
    recording = jsplit.record(trainer, gradients=True)
    first, before, told = state, 0, {}
    for k, count in enumerate(draw.steps):
        own = {}
        for party, parts in sharing.parties.items():
            carried = parts.params is jsplit.rounds.Sharing.CARRIED
            start = state if carried else first
            own[party] = start.parties[party]._replace(step=jnp.int32(before))
        state = jsplit.TrainState(own)
        for s in range(count):
            state, told[k, s] = recording.step(state, batch_of(draw, k, s))
        before += int(count)
    return told


QUICK = ("turns", "splitfed 1", "splitfed 2")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LOCAL],
)
def test_a_round_records_what_the_single_trainer_does_step_by_step(name):
    trainer, draw = trainer_of(2), drawn()
    options = {"chunk": 2} if name == "splitfed 1" else {}
    algorithm = ALGORITHMS[name](trainer, **options)
    recording = recorded(algorithm, gradients=True, norms=True)
    start = recording.init(3, draw)
    new, info = recording.step(start, draw)
    found = info.recorded
    assert found is not None
    assert found.client.tolist() == draw.client.tolist()
    assert found.taken.sum(1).tolist() == list(draw.steps)
    told = by_hand(
        trainer, algorithm.sharing, trainer.init(3, batch_of(draw, 0, 0)), draw
    )
    for (k, s), one in told.items():
        at = jax.tree.map(lambda x, k=k, s=s: x[k, s], (found.crossed, found.gradients))
        close(at, (one.crossed, one.gradients))
        norms = jax.tree.map(lambda x, k=k, s=s: x[k, s], dict(found.norms))
        close(norms["client"].gradient, norm_by_node(one.gradients["client"]))
        close(
            norms["server"].update["output"], RATE * norms["server"].gradient["output"]
        )
        assert at[0][UP].payload.dtype == jnp.float16
        assert np.abs(at[0][DOWN].value).max() > 1e-3
    untaken = ~np.asarray(found.taken)
    assert untaken.any() and not np.asarray(found.crossed[UP].value)[untaken].any()
    assert not np.asarray(found.weight)[untaken].any()
    # The plain algorithm trains the same, and tells no record.
    plain, other = algorithm.step(algorithm.init(3, draw), draw)
    close(plain.parties["client"].params, new.parties["client"].params)
    close(info.each, other.each)
    assert other.recorded is None


@pytest.mark.parametrize(
    "name", [*TOGETHER[:2], pytest.param(TOGETHER[2], marks=pytest.mark.slow)]
)
def test_a_step_of_all_records_each_clients_part_of_one_objective(name):
    """By hand: each client's own gradient, times its share of the step's records."""
    trainer, draw = trainer_of(), drawn()
    algorithm = ALGORITHMS[name](trainer)
    recording = recorded(algorithm, gradients=True, norms=True)
    _, info = recording.step(recording.init(3, draw), draw)
    found, single = info.recorded, jsplit.record(trainer, gradients=True)
    assert found is not None
    own = name == "parallel"
    first = trainer.init(3, batch_of(draw, 0, 0)).parties
    bottoms, top = [first["client"].params] * 3, first["server"].params
    for s in range(max(draw.steps)):
        live = [k for k in range(3) if s < draw.steps[k]]
        given, tops, learned = {}, [], dict.fromkeys(range(3), None)
        for k in live:
            parties = {
                "client": first["client"]._replace(params=bottoms[k]),
                "server": first["server"]._replace(params=top),
            }
            _, one = single.step(jsplit.TrainState(parties), batch_of(draw, k, s))
            given[k] = scaled = jax.tree.map(lambda x: x / len(live), one.gradients)
            tops.append(scaled["server"])
            at = jax.tree.map(lambda x, k=k: x[k, s], found.crossed)
            close(at[UP], one.crossed[UP])
            close(at[DOWN].value, one.crossed[DOWN].value / len(live))
        total = jax.tree.map(lambda *x: sum(x), *tops)
        shared = jax.tree.map(lambda *x: sum(x), *(given[k]["client"] for k in live))
        for k in live:
            learned[k] = given[k]["client"] if own else shared
            at = jax.tree.map(lambda x, k=k: x[k, s], found.gradients)
            close(at, {"client": learned[k], "server": total})
            norms = jax.tree.map(lambda x, k=k: x[k, s], dict(found.norms))
            close(norms["client"].gradient, norm_by_node(learned[k]))
            close(norms["server"].gradient, norm_by_node(total))
        for k in range(3):
            step = learned[k] if own else shared
            if step is not None:
                bottoms[k] = jax.tree.map(lambda w, g: w - RATE * g, bottoms[k], step)
        top = jax.tree.map(lambda w, g: w - RATE * g, top, total)
    assert np.asarray(found.taken).sum(1).tolist() == list(draw.steps)


def test_several_rounds_are_recorded_along_an_axis_of_them():
    recording = recorded(ALGORITHMS["turns"](trainer_of(2)))
    several = [people(SIZES).round(DATA, i, batch=2) for i in (0, 1)]
    state = recording.init(3, several[0])
    _, many = recording.run(state, several)
    for i, one in enumerate(several):
        state, info = recording.step(state, one)
        mine = jax.tree.map(lambda x, i=i: x[i], many.recorded)
        assert info.recorded is not None
        close(mine.crossed, info.recorded.crossed)
        close(mine.step, info.recorded.step)
    assert many.recorded is not None
    seen = traffic_of(many.recorded, "server")
    assert seen.step.tolist() == np.repeat(np.arange(12), 2).tolist()


def test_a_party_of_rounds_has_its_own_traffic_by_client():
    algorithm, draw = ALGORITHMS["splitfed 2"](trainer_of(2)), drawn()
    state = algorithm.init(3, draw)
    after, server = watch(algorithm, state, [draw, draw], "server")
    close(
        algorithm.step(algorithm.step(state, draw)[0], draw)[0]
        .parties["server"]
        .params,
        after.parties["server"].params,
    )
    order = np.concatenate(
        [draw.reads[k, :n].ravel() for k, n in enumerate(draw.steps)]
    )
    np.testing.assert_array_equal(
        server.fields["label"], np.tile(DATA["label"][order], 2)
    )
    assert [*server.fields] == ["label"] and [*server.received] == ["smashed"]
    _, mine = watch(algorithm, state, [draw, draw], "client", client="6")
    assert mine.step.tolist() == [2, 2, 3, 3, 4, 4, 8, 8, 9, 9, 10, 10]
    rows = np.isin(np.asarray(server.step), np.asarray(mine.step))
    np.testing.assert_array_equal(
        mine.returned["smashed"], server.gave["smashed"][rows]
    )
    np.testing.assert_array_equal(
        mine.fields["x"][:6], DATA["x"][draw.reads[1, :3].ravel()]
    )


def test_what_of_rounds_cannot_be_recorded_is_refused():
    algorithm = ALGORITHMS["turns"](trainer_of())
    refused("records already", lambda: jsplit.record(jsplit.record(algorithm)))
    own = algorithm._replace(step=lambda *a: algorithm.step(*a))
    refused("another `step`", lambda: jsplit.record(own))
    draw = drawn()
    state = algorithm.init(0, draw)
    refused("`client`", lambda: watch(algorithm, state, [draw], "client", client="9"))
    for name in ("turns", "parallel"):
        plain = trainer_of()
        stepping = plain._replace(step=lambda *a: plain.step(*a))
        made = ALGORITHMS[name](stepping)
        refused("another step", lambda made=made: jsplit.record(made))
