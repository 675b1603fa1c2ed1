"""Which weights of a divided model are tied, and why one may be no cut between two parties."""

from __future__ import annotations

from collections.abc import Mapping

from jsplit.core.paths import dotted
from jsplit.core.tied import Tied
from jsplit.slicing.ownership import SegmentSpec
from jsplit.slicing.traced_model import TracedModel


def ties_of(model: TracedModel, specs: Mapping[str, SegmentSpec]) -> dict[int, Tied]:
    """Find the weights that several segments read.

    Args:
        model: the whole model.
        specs: what each segment has of it, by name, in order.

    Returns:
        By the number of the leaf, one object for all segments that read it.
    """
    readers: dict[int, list[str]] = {}
    for name, spec in specs.items():
        for i in spec.borrowed:
            owner = next(n for n, other in specs.items() if i in other.params)
            readers.setdefault(i, [owner]).append(name)
    return {
        i: Tied(model.params.paths[i], names[0], tuple(names))
        for i, names in readers.items()
    }


def tied_between(model: TracedModel, specs: Mapping[str, SegmentSpec]) -> str:
    """Why a cut cannot lie between two parties, if a weight is tied across it; else ""."""
    for tied in ties_of(model, specs).values():
        both = " and ".join(f"`{n}`" for n in tied.readers)
        return (
            f"the weight `{dotted(tied.path)}` is tied across the cut: {both} read it, "
            "so one party must have both, as in a U-shape (`u_shaped=True`)."
        )
    return ""
