"""Cut between the layers of a scan, a model trains as the whole in plain Flax and Optax.

The row "scanned layers cut in the middle" of the sweep of `test_equivalence`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from tests.helpers import Problem, make_topology, widen
from tests.oracles import INTERPRETERS, difference, optimizers, reference
from tests.slicing.stacks import LinenNet, Net
from tests.training.test_equivalence import WAYS, split

CUTS = {  # by configuration, where it is cut
    "vanilla": {"smashed": "middle[2]"},
    "u_shaped": {"up": "middle[1]", "down": "middle[3]"},
}


# One rate for all: the layers of one array are at several parties.
def momentum(rate):
    return optax.sgd(0.1, momentum=0.9)


def adam(rate):
    return optax.adam(0.01)


def problem(configuration: str, flax: str) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4)).astype(np.result_type(float))
    whole, variables = Net(nnx.Rngs(0)), None
    if flax == "linen":
        whole = LinenNet()
        variables = widen(whole.init(jax.random.key(0), x, train=True))
    elif jax.numpy.zeros(()).dtype == "float64":
        nnx.update(whole, widen(nnx.state(whole, nnx.Not(nnx.RngState))))
    segments = jsplit.split(whole, x, variables=variables, cuts=CUTS[configuration])
    labels = {"label": rng.integers(0, 3, 8).astype(np.int32)}
    topology = make_topology(configuration, segments)
    return Problem(configuration, whole, variables, {"x": x}, labels, topology)


# In every part of the sweep each configuration, each interpreter and each kind of Flax.
POINTS = [
    pytest.param(c, flax, way, marks=() if (i, j, k) in FAST else pytest.mark.slow)
    for FAST in [{(0, 0, 0), (1, 1, len(WAYS) - 1)}]
    for i, c in enumerate(CUTS)
    for j, flax in enumerate(("nnx", "linen"))
    for k, way in enumerate(WAYS)
]


@pytest.mark.parametrize(("configuration", "flax", "way"), POINTS)
def test_split_between_scanned_layers_is_whole_training(configuration, flax, way):
    made = problem(configuration, flax)
    found = split(made, momentum, *way)
    assert max(map(difference, found, reference(made, momentum))) < 1e-5


def test_the_same_in_double_precision():
    with jax.enable_x64(True):
        made = problem("vanilla", "nnx")
        found = map(difference, split(made, adam, *WAYS[0]), reference(made, adam))
        assert max(found) < 1e-9


def work(cost):
    total = cost.total
    return total.forward, total.backward["residuals"]


def test_the_work_of_both_parts_is_that_of_the_whole():
    made = problem("vanilla", "nnx")
    x = made.fields["x"]
    uncut = jsplit.split(made.whole, x, cuts={"smashed": "bottom"})
    halves = jsplit.cost(made.topology, made.batch)
    whole = jsplit.cost(make_topology("vanilla", uncut), made.batch)

    for ours, theirs in zip(work(halves), work(whole), strict=True):
        assert ours.macs == theirs.macs > 0
    trainer = INTERPRETERS["messages"](
        made.topology, optimizers(made.topology, momentum)
    )
    _, info = trainer.step(trainer.init(jax.random.key(1), made.batch), made.batch)
    assert [m.bytes for m in info.messages] == [m.bytes for m in halves.messages]


def by_name(path, x):
    return path[-1].key == "w"


def test_a_mask_by_path_says_of_some_layers_what_it_says_of_the_stack():
    """Weight decay that leaves biases out, and one array per name in the state of Adam."""
    weights = {"w": np.ones((4, 3, 3), "float32") / 3, "b": np.ones((4, 3), "float32")}
    x = np.arange(6.0, dtype="float32").reshape(2, 3)

    def model(p, x):
        def layer(x, own):
            return jnp.tanh(x @ own["w"] + own["b"]), None

        return jax.lax.scan(layer, x, p["s"])[0]

    def square(y, label):
        return ((y - label) ** 2).sum(-1)

    def mask(tree):
        return jax.tree_util.tree_map_with_path(by_name, tree)

    optimizer = optax.adamw(0.01, weight_decay=0.9, mask=mask)
    start = {"s": jax.tree.map(jnp.asarray, weights)}
    parts = jsplit.split(model, x, init=lambda key, x: start, cuts={"h": "s[1]"})
    trainer = jsplit.fused(jsplit.vanilla(*parts.values(), loss=square), optimizer)
    batch = {"x": x, "label": np.zeros((2, 3), "float32")}
    state = trainer.init(0, batch)
    found = jsplit.variables(trainer.step(state, batch)[0])[0]

    def loss(p):
        return square(model(p, x), batch["label"]).mean()

    updates, _ = optimizer.update(jax.grad(loss)(start), optimizer.init(start), start)
    wanted = optax.apply_updates(start, updates)
    for name in weights:
        np.testing.assert_allclose(found["s"][name], wanted["s"][name], atol=1e-6)

    topology = jsplit.vanilla(*parts.values(), loss=square)
    with pytest.warns(UserWarning, match="scale_by_trust_ratio, which takes a norm"):
        jsplit.fused(topology, optax.lamb(0.01)).init(0, batch)
