"""The client's part of a model that is cut at one place after another, from the input on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jsplit.core.base import PartyState, PyTree
from jsplit.costing.party_cost import NOTHING, Work
from jsplit.costing.traced_step import TracedStep
from jsplit.slicing.cut_point import CutPoint
from jsplit.training.kinds import OpKind


class Prefix(NamedTuple):
    """What a client has that holds the model up to a point, in one training step.

    Attributes:
        point: Where its part ends.
        params: Shapes of its parameters, by segment.
        statistics: Shapes of its statistics, by segment.
        kept: Bytes that it keeps for the backward pass.
        forward: Work of its forward pass.
        work: Work of its forward and backward pass, nothing computed twice.
    """

    point: CutPoint
    params: dict[str, PyTree]
    statistics: dict[str, PyTree]
    kept: int
    forward: Work
    work: Work


def prefixes(
    points: Sequence[CutPoint], step: TracedStep, own: PartyState
) -> Iterator[Prefix]:
    """The client's part for each point, each longer by one segment than the one before.

    Args:
        points: In order.
        step: A step of the model cut at all of them, at one party.
        own: That party's state, or its shapes.

    Yields:
        What the client has, by point.
    """
    params, statistics, kept = {}, {}, {}
    forward = work = NOTHING
    for point in points:
        params[point.name] = own.params[point.name]
        statistics[point.name] = own.state[point.name]
        for t in step.traced:
            of_segment = t.op.kind in (OpKind.FORWARD, OpKind.BACKWARD)
            if of_segment and t.op.what == point.name:
                work += t.work
                # By array: one that two segments keep counts once.
                kept.update(t.kept)
                if t.op.kind == OpKind.FORWARD:
                    forward += t.work
        size = sum(kept.values())
        yield Prefix(point, {**params}, {**statistics}, size, forward, work)
