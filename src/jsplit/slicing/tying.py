"""Which weights of a divided model are tied, and why one may be no cut between two parties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp

from jsplit.core.paths import Path
from jsplit.core.tied import Tied
from jsplit.slicing.ownership import SegmentSpec, divide
from jsplit.slicing.refusals import way_to
from jsplit.slicing.trace import Source, SourceKind, Traced
from jsplit.slicing.traced_model import TracedModel


def divided_with(
    model: TracedModel,
    traces: Sequence[Traced],
    *,
    copies: bool,
    trains: Callable[[Path], bool] | None,
) -> dict[str, SegmentSpec]:
    """A model divided, with copies of frozen weights where they are asked for.

    Args:
        model: the model.
        traces: in both modes.
        copies: whether segments have copies.
        trains: which parameters are trained, by path; `None`: all.
    """
    specs = divide(model, traces, copies)
    return with_copies(model, specs, trains) if copies else specs


def with_copies(
    model: TracedModel,
    specs: Mapping[str, SegmentSpec],
    trains: Callable[[Path], bool] | None,
) -> dict[str, SegmentSpec]:
    """The same segments, each with a copy of the frozen weights that it borrows.

    Args:
        model: the whole model.
        specs: what each segment has of it.
        trains: which parameters are trained, by path; `None`: all.

    Raises:
        ValueError: if no weight is frozen, so that copies would part.
    """
    if trains is None and any(spec.borrowed for spec in specs.values()):
        raise ValueError(
            "`copies` is for frozen weights, and all are trained: copies of a trained one "
            "would part; say what is trained, as `trainable`."
        )
    found: dict[str, SegmentSpec] = {}
    for name, spec in specs.items():
        frozen = [i for i in spec.borrowed if not _is_trained(model, i, trains)]
        found[name] = spec._replace(
            params=sorted([*spec.params, *frozen]),
            borrowed=[i for i in spec.borrowed if i not in frozen],
        )
    return found


def _is_trained(
    model: TracedModel, leaf: int, trains: Callable[[Path], bool] | None
) -> bool:
    floating = jnp.issubdtype(model.params.shapes[leaf].dtype, jnp.inexact)
    return floating and (trains is None or trains(model.params.paths[leaf]))


def ties_of(
    model: TracedModel, traces: Sequence[Traced], specs: Mapping[str, SegmentSpec]
) -> dict[int, Tied]:
    """Find the weights that several segments read.

    Args:
        model: the whole model.
        traces: in both modes.
        specs: what each segment has of it, by name, in order.

    Returns:
        By the number of the leaf, one object for all segments that read it.
    """
    readers: dict[int, list[str]] = {}
    for name, spec in specs.items():
        for i in spec.borrowed:
            owner = next(n for n, other in specs.items() if i in other.params)
            readers.setdefault(i, [owner]).append(name)
    found: dict[int, Tied] = {}
    for i, names in readers.items():
        weight = Source(SourceKind.PARAMS, i)
        ways = tuple(way_to(model, traces, weight, n) for n in names)
        found[i] = Tied(model.params.paths[i], names[0], tuple(names), ways)
    return found


def tied_between(
    model: TracedModel, traces: Sequence[Traced], specs: Mapping[str, SegmentSpec]
) -> str:
    """Why a cut cannot lie between two parties, if a weight is tied across it; else ""."""
    for tied in ties_of(model, traces, specs).values():
        both = " and ".join(f"`{n}`" for n in tied.readers)
        return (
            f"the weight `{tied.dotted}` is tied across the cut: {both} read it "
            f"({tied.ways[-1]}), so one party must have both, as in a U-shape "
            "(`u_shaped=True`); of a frozen one each may have a copy (`copies=True` of "
            "`split`)."
        )
    return ""
