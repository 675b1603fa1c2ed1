"""The signature that every algorithm over rounds has, and how one is made of what a round computes.

Whatever a round does is a function of arrays, `program`; here it is checked, compiled and run, one round or many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import index
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jsplit.core.base import PyTree, TrainState
from jsplit.core.placement import replicate, shard_batch
from jsplit.core.trainer import Trainer
from jsplit.core.trees import abstract
from jsplit.jaxprs.convolutions import convolves_on_cpu
from jsplit.population import Round
from jsplit.rounds.client_axis import CLIENTS
from jsplit.rounds.loops import LOOPS, Loops, check_loop
from jsplit.rounds.state import (
    OWN,
    Draw,
    Federation,
    Held,
    Parts,
    RoundInfo,
    Ways,
    at,
    parties_of,
    parts_of,
)
from jsplit.training.configure import fields_of
from jsplit.training.meshes import one_mesh
from jsplit.training.step import Config


class Algorithm(NamedTuple):
    """A way to train many clients: the signature of a `Trainer`, whose batches are rounds.

    Attributes:
        init: `init(key, round) -> state`; of the round only shapes matter.
        step: `step(state, round) -> (state, info)`. The state that goes in is used up.
        run: `run(state, rounds) -> (state, infos)`, several rounds of equal shapes on the same data, in one program
            where that is fast; the infos have a leading axis [rounds].
        evaluate: `evaluate(state, round) -> info`, in inference mode, by client and overall; changes nothing.
        predict: `predict(state, fields, client=None) -> {node: output}`; `client` says whose, where clients have parts of
            their own.
        config: that of the trainer.
    """

    init: Callable[..., Federation]
    step: Callable[..., tuple[Federation, RoundInfo]]
    run: Callable[..., tuple[Federation, RoundInfo]]
    evaluate: Callable[..., RoundInfo]
    predict: Callable[..., Mapping[str, PyTree]]
    config: Config


def check_trainer(trainer: Trainer) -> Config:
    if not isinstance(trainer, Trainer) or not isinstance(trainer.config, Config):
        raise ValueError(
            f"`trainer` must be one of jsplit.fused or jsplit.messages, got {type(trainer).__name__}."
        )
    one_mesh(trainer.config)
    return trainer.config


def assemble(
    trainer: Trainer,
    ways: Ways,
    program: Callable[..., Callable],
    *,
    loop: str,
    group: Callable[[int, Loops], int],
    server: Callable[[Parts], dict] = lambda parts: {},
    mesh: Mesh | None = None,
) -> Algorithm:
    """An algorithm from what a round computes.

    Args:
        trainer: of one client's topology.
        ways: how each part of a party's state travels.
        program: `program(loops, ragged, training) -> function(held, key, fields, draw) -> (held, info)`.
        loop: how loops run.
        group: how many clients run at once, of so many, where loops run so.
        server: first memory of the optimizer that applies averages.
        mesh: over whose axis `clients` what each client has of its own lies spread; all else lies on every device.
    """
    config = check_trainer(trainer)
    check_loop(loop)
    needed = fields_of(config.topology, losses=True)
    ways_to_loop: list[Loops] = []
    programs: dict[tuple, Callable] = {}
    first = config.topology.parties[0]

    def init(key: jax.Array | int, round: Round) -> Federation:
        _check_round(round, needed)
        parts = parts_of((state := trainer.init(key, batch_shapes(round))).parties)
        for k, way in ways.items():
            if way == OWN:
                parts[k] = jax.tree.map(
                    lambda x: jnp.repeat(x[None], round.clients, 0), parts[k]
                )
        own = state.parties[first]
        return told_apart(*settled(Held(parts, own.step, server(parts)), own.key))

    def settled(held: Held, key: jax.Array) -> tuple[Held, jax.Array]:
        """Everything where it lies between rounds."""
        if mesh is None:
            return held, key
        parts = {
            k: shard_batch(x, mesh, CLIENTS) if ways[k] == OWN else replicate(x, mesh)
            for k, x in held.parts.items()
        }
        return Held(parts, *replicate((held.step, held.server), mesh)), replicate(
            key, mesh
        )

    def fields(round: Round) -> dict[str, PyTree]:
        found = {f: x for f, x in round.fields.items() if f in needed}
        return (
            jax.tree.map(jnp.asarray, found) if mesh is None else replicate(found, mesh)
        )

    def batch_shapes(round: Round) -> dict[str, PyTree]:
        size, found = (
            round.reads.shape[-1],
            abstract({f: x for f, x in round.fields.items() if f in needed}),
        )
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), found
        )

    def drawn(state: Federation, round: Round) -> Draw:
        """The arrays of a round, filled up with clients that take no step to a whole number of groups."""
        _check_round(round, needed)
        for k, way in ways.items():
            have = (
                {x.shape[0] for x in jax.tree.leaves(parts_of(state.parties)[k])}
                if way == OWN
                else set()
            )
            if have - {round.clients}:
                raise ValueError(
                    f"the round is of {round.clients} clients, but the state is of {have.pop()}; a test set for each is "
                    "drawn from jsplit.population.everyone(records, clients)."
                )
        more = -len(round.client) % group(len(round.client), loops_for(state, round))
        reads, weight, client, steps, share = (
            np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)])
            for x in (round.reads, round.weight, round.client, round.steps, round.share)
        )
        client[len(round.client) :] = (
            round.clients
        )  # nobody: what it would write is dropped
        return Draw(
            reads,
            weight,
            client,
            steps,
            share,
            np.cumsum(steps, dtype=np.int32) - steps,
        )

    def loops_for(state: Federation, round: Round) -> Loops:
        """How loops run: as asked, or else as fits what a step computes, found out once."""
        if not ways_to_loop:
            slow = loop == "auto" and convolves_on_cpu(
                lambda *a: trainer.step(*a)[0], *one_batch(state, round)
            )
            ways_to_loop.append(
                LOOPS[loop if loop != "auto" else "python" if slow else "compiled"]
            )
        return ways_to_loop[0]

    def compiled(
        loops: Loops, draw: Draw, training: bool, several: bool = False
    ) -> Callable:
        taken = np.arange(draw.weight.shape[-2]) < draw.steps[..., None]
        ragged = bool(np.any((draw.weight != 1) & taken[..., None]))
        if (at := (ragged, training, several)) not in programs:
            inner = program(loops, ragged, training)

            def run(held, key, fields, draw):
                held, info = inner(held, key, fields, draw)
                return settled(held, key)[0], replicate(info, mesh)

            def scanned(held, key, fields, draws):
                return jax.lax.scan(
                    lambda now, draw: run(now, key, fields, draw), held, draws
                )

            programs[at] = loops.whole(
                scanned if several else run, donate_argnums=0 if training else ()
            )
        return programs[at]

    def one_batch(state: Federation, round: Round) -> tuple[TrainState, dict]:
        """The shapes of one client's state and of a batch."""
        parts, own = abstract(parts_of(state.parties)), state.parties[first]
        cut = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)  # noqa: E731
        parts = {
            k: jax.tree.map(cut, x) if ways[k] == OWN else x for k, x in parts.items()
        }
        return TrainState(parties_of(parts, own.key, own.step)), batch_shapes(round)

    def held(state: Federation) -> tuple[Held, jax.Array]:
        own = state.parties[first]
        return settled(Held(parts_of(state.parties), own.step, state.server), own.key)

    def told_apart(held: Held, key: jax.Array) -> Federation:
        return Federation(parties_of(held.parts, key, held.step), held.server)

    def cut_off(info: RoundInfo, count: int) -> RoundInfo:
        return info._replace(
            each={n: x[..., :count] for n, x in info.each.items()},
            examples=info.examples[..., :count],
        )

    def step(state: Federation, round: Round) -> tuple[Federation, RoundInfo]:
        draw = drawn(state, round)
        function = compiled(loops_for(state, round), draw, True)
        now, key = held(state)
        now, info = function(now, key, fields(round), draw)
        return told_apart(now, key), cut_off(info, len(round.client))

    def run(state: Federation, rounds: Iterable[Round]) -> tuple[Federation, RoundInfo]:
        rounds = list(rounds)
        shapes = {r.reads.shape for r in rounds}
        data = {tuple(map(id, jax.tree.leaves(dict(r.fields)))) for r in rounds}
        if len(shapes) != 1 or len(data) != 1:
            raise ValueError(
                f"`rounds` must be several of equal shapes on the same `fields`, got the shapes {sorted(shapes)}."
            )
        if loops_for(state, rounds[0]) is LOOPS["python"]:
            infos = []
            for r in rounds:
                state, info = step(state, r)
                infos.append(info)
            return state, jax.tree.map(lambda *x: jnp.stack(x), *infos)
        draws = [drawn(state, r) for r in rounds]
        many = Draw(*(np.stack(x) for x in zip(*draws, strict=True)))
        function = compiled(LOOPS["compiled"], many, True, several=True)
        now, key = held(state)
        now, info = function(now, key, fields(rounds[0]), many)
        return told_apart(now, key), cut_off(info, len(rounds[0].client))

    def evaluate(state: Federation, round: Round) -> RoundInfo:
        draw = drawn(state, round)
        function = compiled(loops_for(state, round), draw, False)
        return cut_off(
            function(*held(state), fields(round), draw)[1], len(round.client)
        )

    def predict(
        state: Federation, fields: Mapping[str, PyTree], client: int | None = None
    ) -> Mapping[str, PyTree]:
        parts = parts_of(state.parties)
        if client is None and OWN in (
            ways[p, "params"] for p in config.topology.parties
        ):
            raise ValueError(
                "each client has parameters of its own: `client` must say whose to predict with."
            )
        own = [k for k, way in ways.items() if way == OWN and jax.tree.leaves(parts[k])]
        count = jax.tree.leaves(parts[own[0]])[0].shape[0] if own else None
        if client is not None and count is not None and not 0 <= index(client) < count:
            raise ValueError(
                f"`client` must be one of 0 to {count - 1}, got {client!r}."
            )
        for k, way in ways.items():
            if way == OWN:
                parts[k] = at(parts[k], 0 if client is None else index(client))
        own = state.parties[first]
        return trainer.predict(
            replicate(TrainState(parties_of(parts, own.key, own.step)), mesh),
            replicate(dict(fields), mesh),
        )

    return Algorithm(init, step, run, evaluate, predict, config)


def _check_round(round: Any, needed: set[str]) -> None:
    if not isinstance(round, Round):
        raise ValueError(
            f"`round` must be a Round, as a population draws it, got {type(round).__name__}."
        )
    if missing := needed - round.fields.keys():
        raise ValueError(
            f"the round lacks the field `{sorted(missing)[0]}`; it has {', '.join(round.fields) or 'none'}."
        )
