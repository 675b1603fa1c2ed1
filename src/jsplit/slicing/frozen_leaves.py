"""Which leaves of a slice no step changes: weights that are frozen, and state that stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jsplit.core.base import Segment
from jsplit.core.frozen import NOTHING, AtPaths
from jsplit.core.paths import Path
from jsplit.slicing.ownership import SegmentSpec, is_fixed
from jsplit.slicing.trace import Source, SourceKind
from jsplit.slicing.traced_model import TracedModel


def with_frozen(
    made: Segment,
    model: TracedModel,
    spec: SegmentSpec,
    trains: Callable[[Path], bool] | None,
) -> Segment:
    """A slice that knows which of its leaves no step changes.

    Args:
        made: the slice.
        model: the whole model.
        spec: what the slice has of the model.
        trains: which parameters of the model are trained, by path; `None`: all.
    """
    moves = _moves(model, spec)
    if trains is None:
        return replace(made, moves=moves)
    paths = [model.params.paths[i] for i in spec.params]
    own = AtPaths(frozenset(filter(trains, paths)))
    trainable = made.trainable and own != NOTHING
    return replace(made, trainable=trainable, trains=own, moves=moves)


def _moves(model: TracedModel, spec: SegmentSpec) -> AtPaths | None:
    """Which leaves of a slice's state a call changes, in either mode; `None`: all."""
    fixed: set[Path] = set()
    for i in spec.state:
        source = Source(SourceKind.STATE, i)
        # What a call hands back as it was: a frozen weight that is a variable of its own
        # kind, say. A step need neither write it nor keep it for the backward pass.
        if is_fixed(model.both_modes(), source):
            fixed.add(model.state.paths[i])
    if not fixed:
        return None
    return AtPaths(frozenset(model.state.paths[i] for i in spec.state) - fixed)
