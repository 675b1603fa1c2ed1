"""Where a model's stacks of layers are to be divided, as a user asks for it: `blocks[10]`.

The model is then taken in pieces (`in_pieces.py`), and these places are cuts as others
are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jax.extend.core import Var

from jsplit.core.base import PyTree, Segment
from jsplit.core.paths import Path
from jsplit.core.pieces import Piece, pieces
from jsplit.jaxprs.flat import Atom
from jsplit.slicing.in_pieces import InPieces, in_pieces
from jsplit.slicing.initial import Initial, initial
from jsplit.slicing.layers import Stack, place_of, stacks_of
from jsplit.slicing.trace import SourceKind, Traced


def divided_at(
    model: Segment,
    start: Initial,
    example: Sequence[PyTree],
    ends: Iterable[str] | None,
    trace: Callable[[], Sequence[Traced]],
) -> tuple[Segment, Initial]:
    """Divide the stacks of a model where cuts are asked for between their layers.

    Args:
        model: as it is.
        start: its `init`.
        example: its inputs.
        ends: what a user calls the places to cut; `None`: between all layers of all
            stacks.
        trace: gives the model's traces, without cuts, in both modes.

    Returns:
        The model and its `init`: others, with leaves in pieces, where layers are divided.

    Raises:
        ValueError: if there is no such place in a stack.
    """
    asked = [p for p in map(place_of, ends or ()) if p is not None]
    if ends is not None and not asked:
        return model, start
    traces = trace()
    found = [_stacks_in(t, start) for t in traces]
    stacks = {s.name: s for s in found[0]}
    places: dict[str, set[int]] = {}
    if ends is None:
        for name, stack in stacks.items():
            if not stack.scan.reverse:
                places[name] = set(range(1, stack.scan.length))
    for name, k in asked:
        if name in stacks:
            _check(stacks[name], k)
            places.setdefault(name, set()).add(k)
        elif stacks:
            known = [f"`{s.name}` of {s.scan.length} layers" for s in stacks.values()]
            raise ValueError(
                f"cut `{name}[{k}]`: no stack of layers is called `{name}`; there are "
                f"{', '.join(known)}."
            )
    if not places:
        return model, start

    sorted_places = {name: sorted(own) for name, own in places.items()}
    leaves: dict[SourceKind, dict[Path, Sequence[Piece]]] = {
        SourceKind.PARAMS: {},
        SourceKind.STATE: {},
    }
    for t, own in zip(traces, found, strict=True):
        for stack in own:
            if stack.name in sorted_places:
                bounds = [0, *sorted_places[stack.name], stack.scan.length]
                for v, axis in stack.axes.items():
                    kind, path = t.sources[v].kind, _path(t, v, start)
                    leaves[kind].setdefault(path, pieces(bounds, axis))
    own = leaves[SourceKind.PARAMS], leaves[SourceKind.STATE]
    made = in_pieces(model, InPieces(start.params, start.state, own, sorted_places))
    return made, initial(made, example)


def _check(stack: Stack, k: int) -> None:
    name, length = stack.name, stack.scan.length
    if stack.scan.reverse:
        raise ValueError(
            f"cut `{name}[{k}]`: the layers of `{name}` run in reverse (`reverse=True` of "
            "the scan), and are not divided; cut before or after them."
        )
    if not 0 < k < length:
        raise ValueError(
            f"cut `{name}[{k}]`: `{name}` has {length} layers, and `{name}[k]` lies after "
            f"the first k of them, 1 to {length - 1}; its result is `{name}`."
        )


def _stacks_in(trace: Traced, start: Initial) -> list[Stack]:
    params: dict[Var, Path] = {}
    state: dict[Var, Atom] = {}
    for v, source in trace.sources.items():
        if source.kind == SourceKind.PARAMS:
            params[v] = start.params.paths[source.leaf]
        if source.kind == SourceKind.STATE:
            state[v] = trace.new_state[source.leaf]
    return stacks_of(trace.flat, trace.secret(()), params, state)


def _path(trace: Traced, v: Var, start: Initial) -> Path:
    source = trace.sources[v]
    leaves = start.params if source.kind == SourceKind.PARAMS else start.state
    return leaves.paths[source.leaf]
