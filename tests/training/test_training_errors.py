"""What an interpreter cannot take is refused, and the culprit named."""

from __future__ import annotations

from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.compress import cast, quantize
from tests.helpers import (
    cross_entropy,
    make_problem,
)
from tests.training.common import INTERPRETERS, X, both, dense, refused


def test_wrong_arguments_of_an_interpreter_are_refused_when_it_is_built():
    topology, sgd = make_problem("vanilla", "mlp", "nnx").topology, optax.sgd(0.1)
    for make in INTERPRETERS.values():
        refused(
            "`optimizer` has none for the party `server`",
            lambda: make(topology, {"client": sgd}),
        )
        refused(
            "names the party `sever`, which is not one of client, server",
            lambda: make(topology, {"sever": sgd}),
        )
        refused(
            "`optimizer` of `client` must be an optax optimizer, got float",
            lambda: make(topology, {"client": 0.1, "server": sgd}),
        )
        refused(
            "`links` names `smash`, which does not cross; there are smashed",
            lambda: make(topology, sgd, links={"smash": cast("float16")}),
        )
        refused(
            "`links` of `smashed` must be a Link or a pair",
            lambda: make(topology, sgd, links={"smashed": 8}),
        )
        refused(
            '`backward` must be "residuals" or "recompute"',
            lambda: make(topology, sgd, backward="none"),
        )
        refused(
            "`microbatches` must be a positive integer, got 0",
            lambda: make(topology, sgd, microbatches=0),
        )
        refused("`topology` must be a Topology, got dict", lambda: make({}, sgd))
        bare = jsplit.Topology(
            [n for n in topology.nodes if isinstance(n, jsplit.Node)], topology.holds
        )
        refused("`topology` has no loss", lambda: make(bare, sgd))


@both
def test_a_wrong_batch_is_refused_and_the_culprit_named(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")
    trainer = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1))
    image, label = problem.fields["image"], problem.labels["label"]
    state = trainer.init(0, problem.batch)
    wrong = {
        "the batch lacks the field `label`; it has image": {"image": image},
        "a field `lable`, which no party holds; there are image, label": {
            **problem.batch,
            "lable": label,
        },
        "batch axes differ: `image` has 8, `label` has 3 examples": {
            "image": image,
            "label": label[:3],
        },
        "the batch is empty": {"image": image[:0], "label": label[:0]},
        "`label` has no batch axis": {"image": image, "label": np.int32(1)},
        "`label` must be an array, got a list; make one by np.asarray": {
            "image": image,
            "label": label.tolist(),
        },
        "expects `image` as float32[8,6], got float32[8,5]": {
            "image": image[:, :5],
            "label": label,
        },
    }
    for message, batch in wrong.items():
        refused(message, lambda batch=batch: trainer.step(state, batch))
        refused(message, lambda batch=batch: trainer.init(0, batch))
        refused(message, lambda batch=batch: trainer.evaluate(state, batch))
    refused(
        "the batch lacks the field `image`",
        lambda: trainer.predict(state, {"label": label}),
    )
    accumulating = INTERPRETERS[interpreter](
        problem.topology, optax.sgd(0.1), microbatches=3
    )
    refused(
        "`microbatches` is 3, which does not divide the batch of 8",
        lambda: accumulating.init(0, problem.batch),
    )
    state, info = trainer.step(state, problem.batch)  # and nothing was lost
    assert np.isfinite(info.loss)


@both
def test_the_optimizer_state_of_another_trainer_is_refused(interpreter):
    problem, make = make_problem("vanilla", "mlp", "nnx"), INTERPRETERS[interpreter]
    adam = optax.adam(0.1)
    for own, other in ((adam, optax.sgd(0.1)), (optax.sgd(0.1), adam)):
        of = [
            make(problem.topology, {"client": adam, "server": server})
            for server in (own, other)
        ]
        state = of[1].init(0, problem.batch)
        refused(
            "the optimizer state of `server` is of another optimizer",
            lambda of=of, s=state: of[0].step(s, problem.batch),
        )
    refused(
        "a Federation, got a dict",
        lambda: jsplit.variables({}),
    )


def test_a_batch_may_be_any_mapping_and_a_seed_any_integer():
    problem = make_problem("vanilla", "mlp", "nnx")
    for make in INTERPRETERS.values():
        trainer = make(problem.topology, optax.sgd(0.1))
        batch = MappingProxyType(problem.batch)
        state = trainer.init(np.int64(0), batch)
        assert (
            trainer.evaluate(state, batch).loss
            == trainer.step(trainer.init(0, problem.batch), batch)[1].loss
        )
        for batch, got in (((1, 2), "tuple"), (None, "NoneType")):
            refused(
                f"the batch must be a dictionary of fields, got {got}",
                lambda batch=batch: trainer.step(state, batch),
            )
        refused(
            "`key` must be a PRNG key or an integer seed, got NoneType",
            lambda: trainer.init(None, problem.batch),
        )
        keys = jax.random.split(jax.random.key(0), 2)
        refused(
            "`key` must be one PRNG key or an integer seed, got key",
            lambda keys=keys: trainer.init(keys, problem.batch),
        )
        words = {**problem.batch, "label": np.array(["a"] * 8)}
        refused(
            "field `label` of the batch must hold numbers, got <U1",
            lambda words=words: trainer.init(0, words),
        )
        refused(
            "`label` holds no array",
            lambda: trainer.init(0, {**problem.batch, "label": None}),
        )


@both
def test_what_does_not_fit_together_is_refused_when_training_starts(interpreter):
    make, batch = INTERPRETERS[interpreter], {"x": X, "y": X[:, :3]}

    def vanilla(bottom, top):
        return jsplit.vanilla(
            bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
        )

    wide = jsplit.segment(
        lambda w, h: h @ w, init=lambda key, h: jnp.ones((5, 3)), inputs=["h"]
    )
    sgd = optax.sgd(0.1)
    refused(
        "node `output` at `server` does not run on `smashed` float32[8,3]: TypeError",
        lambda: make(vanilla(dense(["x"]), wide), sgd).init(0, batch),
    )
    grows = jsplit.Segment(
        lambda key, h: ({}, {}), lambda p, s, k, h, train=True: (h, {"n": h}), ("h",)
    )
    refused(
        "node `output` at `server`: `apply` must give back a state of the structure and "
        "dtypes it got",
        lambda: make(vanilla(dense(["x"]), grows), sgd).init(0, batch),
    )
    narrows = jsplit.Segment(
        lambda key, h: ({}, {"n": jnp.zeros(1)}),
        lambda p, s, k, h, train=True: (h, {"n": s["n"].astype(jnp.bfloat16)}),
        ("h",),
    )
    refused(
        "got {'n': 'bfloat16'}",
        lambda: make(vanilla(dense(["x"]), narrows), sgd).init(0, batch),
    )
    unmoded = jsplit.Segment(lambda key, h: ({}, {}), lambda p, s, k, h: (h, s), ("h",))
    refused(
        "TypeError", lambda: make(vanilla(dense(["x"]), unmoded), sgd).init(0, batch)
    )
    topology = vanilla(dense(["x"]), dense())
    for optimizer, why in (
        (optax.lbfgs(), "`optimizer` of `client` needs `grad` and `value_fn`"),
        (optax.contrib.reduce_on_plateau(), "jsplit.with_loss(optimizer)"),
    ):
        refused(
            why,
            lambda optimizer=optimizer: make(
                topology, {"client": optimizer, "server": sgd}
            ).init(0, batch),
        )
    refused(
        "`optimizer` of `client` must be an optax optimizer, got dict",
        lambda: make(topology, {"client": {}, "server": sgd}),
    )
    refused(
        "`links` must be a dictionary by the names of values that cross, got Link",
        lambda: make(topology, sgd, links=quantize(8)),
    )
    halves = jsplit.stateless(
        lambda v, k: v.astype(jnp.bfloat16), lambda payload, like: payload
    )
    trainer = make(topology, sgd, links={"smashed": halves})
    state = trainer.init(0, batch)
    refused(
        "link of `smashed`: `decode` gives bfloat16[8,3] for the activation, expected float32[8,3]",
        lambda: trainer.step(state, batch),
    )
    other = make(vanilla(dense(["x"], name="h"), dense()), sgd)
    refused(
        "the state of `client` is of another trainer: it has the nodes",
        lambda: other.step(state, batch),
    )
    apart = make(
        jsplit.vanilla(
            dense(["x"]), dense(), loss=optax.l2_loss, label="y", client="clinic"
        ),
        sgd,
    )
    refused(
        "the state is of another trainer: it has the parties",
        lambda: apart.step(state, batch),
    )


@both
def test_integers_where_gradients_are_asked_are_refused(interpreter):
    bottom = jsplit.segment(
        lambda w, x: jnp.argmax(x @ w, axis=1),
        init=lambda key, x: jnp.ones((6, 4)),
        inputs=["image"],
    )
    top = jsplit.segment(
        lambda w, h: w[h], init=lambda key, h: jnp.ones((4, 3)), inputs=["h"]
    )
    trainer = INTERPRETERS[interpreter](
        jsplit.vanilla(bottom, top, loss=cross_entropy), optax.sgd(0.1)
    )
    batch = {"image": np.ones((8, 6), np.float32), "label": np.zeros(8, np.int32)}
    refused(
        "node `smashed` at `client` has parameters before it but passes on int32",
        lambda: trainer.init(0, batch),
    )


@both
def test_a_loss_that_is_no_number_is_refused(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")
    topology = problem.topology.add(
        jsplit.Loss(
            "hits", lambda z, y: z.argmax(1) == y, "server", ["output", "label"]
        )
    )
    trainer = INTERPRETERS[interpreter](topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    refused(
        "loss `hits`: `fn` must return a floating array, got bool[8]",
        lambda: trainer.step(state, problem.batch),
    )


@both
def test_a_field_without_arrays_or_with_keys_of_two_kinds_is_named(interpreter):
    problem = make_problem("vanilla", "mlp", "nnx")
    trainer = INTERPRETERS[interpreter](problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    x = problem.batch["image"]
    for value, what in {
        "nothing": (None, "`image` holds no array, got None"),
        "empty": ({}, "`image` holds no array, got a dict"),
        "mixed": ({1: x, "a": x}, "field `image` of the batch is no tree of arrays"),
    }.values():
        refused(
            what, lambda v=value: trainer.step(state, {**problem.batch, "image": v})
        )


@pytest.mark.parametrize("seed", [True, 2**32, 2**40, -(2**31) - 1])
def test_a_seed_that_would_be_another_is_refused(seed):
    problem = make_problem("vanilla", "mlp", "nnx")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    refused(
        "an integer seed from -2**31 to 2**32 - 1",
        lambda: trainer.init(seed, problem.batch),
    )
