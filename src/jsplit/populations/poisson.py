"""Poisson batches: each record is in each batch by a coin of its own.

Accountants that count on sampling prove something of such batches, and of no others.
Their sizes differ, and shapes may not: so a batch has room for more than it ever draws,
and what fills it up has weight 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, lgamma, log, log1p, sqrt

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int, shown
from jsplit.populations.partitions import iid
from jsplit.populations.population import Population
from jsplit.populations.round import Round

_COINS = 1
"""Marks the generators of coins, so that no order of a population has the same one."""


@dataclass(frozen=True)
class Poisson:
    """Batches by coins, functions of the population's seed and the step's number alone.

    `poisson` makes it. Losses that train on its batches take a constant divisor,
    `Loss(per=rate * records)`: the mean over the batch would let one record change the
    scale of all others.

    Attributes:
        people: who has which records.
        rate: probability with which each record is in each batch.
        capacity: rows of a batch of a client. A draw of more is an error, never cut off.
        overflow: bound of the probability that one draw of one client is more.

    Example:
        >>> import jsplit
        >>> coins = jsplit.population.poisson(1000, rate=0.05)
        >>> coins.capacity, coins.overflow < 1e-12
        (105, True)
    """

    people: Population
    rate: float
    capacity: int
    overflow: float

    def round(
        self, fields: Mapping[str, PyTree], number: int, *, steps: int = 1
    ) -> Round:
        """A round of `steps` batches of every client.

        Args:
            fields: the data set, [records, ...].
            number: number of the round, from 0.
            steps: how many batches; each round's are new.

        Returns:
            A round in which every client takes every step, with a part that may be
            empty.

        Raises:
            ValueError: if `fields` has too few records, `steps` is no positive integer,
                or a draw is larger than `capacity`.

        Example:
            >>> import jsplit, numpy as np
            >>> coins = jsplit.population.poisson(1000, rate=0.05)
            >>> drawn = coins.round({"x": np.zeros(1000)}, 0, steps=3)
            >>> drawn.reads.shape, drawn.weight.sum(2).astype(int).tolist()
            ((1, 3, 105), [[51, 49, 38]])
        """
        people = self.people
        # Of the population, for its checks and what else a round has.
        whole = people.round(fields, number, batch=self.capacity, steps=steps)
        drawn = [
            self._draw(c, number, s)
            for c in range(len(people.records))
            for s in range(steps)
        ]
        shape = (len(people.records), steps, self.capacity)
        reads, weight = (np.stack(x).reshape(shape) for x in zip(*drawn, strict=True))
        return whole._replace(reads=reads, weight=weight)

    def step(
        self, fields: Mapping[str, PyTree], number: int
    ) -> tuple[dict[str, PyTree], np.ndarray]:
        """A batch and its weights, for `trainer.step` without clients.

        Args:
            fields: the data set, [records, ...].
            number: number of the step, from 0.

        Returns:
            Fields, [capacity, ...], and weights, float32 [capacity]: 1, or 0 of what
            fills it up.

        Raises:
            ValueError: if the population has more than one client, `fields` too few
                records, or the draw is larger than `capacity`.

        Example:
            >>> import jsplit, numpy as np
            >>> coins = jsplit.population.poisson(1000, rate=0.05)
            >>> batch, weight = coins.step({"x": np.arange(1000)}, 0)
            >>> batch["x"].shape, int(weight.sum())
            ((105,), 51)
        """
        if (count := len(self.people.records)) > 1:
            raise ValueError(
                f"The population has {count} clients, so a step of one of them takes "
                "`round`; or `pooled()` makes them one."
            )
        drawn = self.round(fields, number)
        reads, weight = drawn.reads[0, 0], drawn.weight[0, 0]
        batch = {f: jax.tree.map(lambda x: x[reads], fields[f]) for f in fields}
        return batch, weight

    def _draw(
        self, client: int, number: int, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The records that one client reads in one step, and how much each counts."""
        records = self.people.records[client]
        # Of each step by itself, so that any can be drawn without those before.
        entropy = [self.people.seed, number, 1 + client, step, _COINS]
        coins = np.random.default_rng(entropy).random(len(records))
        mine = records[coins < self.rate]
        if len(mine) > self.capacity:
            raise ValueError(
                f"`capacity` is {self.capacity}, but step {step} of round {number} draws "
                f"more of client {client}. It must not be cut off: that would be no "
                "Poisson batch. Take a larger one, or another seed for the whole run."
            )
        weight = (np.arange(self.capacity) < len(mine)).astype(np.float32)
        # An empty batch reads a record too, since it must have some shape, at weight 0.
        filled = np.resize(mine if len(mine) else records, self.capacity)
        return filled.astype(np.int32), weight


def poisson(
    people: Population | int,
    rate: float,
    *,
    capacity: int | None = None,
    overflow: float = 1e-12,
    seed: int = 0,
) -> Poisson:
    """Draw batches by coins: each record is in each with probability `rate`, independently.

    What fills up a batch of a round counts for nothing, and is sent like all else: so of
    activations a Poisson batch hides less than a full one. Where a trainer is given
    `step`'s weights, what was drawn fills it up.

    Every process with the seed draws the same batches. So sampling hides nobody from the
    parties, and from an outsider only as long as the seed is none that he can guess.

    Args:
        people: who has which records; or how many records there are, of one client.
        rate: above 0, at most 1.
        capacity: rows of a batch; by default as few as `overflow` allows for the largest
            client.
        overflow: probability that one draw of one client does not find room. It is to
            be multiplied by the number of draws.
        seed: of the coins, if `people` is a number; a population has its own.

    Returns:
        The batches.

    Raises:
        ValueError: naming the argument that does not fit.

    References:
        Abadi et al., `Deep learning with differential privacy
        <https://arxiv.org/abs/1607.00133>`_, 2016, Section 3.1; Chua et al., `Scalable
        DP-SGD: shuffling vs. Poisson subsampling <https://arxiv.org/abs/2411.04205>`_,
        2024, on what fixed shapes do to it.

    Example:
        >>> import jsplit
        >>> people = jsplit.population.iid(records=1000, clients=4)
        >>> jsplit.population.poisson(people, rate=0.1).capacity
        64
    """
    if not isinstance(people, Population):
        people = iid(as_positive_int("people", people), 1, seed)
    if not 0 < rate <= 1:
        raise ValueError(f"`rate` must lie in (0, 1], got {shown(rate)}.")
    if not 0 < overflow < 1:
        raise ValueError(f"`overflow` must lie in (0, 1), got {shown(overflow)}.")
    most = max(people.sizes)
    if capacity is None:
        capacity = int(rate * most)
        while _tail(most, capacity, rate) > overflow:
            capacity += 1
        capacity = max(1, capacity)
    capacity = as_positive_int("capacity", capacity)
    return Poisson(people, float(rate), capacity, _tail(most, capacity, rate))


def _tail(n: int, k: int, p: float) -> float:
    """The probability that of `n` coins more than `k` fall."""
    if k >= n:
        return 0.0
    if p == 1:
        return 1.0
    # Further than this the terms add nothing to the first ones.
    last = min(n, k + 50 + int(20 * sqrt(n * p * (1 - p))))
    return sum(_term(n, i, p) for i in range(k + 1, last + 1))


def _term(n: int, k: int, p: float) -> float:
    ways = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return exp(ways + k * log(p) + (n - k) * log1p(-p))
