"""Stacks of layers: scans over parameters that have a row for each layer, and their names.

A stack is called as the submodule that runs in it, or as what its parameters lie in:
`blocks`. Between its layers are places, `blocks[10]` after the first ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from jax.extend.core import Var

from jsplit.core.paths import Path, dotted
from jsplit.core.pieces import of_whole
from jsplit.jaxprs.flat import Atom, Flat, shape_of
from jsplit.jaxprs.rows import Rows, Writer
from jsplit.jaxprs.scans import Scan, depending, scan_of, write_divided
from jsplit.jaxprs.tags import MODULE, tags_in_bodies, untagged
from jsplit.slicing.trace import Source, SourceKind, Traced

_PLACE = re.compile(r"(.+)\[(\d+)\]")


class Stack(NamedTuple):
    """A scan over layers.

    Attributes:
        name: of it.
        scan: the scan.
        axes: of each leaf that has a row for each layer, along which axis.
    """

    name: str
    scan: Scan
    axes: dict[Var, int]


def place_of(name: str) -> tuple[str, int] | None:
    """The stack, and the number of layers before the place, that a name means."""
    found = _PLACE.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def places_in(trace: Traced, params: Sequence[Path]) -> list[str]:
    """The names of all places between layers of the stacks of a model, as one cuts there."""
    paths = {
        v: params[source.leaf]
        for v, source in trace.sources.items()
        if source.kind == SourceKind.PARAMS
    }
    stacks = stacks_of(trace.flat, trace.secret(()), paths)
    return [
        f"{s.name}[{k}]"
        for s in stacks
        if not s.scan.reverse
        for k in range(1, s.scan.length)
    ]


def stacks_of(
    flat: Flat,
    fields: Iterable[Var],
    params: Mapping[Var, Path],
    state: Mapping[Var, Atom] | None = None,
) -> list[Stack]:
    """Find the stacks of a program.

    Args:
        flat: the program.
        fields: the inputs of the model.
        params: the paths of its parameters.
        state: of each state leaf, what it is after the call.
    """
    if all(e.eqn.primitive.name != "scan" for e in flat.equations):
        return []
    search, moving = _Search(flat), depending(flat.equations, set(fields))
    found: list[Stack] = []
    for e in flat.equations:
        scan = scan_of(e)
        if scan is None or scan.length < 2:
            continue
        # A loop over time has a row of the input for each turn.
        if any(isinstance(v, Var) and v in moving for v in scan.stacked):
            continue
        axes = search.axes(scan)
        paths = [params[v] for v in axes if v in params]
        # One that is divided already has pieces for parameters.
        if not paths or any(of_whole(path) != path for path in paths):
            continue
        for v, after in (state or {}).items():
            # What is only written, as what layers sow.
            axis = None if v in axes else search.axis_after(scan, after)
            if axis is not None:
                axes[v] = axis
        leaves = {v: n for v, n in axes.items() if v in params or v in (state or {})}
        name = _unused(_name(flat, scan, paths), [s.name for s in found])
        found.append(Stack(name, scan, leaves))
    return found


class _Search:
    """Which leaves the rows of values come from."""

    def __init__(self, flat: Flat):
        self.reached: dict[Var, int] = {}
        self.writer = Writer(bottom=self.reached.setdefault)
        self.inputs = set(flat.invars)
        for e in flat.equations:
            self.writer.copy(e)

    def axes(self, scan: Scan) -> dict[Var, int]:
        """The inputs of the program that a scan has a row of for each layer."""
        found: dict[Var, int] = {}
        for v in scan.stacked:
            for at, axis in self._from(v, 0).items():
                if at in self.inputs and shape_of(at).shape[axis] == scan.length:
                    found.setdefault(at, axis)
        return found

    def axis_after(self, scan: Scan, v: Atom) -> int | None:
        """The axis of a value whose rows are a result of the layers; `None`: of none."""
        for axis, size in enumerate(shape_of(v).shape):
            if size == scan.length:
                found = self._from(v, axis)
                if any(found.get(r) == 0 for r in scan.results):
                    return axis
        return None

    def _from(self, v: Atom, axis: int) -> dict[Var, int]:
        """The variables at which the search for a value's rows ends, with their axes."""
        self.reached.clear()
        self.writer.forget()
        self.writer.rows(v, Rows(axis, 0, 1), ())
        return dict(self.reached)


def _name(flat: Flat, scan: Scan, paths: Sequence[Path]) -> str:
    """What users call a stack with parameters at some paths."""
    heads = [p[:-1] for p in paths]
    common = heads[0]
    for path in heads[1:]:
        same = [a == b for a, b in zip(common, path, strict=False)]
        common = common[: (*same, False).index(False)]
    # The outermost submodule that runs in it, if the parameters are its own.
    tags = [untagged(tag)[0] for tag, _ in tags_in_bodies([scan.equation.eqn])]
    modules = {t.removeprefix(MODULE) for t in tags if t.startswith(MODULE)}
    for i in range(1, len(common)):
        if dotted(common[:i]) in modules:
            return dotted(common[:i])
    # Or the one that is the scan, and returns what comes out of it.
    outs = scan.equation.writes
    for name, v in _tags(flat):
        if v in outs and name in {
            dotted(common[:i]) for i in range(1, len(common) + 1)
        }:
            return name
    if not common:
        return dotted(paths[0]) if len(paths) == 1 else "scan"
    return dotted(common)


def _tags(flat: Flat) -> list[tuple[str, Var]]:
    """The names of submodules' outputs, each with the variable that was given it."""
    found: list[tuple[str, Var]] = []
    for e in flat.equations:
        if e.eqn.primitive.name == "name" and e.eqn.params["name"].startswith(MODULE):
            name = untagged(e.eqn.params["name"])[0].removeprefix(MODULE)
            found += [(name, v) for v in e.reads]
    return found


def _unused(name: str, taken: Sequence[str]) -> str:
    found, i = name, 1
    while found in taken:
        i += 1
        found = f"{name}#{i}"
    return found


def divided(
    writer: Writer,
    flat: Flat,
    stacks: Iterable[Stack],
    places: Mapping[str, Sequence[int]],
    fields: Iterable[Var],
) -> None:
    """Write a program in which stacks are divided, and their results have names.

    Args:
        writer: which writes it; rows of the results can be asked for afterwards.
        flat: the program.
        stacks: of it.
        places: by the name of a stack, how many layers lie before each place.
        fields: the inputs of the model.
    """
    there = {name for name, _ in _tags(flat)}
    by_equation = {id(s.scan.equation): s for s in stacks}
    moving = depending(flat.equations, set(fields))
    for e in flat.equations:
        stack = by_equation.get(id(e))
        own = () if stack is None else places.get(stack.name, ())
        if stack is None or (stack.name in there and not own):
            writer.copy(e)
            continue
        written = scan_of(writer.renamed(e))
        assert written is not None
        called = [w for v, w in writer.called.items() if v in moving]
        moves = moving | {w for w in called if isinstance(w, Var)}
        tag = partial(_tag, stack, stack.name in there)
        write_divided(writer, written, own, moves, tag)


def _tag(stack: Stack, is_there: bool, k: int) -> str | None:
    """The name of what is handed on after some layers."""
    if k == stack.scan.length:
        return None if is_there else MODULE + stack.name
    return f"{MODULE}{stack.name}[{k}]"


def with_names(
    flat: Flat, paths: Sequence[Path], sources: Mapping[Var, Source]
) -> Flat:
    """A program in which the results of stacks have their names.

    Args:
        flat: the program.
        paths: of the parameters.
        sources: what the inputs of the program are.
    """
    kinds = {v: source.kind for v, source in sources.items()}
    params = [v for v, kind in kinds.items() if kind == SourceKind.PARAMS]
    fields = [v for v, kind in kinds.items() if kind == SourceKind.FIELD]
    stacks = stacks_of(flat, fields, dict(zip(params, paths, strict=True)))
    if not stacks:
        return flat
    writer = Writer()
    divided(writer, flat, stacks, {}, fields)
    return writer.finished(flat)
