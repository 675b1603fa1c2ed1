"""A population: which records each client has. Rounds are drawn from it.

A population gives every record to exactly one client (`everyone`: to all). A
round is a function of the population's seed and the round's number alone, so
any process can draw any round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import as_positive_int
from jsplit.core.html import Table, html_of
from jsplit.core.trees import as_arrays, batch_of
from jsplit.populations.checks import at_most, check_failures
from jsplit.populations.known import known_of
from jsplit.populations.reading import draw_failures, read_epochs, read_steps
from jsplit.populations.round import Round
from jsplit.populations.stored import without_records

_SHOWN = 20
"""How many clients a notebook shows."""


class Population(NamedTuple):
    """Which records each client has.

    Attributes:
        records: by client, indices into the data set, int [n].
        names: the names of the clients.
        seed: seed of the order in which records are read.

    Example:
        >>> import numpy as np
        >>> from jsplit.population import Population
        >>> Population((np.arange(3), np.arange(3, 8)), ("few", "more"))
        Population(2 clients with 3 to 5 records each, seed=0)
    """

    records: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    seed: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many records each client has.

        Returns:
            One number for each client.

        Example:
            >>> import jsplit
            >>> jsplit.population.iid(records=10, clients=3).sizes
            (4, 3, 3)
        """
        return tuple(map(len, self.records))

    def pooled(self) -> Population:
        """Give all records to one client: what `jsplit.rounds.centralized` reads.

        Returns:
            A population of the one client `"all"`, which has each record once.

        Example:
            >>> import jsplit
            >>> jsplit.population.iid(records=10, clients=3).pooled()
            Population(1 client with 10 records, seed=0)
        """
        records = np.concatenate(self.records)
        # The clients of `everyone` all have the same records. Of each the
        # first is taken, in the order of the clients, so that of distinct
        # records the order does not change.
        _, first = np.unique(records, return_index=True)
        return Population((records[np.sort(first)],), ("all",), self.seed)

    def __repr__(self) -> str:
        # The records themselves, thousands of indices, would bury everything
        # else.
        least, most, count = min(self.sizes), max(self.sizes), len(self.records)
        have = f"{least}" if least == most else f"{least} to {most}"
        if count == 1:
            return f"Population(1 client with {have} records, seed={self.seed})"
        return f"Population({count} clients with {have} records each, seed={self.seed})"

    def _repr_html_(self) -> str:
        # A cell of a notebook is no place for thousands of clients.
        names, sizes = self.names[:_SHOWN], self.sizes[:_SHOWN]
        rows = [[n, f"{size:,}"] for n, size in zip(names, sizes, strict=True)]
        more = len(self.names) - len(rows)
        note = f"and {more:,} more" if more else ""
        return html_of([Table(["client", "records"], rows)], note, title=repr(self))

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
        """Draw round `number`: each client that takes part reads its records in a new order.

        Args:
            fields: the data set, [records, ...]. Arrays that lie on a device
                stay there from round to round; of those in files (`np.memmap`,
                `jsplit.population.stored`) a round has what it reads.
            number: number of the round, from 0.
            batch: records in a step; `None`: all that the client has, in one.
            epochs: passes over a client's records, each ending in a step with
                what is left.
            steps: take exactly so many steps instead, pass after pass, each
                full.
            clients: how many take part, drawn without replacement and in the
                order drawn; by default all, in their order.
            shuffled: all take part, in an order drawn anew.
            dropout: probability that a client that takes part fails, before a
                step drawn uniformly from its steps.
            unfinished: what then becomes of its round: `"keep"` what it did so
                far, with that part of its share in an average; `"discard"` it,
                as if the client had not taken part.

        Returns:
            The round, of K clients in up to S steps, where S is the largest
            number of steps that any client of the population takes.

        Raises:
            ValueError: naming the argument that does not fit.

        Example:
            >>> import jsplit, numpy as np
            >>> people = jsplit.population.iid(records=10, clients=3)
            >>> drawn = people.round({"x": np.zeros(10)}, 0, batch=2, clients=2)
            >>> drawn.reads.shape, drawn.client.shape, drawn.clients
            ((2, 2, 2), (2,), 3)
        """
        self._check_fields(fields)
        sizes = known_of(self.records).sizes
        batch = int(sizes.max()) if batch is None else as_positive_int("batch", batch)
        everybody = len(self.records)
        count = at_most(everybody, everybody if clients is None else clients, "clients")
        if steps is not None:
            as_positive_int("steps", steps)
        check_failures(dropout, unfinished)
        epochs = as_positive_int("epochs", epochs)

        rng = np.random.default_rng([self.seed, number])
        who = np.arange(everybody)
        if count < everybody or shuffled:
            who = rng.permutation(who)[:count]

        # The steps of those who do not take part count too: the shape of a
        # round, and with it the compiled program, must not depend on who is
        # drawn.
        full = np.full(everybody, steps) if steps else epochs * -(-sizes // batch)
        reads = np.zeros((count, int(full.max()), batch), np.int32)
        weight = np.zeros(reads.shape, np.float32)
        for k, c in enumerate(who):
            # A generator of the client's own: what it reads does not depend on
            # who else is drawn.
            own = np.random.default_rng([self.seed, number, 1 + int(c)])
            if steps is None:
                order, counts = read_epochs(self.records[c], own, batch, epochs)
            else:
                order, counts = read_steps(self.records[c], own, batch, steps)
            # Steps that are not taken read the client's own records too, at
            # weight 0: where clients run at once they are computed all the
            # same, and BatchNorm sees them.
            reads[k] = np.resize(order, reads[k].shape)
            weight[k, : len(order)] = counts

        whole = full[who].astype(np.int32)
        taken, done = draw_failures(rng, whole, dropout, unfinished)
        return Round(
            fields=fields,
            reads=reads,
            weight=weight,
            client=who.astype(np.int32),
            steps=taken,
            share=(sizes[who] * done).astype(np.float32),
            clients=everybody,
            names=self.names,
        )

    def global_batches(
        self, fields: Mapping[str, PyTree], number: int, *, batch: int
    ) -> Round:
        """Draw one pass in batches over all clients together, for `jsplit.rounds.parallel`.

        This is parallel split learning with global sampling (GPSL). Each step
        reads `batch` records in all, however they fall on the clients; the
        last step reads what is left.

        Args:
            fields: the data set, [records, ...].
            number: number of the round, from 0.
            batch: records of all clients together in a step.

        Returns:
            A round of all clients, each of which takes every step, with a part
            of its batch that may be empty.

        Raises:
            ValueError: if `fields` has too few records, or `batch` is no
                positive integer.

        References:
            Kohankhaki et al., `Parallel split learning with global sampling
            <https://arxiv.org/abs/2407.15738>`_, 2024.

        Example:
            >>> import jsplit, numpy as np
            >>> people = jsplit.population.iid(records=10, clients=3)
            >>> drawn = people.global_batches({"x": np.zeros(10)}, 0, batch=4)
            >>> drawn.weight.sum((0, 2)).astype(int).tolist()
            [4, 4, 2]
        """
        self._check_fields(fields)
        batch = as_positive_int("batch", batch)
        count = len(self.records)
        owner = np.repeat(np.arange(count), self.sizes)
        order = np.random.default_rng([self.seed, number]).permutation(len(owner))
        parts = [order[i : i + batch] for i in range(0, len(order), batch)]

        # Rounded up to a power of two: the largest part of a client differs
        # from round to round, and each shape is compiled anew.
        most = max(np.bincount(owner[part]).max() for part in parts)
        width = 1 << int(most - 1).bit_length()

        # What fills up a client's part is its own, as in `round`.
        shape = len(parts), width
        reads = np.stack([np.resize(r, shape) for r in self.records]).astype(np.int32)
        weight = np.zeros(reads.shape, np.float32)
        all_records = np.concatenate(self.records)
        for s, part in enumerate(parts):
            for c in np.unique(owner[part]):
                mine = all_records[part[owner[part] == c]]
                reads[c, s, : len(mine)] = mine
                weight[c, s, : len(mine)] = 1
        return Round(
            fields=fields,
            reads=reads,
            weight=weight,
            client=np.arange(count, dtype=np.int32),
            steps=np.full(count, len(parts), np.int32),
            share=np.array(self.sizes, np.float32),
            clients=count,
            names=self.names,
        )

    def _check_fields(self, fields: Mapping[str, PyTree]) -> None:
        """Refuse a data set that lacks records which a client has."""
        records = batch_of(as_arrays(without_records(fields), "`fields`: `{}`"))
        # JAX clamps an index out of range, so without this the last record
        # would be read instead.
        most = known_of(self.records).most
        if most >= records:
            raise ValueError(
                f"`fields` has {records} records, but the population has one "
                f"of index {most}."
            )
