"""A party's functions read what is its own and what it was sent, and nothing else:
proven on their jaxprs.
"""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import optax
import pytest

import jsplit
from jsplit.core.trees import nbytes
from jsplit.training.configure import configure
from jsplit.training.initial import initial_state
from jsplit.training.step import training_ops
from jsplit.training.store import layout_of, load
from jsplit.training.update import update_ops
from jsplit.training.walk import Name, Wire, turns
from tests.helpers import CONFIGURATIONS, FLAX, make_problem


@cache
def run_turns(configuration, kind, flax, numbers=False):
    """Every turn of a training step, with the values it read and the jaxpr it is.

    Without `numbers` the first state is of shapes alone, so nothing is compiled.
    """
    problem = make_problem(configuration, kind, flax)
    config = configure(problem.topology, optax.adam(0.01), None, "residuals", 1)
    state = first_state(config, problem) if numbers else shapes_of(config, problem)
    ops = [*training_ops(config), *update_ops(config)]
    keep = [
        w
        for op in ops
        for w in op.writes
        if w.kind in ("params", "state", "optimizer", "step")
    ]
    memory, seen = load(layout_of(config), state, problem.batch), []
    for turn in turns(ops, keep):
        values = [memory[r] for r in turn.reads]
        jaxpr, shapes = jax.make_jaxpr(turn.run, return_shape=True)(*values)
        seen.append((turn, values, jaxpr))
        memory.update(zip(turn.writes, shapes, strict=True))
    return state, seen


def first_state(config, problem):
    return initial_state(config, 0, problem.batch)


def shapes_of(config, problem):
    return jax.eval_shape(lambda: first_state(config, problem))


@pytest.mark.parametrize("flax", FLAX)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_party_reads_only_its_own_memory_and_what_is_addressed_to_it(
    configuration, flax
):
    problem = make_problem(configuration, "cnn", flax)
    state, seen = run_turns(configuration, "cnn", flax, numbers=True)
    topology = problem.topology
    for turn, _, jaxpr in seen:
        for name in turn.reads:
            assert (
                name.receiver if isinstance(name, Wire) else name.party
            ) == turn.party
            if isinstance(name, Name) and name.kind in ("params", "state"):
                assert topology.node[name.what].party == turn.party
            if (
                isinstance(name, Name)
                and name.kind == "value"
                and name.what in topology.fields
            ):
                assert name.what in topology.holds[turn.party]
        for name in turn.writes:
            assert (name.sender if isinstance(name, Wire) else name.party) == turn.party
        # Nothing comes in by another way: the jaxpr captures no array that could be a
        # weight or a field.
        weights = [
            np.asarray(x)
            for p in state.parties.values()
            for x in jax.tree.leaves((p.params, p.state))
        ]
        for const in jaxpr.consts:
            assert not any(
                const.shape == w.shape and w.size > 1 and (np.asarray(const) == w).all()
                for w in weights
            )
    fields = {
        n.what
        for turn, *_ in seen
        for n in turn.reads
        if isinstance(n, Name) and n.kind == "value"
    }
    assert set(problem.batch) <= fields


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_another_party_s_parameters_do_not_change_what_a_party_computes_in_its_turn(
    configuration,
):
    """Wires hold only activations and cotangents, of the shapes that the topology says."""
    problem = make_problem(configuration, "mlp", "nnx")
    _, seen = run_turns(configuration, "mlp", "nnx")
    wires = [
        (w, x)
        for turn, values, _ in seen
        for w, x in zip(turn.reads, values, strict=True)
        if isinstance(w, Wire)
    ]
    crossings = problem.topology.crossings
    assert len(wires) == 2 * len(crossings)
    for wire, value in wires:
        assert all(x.shape[0] == 8 for x in jax.tree.leaves(value))
        ends = (
            (wire.sender, wire.receiver)
            if wire.kind == "activation"
            else (wire.receiver, wire.sender)
        )
        assert (wire.what, *ends, True) in crossings


@pytest.mark.parametrize("flax", FLAX)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_parameter_belongs_to_exactly_one_party(configuration, flax):
    problem = make_problem(configuration, "residual", flax)
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    # Who holds what is told by shapes.
    state = jax.eval_shape(lambda: trainer.init(0, problem.batch))
    trees = [t for p in state.parties.values() for t in p.params.values()]
    part = jsplit.segment(problem.whole, variables=problem.variables)
    whole = jax.eval_shape(part.init, jax.random.key(0), *problem.fields.values())
    merged = jsplit.merge(*trees)  # raises if two hold the same
    assert jax.tree.structure(merged) == jax.tree.structure(whole[0])


def test_the_fewest_turns_a_step_can_have():
    turns = {
        c: [t.party for t, *_ in run_turns(c, "mlp", "nnx")[1]]
        for c in ("vanilla", "u_shaped", "multihop")
    }
    assert turns["vanilla"] == ["client", "server", "client"]
    assert turns["u_shaped"] == ["client", "server", "client", "server", "client"]
    assert turns["multihop"] == ["one", "two", "three", "four", "three", "two", "one"]


def test_in_recompute_mode_a_client_keeps_no_activation_between_turns():
    problem = make_problem("vanilla", "cnn", "nnx")

    def kept(backward):
        config = configure(problem.topology, optax.sgd(0.1), None, backward, 1)
        state = shapes_of(config, problem)
        first = turns([*training_ops(config), *update_ops(config)], [])[0]
        memory = load(layout_of(config), state, problem.batch)
        results = dict(
            zip(
                first.writes,
                jax.eval_shape(first.run, *[memory[r] for r in first.reads]),
                strict=True,
            )
        )
        (vjp,) = [x for name, x in results.items() if name.kind == "vjp"]
        return [x.shape for x in vjp.new], nbytes(state.parties["client"].state)

    (big, _), (small, statistics) = kept("residuals"), kept("recompute")
    assert any(len(shape) == 4 for shape in big)
    assert (
        4 * sum(np.prod(shape) for shape in small) <= statistics + 4
    )  # and what dropout's key is folded from
