"""A guard on recorded traffic: a server with a loss of its own is found, an honest one is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import Guard, Traffic, chain_rule, coherence, guard, watch
from tests.training.common import refused

CLASSES = optax.softmax_cross_entropy_with_integer_labels
RULE = Guard(window=5)


def layer(inputs, size, name):
    def init(key, *x):
        return 0.5 * jax.random.normal(key, (x[0].shape[1], size)), jnp.zeros(size)

    def apply(params, x):
        return jnp.tanh(x @ params[0] + params[1])

    return jsplit.segment(apply, init=init, inputs=[inputs], name=name)


def batches(steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        label = rng.integers(3, size=32)
        noise = rng.normal(size=(32, 6))
        record = noise + 3 * np.eye(6)[label]
        public = rng.normal(size=(32, 8)) + 2
        yield {
            "record": record.astype("float32"),
            "label": label,
            "public": public.astype("float32"),
        }


def honest(split):
    bottom = layer("record", 8, "up")
    if split == "vanilla":
        return jsplit.vanilla(bottom, layer("up", 3, "output"), loss=CLASSES)
    body, tail = layer("up", 8, "down"), layer("down", 3, "output")
    return jsplit.u_shaped(bottom, body, tail, loss=CLASSES)


@jax.custom_vjp
def turned(x):
    return x


turned.defvjp(lambda x: (x, None), lambda _, g: (-g,))


def hijacked(split):
    """A critic tells the client's values from others; its cotangent, turned, comes back."""
    topology = honest(split)
    [value] = [c.name for c in topology.crossings if c.sender == "client"]

    def apply(params, h, other):
        def says(x):
            return (jnp.tanh(x @ params[0]) @ params[1])[:, 0]

        return jax.nn.softplus(says(turned(h))) + jax.nn.softplus(-says(other))

    def init(key, h, other):
        return (
            0.5 * jax.random.normal(key, (h.shape[1], 16)),
            jax.random.normal(jax.random.fold_in(key, 1), (16, 1)),
        )

    critic = jsplit.segment(apply, init=init, inputs=[value, "public"], name="critic")
    nodes = [jsplit.Node("critic", critic, "server", [value, "public"])]
    if split == "u_shaped":
        node = topology.node["down"]
        nodes.append(
            jsplit.Node("down", node.segment, "server", node.inputs, detached=[value])
        )
    own = jsplit.Loss("own", lambda each: each, "server", ["critic"])
    return topology.replace("server", nodes, losses=[own], holds="public")


def watched(topology, steps=15):
    trainer = jsplit.fused(topology, optax.adam(1e-2))
    given = list(batches(steps))
    needed = {f for held in topology.holds.values() for f in held}
    given = [{f: x for f, x in b.items() if f in needed} for b in given]
    state = trainer.init(0, given[0])
    _, seen = watch(trainer, state, given, "client")
    return seen


@pytest.mark.parametrize(
    ("split", "test"), [("vanilla", "one way"), ("u_shaped", "chain rule")]
)
def test_a_server_with_a_loss_of_its_own_is_found_and_an_honest_one_is_not(split, test):
    fair, foul = (guard(watched(t(split)), RULE) for t in (honest, hijacked))
    assert [e.test for e in fair] == [test] * 3
    assert not any(e.suspicious for e in fair)
    assert all(e.suspicious for e in foul)
    assert [(e.first, e.last) for e in fair] == [(0, 4), (5, 9), (10, 14)]


def test_each_window_is_the_mean_of_its_steps():
    seen = watched(honest("u_shaped"), 12)
    # Two steps beyond the last full window are of none.
    found = guard(seen, RULE)
    assert len(found) == 2
    cosines = []
    for number in range(12):
        rows = np.flatnonzero(seen.step == number)
        four = (seen.sent["up"], seen.returned["up"])
        four += (seen.received["down"], seen.gave["down"])
        cosines.append(float(chain_rule(*(x[rows] for x in four))))
    for e, at in zip(found, (slice(0, 5), slice(5, 10)), strict=True):
        assert np.isclose(e.statistic, np.mean(cosines[at]), atol=1e-5)


def test_cotangents_of_each_receiver_are_judged_by_themselves():
    rng = np.random.default_rng(0)
    h, noise = (rng.normal(size=(40, 3)).astype("float32") for _ in range(2))
    alike = noise + 5
    seen = Traffic(
        "client",
        jnp.repeat(jnp.arange(5), 8),
        sent={"h to one": h, "h to two": h},
        returned={"h from one": noise, "h from two": alike},
    )
    one, two = guard(seen, RULE)
    assert (one.value, two.value) == ("h to one", "h to two")
    assert two.suspicious and not one.suspicious
    assert coherence(alike) > 0.5


def test_evidence_has_numbers_and_names_alone():
    for found in guard(watched(hijacked("vanilla"), 5), RULE):
        kinds = [type(x) for x in vars(found).values()]
        assert kinds == [str, str, int, int, float, float]


def test_what_cannot_be_judged_is_refused():
    seen = watched(honest("vanilla"), 4)
    refused("at least 5 steps, a window, got 4", lambda: guard(seen, RULE))
    refused("`rule` must be a Guard, got 'warn'", lambda: guard(seen, "warn"))
    alone = seen._replace(returned={})
    refused("of what `client` sent, got those of nothing", lambda: guard(alone, RULE))
