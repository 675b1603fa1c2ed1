"""What whole runs of the baselines cost each client, which trains all of the model.

No activation is sent, only weights or gradients, to a server that computes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from jsplit.core.checks import as_positive_int
from jsplit.costing.party_cost import NOTHING
from jsplit.costing.passes import Passes, check_records, size_of
from jsplit.costing.run_cost import ClientRun, Exchange, RunCost
from jsplit.costing.step_cost import Cost


def fedavg(
    cost: Cost,
    records: Sequence[int],
    *,
    rounds: int = 1,
    epochs: int = 1,
    backward: str = "residuals",
) -> RunCost:
    """What federated averaging of the whole model costs.

    Every round each client receives the model, trains it on its own, and
    sends it back.

    Args:
        cost: The cost of one step of any topology of the model; the client
            runs all its parts.
        records: How many each client holds.
        rounds: Rounds of averaging.
        epochs: Passes over a client's data in each round.
        backward: The backward mode, `"residuals"` or `"recompute"`.

    Returns:
        A `RunCost`.

    Raises:
        ValueError: Naming the argument that does not fit.

    References:
        McMahan et al., `Communication-efficient learning of deep networks
        from decentralized data <https://arxiv.org/abs/1602.05629>`_, 2017,
        Algorithm 1, with all clients in every round.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> run = jsplit.runs.fedavg(cost, [80, 80], rounds=3)
        >>> run.clients[0].sent == run.clients[0].weights / 2
        True
    """
    records = check_records(records, backward)
    rounds = as_positive_int("rounds", rounds)
    epochs = as_positive_int("epochs", epochs)
    # In one message, as the client trains all parts of the model.
    model = [(p.params, p.state) for p in cost.learned.parties.values()]
    moved = rounds * size_of(model)

    passes = Passes(cost, records, rounds * epochs, backward)
    weights = [moved for _ in records]
    return _run(f"federated averaging, {rounds} rounds", passes, weights)


def large_batch_sgd(
    cost: Cost, records: Sequence[int], *, epochs: int = 1, backward: str = "residuals"
) -> RunCost:
    """What synchronous SGD with a large batch costs.

    In every step each client sends the gradient on a batch of its own and
    receives the new weights.

    Args:
        cost: The cost of one step of any topology of the model, of the
            batch size of one client.
        records: How many each client holds.
        epochs: Passes over all data.
        backward: The backward mode, `"residuals"` or `"recompute"`.

    Returns:
        A `RunCost`.

    Raises:
        ValueError: Naming the argument that does not fit.

    References:
        Chen et al., `Revisiting distributed synchronous SGD
        <https://arxiv.org/abs/1604.00981>`_, 2016.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> run = jsplit.runs.large_batch_sgd(cost, [80, 80])
        >>> run.clients[0].steps, run.server.work.macs
        (10, 0)
    """
    records = check_records(records, backward)
    epochs = as_positive_int("epochs", epochs)
    # Parameters alone: a gradient has no statistics, nor has a summed step.
    gradient = size_of([p.params for p in cost.learned.parties.values()])

    passes = Passes(cost, records, epochs, backward)
    weights = [passes.steps_of(k) * gradient for k in range(len(records))]
    return _run("large-batch SGD", passes, weights)


def _run(name: str, passes: Passes, weights: Sequence[int]) -> RunCost:
    """The cost of a run in which each client trains alone.

    Args:
        name: The algorithm's.
        passes: The steps of all clients.
        weights: By client, the bytes that it sends, and as many that it
            receives.
    """
    # A client is all parties at once, so what they would send each other stays with it.
    everyone = [*passes.cost.parties]
    clients = []
    for k, moved in enumerate(weights):
        own = ClientRun(
            passes.records[k],
            passes.steps_of(k),
            passes.exchange(k, everyone).work,
            moved,
            moved,
            2 * moved,
            passes.memory(k, everyone),
        )
        clients.append(own)
    # The server's sums of weights are no multiply-accumulates: as in the literature, they
    # count for nothing beside training.
    total = sum(weights)
    return RunCost(name, tuple(clients), Exchange(NOTHING, total, total))
