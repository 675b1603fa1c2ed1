"""The algorithms that compare_rounds.py compares: how each is run, and what it sends.

Bytes follow `jsplit.runs`; those of global batches, whose parts differ from step to step, are
counted on the rounds as drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import optax

import jsplit
from jsplit import rounds, runs
from jsplit.population import Population, Round

ADAM = optax.adam(1e-2, eps=1e-3)  # at the server of FedAvg

Bytes = Callable[[jsplit.Cost, Population, Sequence[Round]], float]
"""`bytes(cost, people, draws)`, that cross to and from a client in all rounds, on average."""


class Contestant(NamedTuple):
    """One algorithm in the comparison.

    Attributes:
        algorithm: what is run.
        draw: its rounds: `clients` in their order, `shuffled`, `global` batches or all records
            `pooled`.
        own: whether each client ends with a model of its own.
        bytes: what it sends.
    """

    algorithm: rounds.Algorithm
    draw: str
    own: bool
    bytes: Bytes


def algorithms(one: jsplit.Trainer, chunk: int | None) -> dict[str, Contestant]:
    """All contestants by title.

    Args:
        one: the trainer of a single client, party `client`.
        chunk: how many clients run at once, where they run at the same time.
    """
    return {
        **in_turn(one),
        **in_parallel(one),
        **split_and_averaged(one, chunk),
        **whole_models(one, chunk),
    }


def in_turn(one: jsplit.Trainer) -> dict[str, Contestant]:
    found = {}
    titles = {
        "peer": "hand-off peer",
        "server": "hand-off server",
        "none": "no hand-off",
    }
    for handoff, title in titles.items():

        def count(cost, people, draws, handoff=handoff):
            return runs.take_turns(
                cost, people.sizes, client="client", epochs=len(draws), handoff=handoff
            ).mean["bytes"]

        turns = rounds.take_turns(one, "client", handoff=handoff)
        own = handoff == "none"
        found[f"turns, {title}"] = Contestant(turns, "clients", own, count)
    return found


def in_parallel(one: jsplit.Trainer) -> dict[str, Contestant]:
    def count(bottoms: str) -> Bytes:
        def of(cost, people, draws):
            return runs.parallel(
                cost, people.sizes, client="client", epochs=len(draws), bottoms=bottoms
            ).mean["bytes"]

        return of

    own = rounds.parallel(one, "client")
    shared = rounds.parallel(one, "client", bottoms="shared")
    # GPSL is the same algorithm on other rounds: batches drawn from all records together.
    gpsl = rounds.parallel(one, "client", bottoms="shared")
    return {
        "parallel, own bottoms": Contestant(own, "clients", True, count("own")),
        "parallel, shared": Contestant(shared, "clients", False, count("shared")),
        "GPSL, shared": Contestant(gpsl, "global", False, in_global_batches),
    }


def split_and_averaged(one: jsplit.Trainer, chunk: int | None) -> dict[str, Contestant]:
    found = {}
    for version in (1, 2, 3):

        def count(cost, people, draws, version=version):
            return runs.splitfed(
                cost, people.sizes, client="client", rounds=len(draws), version=version
            ).mean["bytes"]

        # In version 2 clients take turns at the server, so none run at the same time; the paper
        # draws their order anew in every round.
        turns = version == 2
        algorithm = rounds.splitfed(
            one,
            "client",
            version=version,
            moments="averaged",
            chunk=None if turns else chunk,
        )
        draw = "shuffled" if turns else "clients"
        found[f"SplitFed {version}"] = Contestant(algorithm, draw, version == 3, count)
    return found


def whole_models(one: jsplit.Trainer, chunk: int | None) -> dict[str, Contestant]:
    def federated(cost, people, draws):
        return runs.fedavg(cost, people.sizes, rounds=len(draws)).mean["bytes"]

    def large_batch(cost, people, draws):
        return runs.large_batch_sgd(cost, people.sizes, epochs=len(draws)).mean["bytes"]

    def uploaded(cost, people, draws):
        """Each client sends its records once."""
        fields = draws[0].fields.values()
        each = sum(np.asarray(x[:1]).nbytes for x in fields)
        return each * np.mean(people.sizes)

    average = rounds.fedavg(one, moments="averaged", chunk=chunk)
    adam = rounds.fedavg(one, moments="averaged", server=ADAM, chunk=chunk)
    sgd, pooled = rounds.large_batch_sgd(one), rounds.centralized(one)
    alone = rounds.alone(one, chunk=chunk)
    return {
        "FedAvg": Contestant(average, "clients", False, federated),
        "FedAvg, server Adam": Contestant(adam, "clients", False, federated),
        "large-batch SGD": Contestant(sgd, "clients", False, large_batch),
        "centralized": Contestant(pooled, "pooled", False, uploaded),
        "alone": Contestant(alone, "clients", True, lambda *_: 0.0),
    }


def in_global_batches(
    cost: jsplit.Cost, people: Population, draws: Sequence[Round]
) -> float:
    """Bytes of a client where each batch is drawn from all records.

    Activations and cotangents are so much for each record, and a frame for each message; and in
    each step in which a client has a record, the gradient of the shared bottom goes up and the
    bottom comes down.
    """
    each = sum(m.bytes for m in cost.messages) / cost.batch
    per_step = sum(m.frame for m in cost.messages) + shared_bottom(cost)
    total = sum(each * d.weight.sum() + per_step * took(d) for d in draws)
    return total / len(people.sizes)


def shared_bottom(cost: jsplit.Cost) -> float:
    """Bytes of a step in which a client's bottom is shared: its gradient up, and itself down."""
    # What one step costs more than with bottoms of the clients' own.
    step = {
        bottoms: runs.parallel(
            cost, [cost.batch], client="client", epochs=1, bottoms=bottoms
        )
        for bottoms in ("shared", "own")
    }
    return step["shared"].mean["bytes"] - step["own"].mean["bytes"]


def took(draw: Round) -> int:
    """In how many steps clients took part, all together: those in which they had a record."""
    return int((draw.weight.max(-1) > 0).sum())
