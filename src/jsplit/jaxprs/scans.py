"""A scan over layers as several scans, one after the other, with the same results.

Each has its layers alone. What the layers hand on gets a name where one scan ends, so that
it can be cut there. What is the same for all layers is read by each from where it comes,
and what only counts them is counted by each for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import jax
from jax.extend.core import ClosedJaxpr, DropVar, Var

from jsplit.jaxprs.flat import Atom, Equation, Remat, flatten, shape_of, variable
from jsplit.jaxprs.macs import carried
from jsplit.jaxprs.rows import Rows, Writer
from jsplit.jaxprs.slices import backward_slice, evaluate
from jsplit.jaxprs.tags import tag_arrays


@dataclass(frozen=True)
class Scan:
    """What a scan reads and writes.

    Attributes:
        equation: the scan.
        body: what it does once for each layer.
        first: the number of its constants.
        last: of its constants and of what is carried.
        handed: which of what is carried a layer may change, by number from 0.
    """

    equation: Equation
    body: ClosedJaxpr
    first: int
    last: int
    handed: tuple[int, ...]

    @property
    def length(self) -> int:
        """The number of layers."""
        return self.equation.eqn.params["length"]

    @property
    def reverse(self) -> bool:
        """Whether the last layer is the first to run."""
        return self.equation.eqn.params["reverse"]

    @property
    def stacked(self) -> list[Atom]:
        """What each layer has a row of."""
        return list(self.equation.eqn.invars[self.last :])

    @property
    def results(self) -> list[Var]:
        """What each layer gives a row of."""
        return list(self.equation.eqn.outvars[self.last - self.first :])


def scan_of(e: Equation) -> Scan | None:
    """The scan that an equation is, if it is one."""
    if e.eqn.primitive.name != "scan":
        return None
    body: ClosedJaxpr = e.eqn.params["jaxpr"]
    first, last = carried(e.eqn, body.jaxpr)
    # Through calls in the body: what they hand on as it is has no other name.
    flat = flatten(body)
    given = flat.invars[first:last]
    handed = [i for i, v in enumerate(given) if flat.outvars[i] is not v]
    return Scan(e, body, first, last, tuple(handed))


def depending(equations: Sequence[Equation], given: Collection[Var]) -> set[Var]:
    """The variables that depend on any of some."""
    found = set(given)
    for e in equations:
        if any(v in found for v in e.reads):
            found.update(e.writes)
    return found


def counted(scan: Scan, moving: Collection[Var]) -> list[int]:
    """Which of what a scan hands on depends on nothing that moves, by number.

    Args:
        scan: the scan.
        moving: the variables outside that depend on an input of the model.
    """
    flat = flatten(scan.body)
    invars = scan.equation.eqn.invars
    reads = zip(flat.invars, invars, strict=True)
    begin = {v for v, outer in reads if isinstance(outer, Var) and outer in moving}
    given = flat.invars[scan.first : scan.last]
    # What one layer hands on may move where it began with a constant.
    while True:
        found = depending(flat.equations, begin)
        ends = flat.outvars[: len(given)]
        more = {v for v, out in zip(given, ends, strict=True) if _in(out, found)}
        if more <= begin:
            return [i for i in scan.handed if given[i] not in begin]
        begin |= more


def _in(v: Atom, found: Collection[Var]) -> bool:
    return isinstance(v, Var) and v in found


def write_divided(
    writer: Writer,
    scan: Scan,
    places: Sequence[int],
    moving: Collection[Var],
    name: Callable[[int], str | None],
) -> None:
    """Write a scan as several.

    Args:
        writer: to which all equations before it are written.
        scan: it must not run in reverse.
        places: how many layers lie before each place, in order.
        moving: the variables that depend on an input of the model.
        name: the tag of what is handed on at a place; at the scan's length, of its
            result; `None`: none.
    """
    eqn, regions = scan.equation.eqn, scan.equation.regions
    alone = counted(scan, moving)
    handed = [i for i in scan.handed if i not in alone]
    outs = eqn.outvars[: scan.last - scan.first]
    begin = list(eqn.invars[scan.first : scan.last])
    own, rows = list(begin), [[] for _ in scan.results]
    for start, stop in pairwise([0, *places, scan.length]):
        stacked = [writer.rows(v, Rows(0, start, stop), regions) for v in scan.stacked]
        given = [*eqn.invars[: scan.first], *own, *stacked]
        results = [_shorter(v, stop - start) for v in scan.results]
        after = [Var(v.aval) for v in outs]
        params = {**eqn.params, "length": stop - start}
        writer.write(eqn.replace(params=params), given, [*after, *results], regions)
        for parts, part in zip(rows, results, strict=True):
            parts.append(part)
        # What no layer changes is read where it came from, not over the cut.
        own = list(begin)
        _put(own, alone, _counts(writer, scan, alone, given, stop - start))
        _put(
            own, handed, _named(writer, [after[i] for i in handed], name(stop), regions)
        )
        begin = [own[i] if i in alone else v for i, v in enumerate(begin)]

    writer.called.update(zip(outs, own, strict=True))
    for j, (v, parts) in enumerate(zip(scan.results, rows, strict=True)):
        if not isinstance(v, DropVar):
            whole = writer.called[v] = writer.concatenated(parts, 0, regions)
            _note_same(writer, scan, j, whole)


def _put(values: list[Atom], at: Sequence[int], others: Sequence[Atom]) -> None:
    for i, v in zip(at, others, strict=True):
        values[i] = v


def _shorter(v: Var, length: int) -> Var:
    """A variable of fewer rows than another."""
    like = shape_of(v)
    return variable(jax.ShapeDtypeStruct((length, *like.shape[1:]), like.dtype))


def _note_same(writer: Writer, scan: Scan, number: int, whole: Atom) -> None:
    """Note that a result of the layers is what they were given, where it is."""
    flat = flatten(scan.body)
    out = flat.outvars[scan.last - scan.first + number]
    for v, outer in zip(flat.invars[scan.last :], scan.stacked, strict=True):
        if v is out and isinstance(whole, Var):
            writer.same[whole] = outer


def _counts(
    writer: Writer, scan: Scan, alone: Sequence[int], given: Sequence[Atom], length: int
) -> list[Atom]:
    """Write a scan that computes nothing but what depends on no input of the model."""
    if not alone:
        return []
    flat = flatten(scan.body)
    outs = [flat.outvars[i] for i in alone]
    piece = backward_slice(flat, outs)
    carry = [flat.invars[scan.first + i] for i in alone]
    stacked = [v for v in flat.invars[scan.last :] if v in piece.reads]
    others = [v for v in flat.invars[: scan.last] if v in piece.reads - {*carry}]
    outer = dict(zip(flat.invars, given, strict=True))

    def run(*values: jax.Array) -> list[jax.Array]:
        known = dict(zip([*carry, *stacked, *others], values, strict=True))
        fixed = {v: known[v] for v in others}

        def layer(
            own: list[jax.Array], rows: list[jax.Array]
        ) -> tuple[list[jax.Array], None]:
            now = dict(zip([*carry, *stacked], [*own, *rows], strict=True))
            return evaluate(flat, piece.equations, outs, fixed | now), None

        rows = [known[v] for v in stacked]
        return jax.lax.scan(layer, [known[v] for v in carry], rows, length)[0]

    atoms = [outer[v] for v in (*carry, *stacked, *others)]
    return writer.graft(run, atoms, scan.equation.regions)


def _named(
    writer: Writer,
    atoms: Sequence[Atom],
    tag: str | None,
    regions: tuple[Remat, ...],
) -> list[Atom]:
    """Write that values have a name, and give them as they are called then."""
    if not atoms or tag is None:
        return list(atoms)
    one = len(atoms) == 1
    return writer.graft(
        lambda *xs: tag_arrays(xs[0] if one else xs, tag), atoms, regions
    )
