"""What a whole training run costs each client: split learning in turns, in parallel and federated, and the baselines.

All follow from the cost of one step, by formulas that `docs/cost.md` derives: who computes what how often, and
what is sent how often. Nothing runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import Any

from jsplit.core.base import PyTree
from jsplit.core.trees import frame_bytes, nbytes
from jsplit.costing.records import NOTHING, Cost, PartyCost, Work, check_mode
from jsplit.costing.run_cost import ClientRun, RunCost, table

__all__ = [
    "ClientRun",
    "RunCost",
    "fedavg",
    "large_batch_sgd",
    "parallel",
    "splitfed",
    "table",
    "take_turns",
]

_HANDOFFS = ("peer", "server", "none")
_BOTTOMS = ("own", "shared")


def take_turns(
    cost: Cost,
    records: Sequence[int],
    *,
    client: str | Sequence[str],
    epochs: int = 1,
    handoff: str = "peer",
    backward: str = "residuals",
) -> RunCost:
    """Split learning, one client after another: in each epoch every client takes its steps with the server, then hands over.

    Args:
        cost: of one step, of the batch size to be used; a client's last step of an epoch takes the records that are left.
        records: how many each client holds.
        client: the party that is there once for every client, or the parties, where a client is a site of several.
        epochs: passes over all data.
        handoff: how what the client's side has learned gets from one client to the next, parameters, statistics and
            optimizer state: `"peer"` sends it straight, `"server"` up and down again; with `"none"` each keeps its own.
        backward: mode.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Gupta and Raskar, `Distributed learning of deep neural network over multiple agents
        <https://arxiv.org/abs/1810.06060>`_, 2018; Singh et al., `Detailed comparison of communication efficiency of split
        learning and federated learning <https://arxiv.org/abs/1909.09145>`_, 2019.
    """
    records, epochs = _check(records, backward, epochs=epochs)
    mine = _site(cost, client)
    if handoff not in _HANDOFFS:
        raise ValueError(
            f"`handoff` must be one of {', '.join(_HANDOFFS)}, got {handoff!r}."
        )
    weights = (
        0
        if handoff == "none" or len(records) == 1
        else sum(_size_of(cost.state.parties[p][:3]) for p in mine)
    )

    def moved(k: int, steps: int) -> tuple[int, int]:
        """The last turn of all hands nothing over, and the first starts from the seed."""
        return (epochs - (k == len(records) - 1)) * weights, (
            epochs - (k == 0)
        ) * weights

    clients, server = _with_others(cost, records, mine, backward, epochs, moved)
    relayed = (epochs * len(records) - 1) * weights if handoff == "server" else 0
    return RunCost(
        f"split learning, hand-off {handoff}",
        clients,
        (server[0], server[1] + relayed, server[2] + relayed),
    )


def parallel(
    cost: Cost,
    records: Sequence[int],
    *,
    client: str | Sequence[str],
    epochs: int = 1,
    bottoms: str = "own",
    backward: str = "residuals",
) -> RunCost:
    """Parallel split learning: every step is one of all clients, each on a batch of its own.

    Each client sends and receives what it does in turns, and hands nothing over. What the other parties compute on all
    batches as one is counted as on one after the other, so their optimizers' steps are counted once for each.

    Args:
        cost, records, client, epochs, backward: as for `take_turns`.
        bottoms: `"own"`, or `"shared"`: then in every step each client sends the gradient of its side and receives the new
            weights.

    References:
        Jeon and Kim, `Privacy-sensitive parallel split learning <https://doi.org/10.1109/ICOIN48656.2020.9016486>`_, 2020.
    """
    records, epochs = _check(records, backward, epochs=epochs)
    mine = _site(cost, client)
    if bottoms not in _BOTTOMS:
        raise ValueError(
            f"`bottoms` must be one of {', '.join(_BOTTOMS)}, got {bottoms!r}."
        )
    weights = (
        sum(_size_of(cost.state.parties[p].params) for p in mine)
        if bottoms == "shared"
        else 0
    )
    clients, (work, sent, received) = _with_others(
        cost,
        records,
        mine,
        backward,
        epochs,
        lambda k, steps: (steps * weights, steps * weights),
    )
    moved = weights * sum(c.steps for c in clients)
    return RunCost(
        f"parallel split learning, bottoms {bottoms}",
        clients,
        (work, sent + moved, received + moved),
    )


def splitfed(
    cost: Cost,
    records: Sequence[int],
    *,
    client: str | Sequence[str],
    rounds: int = 1,
    epochs: int = 1,
    version: int = 1,
    backward: str = "residuals",
) -> RunCost:
    """SplitFed: every round each client receives the average of the clients' halves, trains it with the others, sends it back.

    Args:
        cost, records, client, backward: as for `take_turns`.
        rounds: of averaging; `epochs`: passes over a client's data in each.
        version: 1 and 2 cost the same; in 3 every client keeps its half, and nothing of it is sent. Parameters and statistics
            are averaged; optimizer states, should they be as well, come on top.

    References:
        Thapa et al., `SplitFed: when federated learning meets split learning <https://arxiv.org/abs/2004.12088>`_, 2022,
        with all clients in every round; Gawali et al., `Comparison of privacy-preserving distributed deep learning methods in
        healthcare <https://arxiv.org/abs/2012.12591>`_, 2021, for version 3.
    """
    records, rounds, epochs = _check(records, backward, rounds=rounds, epochs=epochs)
    mine = _site(cost, client)
    if version not in (1, 2, 3):
        raise ValueError(f"`version` must be one of 1, 2, 3, got {version!r}.")
    weights = (
        0
        if version == 3
        else rounds * sum(_size_of(cost.state.parties[p][:2]) for p in mine)
    )
    clients, (work, sent, received) = _with_others(
        cost,
        records,
        mine,
        backward,
        rounds * epochs,
        lambda k, steps: (weights, weights),
    )
    moved = weights * len(records)
    return RunCost(
        f"SplitFed {version}, {rounds} rounds",
        clients,
        (work, sent + moved, received + moved),
    )


def _with_others(
    cost: Cost,
    records: Sequence[int],
    mine: Sequence[str],
    backward: str,
    epochs: int,
    moved: Callable[[int, int], tuple[int, int]],
) -> tuple[tuple[ClientRun, ...], tuple[Work, int, int]]:
    """Every client, and the others: work and messages of all steps, and of weights what `moved(client, steps)` says that a
    client sends and receives, which is not counted at the others."""
    others = [p for p in cost.parties if p not in mine]
    clients, server = [], [NOTHING, 0, 0]
    for k, n in enumerate(records):
        steps = _epoch(cost, n)
        count = epochs * sum(times for _, times in steps)
        work, sent, received = _exchange(mine, steps, backward, epochs)
        out, back = moved(k, count)
        memory = max(sum(c.parties[p].memory(backward) for p in mine) for c, _ in steps)
        clients.append(
            ClientRun(n, count, work, sent + out, received + back, out + back, memory)
        )
        theirs = _exchange(others, steps, backward, epochs)
        server = [a + b for a, b in zip(server, theirs, strict=True)]
    return tuple(clients), tuple(server)  # type: ignore[return-value]


def fedavg(
    cost: Cost,
    records: Sequence[int],
    *,
    rounds: int = 1,
    epochs: int = 1,
    backward: str = "residuals",
) -> RunCost:
    """Federated averaging of the whole model: every round each client receives it, trains it on its own, and sends it back.

    Args:
        cost: of one step of any topology of the model; the client runs all its parts.
        records: how many each client holds.
        rounds: of averaging; `epochs`: passes over a client's data in each.
        backward: mode.

    References:
        McMahan et al., `Communication-efficient learning of deep networks from decentralized data
        <https://arxiv.org/abs/1602.05629>`_, 2017, Algorithm 1, with all clients in every round.
    """
    records, rounds, epochs = _check(records, backward, rounds=rounds, epochs=epochs)
    weights = _size_of([(p.params, p.state) for p in cost.state.parties.values()])
    clients = []
    for n in records:
        work, memory, steps = _alone(cost, n, backward, rounds * epochs)
        clients.append(
            ClientRun(
                n,
                steps,
                work,
                rounds * weights,
                rounds * weights,
                2 * rounds * weights,
                memory,
            )
        )
    moved = rounds * len(records) * weights
    return RunCost(
        f"federated averaging, {rounds} rounds", tuple(clients), (NOTHING, moved, moved)
    )


def large_batch_sgd(
    cost: Cost, records: Sequence[int], *, epochs: int = 1, backward: str = "residuals"
) -> RunCost:
    """Synchronous SGD: in every step each client sends the gradient on a batch of its own and receives the new weights.

    Args:
        cost: of one step of any topology of the model, of the batch size of one client.
        records: how many each client holds.
        epochs: passes over all data.
        backward: mode.

    References:
        Chen et al., `Revisiting distributed synchronous SGD <https://arxiv.org/abs/1604.00981>`_, 2016.
    """
    records, epochs = _check(records, backward, epochs=epochs)
    weights = _size_of([p.params for p in cost.state.parties.values()])
    clients = []
    for n in records:
        work, memory, steps = _alone(cost, n, backward, epochs)
        clients.append(
            ClientRun(
                n,
                steps,
                work,
                steps * weights,
                steps * weights,
                2 * steps * weights,
                memory,
            )
        )
    moved = sum(c.sent for c in clients)
    return RunCost("large-batch SGD", tuple(clients), (NOTHING, moved, moved))


def _check(records: Sequence[int], backward: str, **positive: int) -> tuple:
    """The arguments as plain integers."""
    check_mode(backward)
    given = (
        list(records)
        if isinstance(records, Iterable) and not isinstance(records, str)
        else []
    )
    found = [_whole_number(n) for n in given]
    if not found or min(found) < 1:
        raise ValueError(
            f"`records` must list a positive integer for every client, got {records!r}."
        )
    for name, value in positive.items():
        if _whole_number(value) < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    return found, *map(_whole_number, positive.values())


def _site(cost: Cost, client: Any) -> tuple[str, ...]:
    """The parties that a client is made of."""
    mine = (
        (client,)
        if isinstance(client, str)
        else tuple(client)
        if isinstance(client, Sequence)
        else ()
    )
    if not mine or len({*mine}) < len(mine):
        raise ValueError(
            f"`client` must be a party or several different ones, got {client!r}."
        )
    if unknown := [p for p in mine if p not in cost.parties]:
        raise ValueError(
            f"`client` names the party `{unknown[0]}`, which is not one of {', '.join(cost.parties)}."
        )
    return mine


def _whole_number(n: Any) -> int:
    """An integer of any kind as Python's own; 0 for what is none."""
    return index(n) if hasattr(n, "__index__") and not isinstance(n, bool) else 0


def _epoch(cost: Cost, records: int) -> list[tuple[Cost, int]]:
    """The steps of one pass over a client's records: the cost of one of each size, and how many."""
    full, left = divmod(records, cost.batch)
    try:
        return [
            (cost.at(size), times)
            for size, times in ((cost.batch, full), (left, 1))
            if size and times
        ]
    except ValueError as error:
        raise ValueError(
            f"`records` of {records} leave a last step of {left}: {error}"
        ) from error


def _exchange(
    parties: Sequence[str],
    steps: Sequence[tuple[Cost, int]],
    backward: str,
    epochs: int,
) -> tuple[Work, int, int]:
    """Work, bytes sent and bytes received of some parties in some epochs; what they send each other counts on both sides."""
    work, sent, received = NOTHING, 0, 0
    for c, times in steps:
        for p in (c.parties[name] for name in parties):
            work += p.work(backward).times(epochs * times)
            sent, received = (
                sent + epochs * times * p.sent,
                received + epochs * times * p.received,
            )
    return work, sent, received


def _alone(
    cost: Cost, records: int, backward: str, epochs: int
) -> tuple[Work, int, int]:
    """Work, memory and steps of a client that trains the whole model."""
    steps = _epoch(cost, records)
    work, _, _ = _exchange(list(cost.parties), steps, backward, epochs)
    whole: list[PartyCost] = [c.total for c, _ in steps]
    return (
        work,
        max(w.memory(backward) for w in whole),
        epochs * sum(times for _, times in steps),
    )


def _size_of(payload: PyTree) -> int:
    """Bytes of one message that carries weights."""
    return nbytes(payload) + frame_bytes(payload)
