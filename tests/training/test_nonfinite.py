"""What becomes of a step that leaves what is not finite: refused, skipped or allowed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.training.class_numbers import out_of_range
from tests.helpers import cross_entropy, make_problem
from tests.training.common import (
    INTERPRETERS,
    X,
    both,
    by_hand,
    close,
    dense,
    learned,
    refused,
    well,
)

PICK = optax.softmax_cross_entropy_with_integer_labels

PROBLEM = make_problem("u_shaped", "cnn", "linen")
GOOD = PROBLEM.batch
BAD = {**GOOD, "image": np.full_like(GOOD["image"], np.inf)}
MEMORY = jsplit.Link(
    lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
    lambda memory, value, key: (jax.tree.map(jnp.add, value, memory),) * 2,
    lambda payload, like: payload,
)
"""A link that keeps what it sent, and sends it again with the next value."""


def made(interpreter, nonfinite="refuse", **options):
    return INTERPRETERS[interpreter](
        PROBLEM.topology,
        optax.adam(0.01),
        links={"up": (MEMORY, None)},
        nonfinite=nonfinite,
        **options,
    )


def refusal(call):
    with pytest.raises(jsplit.NotFinite) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@both
def test_a_step_that_leaves_what_is_not_finite_is_refused_and_the_state_in_hand_stays(
    interpreter,
):
    trainer = made(interpreter)
    state = trainer.init(0, GOOD)
    first, _ = trainer.step(state, GOOD)
    said = refusal(lambda: trainer.step(first, BAD))
    assert said.startswith("step 2 leaves what is not finite")
    for name in ("the loss `loss` at `client`", "parameters of `down` at `server`"):
        assert name in said
    assert "statistics of `up` at `client`" in said
    assert "the memory of the link of `activation up to server`" in said
    # As if the other had never been tried.
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.map(key_data, trainer.step(first, GOOD)[0]),
        jax.tree.map(key_data, trainer.step(trainer.step(state, GOOD)[0], GOOD)[0]),
    )


def faults_of(info):
    assert info.finite is not None
    return info.finite.nonfinite()


def flags_of(info):
    assert info.finite is not None
    return info.finite.flags


def key_data(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


@both
@pytest.mark.parametrize("parts", [1, 2])
def test_a_skipped_step_leaves_all_but_its_number_as_it_was(interpreter, parts):
    trainer = made(interpreter, "skip", microbatches=parts)
    state, info = trainer.step(trainer.init(0, GOOD), GOOD)
    assert well(info)
    after, info = trainer.step(state, BAD)
    assert not well(info) and "the loss `loss`" in str(faults_of(info))
    for party, own in after.parties.items():
        before = state.parties[party]
        assert own.step == before.step + 1 == 2
        for part in ("params", "state", "optimizer", "links"):
            old, new = getattr(before, part), getattr(own, part)
            jax.tree.map(np.testing.assert_array_equal, new, old)
    _, info = trainer.step(after, GOOD)
    assert well(info) and np.isfinite(info.loss)


def test_interpreters_skip_the_same_steps_and_go_on_alike():
    states = []
    for interpreter in INTERPRETERS:
        trainer = made(interpreter, "skip")
        state = trainer.init(0, GOOD)
        for batch in (GOOD, BAD, GOOD):
            state, _ = trainer.step(state, batch)
        states.append(learned(state))
    close(*states, 1e-5)


def test_messages_of_a_skipping_trainer_are_recorded_and_costed():
    trainer = made("messages", "skip")
    _, info = trainer.step(trainer.init(0, GOOD), GOOD)
    scalars = [(m.sender, m.receiver) for m in info.messages if m.kind == "scalar"]
    assert sorted(scalars) == [("client", "server"), ("server", "client")]
    cost = jsplit.cost(
        PROBLEM.topology,
        GOOD,
        optimizer=optax.adam(0.01),
        links={"up": (MEMORY, None)},
        nonfinite="skip",
    )
    assert cost.messages == info.messages
    assert len([m for m in cost.at(4).messages if m.kind == "scalar"]) == 2


@both
def test_what_is_allowed_goes_on_and_nobody_looks(interpreter):
    trainer = made(interpreter, "allow")
    state, info = trainer.step(trainer.init(0, GOOD), BAD)
    assert info.finite is None and np.isnan(info.loss)
    assert trainer.evaluate(state, GOOD).finite is None


LABEL = np.arange(8, dtype=np.int32) % 3
CLASSES = jsplit.vanilla(dense(["x"], "h"), dense(["h"], "y"), loss=cross_entropy)


@both
@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_class_number_out_of_range_is_refused_in_a_step_and_in_an_evaluation(
    interpreter, wrong, parts
):
    trainer = INTERPRETERS[interpreter](CLASSES, optax.sgd(0.1), microbatches=parts)
    good = {"x": X, "label": LABEL}
    bad = {"x": X, "label": np.where(np.arange(8) == 5, wrong, LABEL).astype(np.int32)}
    state = trainer.init(0, good)
    what = "the range of class numbers in the loss `loss` at `server`"
    said = refusal(lambda: trainer.step(state, bad))
    assert said.startswith("step 1 ") and what in said
    for batch in (bad, [good, bad]):
        said = refusal(lambda batch=batch: trainer.evaluate(state, batch))
        assert said.startswith("the evaluation ") and what in said
    found = trainer.evaluate(state, [good, good])
    assert well(found) and np.isfinite(found.loss)
    weight = (np.arange(8) != 5).astype(np.float32)
    assert np.isfinite(trainer.evaluate(state, bad, weight).loss)


def test_an_evaluation_that_skips_tells_and_raises_nothing():
    trainer = jsplit.fused(CLASSES, optax.sgd(0.1), nonfinite="skip")
    good = {"x": X, "label": LABEL}
    state = trainer.init(0, good)
    info = trainer.evaluate(state, [good, {"x": X, "label": LABEL - 1}])
    assert faults_of(info) == [
        "the range of class numbers in the loss `loss` at `server`"
    ]


def test_a_loss_of_weight_0_may_be_nan_and_its_class_numbers_may_not():
    only_nan = jsplit.Loss("ratio", lambda y: y[:, 0] * jnp.nan, "server", ["y"], 0.0)
    trainer = jsplit.fused(CLASSES.add(only_nan), optax.sgd(0.1))
    good = {"x": X, "label": LABEL}
    state, info = trainer.step(trainer.init(0, good), good)
    assert np.isnan(info.losses["ratio"]) and well(info)
    assert np.isnan(trainer.evaluate(state, good).losses["ratio"])

    coarse = jsplit.Loss("coarse", cross_entropy, "server", ["y", "kind"], 0.0)
    watched = jsplit.Topology(
        [*CLASSES.nodes, coarse], {**CLASSES.holds, "server": ["label", "kind"]}
    )
    trainer = jsplit.fused(watched, optax.sgd(0.1))
    state = trainer.init(0, {**good, "kind": LABEL})
    said = refusal(lambda: trainer.step(state, {**good, "kind": LABEL - 1}))
    assert "the range of class numbers in the loss `coarse` at `server`" in said
    assert "`loss`" not in said


def test_a_program_of_ones_own_over_steps_tells_and_raises_nothing():
    trainer = made("fused")
    state = trainer.init(0, GOOD)
    both_batches = jax.tree.map(lambda a, b: jnp.stack([a, b]), GOOD, BAD)

    @jax.jit
    def over(state, batches):
        return jax.lax.scan(trainer.step, state, batches)

    _, infos = over(state, both_batches)
    assert infos.finite.all().tolist() == [True, False]
    assert "the loss `loss` at `client`" in faults_of(infos)


def test_parties_without_parameters_or_losses_and_other_dtypes_are_looked_at_too():
    """A party of a sum alone, statistics that are a count and a key, and halves."""
    counting = jsplit.Segment(
        lambda key, x: (
            {"w": jnp.ones(4, jnp.bfloat16)},
            {"n": jnp.int32(0), "key": key},
        ),
        lambda p, s, key, x, train=True: (
            (x * p["w"]).astype(jnp.float16),
            {"n": s["n"] + 1, "key": jax.random.fold_in(s["key"], 1)},
        ),
        ("x",),
    )
    topology = jsplit.Topology(
        [
            jsplit.Node("h", counting, "alice"),
            jsplit.Node("y", jsplit.segment(lambda h: h.sum(-1), inputs=["h"]), "sum"),
            jsplit.Loss("loss", lambda y: y, "lab", ["y"]),
        ],
        {"alice": ["x"], "sum": [], "lab": []},
    )
    good, bad = {"x": X}, {"x": np.full_like(X, 1e30)}
    for make in INTERPRETERS.values():
        trainer = make(topology, optax.sgd(0.1, momentum=0.9), nonfinite="skip")
        state, info = trainer.step(trainer.init(0, good), good)
        assert well(info) and flags_of(info)["sum"].shape == (1,)
        after, info = trainer.step(state, bad)
        assert not well(info)
        found, had = after.parties["alice"], state.parties["alice"]
        assert found.state["h"]["n"] == had.state["h"]["n"] == 1
        assert jnp.array_equal(
            key_data(found.state["h"]["key"]), key_data(had.state["h"]["key"])
        )
        assert found.params["h"]["w"].dtype == jnp.bfloat16
        close(found.params, had.params, 0)


def test_numbers_of_16_bits_that_are_large_are_finite():
    large = {"w": jnp.full((64, 64), 6e4, jnp.float16), "x": jnp.full(5, 3e38)}
    nodes = jsplit.segment(
        lambda p, x: x.mean(-1) + 0 * p["x"].max(),
        init=lambda key, x: large,
        inputs=["x"],
    )
    topology = by_hand(
        jsplit.Node("h", nodes, "alice"),
        jsplit.Loss("loss", lambda h: h, "alice", ["h"]),
    )
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    _, info = trainer.step(trainer.init(0, {"x": X}), {"x": X})
    assert well(info)


MASK = np.array([0, 1, 1, 0, 1, 1, 1, 1], np.float32)


@pytest.mark.parametrize(
    ("loss", "label", "wrong"),
    [
        (lambda y, z, m: PICK(y, z), 7, True),
        (lambda y, z, m: PICK(y, z), -1, True),
        (lambda y, z, m: PICK(y, z).mean(), 7, True),
        (lambda y, z, m: -jax.nn.log_softmax(y)[jnp.arange(8), z], -1, True),
        (lambda y, z, m: PICK(y, z) * m, -1, False),
        (lambda y, z, m: PICK(y, z) * (1 - m), -1, True),
        (lambda y, z, m: jnp.where(m > 0, PICK(y, z), 0), -100, False),
        (lambda y, z, m: jnp.where(z < 0, 0.0, PICK(y, z)), -100, False),
        (lambda y, z, m: PICK(y, jnp.clip(z + 1, 0, 2)), -1, False),
        (lambda y, z, m: PICK(y, jnp.maximum(z, 0)), -1, False),
    ],
)
def test_a_class_number_out_of_range_is_named_where_it_changes_something(
    loss, label, wrong
):
    topology = jsplit.Topology(
        [
            jsplit.Node("y", dense(["x"]), "lab"),
            jsplit.Loss("loss", loss, "lab", ["y", "label", "mask"]),
        ],
        {"lab": ["x", "label", "mask"]},
    )
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    labels = np.where(MASK > 0, 1, label).astype(np.int32)
    batch = {"x": X[:8], "label": labels, "mask": MASK}
    state = trainer.init(0, batch)
    if wrong:
        with pytest.raises(jsplit.NotFinite, match="the range of class numbers"):
            trainer.step(state, batch)
    else:
        trainer.step(state, batch)


def test_what_was_infinite_before_a_step_is_no_fault_of_it():
    """A mask, a least value so far, the best loss of a plateau that waits."""

    def apply(w, state, key, x, train=True):
        least = jnp.minimum(state["least"], 5.0) if train else state["least"]
        masked = jnp.where(jnp.isfinite(state["mask"]), x @ w, 0)
        return masked, {"mask": state["mask"], "least": state["least"], "now": least}

    first = {
        "mask": jnp.array([0.0, -jnp.inf, 0.0]),
        "least": jnp.full(3, jnp.inf),
        "now": jnp.full(3, jnp.inf),
    }
    segment = jsplit.Segment(
        lambda key, x: (jnp.ones((x.shape[1], 3)), first), apply, ("x",), "y"
    )
    topology = jsplit.Topology(
        [
            jsplit.Node("y", segment, "lab"),
            jsplit.Loss("loss", lambda y: (y**2).mean(-1), "lab", ["y"]),
        ],
        {"lab": ["x"]},
    )
    plateau = optax.contrib.reduce_on_plateau(accumulation_size=3)
    batch = {"x": X[:8]}
    for policy in ("refuse", "skip"):
        trainer = jsplit.fused(
            topology, optax.chain(optax.sgd(0.1), plateau), nonfinite=policy
        )
        state = trainer.init(0, batch)
        new, info = trainer.step(state, batch)
        assert well(info)
        moved = new.parties["lab"].params["y"] != state.parties["lab"].params["y"]
        assert bool(moved.any())


@pytest.mark.parametrize("make", [jsplit.fused, jsplit.messages])
def test_a_step_that_can_be_refused_gives_its_state_back(make):
    topology = by_hand(
        jsplit.Node("h", dense(["x"]), "alice"),
        jsplit.Loss("loss", lambda h: (h**2).mean(-1), "alice", ["h"]),
    )
    refused(
        '`donate=True` needs `nonfinite="skip"`',
        lambda: make(topology, optax.sgd(0.1), donate=True),
    )


def test_narrow_parameters_are_looked_at_too():
    narrow = jsplit.segment(
        lambda p, x: x @ p["w"],
        init=lambda key, x: {
            "w": jnp.ones((x.shape[1], 2)),
            "q": jnp.ones(3, jnp.float8_e4m3fn),
        },
        inputs="x",
        name="y",
    )
    topology = by_hand(
        jsplit.Node("y", narrow, "alice"),
        jsplit.Loss("loss", lambda y: (y**2).mean(-1), "alice", ["y"]),
    )
    trainer = jsplit.fused(topology, optax.sgd(0.1))
    _, info = trainer.step(trainer.init(0, {"x": X}), {"x": X})
    assert well(info)


Y = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 5)), jnp.float32)
PADDED = jnp.zeros((4, 3), jnp.int32).at[:, -1].set(-100)
COUNTED = jnp.arange(3) < 2


@pytest.mark.parametrize(
    "loss, value, label, wrong",
    [
        # A dtype that cannot hold how many classes there are.
        (PICK, jnp.zeros((4, 256)), np.array([0, 7, 100, 255], np.uint8), False),
        (PICK, jnp.zeros((4, 200)), np.array([0, 7, 100, 127], np.int8), False),
        (PICK, jnp.zeros((4, 200)), np.array([0, 7, 100, -1], np.int8), True),
        (
            lambda y, z: PICK(y, z) * (y[:, 0] > -9),
            jnp.zeros((4, 200)),
            np.int8(7),
            False,
        ),
        # A mask that is a constant, as that of the last place of a sequence.
        (lambda y, z: jnp.where(COUNTED, PICK(y, z), 0).mean(-1), Y, PADDED, False),
        (lambda y, z: PICK(y, z)[:, :-1].mean(-1), Y, PADDED, False),
        (lambda y, z: jnp.where(COUNTED, PICK(y, z), 0).mean(-1), Y, PADDED + 5, True),
        # The label is the first of two indices, or the second.
        (lambda y, z: -y.T[z, jnp.arange(4)], Y[:, 0], np.array([4, 0, 0, 4]), False),
        (lambda y, z: -y.T[z, jnp.arange(4)], Y[:, 0], np.array([5, 0, 0, 4]), True),
        (lambda y, z: -y[jnp.arange(4), z], Y[:, 0], np.array([4, 0, 0, 4]), False),
        (lambda y, z: -y[jnp.arange(4), z], Y[:, 0], np.array([5, 0, 0, 4]), True),
    ],
)
def test_class_numbers_are_as_many_as_there_are_classes(loss, value, label, wrong):
    label = jnp.broadcast_to(jnp.asarray(label), (4,)) if np.ndim(label) < 2 else label
    count = out_of_range(loss, [value, label], [False, True])
    assert bool(count > 0) is wrong


@pytest.mark.parametrize("policy", ["refuse", "skip"])
def test_a_number_of_an_optimizer_that_becomes_infinite_is_a_fault(policy):
    """Adam's second moment of a parameter that is one number: it would never move again."""
    top = jsplit.segment(
        lambda w, x: w * x, init=lambda key, x: jnp.ones(()), inputs="x", name="y"
    )
    topology = jsplit.Topology(
        [
            jsplit.Node("y", top, "lab"),
            jsplit.Loss("loss", lambda y: y.mean(-1), "lab", ["y"]),
        ],
        {"lab": ["x"]},
    )
    trainer = jsplit.fused(topology, optax.adam(0.1), nonfinite=policy)
    state = trainer.init(0, {"x": X[:4]})
    large = {"x": np.full((4, 3), 1e25, np.float32)}
    if policy == "refuse":
        with pytest.raises(jsplit.NotFinite, match="its optimizer state at `lab`"):
            trainer.step(state, large)
    else:
        assert faults_of(trainer.step(state, large)[1])
