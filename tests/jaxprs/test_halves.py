"""A turn in two programs: what is sent does not wait for what is learned, and together
they are the turn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit.jaxprs.halves import split_early_late
from jsplit.jaxprs.macs import macs
from jsplit.training.configure import configure
from jsplit.training.executor import CompiledWalk, send_first
from jsplit.training.initial import initial_state
from jsplit.training.step import training_ops
from jsplit.training.store import layout_of, load
from jsplit.training.update import update_ops
from jsplit.training.walk import Wire, turns
from tests.helpers import CONFIGURATIONS, make_problem

LASTING = ("params", "state", "optimizer", "step")


def divided_turns(problem, backward="residuals"):
    """The turns of a step that are two programs, with what they read."""
    config = configure(
        problem.topology, optax.sgd(0.1, momentum=0.9), None, backward, 1
    )
    ops = [*training_ops(config), *update_ops(config)]
    keep = [w for op in ops for w in op.writes if w.kind in (*LASTING, "loss")]
    memory, found = (
        load(layout_of(config), initial_state(config, 0, problem.batch), problem.batch),
        [],
    )
    for turn in turns(ops, keep):
        values = [memory[r] for r in turn.reads]
        memory.update(zip(turn.writes, jax.jit(turn.run)(*values), strict=True))
        if len(pair := send_first(turn)) == 2:
            found.append((turn, values, pair))
    return found


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_what_is_sent_does_not_wait_for_what_is_learned(configuration):
    found = divided_turns(make_problem(configuration, "mlp", "nnx"))
    assert found
    for turn, values, (send, learn) in found:
        assert {w for w in turn.writes if isinstance(w, Wire)} <= set(send.writes)
        assert {w for w in turn.writes if w.kind in ("grad", *LASTING)} == set(
            learn.writes
        )
        assert not {*send.writes} & {
            *learn.reads[1:]
        }  # what the second program reads is as it was
        assert {*send.writes, *learn.writes} == {*turn.writes, learn.reads[0]} and len(
            send.writes
        ) > 1
        first = jax.make_jaxpr(send.run)(*values)
        second = jax.make_jaxpr(learn.run)(send.run(*values)[0], *values)
        whole = jax.make_jaxpr(turn.run)(*values)
        parts = [macs(j.jaxpr) for j in (first, second)]
        assert (
            sum(parts) == macs(whole.jaxpr) and parts[1] > 0
        )  # nothing is computed twice


def test_a_server_of_dense_layers_sends_after_two_thirds_of_its_work():
    """A third of it is forward, a third the cotangents of activations, and a third
    those of weights.
    """
    ((_, values, (send, learn)),) = divided_turns(make_problem("vanilla", "mlp", "nnx"))
    carried, *_ = send.run(*values)
    first, second = (
        jax.make_jaxpr(send.run)(*values),
        jax.make_jaxpr(learn.run)(carried, *values),
    )
    assert macs(first.jaxpr) == 2 * macs(second.jaxpr)


@pytest.mark.parametrize("backward", ["residuals", "recompute"])
@pytest.mark.parametrize(
    ("configuration", "kind"),
    [("vanilla", "cnn"), ("u_shaped", "cnn"), ("multitask", "residual")],
)
def test_both_programs_together_are_the_turn(configuration, kind, backward):
    for turn, values, (send, learn) in divided_turns(
        make_problem(configuration, kind, "nnx"), backward
    ):
        carried, *early = jax.jit(send.run)(*values)
        memory = dict(zip(send.writes[1:], early, strict=True))
        memory.update(
            zip(learn.writes, jax.jit(learn.run)(carried, *values), strict=True)
        )
        for name, expected in zip(turn.writes, jax.jit(turn.run)(*values), strict=True):
            assert jax.tree.structure(memory[name]) == jax.tree.structure(expected)
            for got, x in zip(
                jax.tree.leaves(memory[name]), jax.tree.leaves(expected), strict=True
            ):
                assert got.dtype == x.dtype and got.weak_type == x.weak_type
                np.testing.assert_allclose(got, x, rtol=1e-5, atol=1e-6)


def test_only_a_turn_that_sends_and_learns_is_two_programs():
    config = configure(
        make_problem("vanilla", "mlp", "nnx").topology,
        optax.sgd(0.1),
        None,
        "residuals",
        1,
    )
    walk = CompiledWalk(turns([*training_ops(config), *update_ops(config)], []), [])
    assert [p.party for p in walk.programs] == ["client", "server", "server", "client"]
    assert len(CompiledWalk(turns(training_ops(config)[:1], []), []).programs) == 1


def test_halves_of_a_function_run_everything_once_and_in_order():
    """Also what acts beyond its results, and what changes an array in place."""
    seen = []

    def run(x, w):
        kept = jax.new_ref(x)
        kept[...] = kept[...] * 2
        jax.debug.callback(lambda v: seen.append(float(v)), kept[0], ordered=True)
        h = jnp.sin(kept[...])
        jax.debug.callback(lambda v: seen.append(float(v)), h[0] + 10, ordered=True)
        return h, {"w": jnp.cos(h) @ w, "h": h}, 3 * jnp.tanh(w).sum()

    first, second = split_early_late(run, [True, False, False])
    x, w = jnp.arange(1.0, 4.0), jnp.arange(6.0).reshape(3, 2)
    carried, h = jax.jit(first)(x, w)
    later = jax.jit(second)(carried, x, w)
    jax.effects_barrier()
    expected = jax.jit(run)(x, w)
    jax.effects_barrier()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), (h, *later), expected
    )
    assert [round(v, 4) for v in seen] == 2 * [2.0, round(10 + float(np.sin(2.0)), 4)]
    assert "callback" not in str(
        jax.make_jaxpr(second)(carried, x, w)
    ) and "tanh" not in str(jax.make_jaxpr(first)(x, w))


def test_gradients_are_those_at_the_state_before_the_step():
    """The statistics that a step leaves are not what its own gradients are computed with."""
    top = jsplit.Segment(
        lambda key, h: (
            {"weight": jnp.ones((4, 4)), "bias": jnp.ones(4)},
            jnp.ones(()),
        ),
        lambda p, count, key, h, train=True: (
            h @ p["weight"] + count * p["bias"],
            count + 1,
        ),
    )
    bottom = jsplit.segment(
        lambda p, x: jnp.tanh(x @ p),
        init=lambda key, x: jnp.ones((4, 4)) / 4,
        inputs=["x"],
    )
    topology = jsplit.vanilla(
        bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )
    batch, found = {"x": jnp.eye(4), "y": jnp.zeros((4, 4))}, []
    for make in (jsplit.messages, jsplit.fused):
        trainer = make(topology, optax.sgd(0.01))
        state, info = trainer.step(trainer.init(0, batch), batch)
        for _ in range(2):
            state, info = trainer.step(state, batch)
        found.append(
            (
                info.loss,
                {p: (own.params, own.state) for p, own in state.parties.items()},
            )
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *found)


def test_a_remat_keeps_its_barrier():
    """Else XLA would merge what is recomputed with what was computed before, and keep it all."""
    block = jax.checkpoint(lambda p, h: jnp.tanh(jnp.sin(h @ p)))
    top = jsplit.segment(
        lambda p, h: block(p, h) @ p, init=lambda key, h: jnp.ones((4, 4)), inputs=["h"]
    )
    bottom = jsplit.segment(
        lambda p, x: x @ p, init=lambda key, x: jnp.ones((4, 4)), inputs=["x"]
    )
    topology = jsplit.vanilla(
        bottom, top, loss=lambda o, y: ((o - y) ** 2).mean(-1), label="y"
    )
    batch = {"x": jnp.ones((8, 4)), "y": jnp.ones((8, 4))}
    config = configure(topology, optax.sgd(0.1), None, "residuals", 1)
    ops = [*training_ops(config), *update_ops(config)]
    keep = [w for op in ops for w in op.writes if w.kind in LASTING]
    memory = load(layout_of(config), initial_state(config, 0, batch), batch)
    client, server, _ = turns(ops, keep)
    memory.update(
        zip(client.writes, client.run(*[memory[r] for r in client.reads]), strict=True)
    )
    lowered = jax.jit(send_first(server)[0].run).lower(
        *[memory[r] for r in server.reads]
    )
    assert "optimization_barrier" in lowered.as_text()


def test_what_no_result_needs_is_carried_to_neither_half():
    """As a vjp leaves equations of weights that are not trained."""

    def run(x, w):
        h = jnp.tanh(x @ w)
        unused = h * 2
        jnp.sin(unused)
        return h.sum(), jnp.cos(x.sum())

    x, w = jnp.ones((3, 4)), jnp.ones((4, 5))
    first, second = split_early_late(run, [True, False])
    carried, early = first(x, w)
    (late,) = second(carried, x, w)
    assert jax.tree.leaves(carried) == []
    assert (early, late) == run(x, w)
