"""The record of one round: which clients take part, and which records each reads in each step.

It holds NumPy arrays of fixed shapes, so that rounds of one shape share a
compiled program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.trees import as_weight


class Round(NamedTuple):
    """What a round of training reads: K clients, each in up to S steps, batches of B records.

    A `Population` draws it. The algorithms of `jsplit.rounds` take it as their
    batch.

    Attributes:
        fields: the whole data set by field, [records, ...], in memory, on a device or in
            files.
        reads: the records read, int32 [K, S, B].
        weight: how much each record counts, float32 [K, S, B]: 1, or 0 for one
            that only fills up the shape, which is again a record of the same
            client; or what `counting` makes of it, also of each entry of a record,
            [K, S, B, time].
        client: which clients take part, in their order, int32 [K].
        steps: how many steps each client takes, int32 [K]. The rest of its S
            are not taken.
        share: the weight of each client where clients are averaged, float32
            [K]: the number of its records, times the fraction of its steps
            that it takes.
        clients: how many clients there are in all.
        names: the names of all clients; empty where they have none.

    Example:
        Three and five records, in batches of four: the first client takes one
        step, the second two, and what fills up a batch has weight 0.

        >>> import numpy as np
        >>> from jsplit.population import Population
        >>> people = Population((np.arange(3), np.arange(3, 8)), ("few", "more"))
        >>> drawn = people.round({"x": np.zeros(8)}, 0, batch=4)
        >>> drawn.reads.shape, drawn.steps.tolist(), drawn.share.tolist()
        ((2, 2, 4), [1, 2], [3.0, 5.0])
        >>> drawn.weight.sum(2).astype(int).tolist()
        [[3, 0], [4, 1]]
    """

    # A pytree of the user's. A round is never traced whole, so it may lie on
    # the host or a device.
    fields: Mapping[str, PyTree]
    # Int32, since JAX would narrow int64 indices anyway, with a warning.
    reads: np.ndarray
    weight: np.ndarray
    client: np.ndarray
    steps: np.ndarray
    share: np.ndarray
    clients: int
    names: tuple[str, ...] = ()

    def counting(self, counts: np.ndarray) -> Round:
        """The same round, in which records count by so much.

        Args:
            counts: how much each record of `fields` counts, [records], from 0 on: 0
                where a label is missing, say; or each of its entries, [records,
                time], as tokens that are padding or not.

        Returns:
            A round whose `weight` has it as a factor, and whose `share` has the part of
            its records' weight that is left of each client: with counts of entries, how
            many of these it has.

        Raises:
            ValueError: if a weight is negative or not finite, there is not one for
                each record, they say that they are of other records than `fields`, or
                the round has weights of other entries.

        Example:
            >>> import numpy as np
            >>> from jsplit.population import Population
            >>> people = Population((np.arange(2), np.arange(2, 4)), ("a", "b"))
            >>> drawn = people.round({"x": np.zeros(4)}, 0, batch=2)
            >>> drawn.counting(np.array([1, 0, 1, 1])).share.tolist()
            [1.0, 2.0]
        """
        counts = np.asarray(as_weight(counts, self.fields, "counts"), np.float32)
        records = len(jax.tree.leaves(dict(self.fields))[0])
        if counts.shape[:1] != (records,):
            raise ValueError(
                f"`counts` must have one number for each of {records} records, got "
                f"shape {list(counts.shape)}."
            )
        factor, before = counts[self.reads], self.weight
        both = [x.shape[3:] for x in (before, factor) if x.ndim > 3]
        if len({*both}) > 1:
            raise ValueError(
                f"`counts` has {list(both[1])} entries for each record, and the round "
                f"has weights of {list(both[0])}."
            )
        # What is finer decides: each entry of a record counts as often as the record.
        axes = max(before.ndim, factor.ndim)
        spread = (x.reshape(*x.shape, *[1] * (axes - x.ndim)) for x in (before, factor))
        weight = np.multiply(*spread)
        taken = np.arange(weight.shape[1]) < self.steps[:, None]
        was, is_now = (
            (x.reshape(*x.shape[:2], -1).sum(2) * taken).sum(1, dtype=np.float64)
            for x in (before, weight)
        )
        part = np.divide(is_now, was, out=np.zeros_like(is_now), where=was > 0)
        share = (self.share * part).astype(self.share.dtype)
        return self._replace(weight=weight, share=share)

    def __repr__(self) -> str:
        # Without `fields`: a log must hold no record.
        names = ", ".join(map(str, self.fields))
        clients, steps, batch = self.reads.shape
        return (
            f"Round({names}; {clients} of {self.clients} clients, up to {steps} steps of "
            f"{batch} records)"
        )
