"""DP-SGD of adapters on a frozen base: what is clipped and noised, and what is guaranteed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.privacy import Mechanism, guarantee, private
from tests.privacy.defended import BATCH, WIDTH, layers
from tests.privacy.test_guarantees import GRID
from tests.privacy.test_private_training import entropy
from tests.training.common import refused

PER, CLIP = 32.0, 0.05
BASE = np.arange(6 * WIDTH, dtype=np.int8).reshape(6, WIDTH) - 15


def bottom(trainable="lora", base=BASE / 10):
    def init(key, x):
        return {"base": jnp.asarray(base), "lora": jnp.full((6, WIDTH), 0.1)}

    return jsplit.segment(
        lambda p, x: jnp.tanh(x @ (p["base"] / 3) + x @ p["lora"]),
        init=init,
        inputs=["x"],
        name="h",
        **({"trainable": trainable} if trainable is not None else {}),
    )


def vanilla(made, top=None):
    nodes = [
        jsplit.Node("h", made, "client"),
        jsplit.Node("logit", layers()[1] if top is None else top, "server"),
        jsplit.Loss("loss", entropy, "server", ["logit", "label"], per=PER),
    ]
    return jsplit.Topology(nodes, {"client": ["x"], "server": ["label"]})


@pytest.mark.parametrize("base", [BASE / 10, BASE], ids=["floating", "int8"])
def test_the_norm_that_is_clipped_is_that_of_adapters_alone(base):
    """A gradient of the base, as long as that of its adapter, would be in the norm else."""
    one = jsplit.messages(
        vanilla(private(bottom(base=base), clip=CLIP, scale=0, per=PER)),
        optax.sgd(1.0),
    )
    state = one.init(0, BATCH)
    after, _ = one.step(state, BATCH)
    before, now = (s.parties["client"].params["h"] for s in (state, after))
    assert (now["base"] == before["base"]).all()
    top = state.parties["server"].params["logit"]

    def loss(lora, x, y):
        h = jnp.tanh(x @ (before["base"] / 3) + x @ lora)
        return entropy((h @ top)[0], y)

    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))
    gradients = np.asarray(each(before["lora"], BATCH["x"], BATCH["label"]))
    norms = np.sqrt((gradients**2).sum((1, 2), keepdims=True))
    assert (norms > CLIP).sum() > 5
    total = (gradients * np.minimum(1, CLIP / norms)).sum(0)
    np.testing.assert_allclose(before["lora"] - now["lora"], total / PER, atol=3e-6)


def test_noise_is_on_adapters_alone_also_where_the_base_is_of_integers():
    made = private(bottom(base=BASE), clip=CLIP, scale=2.0, per=PER)
    one = jsplit.fused(vanilla(made), optax.sgd(1.0))
    state = one.init(0, BATCH)
    after, _ = one.step(state, BATCH)
    before, now = (s.parties["client"].params["h"] for s in (state, after))
    assert (now["base"] == before["base"]).all() and now["base"].dtype == jnp.int8
    moved = np.asarray(now["lora"] - before["lora"])
    assert 0.5 < moved.std() / (2.0 * CLIP / PER) < 1.5


def test_a_bottom_that_is_frozen_tells_nothing_by_its_update_and_its_base_is_assumed():
    noise = Mechanism("gaussian", 1.0, 8.0, secret=True, grid=GRID)
    link = jsplit.stateless(
        lambda value, key, *own: value,
        lambda payload, like: payload,
        mechanism=noise,
        secret=True,
    )

    def told(made, **more):
        given = {"steps": 4, "batch": 8, "records": 32, "links": {"h": (link, None)}}
        found = guarantee(vanilla(made), BATCH, **given, **more)
        about = (
            s
            for s in found.statements
            if (s.about, s.against) == ("features", "server")
        )
        return next(about)

    assert told(bottom(None)).epsilon is None
    frozen = told(bottom(False))
    assert frozen.epsilon is not None
    assert frozen.epsilon == told(bottom(None), bottoms="frozen").epsilon
    assumed = "what `trainable` freezes of `h` (the base under adapters) was not fitted"
    assert any(x.startswith(assumed) for x in frozen.assumptions)
    # Adapters are trained on the records, and so are private or tell of them.
    assert told(bottom("lora")).epsilon is None
    made = private(bottom("lora"), clip=CLIP, scale=2.0, per=PER)
    assert made.noise is not None
    both = told(made, dp_sgd={"h": made.noise.mechanism})
    assert both.epsilon is not None and frozen.epsilon is not None
    assert both.epsilon > frozen.epsilon
    assert any(x.startswith(assumed) for x in both.assumptions)


def test_noise_is_not_lost_where_segments_are_made_of_others():
    made = private(bottom(), clip=CLIP, scale=2.0, per=PER)
    refused(
        "`trainable` must be given before `private`",
        lambda: jsplit.segment(made, trainable="lora"),
    )
    refused(
        "`segments` has `h`, which adds noise to its gradient",
        lambda: jsplit.join({"h": made, "logit": layers()[1]}, inputs=["x"]),
    )
    refused(
        "`model` adds noise to its gradient",
        lambda: jsplit.split(made, BATCH["x"], cuts=[]),
    )


def test_a_tied_weight_that_is_frozen_may_lie_beside_private_adapters():
    def model(p, x):
        h = jsplit.cut(x @ p["tied"], "up")
        h = jsplit.cut(jnp.tanh(h @ p["middle"]), "down")
        return (h @ p["tied"].T @ p["last"])[:, 0]

    weights = {
        "tied": jnp.ones((6, 4)) / 3,
        "middle": jnp.eye(4),
        "last": jnp.ones((6, 1)),
    }
    parts = jsplit.split(
        model,
        BATCH["x"],
        init=lambda key, x: weights,
        inputs=["x"],
        trainable=["middle", "last"],
    )
    up, down, last = parts.values()
    last = private(last, clip=CLIP, scale=0, per=PER)
    split = jsplit.u_shaped(up, down, last, loss=entropy, fields=["x"])
    one = jsplit.fused(split, optax.sgd(0.1))
    state = one.init(0, BATCH)
    after, _ = one.step(state, BATCH)
    params = jsplit.variables(after)[0]
    moved = {n: bool((params[n] != weights[n]).any()) for n in weights}
    assert moved == {"tied": False, "middle": True, "last": True}
