"""What split learning is compared with: federated and large-batch training, one place, each alone.

Each takes a trainer of any topology and trains the whole model, all
parties of it, at every client. So the same trainer serves split learning
and its baselines.
"""

from __future__ import annotations

import jax
import optax

from jsplit.core.trainer import Trainer
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.local_training import local_training
from jsplit.rounds.round_method import check_trainer
from jsplit.rounds.sharing import Sharing
from jsplit.rounds.split_learning import parallel
from jsplit.rounds.tables import sharing_table


def fedavg(
    trainer: Trainer,
    *,
    statistics: str = "averaged",
    moments: str = "fresh",
    server: optax.GradientTransformation | None = None,
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Federated averaging: each client trains the whole model; then it is averaged.

    The whole model is all parties of the topology. With a `server`
    optimizer this is FedOpt.

    Args:
        trainer: a trainer of any topology of the model.
        statistics: how those of BatchNorm are shared: `"averaged"` as
            parameters are, or each client's `"own"`.
        moments: how optimizer states are shared: `"averaged"`, each
            client's `"own"`, or `"fresh"` as in `splitfed`.
        server: an optimizer that applies the average, as in `splitfed`.
        chunk: how many clients run at the same time, as in `splitfed`.
        mesh: a mesh with an axis `clients` over which they are spread.

    Returns:
        The algorithm, a step of which is a round.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        McMahan et al., `Communication-efficient learning of deep networks
        from decentralized data <https://arxiv.org/abs/1602.05629>`_, 2017,
        Algorithm 1; Reddi et al., `Adaptive federated optimization
        <https://arxiv.org/abs/2003.00295>`_, 2021, Algorithm 1.

    Example:
        >>> import jsplit, optax
        >>> low = jsplit.segment(lambda x: 2 * x, name="smashed", inputs=["x"])
        >>> high = jsplit.segment(lambda h: h + 1, name="output", inputs=["smashed"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> print(jsplit.rounds.fedavg(trainer).sharing)
        party     params     state  optimizer  links
        client  averaged  averaged      fresh    own
        server  averaged  averaged      fresh    own
    """
    # Every client has all parties: the topology is only the way to write
    # the model down, and what crosses in it crosses nowhere.
    parties = check_trainer(trainer).topology.parties
    sharing = sharing_table(
        dict.fromkeys(parties, Sharing.AVERAGED),
        statistics=statistics,
        moments=moments,
    )
    return local_training(trainer, sharing, server=server, chunk=chunk, mesh=mesh)


def large_batch_sgd(
    trainer: Trainer,
    *,
    statistics: str = "averaged",
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Synchronous SGD: all clients step along the mean gradient over all their examples.

    In every step each client computes the gradient of the whole model on a
    batch of its own.

    Args:
        trainer: a trainer of any topology of the model, without
            micro-batches.
        statistics: how those of BatchNorm are shared: `"averaged"` over
            the clients by their examples after each step, or each client's
            `"own"`.
        mesh: a mesh with an axis `clients` over which they are spread.

    Returns:
        The algorithm, a step of which is a round.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Chen et al., `Revisiting distributed synchronous SGD
        <https://arxiv.org/abs/1604.00981>`_, 2016.

    Example:
        >>> import jsplit, optax
        >>> low = jsplit.segment(lambda x: 2 * x, name="smashed", inputs=["x"])
        >>> high = jsplit.segment(lambda h: h + 1, name="output", inputs=["smashed"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> print(jsplit.rounds.large_batch_sgd(trainer).sharing)
        party    params     state  optimizer  links
        client  carried  averaged    carried    own
        server  carried  averaged    carried    own
    """
    # A client is the whole model here, so nothing of it crosses to others.
    everybody = check_trainer(trainer).topology.parties
    # With parallel split learning of shared bottoms it has all in common
    # but the parties beside the clients, of which there are none.
    return parallel(
        trainer,
        everybody,
        bottoms="shared",
        statistics=statistics,
        mesh=mesh,
    )


def centralized(
    trainer: Trainer,
) -> Algorithm:
    """Train the whole model on all data in one place: give it rounds of `population.pooled()`.

    Args:
        trainer: a trainer of any topology of the model.

    Returns:
        The algorithm, a step of which is a round.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import jsplit, optax
        >>> low = jsplit.segment(lambda x: 2 * x, name="smashed", inputs=["x"])
        >>> high = jsplit.segment(lambda h: h + 1, name="output", inputs=["smashed"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> print(jsplit.rounds.centralized(trainer).sharing)
        party    params    state  optimizer    links
        client  carried  carried    carried  carried
        server  carried  carried    carried  carried
    """
    # With one client, turns with hand-off are plain training.
    parties = check_trainer(trainer).topology.parties
    sharing = sharing_table(dict.fromkeys(parties, Sharing.CARRIED))
    return local_training(trainer, sharing)


def alone(
    trainer: Trainer,
    *,
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Algorithm:
    """Train the whole model at every client on its own data: what joining in must beat.

    Nobody learns from another.

    Args:
        trainer: a trainer of any topology of the model.
        chunk: how many clients run at the same time, as in `splitfed`.
        mesh: a mesh with an axis `clients` over which they are spread.

    Returns:
        The algorithm, a step of which is a round.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import jsplit, optax
        >>> low = jsplit.segment(lambda x: 2 * x, name="smashed", inputs=["x"])
        >>> high = jsplit.segment(lambda h: h + 1, name="output", inputs=["smashed"])
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: y - label)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> print(jsplit.rounds.alone(trainer).sharing)
        party   params  state  optimizer  links
        client     own    own        own    own
        server     own    own        own    own
    """
    # Nothing is averaged, so optimizer states are each client's own as
    # well.
    parties = check_trainer(trainer).topology.parties
    sharing = sharing_table(dict.fromkeys(parties, Sharing.OWN))
    return local_training(trainer, sharing, chunk=chunk, mesh=mesh)
