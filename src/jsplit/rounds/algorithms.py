"""Ways to train many clients: split learning in turns, in parallel and federated, and the baselines, under one signature.

Each takes a trainer of one client's topology and gives an `Algorithm`: `init / step -> (state, info)`, a step being a round
that a `jsplit.population` draws. Randomness is numbered as if the clients of a round took turns, so one client alone trains
as the trainer would; where clients step together, each has a key of its own in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import optax

from jsplit.core.checks import one_of
from jsplit.core.trainer import Trainer
from jsplit.rounds.driver import Algorithm, check_trainer
from jsplit.rounds.local_training import travel
from jsplit.rounds.state import AVERAGED, CARRIED, FRESH, OWN, PARTS
from jsplit.rounds.synchronous import together

__all__ = [
    "Algorithm",
    "alone",
    "centralized",
    "fedavg",
    "large_batch_sgd",
    "parallel",
    "splitfed",
    "take_turns",
]

_HANDOFFS = ("peer", "server", "none")


def take_turns(
    trainer: Trainer,
    client: str | Sequence[str],
    *,
    handoff: str = "peer",
    loop: str = "auto",
) -> Algorithm:
    """Split learning, one client after the other: each trains with the others' parties, then hands over to the next.

    With hand-off, training is that of the whole model on the same sequence of batches: parameters, statistics and optimizer
    state go from client to client.

    Args:
        trainer: of one client's topology.
        client: the party, or the parties, that are there once for every client (a hospital with its labs).
        handoff: how what the client's side has learned gets to the next client: `"peer"` straight, `"server"` up and down
            again; with `"none"` each client keeps its own. The first two differ in who sees it and in bytes
            (`jsplit.runs.take_turns`), not in numbers.
        loop: `"compiled"`, a round in one program; `"python"`, Python over one compiled step; `"auto"`, compiled but for
            convolutions on a CPU. The numbers are the same.

    References:
        Gupta and Raskar, `Distributed learning of deep neural network over multiple agents
        <https://arxiv.org/abs/1810.06060>`_, 2018, section 3; Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018.
    """
    one_of("handoff", handoff, _HANDOFFS)
    mine, others = _sides(trainer, client)
    side = OWN if handoff == "none" else CARRIED
    return travel(
        trainer,
        _ways(dict.fromkeys(mine, side) | dict.fromkeys(others, CARRIED)),
        loop=loop,
    )


def parallel(
    trainer: Trainer,
    client: str | Sequence[str],
    *,
    bottoms: str = "own",
    statistics: str = "averaged",
    loop: str = "auto",
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Parallel split learning: in every step each client runs on a batch of its own, the other parties on all of them as one.

    The objective of a step is the mean over all examples of all clients, and every gradient is exactly its gradient. A client
    that has no batch left takes no step, so where clients are unequal the last steps of a round are those of the largest
    alone; of a population's `global_batches`, which is GPSL, every step is of all, by their records.

    Args:
        trainer, client, loop: as for `take_turns`.
        bottoms: `"own"`, each client has parameters and an optimizer of its own, or `"shared"`, all have the same: their
            gradients are summed, which is one step on one large batch.
        statistics: of BatchNorm in shared bottoms: `"averaged"` over the clients by their examples after each step, or each
            client's `"own"`. Other parties' are of the large batch.
        mesh: a mesh with an axis `clients` over which they are spread.

    References:
        Jeon and Kim, `Privacy-sensitive parallel split learning <https://doi.org/10.1109/ICOIN48656.2020.9016486>`_, 2020;
        Kohankhaki et al., `Parallel split learning with global sampling <https://arxiv.org/abs/2407.15738>`_, 2024.
    """
    one_of("bottoms", bottoms, ("own", "shared"))
    one_of("statistics", statistics, ("averaged", "own"))
    mine, others = _sides(trainer, client)
    side = OWN if bottoms == "own" else CARRIED
    found = _ways(dict.fromkeys(mine, side) | dict.fromkeys(others, CARRIED), links=OWN)
    if statistics == "own":
        found |= {(p, "state"): OWN for p in mine}
    return together(trainer, found, mine, loop=loop, mesh=mesh)


def splitfed(
    trainer: Trainer,
    client: str | Sequence[str],
    *,
    version: int = 1,
    statistics: str = "averaged",
    moments: str = "fresh",
    server: optax.GradientTransformation | None = None,
    loop: str = "auto",
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """SplitFed: in a round each client trains with the other parties; then halves are averaged, each client by its share.

    Version 1: every client has copies of the other parties to train with, and all halves are averaged. Version 2: the other
    parties train with one client after the other, in the round's order (let it be `shuffled`), and the clients' halves are
    averaged. Version 3: every client keeps its own half; the copies of the other parties are averaged.

    Args:
        trainer, client, loop: as for `take_turns`.
        version: 1, 2 or 3.
        statistics: of BatchNorm in halves that are averaged: `"averaged"` as well, or each client's `"own"`.
        moments: optimizer states of halves that are averaged: `"fresh"` in every round, `"averaged"`, or each client's `"own"`.
            Fresh ones count steps from 0 again, so a schedule starts anew in every round.
        server: an optimizer that applies the average: what a round moved is the gradient it takes a step along, with the
            sign turned. By default the average is taken as it is, which is `optax.sgd(1.0)`.
        chunk: how many clients run at the same time, on each device. More take more memory; by default all, on a CPU 8, or
            1 where a step convolves.
        mesh: a mesh with an axis `clients` over which they are spread.

    References:
        Thapa et al., `SplitFed: when federated learning meets split learning <https://arxiv.org/abs/2004.12088>`_, 2022,
        Algorithms 1 and 2; Gawali et al., `Comparison of privacy-preserving distributed deep learning methods in healthcare
        <https://arxiv.org/abs/2012.12591>`_, 2021, for version 3.
    """
    one_of("version", version, (1, 2, 3))
    mine, others = _sides(trainer, client)
    if not others:
        raise ValueError(
            f"`client` names every party, {', '.join(mine)}, so nobody is left to serve; `fedavg` averages the whole."
        )
    low, high = {1: (AVERAGED, AVERAGED), 2: (AVERAGED, CARRIED), 3: (OWN, AVERAGED)}[
        version
    ]
    found = _ways(
        dict.fromkeys(mine, low) | dict.fromkeys(others, high), statistics, moments
    )
    return travel(trainer, found, server=server, loop=loop, chunk=chunk, mesh=mesh)


def fedavg(
    trainer: Trainer,
    *,
    statistics: str = "averaged",
    moments: str = "fresh",
    server: optax.GradientTransformation | None = None,
    loop: str = "auto",
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Federated averaging: each client trains the whole model, all parties of the topology; then it is averaged.

    Args:
        trainer: of any topology of the model.
        statistics, moments, server, loop, chunk, mesh: as for `splitfed`. With a `server` optimizer this is FedOpt.

    References:
        McMahan et al., `Communication-efficient learning of deep networks from decentralized data
        <https://arxiv.org/abs/1602.05629>`_, 2017, Algorithm 1; Reddi et al., `Adaptive federated optimization
        <https://arxiv.org/abs/2003.00295>`_, 2021, Algorithm 1.
    """
    found = _ways(
        dict.fromkeys(check_trainer(trainer).topology.parties, AVERAGED),
        statistics,
        moments,
    )
    return travel(trainer, found, server=server, loop=loop, chunk=chunk, mesh=mesh)


def large_batch_sgd(
    trainer: Trainer,
    *,
    statistics: str = "averaged",
    loop: str = "auto",
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Synchronous SGD: in every step each client computes the gradient of the whole model on a batch of its own, and all step
    along the mean over all examples.

    Args:
        trainer: of any topology of the model.
        statistics, loop, mesh: as for `parallel`.

    References:
        Chen et al., `Revisiting distributed synchronous SGD <https://arxiv.org/abs/1604.00981>`_, 2016.
    """
    return parallel(
        trainer,
        check_trainer(trainer).topology.parties,
        bottoms="shared",
        statistics=statistics,
        loop=loop,
        mesh=mesh,
    )


def centralized(trainer: Trainer, *, loop: str = "auto") -> Algorithm:
    """The whole model on all data in one place: give it rounds of `population.pooled()`.

    Args:
        trainer: of any topology of the model.
        loop: as for `take_turns`.
    """
    return travel(
        trainer,
        _ways(dict.fromkeys(check_trainer(trainer).topology.parties, CARRIED)),
        loop=loop,
    )


def alone(
    trainer: Trainer,
    *,
    loop: str = "auto",
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Every client trains the whole model on its own data, and nobody learns from another: what joining in must beat.

    Args:
        trainer: of any topology of the model.
        loop, chunk, mesh: as for `splitfed`.
    """
    found = _ways(dict.fromkeys(check_trainer(trainer).topology.parties, OWN))
    return travel(trainer, found, loop=loop, chunk=chunk, mesh=mesh)


def _ways(
    side: dict[str, str],
    statistics: str = "averaged",
    moments: str = "fresh",
    links: str | None = None,
) -> dict:
    """How each part travels, from how each party's parameters do.

    The memory of a link is carried where all is, and else each client's own."""
    one_of("statistics", statistics, (AVERAGED, OWN))
    one_of("moments", moments, (FRESH, AVERAGED, OWN))
    links = links or (CARRIED if {*side.values()} == {CARRIED} else OWN)
    found = {}
    for p, way in side.items():
        found |= {(p, part): way for part in PARTS} | {(p, "links"): links}
        if way == AVERAGED:
            found |= {(p, "state"): statistics, (p, "optimizer"): moments}
    return found


def _sides(
    trainer: Trainer, client: str | Sequence[str]
) -> tuple[list[str], list[str]]:
    """The parties that a client is made of, and all others."""
    parties = check_trainer(trainer).topology.parties
    mine = (
        [client]
        if isinstance(client, str)
        else list(client)
        if isinstance(client, Sequence)
        else []
    )
    if not mine or len({*mine}) < len(mine) or not {*mine} <= {*parties}:
        raise ValueError(
            f"`client` must be one or several of the parties {', '.join(parties)}, got {client!r}."
        )
    return mine, [p for p in parties if p not in mine]
