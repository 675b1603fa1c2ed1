"""A round in which each client trains for itself: how what each party has learned gets from one client to the next.

Every part of a party's state goes one of four ways: it is *carried* from one client's turn into the next; all clients start
from the same, and it is *averaged* afterwards; each client keeps its *own*; or it starts *fresh* in every turn. The algorithms
of `jsplit.rounds` are nothing but tables of these ways. Where nothing is carried, clients run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import TrainState
from jsplit.core.checks import as_positive_int
from jsplit.core.trainer import Trainer
from jsplit.core.trees import combine, inexact_part
from jsplit.rounds.averages import add_share, mean_of, nothing_yet
from jsplit.rounds.client_axis import CLIENTS, clients_mesh
from jsplit.rounds.driver import Algorithm, assemble, check_trainer
from jsplit.rounds.loops import LOOPS, Loops
from jsplit.rounds.state import (
    AVERAGED,
    CARRIED,
    FRESH,
    OWN,
    Draw,
    Held,
    Parts,
    Ways,
    add_losses,
    at,
    no_sums,
    parties_of,
    parts_of,
    told,
)
from jsplit.training.initial import first_memory


def travel(
    trainer: Trainer,
    ways: Ways,
    *,
    server: optax.GradientTransformation | None = None,
    loop: str = "auto",
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """The algorithm in which each part of a party's state travels as `ways` says.

    Args:
        trainer: what a client does in a step, with those it trains with.
        ways: by party and part of its state.
        server: the optimizer that applies averages; each party's average is the gradient it takes a step along.
        loop: how loops run.
        chunk: how many clients run at once, on each device.
        mesh: over whose axis `clients` they are spread.
    """
    config = check_trainer(trainer)
    if server is not None and not isinstance(server, optax.GradientTransformation):
        raise ValueError(
            f"`server` must be an optax optimizer, got {type(server).__name__}."
        )
    mesh = clients_mesh(mesh, config)
    at_once = CARRIED not in ways.values()
    group = _group_size(chunk, mesh, at_once)
    averaged = [p for p in config.topology.parties if ways[p, "params"] == AVERAGED]

    def start(shared: Parts, own: Parts) -> Parts:
        """What one client starts its turn with."""
        parts = {
            k: own[k] if way == OWN else jax.tree.map(jnp.copy, shared[k])
            for k, way in ways.items()
            if way != FRESH
        }
        for p, part in ways:
            if ways[p, part] == FRESH:
                nodes = {
                    n: x
                    for n, x in parts[p, "params"].items()
                    if config.topology.node[n].segment.trainable
                }
                parts[p, part] = (
                    first_memory(config, p, inexact_part(nodes)) if nodes else ()
                )
        return {k: parts[k] for k in ways}

    def train(parts: Parts, step, key, batch, weight):
        state, info = trainer.step(
            TrainState(parties_of(parts, key, step)), batch, weight
        )
        return parts_of(state.parties), step + 1, info.losses

    def measure(parts: Parts, step, key, batch, weight):
        return (
            parts,
            step,
            trainer.evaluate(
                TrainState(parties_of(parts, key, step)), batch, weight
            ).losses,
        )

    def program(loops: Loops, ragged: bool, training: bool) -> Callable:
        def one(carry, live, key, fields, reads, weight):
            """One step of one client, if it still takes one."""
            parts, step, sums = carry
            parts, step, losses = (train if training else measure)(
                parts, step, key, at(fields, reads), weight if ragged else None
            )
            new = parts, step, add_losses(sums, losses, weight.sum())
            return (
                new
                if live is None
                else jax.tree.map(partial(jnp.where, live), new, carry)
            )

        def begin(shared: Parts, own: Parts, step):
            return start(shared, own), step, no_sums(config)

        begin_row = jax.vmap(begin, in_axes=(None, 0, 0))
        row = loops.each(one, in_axes=(0, 0, None, None, 0, 0))
        if mesh is not None:
            spread, same = jax.P(CLIENTS), jax.P()
            specs = spread, spread, same, same, spread, spread
            row = jax.shard_map(
                row, mesh=mesh, in_specs=specs, out_specs=spread, check_vma=False
            )
            begin_row = jax.shard_map(
                begin_row,
                mesh=mesh,
                in_specs=(same, spread, spread),
                out_specs=spread,
                check_vma=False,
            )
        one, row = (
            loops.step(f, donate_argnums=0 if training else ()) for f in (one, row)
        )
        begin, begin_row, finish, settle = map(
            loops.step, (begin, begin_row, gather, apply)
        )

        def turn(shared: Parts, own: Parts, step, x: Draw, key, fields):
            """All steps of a client, or of a row of them at once, each as many as it takes."""
            single = jnp.ndim(x.steps) == 0
            carry = (begin if single else begin_row)(shared, own, step)

            def body(s, carry):
                if single:
                    return one(carry, None, key, fields, x.reads[s], x.weight[s])
                return row(
                    carry, s < x.steps, key, fields, x.reads[:, s], x.weight[:, s]
                )

            return loops.times(x.steps.max(), body, carry)

        def whole_round(held: Held, key, fields, draw: Draw):
            parts, step, memory = held
            shared = {k: x for k, x in parts.items() if ways[k] in (CARRIED, AVERAGED)}
            own = {k: x for k, x in parts.items() if ways[k] == OWN}
            means = {
                k: jax.tree.map(nothing_yet, x)
                for k, x in shared.items()
                if ways[k] == AVERAGED and training
            }

            def clients(carry, x):
                shared, means = carry
                mine, x = x
                mine, _, sums = turn(shared, mine, step + x.before, x, key, fields)
                carry = finish(shared, means, mine, x.share) if training else carry
                return carry, ({k: mine[k] for k in own}, sums)

            found, rest, size = (
                at(own, draw.client),
                draw,
                group(len(draw.client), loops),
            )
            rows = size > 1 or mesh is not None
            if rows:
                found, rest = jax.tree.map(
                    lambda x: x.reshape(-1, size, *x.shape[1:]), (found, draw)
                )
            (shared, means), (found, sums) = loops.over(
                clients, (shared, means), (found, rest)
            )
            if rows:
                found, sums = jax.tree.map(
                    lambda x: x.reshape(-1, *x.shape[2:]), (found, sums)
                )
            if not training:
                return held, told(config, sums)
            own = jax.tree.map(
                lambda x, new: x.at[draw.client].set(new, mode="drop"), own, found
            )
            new, memory = settle(memory, shared, means, draw.share.sum())
            fresh = {k: parts[k] for k, way in ways.items() if way == FRESH}
            new = {k: (new | own | fresh)[k] for k in ways}
            return Held(new, step + draw.steps.sum(), memory), told(config, sums)

        return whole_round

    def gather(shared: Parts, means: Parts, parts: Parts, share) -> tuple[Parts, Parts]:
        """What is carried on, and the sums of what is averaged, after one or several clients."""
        means = {
            k: jax.tree.map(partial(add_share, share), x, parts[k])
            for k, x in means.items()
        }
        return {
            k: parts[k] if ways[k] == CARRIED else x for k, x in shared.items()
        }, means

    def apply(memory: dict, shared: Parts, means: Parts, total) -> tuple[Parts, dict]:
        """Averages in the place of what all started from, by the server's optimizer where there is one."""
        new = shared | {
            k: jax.tree.map(partial(mean_of, total), shared[k], x)
            for k, x in means.items()
        }
        memory = dict(memory)
        if server is not None:
            for p in averaged:
                old, got = (
                    inexact_part(shared[p, "params"]),
                    inexact_part(new[p, "params"]),
                )
                updates, memory[p] = server.update(
                    jax.tree.map(jnp.subtract, old, got), memory[p], old
                )
                new[p, "params"] = combine(
                    new[p, "params"], optax.apply_updates(old, updates)
                )
        return new, memory

    def first_server(parts: Parts) -> dict:
        return (
            {p: server.init(inexact_part(parts[p, "params"])) for p in averaged}
            if server is not None
            else {}
        )

    return assemble(
        trainer, ways, program, loop=loop, group=group, server=first_server, mesh=mesh
    )


def _group_size(
    chunk: int | None, mesh: jax.sharding.Mesh | None, at_once: bool
) -> Callable[[int, Loops], int]:
    """How many of so many clients run at once: `chunk` on each device.

    By default all on an accelerator; on a CPU 8, whose states stay in its cache, or 1 where a step convolves: a convolution
    of several clients with weights of their own is slow there."""
    chunk = None if chunk is None else as_positive_int("chunk", chunk)
    if not at_once and (chunk or mesh):
        raise ValueError(
            "`chunk` and `mesh` are for clients that run at the same time; here one waits for another."
        )
    devices = mesh.shape[CLIENTS] if mesh is not None else 1

    def group(count: int, loops: Loops) -> int:
        each = -(-count // devices)
        usual = (
            each
            if jax.default_backend() != "cpu"
            else 8
            if loops is LOOPS["compiled"]
            else 1
        )
        return devices * min(chunk or usual, each) if at_once else 1

    return group
