"""What whole runs of split learning cost each client: in turns, in parallel, federated.

All follow from the cost of one step, by formulas that `docs/cost.md`
derives: who computes what how often, and what is sent how often. Nothing
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jsplit.core.checks import as_positive_int, one_of
from jsplit.costing.party_cost import NOTHING
from jsplit.costing.passes import Passes, check_records, check_site, size_of
from jsplit.costing.run_cost import ClientRun, Exchange, RunCost
from jsplit.costing.step_cost import Cost
from jsplit.topology.handoffs import BOTTOMS, HANDOFFS


def take_turns(
    cost: Cost,
    records: Sequence[int],
    *,
    client: str | Sequence[str],
    epochs: int = 1,
    handoff: str = "peer",
    backward: str = "residuals",
) -> RunCost:
    """What split learning costs, one client after another.

    In each epoch every client takes its steps with the server, then hands
    over what its side has learned: parameters, statistics and optimizer
    state.

    Args:
        cost: The cost of one step, of the batch size to be used; a client's
            last step of an epoch takes the records that are left.
        records: How many each client holds.
        client: The party that is there once for every client, or the
            parties, where a client is a site of several.
        epochs: Passes over all data.
        handoff: How what the client's side has learned gets to the next
            client: `"peer"` sends it straight, `"server"` up and down
            again; with `"none"` each keeps its own.
        backward: The backward mode, `"residuals"` or `"recompute"`.

    Returns:
        A `RunCost`.

    Raises:
        ValueError: Naming the argument that does not fit.

    References:
        Gupta and Raskar, `Distributed learning of deep neural network over
        multiple agents <https://arxiv.org/abs/1810.06060>`_, 2018; Singh et
        al., `Detailed comparison of communication efficiency of split
        learning and federated learning
        <https://arxiv.org/abs/1909.09145>`_, 2019.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> run = jsplit.runs.take_turns(cost, [80, 12], client="client")
        >>> [c.steps for c in run.clients]  # the last one of 4 records
        [10, 2]
        >>> run.clients[0].weights == 16 + 96 + 16  # 4 weights, framed, handed over once
        True
    """
    records = check_records(records, backward)
    epochs = as_positive_int("epochs", epochs)
    mine = check_site(cost, client)
    one_of("handoff", handoff, HANDOFFS)
    weights = 0
    # A client alone has nobody to hand over to.
    if handoff != "none" and len(records) > 1:
        for party in mine:
            own = cost.learned.parties[party]
            # A message for each party of a site: they are different machines. The memory
            # of links stays, since it belongs to the connection.
            weights += size_of((own.params, own.state, own.optimizer))

    def moved(k: int, steps: int) -> tuple[int, int]:
        # The last turn of all hands nothing over, and the first starts from the seed.
        handed = epochs - (k == len(records) - 1)
        taken = epochs - (k == 0)
        return handed * weights, taken * weights

    passes = Passes(cost, records, epochs, backward)
    # From peer to peer nothing of it passes the server.
    relayed = (epochs * len(records) - 1) * weights if handoff == "server" else 0
    return _run(f"split learning, hand-off {handoff}", passes, mine, moved, relayed)


def parallel(
    cost: Cost,
    records: Sequence[int],
    *,
    client: str | Sequence[str],
    epochs: int = 1,
    bottoms: str = "own",
    backward: str = "residuals",
) -> RunCost:
    """What parallel split learning costs: every step is one of all clients.

    Each client has a batch of its own, sends and receives what it does in
    turns, and hands nothing over. What the other parties compute on all
    batches as one is counted as on one after the other, so their
    optimizers' steps are counted once for each.

    Args:
        cost: The cost of one step of one client.
        records: How many each client holds.
        client: The party that is there once for every client, or the
            parties, where a client is a site of several.
        epochs: Passes over all data.
        bottoms: `"own"`, or `"shared"`: then in every step each client
            sends the gradient of its side and receives the new weights.
        backward: The backward mode, `"residuals"` or `"recompute"`.

    Returns:
        A `RunCost`.

    Raises:
        ValueError: Naming the argument that does not fit.

    References:
        Jeon and Kim, `Privacy-sensitive parallel split learning
        <https://doi.org/10.1109/ICOIN48656.2020.9016486>`_, 2020.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> jsplit.runs.parallel(cost, [80, 80], client="client").clients[0].weights
        0
    """
    records = check_records(records, backward)
    epochs = as_positive_int("epochs", epochs)
    mine = check_site(cost, client)
    one_of("bottoms", bottoms, BOTTOMS)
    weights = 0
    if bottoms == "shared":
        # Statistics stay: of a step only gradients are summed.
        weights = sum(size_of(cost.learned.parties[p].params) for p in mine)

    # Every step is one of all clients, so the server hands the sum back each time.
    def moved(k: int, steps: int) -> tuple[int, int]:
        return steps * weights, steps * weights

    passes = Passes(cost, records, epochs, backward)
    steps = sum(passes.steps_of(k) for k in range(len(records)))
    name = f"parallel split learning, bottoms {bottoms}"
    return _run(name, passes, mine, moved, steps * weights)


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
    """What SplitFed costs.

    Every round each client receives the average of the clients' halves,
    trains it with the others, and sends it back. Parameters and statistics
    are averaged; optimizer states, should they be as well, come on top.

    Args:
        cost: The cost of one step of one client.
        records: How many each client holds.
        client: The party that is there once for every client, or the
            parties, where a client is a site of several.
        rounds: Rounds of averaging.
        epochs: Passes over a client's data in each round.
        version: 1 and 2 cost the same; in 3 every client keeps its half,
            and nothing of it is sent.
        backward: The backward mode, `"residuals"` or `"recompute"`.

    Returns:
        A `RunCost`.

    Raises:
        ValueError: Naming the argument that does not fit.

    References:
        Thapa et al., `SplitFed: when federated learning meets split
        learning <https://arxiv.org/abs/2004.12088>`_, 2022, with all
        clients in every round; Gawali et al., `Comparison of
        privacy-preserving distributed deep learning methods in healthcare
        <https://arxiv.org/abs/2012.12591>`_, 2021, for version 3.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> run = jsplit.runs.splitfed(cost, [80, 80], client="client", rounds=3)
        >>> run.algorithm, run.clients[0].steps
        ('SplitFed 1, 3 rounds', 30)
    """
    records = check_records(records, backward)
    rounds = as_positive_int("rounds", rounds)
    epochs = as_positive_int("epochs", epochs)
    mine = check_site(cost, client)
    one_of("version", version, (1, 2, 3))
    # 1 and 2 differ at the server alone, which averages its halves or has only one.
    weights = 0
    if version != 3:
        for party in mine:
            own = cost.learned.parties[party]
            weights += rounds * size_of((own.params, own.state))

    def moved(k: int, steps: int) -> tuple[int, int]:
        return weights, weights

    passes = Passes(cost, records, rounds * epochs, backward)
    name = f"SplitFed {version}, {rounds} rounds"
    return _run(name, passes, mine, moved, len(records) * weights)


def _run(
    name: str,
    passes: Passes,
    mine: Sequence[str],
    moved: Callable[[int, int], tuple[int, int]],
    relayed: int,
) -> RunCost:
    """The cost of a run in which the parties that are no clients are there once.

    Args:
        name: The algorithm's.
        passes: The steps of all clients.
        mine: The parties that a client is made of.
        moved: `moved(client, steps)`, bytes of weights that a client sends
            and receives.
        relayed: Bytes of weights that the others receive, and as many that
            they send.
    """
    # A step of a client is one of the others' as well: they are paid for all clients.
    others = [p for p in passes.cost.parties if p not in mine]
    clients: list[ClientRun] = []
    work, sent, received = NOTHING, relayed, relayed
    for k in range(len(passes.records)):
        clients.append(passes.client_run(k, mine, *moved(k, passes.steps_of(k))))
        theirs = passes.exchange(k, others)
        work += theirs.work
        sent += theirs.sent
        received += theirs.received
    return RunCost(name, tuple(clients), Exchange(work, sent, received))
