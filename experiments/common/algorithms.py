"""The ways to train many clients that compare_rounds.py compares: how each is run, and what it
sends.

Bytes follow `jsplit.runs`; those of global batches, whose parts differ from step to step, are
counted on the rounds as drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

import jsplit
from jsplit import rounds, runs
from jsplit.core.trees import nbytes
from jsplit.population import Population, Round

ADAM = optax.adam(1e-2, eps=1e-3)  # at the server of FedAvg


class Way(NamedTuple):
    """One way to train.

    Attributes: algorithm: what is run. draw: its rounds: `clients` in their order, `shuffled`,
        `global` batches or all records `pooled`. own: whether each client ends with a model of
        its own. bytes: `bytes(cost, people, draws)`, that cross to and from a client, on average.
    """

    algorithm: rounds.Algorithm
    draw: str
    own: bool
    bytes: Callable[[jsplit.Cost, Population, Sequence[Round]], float]


def ways(one: jsplit.Trainer, chunk: int | None) -> dict[str, Way]:
    turns = {
        h: rounds.take_turns(one, "client", handoff=h)
        for h in ("peer", "server", "none")
    }
    shared = rounds.parallel(one, "client", bottoms="shared")
    fed = [
        rounds.splitfed(
            one,
            "client",
            version=v,
            moments="averaged",
            chunk=chunk if v != 2 else None,
        )
        for v in (1, 2, 3)
    ]
    average, adam = (
        rounds.fedavg(one, moments="averaged", server=s, chunk=chunk)
        for s in (None, ADAM)
    )

    def in_turns(handoff: str) -> Callable:
        def count(cost, people, draws):
            return runs.take_turns(
                cost, people.sizes, client="client", epochs=len(draws), handoff=handoff
            ).mean["bytes"]

        return count

    def together(bottoms: str) -> Callable:
        def count(cost, people, draws):
            return runs.parallel(
                cost, people.sizes, client="client", epochs=len(draws), bottoms=bottoms
            ).mean["bytes"]

        return count

    def split_and_averaged(version: int) -> Callable:
        def count(cost, people, draws):
            return runs.splitfed(
                cost, people.sizes, client="client", rounds=len(draws), version=version
            ).mean["bytes"]

        return count

    def federated(cost, people, draws):
        return runs.fedavg(cost, people.sizes, rounds=len(draws)).mean["bytes"]

    def large_batch(cost, people, draws):
        return runs.large_batch_sgd(cost, people.sizes, epochs=len(draws)).mean["bytes"]

    def uploaded(cost, people, draws):
        return nbytes(jax.tree.map(lambda x: x[:1], draws[0].fields)) * np.mean(
            people.sizes
        )

    return {
        "turns, hand-off peer": Way(turns["peer"], "clients", False, in_turns("peer")),
        "turns, hand-off server": Way(
            turns["server"], "clients", False, in_turns("server")
        ),
        "turns, no hand-off": Way(turns["none"], "clients", True, in_turns("none")),
        "parallel, own bottoms": Way(
            rounds.parallel(one, "client"), "clients", True, together("own")
        ),
        "parallel, shared": Way(shared, "clients", False, together("shared")),
        "GPSL, shared": Way(
            rounds.parallel(one, "client", bottoms="shared"),
            "global",
            False,
            in_global_batches,
        ),
        "SplitFed 1": Way(fed[0], "clients", False, split_and_averaged(1)),
        "SplitFed 2": Way(fed[1], "shuffled", False, split_and_averaged(2)),
        "SplitFed 3": Way(fed[2], "clients", True, split_and_averaged(3)),
        "FedAvg": Way(average, "clients", False, federated),
        "FedAvg, server Adam": Way(adam, "clients", False, federated),
        "large-batch SGD": Way(
            rounds.large_batch_sgd(one), "clients", False, large_batch
        ),
        "centralized": Way(rounds.centralized(one), "pooled", False, uploaded),
        "alone": Way(rounds.alone(one, chunk=chunk), "clients", True, lambda *_: 0.0),
    }


def in_global_batches(
    cost: jsplit.Cost, people: Population, draws: Sequence[Round]
) -> float:
    """Activations and cotangents, so much for each record and a frame for each message; and in
    each step in which a client has a record the gradient of the shared bottom up, and the
    bottom down.
    """
    each = sum(m.bytes for m in cost.messages) / cost.batch
    frames = sum(m.frame for m in cost.messages) + 2 * runs.size_of(
        cost.state.parties["client"].params
    )
    return sum(each * d.weight.sum() + frames * took(d) for d in draws) / len(
        people.sizes
    )


def took(draw: Round) -> int:
    """In how many steps the clients took part, all together: those in which they had a record."""
    return int((draw.weight.max(-1) > 0).sum())
