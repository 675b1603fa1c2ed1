"""The whole model in one call is what every split equals, dropout masks included, with the
keys of every implementation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit

rng = np.random.default_rng(0)
batch = {
    "record": rng.normal(size=(16, 8)).astype("float32"),
    "label": rng.integers(0, 3, 16),
}
record = batch["record"]
loss = optax.softmax_cross_entropy_with_integer_labels


class Net(nnx.Module):
    """Dropout and BatchNorm on both sides of the cut."""

    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(8, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.n, self.m = nnx.BatchNorm(6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.d, self.e = nnx.Dropout(0.3, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)
        self.c = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, record):
        h = jsplit.cut(self.d(jnp.tanh(self.n(self.a(record)))), "smashed")
        return self.c(self.e(jnp.tanh(self.m(self.b(h)))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, record, is_train=False):
        h = record
        for side in ("smashed", "upper"):
            h = linen.BatchNorm(use_running_average=not is_train)(linen.Dense(6)(h))
            h = linen.Dropout(0.3, deterministic=not is_train)(jnp.tanh(h))
            h = jsplit.cut(h, "smashed") if side == "smashed" else h
        return linen.Dense(3)(h)


MODELS = {
    "nnx": (Net(nnx.Rngs(0)), {}),
    "linen": (LinenNet(), {"flags": {"is_train": True}}),
}


def vanilla(model, options):
    parts = jsplit.split(model, record, **options)
    return jsplit.vanilla(*parts.values(), loss=loss)


def alone(model, options):
    """The model at one party, as a segment like any other."""
    nodes = [
        jsplit.Node("output", jsplit.segment(model, **options), "whole"),
        jsplit.Loss("loss", loss, "whole", ["output", "label"]),
    ]
    return jsplit.Topology(nodes, {"whole": ["record", "label"]})


def trained(topology, key, make=jsplit.fused, optimizer=None, steps=3):
    """The trainer, and the state and the last info after some steps."""
    trainer = make(topology, optimizer or optax.adam(1e-2))
    state = trainer.init(key, batch)
    for _ in range(steps):
        state, info = trainer.step(state, batch)
    return trainer, state, info


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(bool((x == y).all()) for x, y in pairs)


@pytest.mark.parametrize(
    "kind, impl",
    [
        ("nnx", "threefry2x32"),
        ("linen", "threefry2x32"),
        ("nnx", "unsafe_rbg"),
        ("linen", "rbg"),
    ],
)
def test_split_is_whole_bit_for_bit_under_adam_with_dropout_and_batch_norm(kind, impl):
    model, options = MODELS[kind]
    key = jax.random.key(3, impl=impl)
    whole = jsplit.whole(model, loss=loss, **options)
    states, losses = [], []
    for topology in (vanilla(model, options), whole):
        trainer, state, info = trained(topology, key)
        states.append(jsplit.variables(state))
        found = trainer.predict(state, {"record": record})["output"]
        losses.append((info.loss, trainer.evaluate(state, batch).loss, found))
    assert equal(*states) and equal(*losses)


@pytest.mark.parametrize("model, options", MODELS.values(), ids=MODELS)
def test_a_segment_of_the_whole_model_draws_other_masks(model, options):
    whole = trained(jsplit.whole(model, loss=loss, **options), 3, steps=1)
    other = trained(alone(model, options), 3, steps=1)
    assert abs(whole[2].loss - other[2].loss) > 1e-3


def test_the_whole_model_is_trained_by_messages_and_costed_as_its_split_is():
    model, options = MODELS["nnx"]
    whole, sgd = jsplit.whole(model, loss=loss, **options), optax.sgd(0.1)
    _, state, info = trained(whole, 3, jsplit.messages, sgd)
    _, other, _ = trained(vanilla(model, options), 3, jsplit.messages, sgd)
    assert info.messages == ()
    ours, theirs = jsplit.variables(state), jsplit.variables(other)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        ours,
        theirs,
    )
    costs = [jsplit.cost(t, batch).total for t in (whole, vanilla(model, options))]
    assert costs[0].sent == 0 and costs[0].forward.macs == costs[1].forward.macs


def test_the_whole_model_is_named_as_its_split_is():
    sequential = nnx.Sequential(nnx.Linear(8, 3, rngs=nnx.Rngs(0)))
    assert jsplit.whole(sequential, loss=loss).fields == ("input", "label")
    assert jsplit.whole(sequential, record, loss=loss).holds == {
        "whole": ("input", "label")
    }
    renamed = jsplit.whole(
        sequential, record, loss=loss, party="lab", fields="scan", label="stage"
    )
    assert renamed.holds == {"lab": ("scan", "stage")} and renamed.crossings == ()
    two = jsplit.whole(lambda a, b: a + b, loss=loss, inputs=["left", "right"])
    assert two.fields == ("left", "right", "label")
    assert jsplit.whole(lambda x: x, loss=loss, label="x").holds == {"whole": ("x",)}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"example": (record, record)},
            r"takes `inputs` \['record'\], but the exa.* 2",
        ),
        ({"example": (record[:, :3],)}, "dot_general"),
        ({"flags": {"eval": True}}, "`flags` names 'eval'"),
        ({"init": lambda key: {}}, "`init` belongs to a plain function"),
    ],
)
def test_a_whole_model_that_cannot_be_is_refused_where_it_is_built(change, message):
    example = change.pop("example", ())
    with pytest.raises((ValueError, TypeError), match=message):
        jsplit.whole(Net(nnx.Rngs(0)), *example, loss=loss, **change)


def test_a_raw_key_is_the_typed_one_that_its_words_are_of():
    topology = vanilla(*MODELS["linen"])
    for impl in ("threefry2x32", "rbg"):
        raw, typed = (f(0, impl=impl) for f in (jax.random.PRNGKey, jax.random.key))
        ours, theirs = (trained(topology, k, steps=1) for k in (raw, typed))
        assert equal(ours[2].losses, theirs[2].losses)
        own = ours[1].parties["client"].key
        assert own.dtype == typed.dtype
    for words in (jnp.zeros(3, "uint32"), jnp.zeros(2, "int32")):
        with pytest.raises(
            ValueError, match="`key` must be one PRNG key or an integer"
        ):
            jsplit.fused(topology, optax.sgd(0.1)).init(words, batch)


def test_a_changed_default_implementation_is_the_one_of_a_seed():
    topology = vanilla(*MODELS["linen"])
    expected = trained(topology, jax.random.key(0, impl="rbg"), steps=1)
    jax.config.update("jax_default_prng_impl", "rbg")
    try:
        for key in (0, jax.random.PRNGKey(0)):
            _, state, info = trained(topology, key, steps=1)
            assert equal(info.losses, expected[2].losses)
        jsplit.export(topology, state, {"record": record})
    finally:
        jax.config.update("jax_default_prng_impl", "threefry2x32")


def test_keys_of_another_implementation_are_saved_sent_exported_and_taken_to_rounds(
    tmp_path,
):
    model, options = MODELS["nnx"]
    key, topology = jax.random.key(0, impl="rbg"), vanilla(model, options)
    links = {"smashed": jsplit.compress.quantize(8)}
    trainer = jsplit.fused(topology, optax.sgd(0.1), links=links)
    state, _ = trainer.step(trainer.init(key, batch), batch)
    jsplit.save(tmp_path, state)
    again = jsplit.restore(tmp_path, trainer.init(key, batch))
    with pytest.raises(ValueError, match="`key` is key<.*rbg>, expected key<fry>"):
        jsplit.restore(tmp_path, trainer.init(0, batch))
    jsplit.export(topology, state, {"record": record})

    sent = jsplit.messages(topology, optax.sgd(0.1), links=links)
    after = [
        make.step(s, batch)[1].loss for make, s in ((trainer, state), (sent, again))
    ]
    np.testing.assert_allclose(*after, rtol=1e-5)

    people = jsplit.population.iid(16, clients=2)
    drawn = people.round(batch, 0, batch=8)
    relay = jsplit.rounds.take_turns(trainer, client="client")
    state, info = relay.step(relay.init(key, drawn), drawn)
    assert np.isfinite(info.loss).all() and relay.evaluate(state, drawn).loss < 2
