"""Client populations: who has which records of a data set, and who reads which of them in which step.

A population gives every record to exactly one client (`everyone`: to all). A round is drawn from it, and is a function of the
population's seed and the round's number alone; ragged ends are filled up with records that count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int
from jsplit.core.trees import batch_of

__all__ = ["Population", "Round", "dirichlet", "everyone", "grouped", "iid", "quantity"]


class Round(NamedTuple):
    """What a round of training reads: K clients, each in up to S steps, batches of B records.

    Attributes:
        fields: the whole data set by field, [records, ...].
        reads: the records read, int32 [K, S, B].
        weight: how much each counts, float32 [K, S, B]: 1, or 0 for one that only fills up the shape (one of the same
            client's records again).
        client: which clients take part, in their order, int32 [K].
        steps: how many steps each takes, int32 [K]; the rest of its S are not taken.
        share: its weight where clients are averaged, float32 [K]: the records it has, as far as it got through them.
        clients: how many there are in all.
    """

    fields: Mapping[str, PyTree]
    reads: np.ndarray
    weight: np.ndarray
    client: np.ndarray
    steps: np.ndarray
    share: np.ndarray
    clients: int


class Population(NamedTuple):
    """Which records each client has.

    Attributes:
        records: by client, indices into the data set, int [n].
        names: of the clients.
        seed: of the order in which they are read.
    """

    records: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    seed: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many records each client has."""
        return tuple(map(len, self.records))

    def pooled(self) -> Population:
        """One client that has all records, each once: what training without clients reads."""
        records = np.concatenate(self.records)
        _, first = np.unique(records, return_index=True)
        return Population((records[np.sort(first)],), ("all",), self.seed)

    def __repr__(self) -> str:
        least, most, k = min(self.sizes), max(self.sizes), len(self.records)
        have = f"{least}" if least == most else f"{least} to {most}"
        return f"Population({k} client{'s' * (k > 1)} with {have} records{' each' * (k > 1)}, seed={self.seed})"

    def round(
        self,
        fields: Mapping[str, PyTree],
        number: int,
        *,
        batch: int | None = 32,
        epochs: int = 1,
        steps: int | None = None,
        clients: int | None = None,
        shuffled: bool = False,
        dropout: float = 0.0,
        unfinished: str = "keep",
    ) -> Round:
        """Round `number`: every client that takes part reads its records in an order drawn anew.

        Args:
            fields: the data set, [records, ...]. Arrays that lie on a device stay there from round to round.
            number: of the round, from 0.
            batch: records in a step; `None`: all that the client has, in one.
            epochs: passes over a client's records, each ending in a step with what is left.
            steps: take exactly so many steps instead, pass after pass, each full.
            clients: how many take part, drawn without replacement and in the order drawn; by default all, in their order.
            shuffled: all take part, in an order drawn anew.
            dropout: probability that a client that takes part fails, before a step drawn uniformly from its steps.
            unfinished: what then becomes of its round: `"keep"` what it did so far, with that part of its share in an average;
                `"discard"` it, as if the client had not taken part.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        batch, epochs, count = self.check(
            fields, batch, epochs, steps, clients, dropout, unfinished
        )
        rng = np.random.default_rng([self.seed, number])
        who = np.arange(len(self.records))
        who = rng.permutation(who)[:count] if count < len(who) or shuffled else who
        full = [steps or epochs * -(-n // batch) for n in self.sizes]
        at = np.zeros((count, max(full), batch), np.int32)
        weight = np.zeros(at.shape, np.float32)
        for k, c in enumerate(who):
            order, real = _epochs_of(
                self.records[c],
                np.random.default_rng([self.seed, number, 1 + int(c)]),
                batch,
                epochs,
                steps,
            )
            at[k], weight[k, : len(order)] = (
                np.resize(order, at[k].shape),
                real,
            )  # steps not taken read its own, at weight 0
        taken = np.array([full[c] for c in who], np.int32)
        fails = rng.random(count) < dropout
        done = np.where(fails, rng.integers(0, taken), taken).astype(np.int32)
        if unfinished == "discard":
            done = np.where(fails, 0, done).astype(np.int32)
        share = np.array([self.sizes[c] for c in who]) * (done / taken)
        return Round(
            fields,
            at,
            weight,
            who.astype(np.int32),
            done,
            share.astype(np.float32),
            len(self.records),
        )

    def global_batches(
        self, fields: Mapping[str, PyTree], number: int, *, batch: int
    ) -> Round:
        """One pass over all records in batches drawn over all clients together, for `parallel`: GPSL.

        Each step reads `batch` records in all, however they fall on the clients; the last reads what is left.

        References:
            Kohankhaki et al., `Parallel split learning with global sampling <https://arxiv.org/abs/2407.15738>`_, 2024.
        """
        batch, *_ = self.check(fields, batch, 1, None, None, 0.0, "keep")
        owner = np.repeat(np.arange(len(self.records)), self.sizes)
        order = np.random.default_rng([self.seed, number]).permutation(len(owner))
        all_records = np.concatenate(self.records)
        parts = [order[i : i + batch] for i in range(0, len(order), batch)]
        most = max(np.bincount(owner[p]).max() for p in parts)
        wide = (
            1 << int(most - 1).bit_length()
        )  # few different shapes, whatever the draw
        at = np.stack([np.resize(r, (len(parts), wide)) for r in self.records]).astype(
            np.int32
        )  # filled up with its own
        weight = np.zeros(at.shape, np.float32)
        for s, part in enumerate(parts):
            for c in np.unique(owner[part]):
                mine = all_records[part[owner[part] == c]]
                at[c, s, : len(mine)], weight[c, s, : len(mine)] = mine, 1
        count = len(self.records)
        steps, share = (
            np.full(count, len(parts), np.int32),
            np.array(self.sizes, np.float32),
        )
        return Round(
            fields, at, weight, np.arange(count, dtype=np.int32), steps, share, count
        )

    def check(
        self,
        fields: Any,
        batch: Any,
        epochs: Any,
        steps: Any,
        clients: Any,
        dropout: float,
        unfinished: str,
    ) -> tuple[int, int, int]:
        """Batch, epochs and clients as plain integers."""
        records, most = batch_of(fields), max(map(int, (r.max() for r in self.records)))
        if most >= records:
            raise ValueError(
                f"`fields` has {records} records, but the population has one of index {most}."
            )
        batch = max(self.sizes) if batch is None else as_positive_int("batch", batch)
        count = (
            len(self.records)
            if clients is None
            else _enough(len(self.records), clients, "clients")
        )
        if steps is not None:
            as_positive_int("steps", steps)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {dropout!r}.")
        if unfinished not in ("keep", "discard"):
            raise ValueError(
                f'`unfinished` must be "keep" or "discard", got {unfinished!r}.'
            )
        return batch, as_positive_int("epochs", epochs), count


def _epochs_of(
    records: np.ndarray,
    rng: np.random.Generator,
    batch: int,
    epochs: int,
    steps: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What one client reads, [steps, batch], and how much it counts."""
    if steps is not None:
        passes = -(-steps * batch // len(records))
        order = np.concatenate([rng.permutation(records) for _ in range(passes)])[
            : steps * batch
        ]
        return order.reshape(steps, batch), np.ones((steps, batch), np.float32)
    whole = -(-len(records) // batch) * batch
    orders = [
        np.resize(rng.permutation(records), whole) for _ in range(epochs)
    ]  # the end is filled up from the start
    real = np.tile((np.arange(whole) < len(records)).astype(np.float32), epochs)
    return np.concatenate(orders).reshape(-1, batch), real.reshape(-1, batch)


def iid(records: int, clients: int, seed: int = 0) -> Population:
    """Records dealt out at random, to each client equally many, or one more."""
    records, clients = as_positive_int("records", records), _enough(records, clients)
    order = np.random.default_rng(seed).permutation(records)
    return population(np.array_split(order, clients), seed)


def everyone(records: int, clients: int, seed: int = 0) -> Population:
    """Every client has all records: a test set on which each is evaluated, where they have parameters of their own."""
    records, clients = (
        as_positive_int("records", records),
        as_positive_int("clients", clients),
    )
    return population([np.arange(records)] * clients, seed)


def dirichlet(
    labels: Sequence[int] | np.ndarray,
    clients: int,
    alpha: float,
    seed: int = 0,
    least: int = 1,
) -> Population:
    """Label skew: the records of each class are divided over the clients in proportions drawn from a Dirichlet distribution.

    Args:
        labels: the class of each record, [records].
        clients: how many.
        alpha: concentration; small: each client has few classes; large: all are alike.
        seed: of the draw.
        least: records that each client must have; drawn anew until it is so, at most 1000 times.

    References:
        Yurochkin et al., `Bayesian nonparametric federated learning of neural networks <https://arxiv.org/abs/1905.12022>`_,
        2019; Li et al., `Federated learning on non-IID data silos <https://arxiv.org/abs/2102.02079>`_, 2022.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(
            f"`labels` must be a vector, one for each record, got shape {labels.shape}."
        )
    clients, rng = _enough(len(labels), clients), np.random.default_rng(seed)

    def draw() -> list[np.ndarray]:
        parts: list[list] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            mine = rng.permutation(np.flatnonzero(labels == label))
            for part, piece in zip(
                parts,
                _divide(mine, rng.dirichlet(np.full(clients, alpha))),
                strict=True,
            ):
                part.append(piece)
        return [np.concatenate(p) for p in parts]

    return _drawn(draw, alpha, least, seed)


def quantity(
    records: int, clients: int, alpha: float, seed: int = 0, least: int = 1
) -> Population:
    """Quantity skew: like `iid`, but the sizes are proportions drawn from a Dirichlet distribution.

    References:
        Li et al., `Federated learning on non-IID data silos <https://arxiv.org/abs/2102.02079>`_, 2022.
    """
    records, clients, rng = (
        as_positive_int("records", records),
        _enough(records, clients),
        np.random.default_rng(seed),
    )
    return _drawn(
        lambda: _divide(
            rng.permutation(records), rng.dirichlet(np.full(clients, alpha))
        ),
        alpha,
        least,
        seed,
    )


def grouped(groups: Sequence | np.ndarray, seed: int = 0) -> Population:
    """A client for every group that there is: a hospital, a patient. `groups` names that of each record, [records]."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if np.ndim(groups) != 1 or not len(names):
        raise ValueError(
            f"`groups` must be a vector, one for each record, got shape {np.shape(groups)}."
        )
    return Population(
        tuple(np.flatnonzero(member == i) for i in range(len(names))),
        tuple(map(str, names)),
        seed,
    )


def _divide(records: np.ndarray, proportions: np.ndarray) -> list[np.ndarray]:
    """Consecutive pieces in these proportions; every record lies in one."""
    return np.split(
        records, np.round(np.cumsum(proportions)[:-1] * len(records)).astype(int)
    )


def _drawn(draw: Any, alpha: float, least: int, seed: int) -> Population:
    """The first draw in which every client has enough."""
    if not alpha > 0:
        raise ValueError(f"`alpha` must be positive, got {alpha!r}.")
    for _ in range(1000):
        parts = draw()
        if min(map(len, parts)) >= as_positive_int("least", least):
            return population(parts, seed)
    raise ValueError(
        f"`least` is {least}: in 1000 draws with `alpha` {alpha} some client always had fewer records."
    )


def _enough(most: int, clients: int, of: str = "records") -> int:
    if as_positive_int("clients", clients) > most:
        raise ValueError(f"`clients` is {clients}, but there are only {most} {of}.")
    return index(clients)


def population(parts: Sequence[np.ndarray], seed: int) -> Population:
    return Population(
        tuple(map(np.sort, parts)),
        tuple(f"client {i}" for i in range(len(parts))),
        seed,
    )
