"""What is predicted of a step is what happens: messages, work and memory."""

from __future__ import annotations

import json
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit.compress import cast, quantize
from jsplit.core.trees import nbytes
from jsplit.costing.party_cost import MODES
from jsplit.jaxprs.macs import macs
from jsplit.training.configure import configure
from jsplit.training.executor import CompiledWalk, InProcess
from jsplit.training.initial import initial_state
from jsplit.training.step import training_ops
from jsplit.training.store import layout_of, load
from jsplit.training.walk import Name, turns
from tests.helpers import (
    CONFIGURATIONS,
    FLAX,
    MODELS,
    WEIGHTS,
    NnxOne,
    cross_entropy,
    make_problem,
    some,
)

LINKS = {
    "plain": lambda name: None,
    "cast": lambda name: cast(jnp.bfloat16),
    "quantize": lambda name: quantize(5),
    "chain": lambda name: (jsplit.chain(cast(jnp.float16), quantize(3)), None),
}


def links_for(topology, kind):
    return {
        c.name: link
        for c in topology.crossings
        if (link := LINKS[kind](c.name)) is not None
    }


# To trace every turn of a step takes as long as to train one.
@cache
def plain_cost(configuration, kind):
    problem = make_problem(configuration, kind, "nnx")
    return jsplit.cost(problem.topology, problem.batch)


def measured(topology, batch, **options):
    trainer = jsplit.messages(
        topology, options.pop("optimizer", optax.sgd(0.1)), **options
    )
    state = trainer.init(0, batch)
    return trainer.step(state, batch)[1].messages


@pytest.mark.parametrize(
    ("configuration", "kind"),
    some(product(CONFIGURATIONS, LINKS), lambda i: (i + i // 4) % 4 == 1),
)
def test_the_messages_of_a_run_are_the_predicted_ones_exactly(configuration, kind):
    model = MODELS[(CONFIGURATIONS.index(configuration) + list(LINKS).index(kind)) % 4]
    problem = make_problem(configuration, model, FLAX[len(kind) % 2])
    links = links_for(problem.topology, kind)
    predicted = jsplit.cost(problem.topology, problem.batch, links=links)
    assert predicted.messages == measured(problem.topology, problem.batch, links=links)
    for name, party in predicted.parties.items():
        assert party.sent == sum(
            m.bytes + m.frame for m in predicted.messages if m.sender == name
        )
        assert party.received == sum(
            m.bytes + m.frame for m in predicted.messages if m.receiver == name
        )


def test_micro_batches_send_the_predicted_messages_and_keep_less():
    problem = make_problem("u_shaped", "mlp", "nnx")
    options = {"microbatches": 2, "links": {"up": quantize(8)}}
    predicted = jsplit.cost(problem.topology, problem.batch, **options)
    assert predicted.messages == measured(problem.topology, problem.batch, **options)
    full = plain_cost("u_shaped", "mlp")
    assert predicted.total.forward.macs == full.total.forward.macs
    assert (
        predicted.total.backward["residuals"].macs
        == full.total.backward["residuals"].macs
    )
    assert (
        predicted.parties["server"].activations["residuals"]
        < full.parties["server"].activations["residuals"]
    )


def whole_macs(problem):
    """Of value and gradient of the whole model in plain Flax."""
    graph, params, rest = nnx.split(problem.whole, nnx.Param, ...)
    fields = list(problem.fields.values())

    def forward(params):
        return nnx.merge(graph, params, rest, copy=True)(*fields)

    def loss(params):
        output = forward(params)
        if problem.configuration == "multitask":
            return sum(
                w * cross_entropy(output[s], problem.batch[f"label_{s}"]).mean()
                for s, w in WEIGHTS.items()
            )
        return cross_entropy(output, problem.batch["label"]).mean()

    return (
        macs(jax.make_jaxpr(f)(params).jaxpr)
        for f in (forward, jax.value_and_grad(loss))
    )


@pytest.mark.parametrize(
    ("configuration", "kind"),
    some(product(CONFIGURATIONS, ["cnn", "transformer"]), lambda i: (i + i // 2) % 2),
)
def test_the_work_of_all_parties_is_the_whole_model_s(configuration, kind):
    problem = make_problem(configuration, kind, "nnx")
    total = jsplit.cost(problem.topology, problem.batch).total
    forward, both = whole_macs(problem)
    assert total.forward.macs == forward > 0
    assert total.forward.macs + total.backward["residuals"].macs == both
    assert total.other.macs == 0
    assert total.backward["recompute"].macs >= total.backward["residuals"].macs
    assert (
        total.forward.flops > total.forward.macs
    )  # XLA counts two for each but no padding, and elementwise work


def test_flops_are_those_of_xla_for_the_very_function():
    layer = jsplit.segment(
        lambda w, x: jnp.tanh(x @ w),
        init=lambda key, x: jnp.ones((64, 32)),
        inputs=["x"],
    )
    topology = jsplit.Topology(
        [jsplit.Node("h", layer, "lab"), jsplit.Loss("loss", jnp.mean, "lab", ["h"])],
        {"lab": ["x"]},
    )
    party = jsplit.cost(topology, {"x": np.ones((16, 64), np.float32)}).parties["lab"]
    expected = jax.jit(lambda w, x: jax.vjp(lambda w: jnp.tanh(x @ w), w)).lower(
        jnp.ones((64, 32)), jnp.ones((16, 64))
    )
    assert (
        party.forward.macs == 16 * 64 * 32
        and party.backward["residuals"].macs == 16 * 64 * 32
    )
    counted = expected.cost_analysis()
    assert counted is not None
    assert party.forward.flops == pytest.approx(counted["flops"], rel=0.01)


@pytest.mark.parametrize(
    ("configuration", "flax"), [("u_shaped", "nnx"), ("vertical", "linen")]
)
def test_memory_that_lasts_is_that_of_the_state(configuration, flax):
    problem = make_problem(configuration, "cnn", flax)
    predicted = jsplit.cost(problem.topology, problem.batch, optimizer=optax.adam(0.1))
    trainer = jsplit.fused(problem.topology, optax.adam(0.1))
    state = jax.eval_shape(lambda: trainer.init(0, problem.batch))
    for name, own in state.parties.items():
        party = predicted.parties[name]
        assert (party.params, party.statistics, party.optimizer) == tuple(
            map(nbytes, (own.params, own.state, own.optimizer))
        )
        for mode in MODES:
            assert (
                party.memory(mode)
                == party.params
                + party.statistics
                + party.optimizer
                + party.activations[mode]
            )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MODELS)
def test_what_a_client_keeps_between_its_turns_is_what_was_predicted(kind, mode):
    """All that its second turn reads of what was there after its first, but for what it
    always has.
    """
    problem = make_problem("vanilla", kind, "nnx")
    config = configure(problem.topology, optax.sgd(0.1), None, mode, 1)
    state = jax.eval_shape(lambda: initial_state(config, 0, problem.batch))
    memory = load(layout_of(config), state, problem.batch)
    first, _, second = turns(training_ops(config), [])
    memory.update(
        zip(
            first.writes,
            jax.eval_shape(first.run, *[memory[r] for r in first.reads]),
            strict=True,
        )
    )
    (vjp,) = [memory[r] for r in second.reads if r in memory and r.kind == "vjp"]
    params = [
        x
        for r in memory
        if isinstance(r, Name) and (r.kind, r.party) == ("params", "client")
        for x in jax.tree.leaves(memory[r])
    ]
    image_needed = any(k is not None and k >= len(params) for k in vjp.places)
    predicted = (
        jsplit.cost(problem.topology, problem.batch).parties["client"].activations[mode]
    )
    assert predicted == nbytes(vjp.new) + image_needed * nbytes(problem.fields) > 0
    if mode == "recompute":  # constant but for the key that dropout reads
        assert image_needed and nbytes(vjp.new) <= 64


def test_shapes_are_enough():
    model = nnx.eval_shape(lambda: NnxOne("cnn", "vanilla", nnx.Rngs(0)))
    image, label = (
        jax.ShapeDtypeStruct((8, 6, 6, 1), jnp.float32),
        jax.ShapeDtypeStruct((8,), jnp.int32),
    )
    topology = jsplit.vanilla(*jsplit.split(model, image).values(), loss=cross_entropy)
    batch = {"image": image, "label": label}
    found = jsplit.cost(topology, batch, optimizer=optax.adam(0.1))
    real = make_problem("vanilla", "cnn", "nnx")
    expected = jsplit.cost(real.topology, real.batch, optimizer=optax.adam(0.1))
    assert found == expected
    with pytest.raises(
        ValueError, match="`smashed` at `client`: its model has shapes but no values"
    ):
        jsplit.fused(topology, optax.sgd(0.1)).init(0, real.batch)


def test_the_cost_at_another_batch_size_is_that_of_a_batch_of_that_size():
    small = make_problem("vertical", "mlp", "nnx", batch=4)
    assert plain_cost("vertical", "mlp").at(4) == jsplit.cost(
        small.topology, small.batch
    )


def test_a_cost_is_a_table_json_and_a_figure():
    found = plain_cost("vertical", "mlp")
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[3:7]] == [
        "lab",
        "clinic",
        "server",
        "all",
    ]
    assert (
        sum(line.startswith(("activation ", "cotangent ")) for line in lines)
        == len(found.messages)
        == 4
    )
    stored = json.loads(found.to_json())
    assert (
        stored["batch"] == 8
        and stored["parties"]["lab"]["sent"] == found.parties["lab"].sent
    )
    assert stored["messages"][0] | {"shape": (8, 8)} == {
        **found.messages[0]._asdict(),
        "dtype": "float32",
    }
    titles = [ax.get_title() for ax in found.figure().axes]
    assert titles == [
        "multiply-accumulates",
        "messages, bytes",
        "memory, bytes (residuals)",
    ]


def test_wrong_arguments_are_refused_as_by_an_interpreter():
    problem = make_problem("vanilla", "mlp", "nnx")
    with pytest.raises(ValueError, match="`links` names `smash`, which does not cross"):
        jsplit.cost(
            problem.topology, problem.batch, links={"smash": cast(jnp.bfloat16)}
        )
    with pytest.raises(ValueError, match="the batch lacks the field `label`"):
        jsplit.cost(problem.topology, problem.fields)


def test_the_memory_of_links_counts():
    zeros = lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)  # noqa: E731
    link = jsplit.Link(
        zeros, lambda memory, value, key: (value, memory), lambda payload, like: payload
    )
    problem = make_problem("vanilla", "mlp", "nnx")
    party = jsplit.cost(
        problem.topology, problem.batch, links={"smashed": (link, None)}
    ).parties["client"]
    assert (
        party.links == 8 * 8 * 4
        and party.memory()
        == party.params + party.links + party.activations["residuals"]
    )


def test_a_relay_keeps_no_message_that_no_residual_needs():
    """It sums what it receives over some features first, so its vjp needs the sums only."""
    up = jsplit.segment(
        lambda p, x: x @ p, init=lambda key, x: jnp.ones((6, 64)), inputs=["x"]
    )
    relay = jsplit.segment(
        lambda p, h: h.reshape(-1, 4, 16).sum(2) @ p,
        init=lambda key, h: jnp.ones((4, 4)),
        inputs=["h"],
    )
    top = jsplit.segment(
        lambda p, h: h @ p, init=lambda key, h: jnp.ones((4, 1)), inputs=["h"]
    )
    topology = jsplit.multihop(
        {"a": up, "b": relay, "c": top}, loss=lambda o, y: (o - y) ** 2, label="y"
    )
    batch = {"x": jnp.ones((8, 6)), "y": jnp.ones((8, 1))}
    kept = jsplit.cost(topology, batch).parties["b"].activations
    assert kept == {"residuals": 8 * 4 * 4, "recompute": 8 * 64 * 4}
    for mode, size in kept.items():
        config = configure(topology, optax.sgd(0.1), None, mode, 1)
        walk = CompiledWalk(turns(training_ops(config), []), [])
        store = load(layout_of(config), initial_state(config, 0, batch), batch)
        assert [t.party for t in walk.turns[:4]] == ["a", "b", "c", "b"]
        until = [p.party for p in walk.programs].index(
            "b", 2
        )  # the relay has had its first turn and waits
        walk.programs = walk.programs[:until]
        walk(store, InProcess())
        held = {
            name: nbytes(x)
            for name, x in store.items()
            if isinstance(name, Name)
            and name.kind in ("value", "vjp")
            and name.party == "b"
        }
        assert sum(held.values()) == size, held


def test_who_gives_a_model_in_the_place_of_a_topology_is_told_what_to_give():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="got Linear: a model alone has no parties .* jsplit.plan"
    ):
        jsplit.cost(model, {"x": jnp.ones((4, 3))})  # pyright: ignore
    for make in (jsplit.fused, jsplit.messages):
        with pytest.raises(
            ValueError, match="got Linear; divide a model by jsplit.split"
        ):
            make(model, optax.sgd(0.1))
