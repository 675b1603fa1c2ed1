"""Split learning of many clients: in turns, in parallel, and federated.

Each takes a trainer of one client's topology and gives an `Algorithm`,
whose step is a round that a `jsplit.population` draws. Each is a table of
what travels, which `local_training` or `synchronous` runs; a new one is a
function here.

Randomness is numbered as if the clients of a round took turns, so one
client alone trains as the trainer would. Where clients step together, each
has a key of its own in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import optax

from jsplit.core.checks import one_of
from jsplit.core.trainer import Trainer
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.local_training import local_training
from jsplit.rounds.sharing import Sharing
from jsplit.rounds.synchronous import synchronous
from jsplit.rounds.tables import client_and_others, sharing_table
from jsplit.topology.handoffs import BOTTOMS, HANDOFFS


def take_turns(
    trainer: Trainer,
    client: str | Sequence[str],
    *,
    handoff: str = "peer",
) -> Algorithm:
    """Split learning, one client after the other: each trains, then hands over to the next.

    With hand-off, training is that of the whole model on the same sequence
    of batches: parameters, statistics and optimizer state go from client
    to client.

    Args:
        trainer: a trainer of one client's topology.
        client: the party, or the parties, that are there once for every
            client (a hospital with its labs).
        handoff: how what the client's side has learned gets to the next
            client: `"peer"` straight, `"server"` up and down again; with
            `"none"` each client keeps its own. The first two differ in who
            sees it and in bytes (`jsplit.runs.take_turns`), not in
            numbers.

    Returns:
        The algorithm, a step of which is a round.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Gupta and Raskar, `Distributed learning of deep neural network over
        multiple agents <https://arxiv.org/abs/1810.06060>`_, 2018, section
        3; Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018.

    Example:
        >>> import jsplit, optax
        >>> low = jsplit.segment(lambda x: 2 * x, name="smashed", inputs=["x"])
        >>> high = jsplit.segment(lambda h: h + 1, name="output", inputs=["smashed"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> print(jsplit.rounds.take_turns(trainer, "client").sharing)
        party    params    state  optimizer    links
        client  carried  carried    carried  carried
        server  carried  carried    carried  carried
    """
    one_of("handoff", handoff, HANDOFFS)
    mine, others = client_and_others(trainer, client)
    # Over a peer or over the server, the same gets to the next client.
    side = Sharing.OWN if handoff == "none" else Sharing.CARRIED
    sharing = sharing_table(
        {**dict.fromkeys(mine, side), **dict.fromkeys(others, Sharing.CARRIED)}
    )
    return local_training(trainer, sharing)


def parallel(
    trainer: Trainer,
    client: str | Sequence[str],
    *,
    bottoms: str = "own",
    statistics: str = "averaged",
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Parallel split learning: in every step all clients run, each on a batch of its own.

    The other parties run on the batches of all clients as one. The
    objective of a step is the mean over all examples of all clients, and
    every gradient is exactly its gradient. A client that has no batch left
    takes no step, so where clients are unequal the last steps of a round
    are those of the largest alone. Of a population's `global_batches`,
    which is GPSL, every step is of all, by their records.

    Args:
        trainer: a trainer of one client's topology, without micro-batches.
        client: the party, or the parties, that are there once for every
            client.
        bottoms: `"own"`, each client has parameters and an optimizer of
            its own, or `"shared"`, all have the same: their gradients are
            summed, which is one step on one large batch.
        statistics: how those of BatchNorm in shared bottoms are shared:
            `"averaged"` over the clients by their examples after each
            step, or each client's `"own"`. Other parties' are of the large
            batch.
        mesh: a mesh with an axis `clients` over which they are spread.

    Returns:
        The algorithm, a step of which is a round.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Jeon and Kim, `Privacy-sensitive parallel split learning
        <https://doi.org/10.1109/ICOIN48656.2020.9016486>`_, 2020;
        Kohankhaki et al., `Parallel split learning with global sampling
        <https://arxiv.org/abs/2407.15738>`_, 2024.

    Example:
        >>> import jsplit, optax
        >>> low = jsplit.segment(lambda x: 2 * x, name="smashed", inputs=["x"])
        >>> high = jsplit.segment(lambda h: h + 1, name="output", inputs=["smashed"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> print(jsplit.rounds.parallel(trainer, "client", bottoms="shared").sharing)
        party    params     state  optimizer  links
        client  carried  averaged    carried    own
        server  carried   carried    carried    own
    """
    one_of("bottoms", bottoms, BOTTOMS)
    one_of("statistics", statistics, ("averaged", "own"))
    mine, others = client_and_others(trainer, client)
    side = Sharing.OWN if bottoms == "own" else Sharing.CARRIED
    # Shared bottoms are carried from step to step, while statistics come
    # apart in a step: each client's are of its own batch.
    own = bottoms == "own" or statistics == "own"
    sharing = sharing_table(
        {**dict.fromkeys(mine, side), **dict.fromkeys(others, Sharing.CARRIED)},
        states={party: Sharing.OWN if own else Sharing.AVERAGED for party in mine},
        # Each client's part of the batch goes through links of its own.
        links=Sharing.OWN,
    )
    # Where nothing is averaged over a round there is nothing for a server
    # optimizer to apply, and no `chunk`: all clients are one batch.
    return synchronous(trainer, sharing, mine, mesh=mesh)


def splitfed(
    trainer: Trainer,
    client: str | Sequence[str],
    *,
    version: int = 1,
    statistics: str = "averaged",
    moments: str = "fresh",
    server: optax.GradientTransformation | None = None,
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """SplitFed: in a round each client trains with the other parties; then halves are averaged.

    Version 1: every client has copies of the other parties to train with,
    and all halves are averaged, each client by its share. Version 2: the
    other parties train with one client after the other, in the round's
    order (let it be `shuffled`), and the clients' halves are averaged.
    Version 3: every client keeps its own half; the copies of the other
    parties are averaged.

    Args:
        trainer: a trainer of one client's topology.
        client: the party, or the parties, that are there once for every
            client.
        version: 1, 2 or 3.
        statistics: how those of BatchNorm are shared in halves that are
            averaged: `"averaged"` as well, or each client's `"own"`.
        moments: how optimizer states are shared of halves that are
            averaged: `"averaged"`, each client's `"own"`, or `"fresh"`:
            moments start anew in every client's turn, Adam's count of them
            too. What counts for a schedule goes on, by the steps of the
            client that took the most, and a learning rate set by
            `jsplit.set_hyperparams` stays.
        server: an optimizer that applies the average: what a round moved
            is the gradient it takes a step along, with the sign turned. By
            default the average is taken as it is, which is
            `optax.sgd(1.0)`.
        chunk: how many clients run at the same time, on each device. More
            take more memory; by default all, on a CPU one.
        mesh: a mesh with an axis `clients` over which they are spread.

    Returns:
        The algorithm, a step of which is a round.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Thapa et al., `SplitFed: when federated learning meets split
        learning <https://arxiv.org/abs/2004.12088>`_, 2022, Algorithms 1
        and 2; Gawali et al., `Comparison of privacy-preserving distributed
        deep learning methods in healthcare
        <https://arxiv.org/abs/2012.12591>`_, 2021, for version 3.

    Example:
        >>> import jsplit, optax
        >>> low = jsplit.segment(lambda x: 2 * x, name="smashed", inputs=["x"])
        >>> high = jsplit.segment(lambda h: h + 1, name="output", inputs=["smashed"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> print(jsplit.rounds.splitfed(trainer, "client", version=3).sharing)
        party     params     state  optimizer  links
        client       own       own        own    own
        server  averaged  averaged      fresh    own
    """
    one_of("version", version, (1, 2, 3))
    mine, others = client_and_others(trainer, client)
    # All parties averaged would be computed just as well, but not split.
    if not others:
        raise ValueError(
            f"`client` names every party, {', '.join(mine)}, so nobody is left to "
            "serve; `fedavg` averages the whole."
        )
    # A party whose half is carried trains with one client after the other.
    client_side, server_side = {
        1: (Sharing.AVERAGED, Sharing.AVERAGED),
        2: (Sharing.AVERAGED, Sharing.CARRIED),
        3: (Sharing.OWN, Sharing.AVERAGED),
    }[version]
    sharing = sharing_table(
        {**dict.fromkeys(mine, client_side), **dict.fromkeys(others, server_side)},
        statistics=statistics,
        moments=moments,
    )
    return local_training(trainer, sharing, server=server, chunk=chunk, mesh=mesh)
