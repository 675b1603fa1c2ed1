"""A round in which all clients take every step together, each on a batch of its own.

To the parties that they share it is one step on one large batch; how that is, `client_axis` says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import TrainState
from jsplit.core.trainer import Trainer
from jsplit.rounds.averages import add_share, mean_of, nothing_yet
from jsplit.rounds.client_axis import clients_mapped, clients_mesh, spread
from jsplit.rounds.client_calls import row_by_row
from jsplit.rounds.driver import Algorithm, assemble, check_trainer
from jsplit.rounds.local_training import travel
from jsplit.rounds.loops import LOOPS, Loops
from jsplit.rounds.state import (
    AVERAGED,
    CARRIED,
    OWN,
    Draw,
    Held,
    RoundInfo,
    Ways,
    add_losses,
    at,
    no_sums,
    parties_of,
    parts_of,
    told,
)
from jsplit.training.fused import fused


def together(
    trainer: Trainer,
    ways: Ways,
    clients: Collection[str],
    *,
    loop: str = "auto",
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """The algorithm in which the parties `clients` are there once for each client, and all step at the same time.

    Args:
        trainer: of one client's topology.
        ways: each part of a party's state is one client's own, or is carried from step to step. A state of the clients that is
            carried is averaged after each step, each client by its examples.
        clients: the parties that a client is made of.
        loop: how loops run.
        mesh: over whose axis `clients` the clients are spread.
    """
    config = check_trainer(trainer)
    mesh = clients_mesh(mesh, config)
    if config.microbatches > 1:
        raise ValueError(
            "`trainer` has micro-batches, which clients that step together do not: give each a smaller batch."
        )
    own = any(ways[p, "params"] == OWN for p in clients)

    def in_rows(loops: Loops) -> bool:
        return mesh is None and loops is LOOPS["python"]

    averaged = [(p, "state") for p in clients if ways[p, "state"] == CARRIED]

    def step_of(count: int, loops: Loops) -> Callable:
        if in_rows(loops):
            return row_by_row(config, clients, count, own=own)
        mapped = loops.each if own else jax.vmap
        many = spread(
            config, clients, count, own=own, mapped=clients_mapped(mapped, mesh)
        )
        links = {
            n: (many.links.get(("activation", n)), many.links.get(("cotangent", n)))
            for _, n in many.links
        }
        return fused(
            many.topology,
            many.optimizer,
            links=links,
            backward=many.backward,
            mesh=many.mesh,
        ).step

    def program(loops: Loops, ragged: bool, training: bool) -> Callable:
        steps: dict[int, Callable] = {}

        def begin(shared, live, fields, reads, weight):
            """States of all clients where they are averaged, their batch, how much each example counts, and each client."""
            every = {
                k: jax.tree.map(lambda x: jnp.repeat(x[None], len(live), 0), x)
                for k, x in shared.items()
            }
            weight = weight * live[:, None]
            return (
                every,
                at(fields, reads.reshape(-1)),
                weight.reshape(-1),
                weight.sum(1),
            )

        def finish(old, new, live, of, losses, sums, examples):
            """What is a client's own stays as it is where it takes no step, or has no example in it."""
            live = live & (of > 0)
            for k in old:
                if k in averaged:
                    sums_of = jax.tree.map(
                        lambda x, y: add_share(of, nothing_yet(x), y), old[k], new[k]
                    )
                    new[k] = jax.tree.map(partial(mean_of, of.sum()), old[k], sums_of)
                else:
                    new[k] = jax.tree.map(
                        lambda x, y: _keep(live, x, y), old[k], new[k]
                    )
            return new, add_losses(sums, losses, of.sum()), examples + of

        def one(carry, live, key, fields, reads, weight):
            """One step of all clients, [K, B] records."""
            parts, step, sums, examples = carry
            if len(live) not in steps:
                steps[len(live)] = step_of(len(live), loops)
            every, batch, weight, of = begin(
                {k: parts[k] for k in averaged}, live, fields, reads, weight
            )
            state, info = steps[len(live)](
                TrainState(parties_of(parts | every, key, step)), batch, weight
            )
            new = parts_of(state.parties)
            old = {k: x for k, x in parts.items() if ways[k] == OWN or k in averaged}
            found, *counted = finish(
                old, {k: new[k] for k in old}, live, of, info.losses, sums, examples
            )
            return new | found, step + 1, *counted

        if in_rows(loops):
            begin, finish = jax.jit(begin), jax.jit(finish)
        else:
            one = loops.step(one, donate_argnums=0)

        def whole_round(held: Held, key, fields, draw: Draw):
            parts, step, memory = held
            kept = {k: x for k, x in parts.items() if ways[k] == OWN}
            parts = {
                k: at(x, draw.client) if k in kept else x for k, x in parts.items()
            }

            def body(s, carry):
                return one(
                    carry,
                    s < draw.steps,
                    key,
                    fields,
                    draw.reads[:, s],
                    draw.weight[:, s],
                )

            examples = jnp.zeros(len(draw.client), jnp.result_type(float))
            carry = parts, step, no_sums(config), examples
            parts, step, sums, examples = loops.times(draw.steps.max(), body, carry)
            for k, x in kept.items():
                parts[k] = jax.tree.map(
                    lambda old, new: old.at[draw.client].set(new, mode="drop"),
                    x,
                    parts[k],
                )
            info: RoundInfo = told(config, sums)._replace(each={}, examples=examples)
            return Held(parts, step, memory), info

        return whole_round

    if mesh is not None:  # to evaluate, nothing has to be carried on
        ways_to_evaluate = {
            k: AVERAGED if way == CARRIED else way for k, way in ways.items()
        }
        alone = travel(trainer, ways_to_evaluate, loop=loop, chunk=1, mesh=mesh)
    else:
        alone = travel(trainer, ways, loop=loop)
    return assemble(
        trainer, ways, program, loop=loop, group=lambda count, loops: 1, mesh=mesh
    )._replace(evaluate=alone.evaluate)


def _keep(live: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Of each client the new array if it took the step."""
    return jnp.where(live.reshape(-1, *[1] * (new.ndim - 1)), new, old)
