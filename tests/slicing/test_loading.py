"""Weights of one topology in another of the same model, with and without files."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit
from jsplit import rounds
from tests.helpers import cross_entropy
from tests.oracles import difference


class Net(nnx.Module):
    def __init__(self, rngs):
        self.one = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.two = nnx.Linear(4, 4, rngs=rngs)
        self.three = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.three(nnx.relu(self.two(nnx.relu(self.norm(self.one(x))))))


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(4, name="one")(x)
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        x = linen.relu(linen.Dense(4, name="two")(linen.relu(x)))
        return linen.Dense(3, name="three")(x)


RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.normal(size=(8, 5)).astype("float32"),
    "label": RNG.integers(0, 3, 8).astype("int32"),
}
MODELS = {"nnx": lambda: Net(nnx.Rngs(0)), "linen": Dense}


def vanilla(model, cut="norm"):
    segments = jsplit.split(MODELS[model](), BATCH["x"], cuts={"smashed": cut})
    return jsplit.vanilla(*segments.values(), loss=cross_entropy)


def u_shaped(model):
    cuts = {"up": "one", "down": "two"}
    segments = jsplit.split(MODELS[model](), BATCH["x"], cuts=cuts)
    return jsplit.u_shaped(*segments.values(), loss=cross_entropy, fields=["x"])


def trained(topology, optimizer=None):
    trainer = jsplit.fused(topology, optimizer or optax.adam(0.1))
    state = trainer.init(0, BATCH)
    for _ in range(2):
        state, _ = trainer.step(state, BATCH)
    return trainer, state


def predicted(trainer, state):
    return trainer.predict(state, {"x": BATCH["x"]})["output"]


@pytest.mark.parametrize("model", MODELS)
def test_weights_go_into_another_topology_of_the_model_and_back_without_their_optimizer(
    model, tmp_path
):
    trainer, state = trained(vanilla(model))
    expected = np.array(predicted(trainer, state))
    jsplit.save(tmp_path, state)
    params, statistics = jsplit.variables(state)
    for other in (vanilla(model), vanilla(model, cut="two"), u_shaped(model)):
        sgd = jsplit.fused(other, optax.sgd(0.1, momentum=0.9))
        like = sgd.init(7, BATCH)
        restored = jsplit.restore_weights(tmp_path, like)
        assert np.array_equal(predicted(sgd, restored), expected)
        again = jsplit.load_variables(like, params, statistics)
        for ours in (restored, again):
            assert difference(jsplit.variables(ours), (params, statistics)) == 0
            for party, own in ours.parties.items():
                same = like.parties[party].optimizer
                assert difference(own.optimizer, same) == 0
        # A step uses up the state, and leaves what was loaded alone.
        sgd.step(again, BATCH)
        left = jax.tree.leaves((params, statistics, like))
        assert all(not x.is_deleted() for x in left)


def test_the_weights_of_a_whole_flax_model_go_into_a_state():
    topology = vanilla("linen")
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    model = Dense()
    given = model.init(jax.random.key(5), BATCH["x"], train=False)
    statistics = {n: x for n, x in given.items() if n != "params"}
    state = jsplit.load_variables(trainer.init(0, BATCH), given["params"], statistics)
    expected = model.apply(given, BATCH["x"], train=False)
    assert difference(predicted(trainer, state), expected) < 1e-6


def test_every_client_starts_from_the_weights_that_are_loaded(tmp_path):
    topology = vanilla("nnx")
    trainer, state = trained(topology)
    jsplit.save(tmp_path, state)
    expected = np.array(predicted(trainer, state))
    drawn = jsplit.population.iid(8, 2).round(BATCH, 0, batch=4)
    for make in (rounds.alone, rounds.fedavg):
        algorithm = make(jsplit.fused(topology, optax.adam(0.1)))
        like = algorithm.init(3, drawn)
        loaded = jsplit.load_variables(like, *jsplit.variables(state))
        for many in (jsplit.restore_weights(tmp_path, like), loaded):
            for client in range(2):
                found = algorithm.predict(many, {"x": BATCH["x"]}, client=client)
                assert difference(found["output"], expected) < 1e-6
            algorithm.step(many, drawn)


def test_segments_of_several_models_get_the_weights_of_their_own_nodes(tmp_path):
    def own(name, reads, seed):
        return jsplit.segment(
            lambda w, h: h @ w,
            init=lambda key, h: jax.random.normal(jax.random.key(seed), (3, 3)),
            inputs=reads,
            name=name,
        )

    loss = lambda output, label: (output - label[:, None]) ** 2  # noqa: E731
    batch = {"x": np.ones((4, 3), "f"), "label": np.ones(4, "f")}

    def state(seed, top="output"):
        parts = own("smashed", "x", seed), own(top, "smashed", seed + 1)
        topology = jsplit.vanilla(*parts, loss=loss)
        return jsplit.fused(topology, optax.sgd(0.1)).init(0, batch)

    jsplit.save(tmp_path, state(0))
    restored = jsplit.restore_weights(tmp_path, state(5))
    for party, held in state(0).parties.items():
        assert difference(restored.parties[party].params, held.params) == 0
    with pytest.raises(ValueError, match="nodes `smashed` and `output`.* not slices"):
        jsplit.restore_weights(tmp_path, state(0, top="logits"))


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    trainer, state = trained(vanilla("nnx"))
    jsplit.save(tmp_path, state)
    params, statistics = jsplit.variables(state)
    like = trainer.init(0, BATCH)
    wide = {**params, "two": {**params["two"], "bias": jnp.zeros(9)}}
    half = {**params, "two": {**params["two"], "bias": jnp.zeros(4, "float16")}}
    fewer = {n: x for n, x in params.items() if n != "three"}
    cases = {
        r"two.bias.*`output`.*\[4\], got \[9\]": (wide, statistics),
        "two.bias.*float16, expected float32": (half, statistics),
        "lacks the weight `three.bias`": (fewer, statistics),
        "has the weight `four`": ({**params, "four": jnp.zeros(1)}, statistics),
        "lacks the statistic `norm.mean`": (params,),
    }
    for message, given in cases.items():
        with pytest.raises(ValueError, match=message):
            jsplit.load_variables(like, *given)
    with pytest.raises(ValueError, match="no weights in the folder"):
        jsplit.restore_weights(tmp_path / "nowhere", like)
    (tmp_path / "server.npz").unlink()
    with pytest.raises(ValueError, match="lacks the weight `three/bias`"):
        jsplit.restore_weights(
            tmp_path, jsplit.fused(u_shaped("nnx"), optax.sgd(0.1)).init(0, BATCH)
        )


def test_an_optimizer_that_holds_a_copy_of_the_weights_is_refused():
    topology = vanilla("nnx")
    _, state = trained(topology)
    free = jsplit.fused(topology, optax.contrib.schedule_free_sgd(0.1))
    with pytest.raises(ValueError, match="optimizer of `client` holds a copy"):
        jsplit.load_variables(free.init(0, BATCH), *jsplit.variables(state))
