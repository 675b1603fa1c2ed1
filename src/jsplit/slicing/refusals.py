"""Why a model cannot be divided at some cuts: errors that name the culprit and the path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from jax.extend.core import Var

from jsplit.core.paths import dotted
from jsplit.jaxprs.flat import Equation
from jsplit.jaxprs.slices import backward_slice
from jsplit.jaxprs.tags import CUT, MODULE, untagged
from jsplit.slicing.trace import Source, SourceKind, Traced
from jsplit.slicing.traced_model import TracedModel

_WORDS = {
    SourceKind.PARAMS: "weight",
    SourceKind.STATE: "statistic",
    SourceKind.FIELD: "input",
}
# Steps at each end of a path that is too long for an error.
_SHOWN = 3


def name_of(model: TracedModel, source: Source) -> str:
    """What users call a source: the path of a leaf, or the name of an input or cut."""
    if source.kind == SourceKind.PARAMS:
        return dotted(model.params.paths[source.leaf])
    if source.kind == SourceKind.STATE:
        return dotted(model.state.paths[source.leaf])
    return source.name


def refuse_statistic(
    model: TracedModel, source: Source, needed: set[Source]
) -> NoReturn:
    """Refuse a statistic that no single segment can update."""
    what = ", ".join(f"`{name_of(model, s)}`" for s in sorted(needed))
    raise ValueError(
        f"statistic `{name_of(model, source)}` needs {what}, which no single segment has."
    )


def refuse_shared(
    model: TracedModel,
    traces: Sequence[Traced],
    source: Source,
    readers: Sequence[str],
) -> NoReturn:
    """Refuse what two segments read, and say which way it takes around the cut.

    Args:
        model: the model.
        traces: in both modes.
        source: an input, a weight or a statistic.
        readers: the values whose segments read it, in order.

    Raises:
        ValueError: always.
    """
    name, kind = name_of(model, source), _WORDS[source.kind]
    said = f"the {kind} `{name}`"
    way = way_to(model, traces, source, readers[-1])
    both = " and ".join(f"`{n}`" for n in readers)
    cuts = ", ".join(f"`{n}`" for n in readers if n in traces[0].cuts)

    # Two outputs that part behind no cut: there is nothing that it could go
    # around.
    if not cuts:
        raise ValueError(
            f"{said} is read by {both} ({way}), and no cut lies before both; cut where "
            "they part."
        )
    if source.kind != SourceKind.FIELD:
        raise ValueError(
            f"{said} is tied across a cut: {both} read it ({way}). If no call changes it, "
            "each may have a copy (`copies=True`)."
        )
    cure = 'Make what crosses part of the cut, have it carried (`around="carry"`)'
    if model.carries:
        cure = (
            "Nothing that closes it may be carried: all of it is raw, or has no batch "
            "axis. Cut elsewhere"
        )
    raise ValueError(
        f"a skip connection goes around the cut {cuts}: {said} is read by {both} ({way}). "
        f"{cure}, or name the input in `public` if it is not secret."
    )


def way_to(
    model: TracedModel, traces: Sequence[Traced], source: Source, name: str
) -> str:
    """The steps from what a segment reads to its value, around the cuts, in words."""
    steps = _first_path(traces, source, name)
    return " -> ".join([name_of(model, source), *steps, name])


def _first_path(traces: Sequence[Traced], source: Source, name: str) -> list[str]:
    """The path in the first of the traces that has one; a mode may not read the source."""
    for trace in traces:
        path = _path_to(trace, source, name)
        if path is not None:
            return path
    return []


def _path_to(trace: Traced, source: Source, name: str) -> list[str] | None:
    """Find a way from an input of a model to a value, around the cuts.

    Args:
        trace: where to look.
        source: the input.
        name: the value.

    Returns:
        Its steps, by the names of submodules where they have one; `None` if
        there is no way.
    """
    piece = backward_slice(trace.flat, trace.values[name].atoms, trace.stops(name))
    # From where each variable was reached, and by which step.
    came: dict[Var, tuple[Var | None, str]] = {
        v: (None, "") for v, s in trace.sources.items() if s == source
    }
    for equation in piece.equations:
        start = next((v for v in equation.reads if v in came), None)
        if start is not None:
            step = start, _step(equation)
            came.update({v: step for v in equation.writes})

    reached = (v for v in trace.values[name].atoms if isinstance(v, Var) and v in came)
    at: Var | None = next(reached, None)
    if at is None:
        return None

    steps: list[str] = []
    while at is not None:
        at, step = came[at]
        steps.append(step)
    named = [step for step in reversed(steps) if step]
    if len(named) <= 2 * _SHOWN + 1:
        return named
    return [*named[:_SHOWN], "...", *named[-_SHOWN:]]


def _step(equation: Equation) -> str:
    """What a user calls an equation."""
    kind = equation.eqn.primitive.name
    if kind != "name":
        return kind
    tag = untagged(equation.eqn.params["name"])[0]
    return tag.removeprefix(MODULE).removeprefix(CUT)
