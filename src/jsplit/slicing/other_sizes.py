"""A slice at other sizes than the example's: the trace of the whole model that it is a part of.

A segment that reads an input knows its sizes; one that reads cuts alone finds which
inputs give them. Where it cannot tell, and it matters, that is said.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import jax
import numpy as np
from jax.extend.core import Var

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line
from jsplit.core.keys import is_key
from jsplit.core.trees import abstract, batch_of, describe
from jsplit.jaxprs.flat import shape_of
from jsplit.jaxprs.slices import backward_slice
from jsplit.slicing.free_axes import (
    CutShapes,
    FreeAxes,
    Shape,
    find_free_axes,
    solutions,
)
from jsplit.slicing.ownership import SegmentSpec
from jsplit.slicing.trace import Traced, at_batch
from jsplit.slicing.traced_model import TracedModel

Divided = Callable[[TracedModel, Sequence[Traced]], dict[str, SegmentSpec]]
"""How a model was divided, with the copies that it was divided with."""


class OtherSizes:
    """The traces of a divided model at all sizes that its segments are given.

    All segments of one `split` share it.
    """

    def __init__(
        self, model: TracedModel, specs: Mapping[str, SegmentSpec], divided: Divided
    ):
        """Nothing is traced before it is needed.

        Args:
            model: the whole model, traced at its example.
            specs: how it was divided there.
            divided: divides it again, `divided(model, traces)`, as it was.
        """
        self._divided = divided
        self._model = model
        self._specs = specs
        self._found: FreeAxes | None = None
        self._checked: set[tuple] = set()

    def trace_for(
        self, name: str, inputs: Mapping[str, PyTree], train: bool, key: np.dtype
    ) -> Traced:
        """The trace of which a segment computes its slice.

        Args:
            name: of the segment.
            inputs: what it is given, by name.
            train: the mode.
            key: the dtype of the key.

        Raises:
            ValueError: if the model does not run at these sizes, or it cannot be told
                which inputs give them, or the segments would not compute what the
                whole model computes.
        """
        batch = batch_of(inputs)
        shapes = abstract(dict(inputs))
        if not self._differs(self._base(train, key), shapes):
            return self._model.trace(batch, train, key)
        trace = self._resolved(name, shapes, batch, train, key)
        self._check(trace, batch, train, key)
        return trace

    def _base(self, train: bool, key: np.dtype) -> Traced:
        """The trace at the example's sizes, as it was made to divide the model."""
        size = self._model.batch
        return self._model.trace(size if train else 2 * size, train, key)

    def _differs(self, trace: Traced, shapes: Mapping[str, PyTree]) -> bool:
        """Whether inputs differ from those of a trace, and only in sizes beyond the batch."""
        other = False
        for name, value in shapes.items():
            expected = self._expected(trace, name)
            if jax.tree.structure(value) != jax.tree.structure(expected):
                return False
            got = jax.tree.leaves(value)
            for x, y in zip(got, jax.tree.leaves(expected), strict=True):
                # What no size mends is refused where it is taken in.
                if x.dtype != y.dtype or len(x.shape) != len(y.shape):
                    return False
                other |= x.shape[1:] != y.shape[1:]
        return other

    def _expected(self, trace: Traced, name: str) -> PyTree:
        """The shapes of an input or a cut in a trace."""
        if name in trace.cuts:
            value = trace.cuts[name]
            return value.structure.unflatten([shape_of(v) for v in value.atoms])
        leaves = [shape_of(v) for v, s in trace.sources.items() if s.name == name]
        return self._model.structure(name).unflatten(leaves)

    def _resolved(
        self,
        name: str,
        shapes: Mapping[str, PyTree],
        batch: int,
        train: bool,
        key: np.dtype,
    ) -> Traced:
        """The first trace found whose cuts and fields have the shapes that are given."""
        model = self._model
        failed: Exception | None = None
        for fields in self._candidates(shapes, batch):
            try:
                trace = model.trace(batch, train, key, fields)
            except Exception as error:
                failed = failed or error
                continue
            if not self._differs(trace, shapes):
                return trace
        self._refuse(name, self._base(train, key), shapes, batch, failed)

    def _candidates(
        self, shapes: Mapping[str, PyTree], batch: int
    ) -> Sequence[list[PyTree]]:
        """Shapes of all inputs of the model that may be those of some of its values."""
        model = self._model
        example = at_batch(model.example, batch)
        given = [shapes.get(f, x) for f, x in zip(model.fields, example, strict=True)]
        if all(f in shapes for f in model.fields):
            return [given]
        leaves, structure = jax.tree.flatten(given)
        known: dict[int, Shape] = {}
        start = 0
        for field, value in zip(model.fields, given, strict=True):
            count = len(jax.tree.leaves(value))
            if field in shapes:
                numbers = range(start, start + count)
                known |= {i: leaves[i].shape for i in numbers}
            start += count
        wanted = {
            n: [x.shape for x in jax.tree.leaves(value)]
            for n, value in shapes.items()
            if n not in model.fields
        }
        found: list[list[PyTree]] = []
        for sizes in solutions(self._free(), known, wanted):
            pairs = zip(leaves, sizes, strict=True)
            at = [jax.ShapeDtypeStruct((batch, *n[1:]), x.dtype) for x, n in pairs]
            found.append(structure.unflatten(at))
        return found

    def _free(self) -> FreeAxes:
        """The free axes of the model, found once."""
        if self._found is None:
            model = self._model
            leaves, structure = jax.tree.flatten(at_batch(model.example, model.batch))

            def run(sizes: Sequence[Shape]) -> CutShapes | None:
                pairs = zip(leaves, sizes, strict=True)
                at = [jax.ShapeDtypeStruct(n, x.dtype) for x, n in pairs]
                try:
                    fields = structure.unflatten(at)
                    trace = model.trace(model.batch, False, fields=fields)
                # What stops a model at a size is anything.
                except Exception:
                    return None
                return {
                    name: [shape_of(v).shape for v in value.atoms]
                    for name, value in trace.cuts.items()
                }

            self._found = find_free_axes([x.shape for x in leaves], run)
        return self._found

    def _check(self, trace: Traced, batch: int, train: bool, key: np.dtype) -> None:
        """Refuse sizes at which the segments together are not the whole model.

        Raises:
            ValueError: naming the segment that would compute something else.
        """
        model = self._model
        fields = {f: self._expected(trace, f) for f in model.fields}
        sizes = _sizes(fields)
        at = sizes, batch, train, key
        if at in self._checked:
            return
        # In the other mode as it was: a model may have code for a length.
        others = self._base(not train, key)
        again = self._divided(model, [trace, others] if train else [others, trace])
        if again != self._specs:
            raise ValueError(
                f"the model divides otherwise with {_named(fields)} than with its "
                "`example`: its code asks for sizes."
            )
        for name, spec in self._specs.items():
            inputs = {i: self._expected(trace, i) for i in spec.inputs}
            if self._differs(self._base(train, key), inputs):
                other = self._resolved(name, inputs, batch, train, key)
            else:
                other = model.trace(batch, train, key)
            if sizes == _sizes({f: self._expected(other, f) for f in model.fields}):
                continue
            if _text(other, name, spec) != _text(trace, name, spec):
                unseen = {f: x for f, x in fields.items() if f not in spec.inputs}
                raise ValueError(
                    f"segment `{name}` depends on the sizes of {_named(unseen)}, which "
                    f"it cannot tell from {', '.join(f'`{i}`' for i in spec.inputs)}: "
                    "it would compute with those of another. Split the model with an "
                    "`example` of these sizes, or send what depends on them in the cut."
                )
        self._checked.add(at)

    def _refuse(
        self,
        name: str,
        base: Traced,
        shapes: Mapping[str, PyTree],
        batch: int,
        failed: Exception | None,
    ) -> NoReturn:
        """Say which input of a segment has a size at which it cannot run."""
        expected = {i: self._expected(base, i) for i in shapes}
        [expected] = at_batch([expected], batch)
        i = next(i for i, value in shapes.items() if expected[i] != value)
        why = (
            f"the model does not run with it: {first_line(failed)}"
            if failed is not None
            else "of which sizes of the model's inputs it is cannot be told; split the "
            "model with an `example` of these sizes"
        )
        raise ValueError(
            f"segment `{name}` expects `{i}` as {describe(expected[i])}, got "
            f"{describe(shapes[i])}; {why}."
        ) from failed


def _sizes(fields: Mapping[str, PyTree]) -> tuple[Shape, ...]:
    return tuple(x.shape for x in jax.tree.leaves(dict(fields)))


def _named(fields: Mapping[str, PyTree]) -> str:
    return ", ".join(f"`{f}` {describe(x)}" for f, x in fields.items())


def _text(trace: Traced, name: str, spec: SegmentSpec) -> tuple:
    """What a slice computes, in a form that is equal for equal ones: its program, its constants."""
    value = trace.values[name]
    outs = [*value.atoms, *(trace.new_state[i] for i in spec.state)]
    piece = backward_slice(trace.flat, outs, trace.stops(name))
    cuts = [v for x in trace.cuts.values() for v in x.atoms]
    ends = [v for v in (*trace.flat.invars, *cuts) if isinstance(v, Var)]
    reads = [v for v in dict.fromkeys(ends) if v in piece.reads]
    read = dict.fromkeys(v for e in piece.equations for v in e.reads)
    consts = [v for v in read if v in trace.flat.consts]
    eqns = [e.eqn for e in piece.equations]
    body = trace.flat.empty.replace(invars=[*reads, *consts], outvars=outs, eqns=eqns)
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        # Functions in its parameters print where they lie in memory.
        text = re.sub("0x[0-9a-f]+", "", str(body))
    return text, [_bytes(trace.flat.consts[v]) for v in consts]


def _bytes(x: jax.Array) -> tuple:
    data = np.asarray(jax.random.key_data(x) if is_key(x) else x)
    return data.shape, str(data.dtype), data.tobytes()
