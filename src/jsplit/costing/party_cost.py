"""What a step costs one party: arithmetic by two conventions, bytes sent, memory kept.

A new quantity is a field of `PartyCost`, filled in `count_step`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import NamedTuple

from jsplit.core.checks import shown
from jsplit.training.config import MODES


class Work(NamedTuple):
    """Arithmetic, by two conventions. Works add up.

    Attributes:
        macs: Multiply-accumulates of matrix products and their like,
            counted from the jaxpr; see `jsplit.jaxprs.macs`.
        flops: Floating-point operations by XLA's cost analysis of the
            lowered function, before it is optimised: two for a
            multiply-accumulate, one for each elementwise operation. XLA
            leaves out padding, and counts the body of a loop once; the
            multiply-accumulates of its further turns are added here.

    Example:
        >>> from jsplit.costing import Work
        >>> Work(8, 16.0) + Work(2, 5.0)
        Work(macs=10, flops=21.0)
    """

    macs: int
    flops: float

    # A tuple's `+` concatenates; of two works only the sum makes sense.
    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(self.macs + other.macs, self.flops + other.flops)

    def times(self, n: int) -> Work:
        """The work of `n` repetitions.

        Args:
            n: How often.

        Returns:
            Both numbers, multiplied.

        Example:
            >>> from jsplit.costing import Work
            >>> Work(8, 16.0).times(3)
            Work(macs=24, flops=48.0)
        """
        return Work(self.macs * n, self.flops * n)


# Where a sum of works starts: Python's own 0 cannot be added to one.
NOTHING = Work(0, 0.0)


def check_mode(backward: str) -> None:
    """Refuse what is no backward mode.

    Raises:
        ValueError: If `backward` is none of `MODES`.
    """
    if backward not in MODES:
        raise ValueError(
            f'`backward` must be "residuals" or "recompute", got {shown(backward)}.'
        )


class PartyCost(NamedTuple):
    """What one step costs one party.

    Attributes:
        forward: Work of the forward pass.
        backward: Work of the backward pass, by backward mode; `"recompute"`
            holds a forward pass once more.
        other: Work of losses and penalties with their derivatives, of
            links, and of the optimizer.
        sent: Bytes of messages sent, payloads after their links and frames.
        received: Bytes of messages received, payloads and frames.
        params: Bytes of parameters.
        statistics: Bytes of statistics, as those of BatchNorm.
        optimizer: Bytes of optimizer state.
        links: Bytes that links keep from step to step.
        activations: Bytes kept from the forward to the backward pass (of
            one micro-batch), by backward mode: residuals, and the fields
            and messages among them. Gradients and scratch space are not
            counted.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> cost.parties["server"].params
        16
    """

    forward: Work
    backward: Mapping[str, Work]
    other: Work
    sent: int
    received: int
    # Apart, not as one sum: of the four only some are handed over or averaged.
    params: int
    statistics: int
    optimizer: int
    links: int
    activations: Mapping[str, int]

    def work(self, backward: str = "residuals") -> Work:
        """All arithmetic of a step.

        Args:
            backward: The backward mode, `"residuals"` or `"recompute"`.

        Returns:
            The sum of forward pass, backward pass and all else.

        Raises:
            ValueError: If `backward` is no mode.

        Example:
            >>> from jsplit.costing import PartyCost, Work
            >>> one, back = Work(1, 2.0), {"residuals": Work(2, 4.0)}
            >>> PartyCost(one, back, one, 0, 0, 0, 0, 0, 0, {}).work()
            Work(macs=4, flops=8.0)
        """
        check_mode(backward)
        return self.forward + self.backward[backward] + self.other

    def memory(self, backward: str = "residuals") -> int:
        """All bytes that the party holds at once, gradients and scratch space aside.

        Args:
            backward: The backward mode, `"residuals"` or `"recompute"`.

        Returns:
            The sum of what lasts and of what is kept for the backward pass.

        Raises:
            ValueError: If `backward` is no mode.

        Example:
            >>> from jsplit.costing import PartyCost, Work
            >>> none, kept = Work(0, 0.0), {"residuals": 100, "recompute": 10}
            >>> cost = PartyCost(none, {}, none, 0, 0, 40, 0, 80, 0, kept)
            >>> cost.memory(), cost.memory("recompute")
            (220, 130)
        """
        check_mode(backward)
        # Without gradients: how many of them live at once is up to XLA.
        lasting = self.params + self.statistics + self.optimizer + self.links
        return lasting + self.activations[backward]


def total_of(parties: Iterable[PartyCost]) -> PartyCost:
    """The sums of all that the parties have, field by field."""

    # Not annotated: a column holds numbers or works, or either by mode.
    def total(*values):
        by_mode = [v for v in values if isinstance(v, Mapping)]
        if by_mode:
            return {mode: total(*(v[mode] for v in by_mode)) for mode in by_mode[0]}
        # From the first on: a plain sum starts at 0, to which no work can be added.
        return reduce(add, values)

    # Column by column: a field added to the record is summed without a line here.
    return PartyCost._make(map(total, *parties))
