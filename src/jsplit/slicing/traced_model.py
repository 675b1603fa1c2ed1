"""A whole model, traced: in each mode, at each batch size, with its cuts and outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NoReturn

import jax
import numpy as np
from jax.extend.core import Var

from jsplit.core.base import PyTree, Segment, SegmentApply
from jsplit.core.checks import first_line, names_of
from jsplit.core.paths import dotted
from jsplit.core.trees import batch_of
from jsplit.core.typed_jax import TreeDef
from jsplit.jaxprs.flat import Atom, Flat, flatten, values_only
from jsplit.jaxprs.rearranged import rearranged
from jsplit.segments.interception import intercepting
from jsplit.slicing.batch_axis import steady
from jsplit.slicing.beside import beside
from jsplit.slicing.carrying import Record, carry
from jsplit.slicing.initial import Initial, fields_of
from jsplit.slicing.layers import places_in, with_names
from jsplit.slicing.model_call import apply_leaves
from jsplit.slicing.separators import find, marked, nearest
from jsplit.slicing.trace import (
    Source,
    SourceKind,
    Traced,
    Value,
    at_batch,
    name_outputs,
    of_ends,
    trace_key,
)
from jsplit.slicing.unread import unread_leaves, without


class TracedModel:
    """A whole model and the shapes of its example, without any of its values.

    Attributes:
        apply: the model.
        fields: names of its inputs.
        public: those that several segments may read.
        batch: the example's batch size.
        params: paths and shapes of its parameters.
        state: paths and shapes of its state.
        outputs: names of its outputs.
        cuts: for each cut, the names whose values it holds.
        unread: for each cut, the numbers of the leaves that the rest of the model does
            not read; they are no part of its value.
        carries: whether what goes around a cut goes with it.
        carried: for each cut, what goes with it since it would go around it.
    """

    def __init__(
        self,
        model: Segment,
        start: Initial,
        example: Sequence[PyTree],
        cuts: Mapping[str, Sequence[str]] | None = None,
        outputs: Sequence[str] | None = None,
        public: Sequence[str] = (),
        carries: bool = False,
    ):
        """Trace a model as far as finding its cuts needs it.

        Args:
            model: the model.
            start: its `init`, for the leaves of its parameters and state.
            example: its inputs, or their shapes.
            cuts: for each cut, the names whose values it holds; by default
                every `jsplit.cut` in the code.
            outputs: names of its outputs.
            public: names of the inputs that several segments may read.
            carries: whether what goes around a cut goes with it.

        Raises:
            ValueError: if a name does not fit the model.
        """
        self.apply: SegmentApply = model.apply
        fields = fields_of(model, example)
        self.fields, self.example = list(fields), list(fields.values())
        self.batch = batch_of(fields)
        # Which implementation draws has no part in how a model divides.
        self.key: np.dtype = jax.eval_shape(jax.random.key, 0).dtype
        self.params, self.state = start.params, start.state

        self.outputs = names_of("outputs", outputs or "output")
        if both := set(self.outputs) & set(self.fields):
            raise ValueError(
                f"the output `{both.pop()}` has the name of an input of the model; give "
                "it another by `outputs`."
            )
        self.public = frozenset(names_of("public", public))
        if unknown := self.public - set(self.fields):
            are = f"the model's inputs are {self.fields}."
            raise ValueError(f"`public` names {sorted(unknown)}, {are}")

        self.carries = carries
        self.carried: Record | None = None
        # As traced, and with their cuts.
        self._bare: dict[Hashable, Traced] = {}
        self._traces: dict[Hashable, Traced] = {}
        self._first: dict[bool, Flat] = {}  # by mode, at the example's sizes
        # None yet: which there are is seen in traces, which are then given
        # their cuts.
        self.cuts: dict[str, list[str]] = {}
        if cuts is None:
            # In both modes: a cut that is in one alone is refused by name,
            # later.
            found = [n for trace in self.both_modes() for n in marked(trace.flat)]
            cuts = {name: [name] for name in found}
        self.cuts = {name: list(ends) for name, ends in cuts.items()}
        # Traced without it: only the whole cuts tell which of their leaves are read.
        self.unread: dict[str, frozenset[int]] = {}
        if self.cuts:
            self.unread = unread_leaves(self.both_modes())
            self._traces.clear()

    def structure(self, field: str) -> TreeDef:
        """The structure of an input."""
        return jax.tree.structure(self.example[self.fields.index(field)])

    def both_modes(self) -> list[Traced]:
        """The traces that tell how the model divides, in training and in inference.

        Raises:
            ValueError: if the model does not run at another batch size.
        """
        train = self.trace(self.batch, True)
        # At two batch sizes, so that an axis that is only by chance as long
        # as the batch is not taken for it.
        double = 2 * self.batch
        try:
            return [train, self.trace(double, False)]
        except Exception as error:
            # What is wrong at any batch size is said as it is.
            self.trace(self.batch, False)
            raise ValueError(
                "the batch size must be free, but the model does not run with "
                f"{double}: {first_line(error)}"
            ) from error

    def trace(
        self,
        batch: int,
        train: bool,
        key: np.dtype | None = None,
        fields: Sequence[PyTree] | None = None,
    ) -> Traced:
        """The model traced at a batch size, with its cuts.

        Args:
            batch: an int, for which it is traced once; or a symbolic size.
            train: the mode.
            key: the dtype of the key, which says by which implementation it
                draws; by default the one of `jax.random.key`.
            fields: the shapes of all its inputs; by default those of the example,
                of so large a batch.

        Returns:
            The trace.
        """
        drawn = self.key if key is None else key
        fields = at_batch(self.example, batch) if fields is None else fields
        shapes = tuple(x.shape for x in jax.tree.leaves(fields))
        # A symbolic size belongs to one export, and is not kept.
        kept = all(isinstance(n, int) for shape in shapes for n in shape)
        at = *trace_key(batch, train, drawn), shapes
        if kept and at in self._traces:
            return self._traces[at]
        trace = self._bare.get(at) if kept else None
        if trace is None:
            trace = self._fresh_trace(batch, train, drawn, fields)
        closed = self._with_cuts(trace, train)
        if kept:
            self._bare[at] = trace
        if kept and self.cuts:
            self._traces[at] = closed
        return closed

    def _with_cuts(self, trace: Traced, train: bool) -> Traced:
        """The same trace with the values of its cuts, and what is carried with them."""
        found = {n: self._resolve(trace, n, e, train) for n, e in self.cuts.items()}
        trace = trace._replace(cuts=found)
        if self.carries:
            # The first of all traces, in training, says how the values are called.
            trace, record = carry(trace, self.public, self.carried)
            self.carried = record if self.cuts else None
        cuts = {n: without(x, self.unread.get(n, ())) for n, x in trace.cuts.items()}
        return trace._replace(cuts=cuts)

    def _fresh_trace(
        self, batch: int, train: bool, key: np.dtype, fields: Sequence[PyTree]
    ) -> Traced:
        flat, structure = self._program(train, key, fields)
        # What is carried has a batch axis, and not one that is as long by chance.
        compared = self.carries and isinstance(batch, int)
        other = None
        if compared:
            twice = at_batch(fields, 2 * batch)
            other = self._program(train, key, twice)[0]

        sources = dict(zip(flat.invars, self._sources(), strict=True))
        variables: dict[Source, list[Var]] = {}
        for v, source in sources.items():
            variables.setdefault(source, []).append(v)

        first = self._first.setdefault(train, flat)
        count = structure.num_leaves
        returned = structure.unflatten(flat.outvars[:count])
        outputs = name_outputs(self.outputs, returned)
        new_state = list(flat.outvars[count:])
        traced = Traced(flat, batch, sources, variables, new_state, outputs, {}, {})
        return traced._replace(
            raw=rearranged(flat, traced.secret(self.public)),
            steady=frozenset() if other is None else steady(flat, other),
            example=beside(flat, first) if self.carries else {},
        )

    def _program(
        self, train: bool, key: np.dtype, fields: Sequence[PyTree]
    ) -> tuple[Flat, TreeDef]:
        """The model as equations, and the structure of what it returns."""
        structures: list[TreeDef] = []

        # A new function each time: `make_jaxpr` caches by identity, and would not see
        # that JAX's configuration, or the interception, is another.
        def run(
            params: list[jax.Array],
            state: list[jax.Array],
            key: jax.Array,
            *fields: PyTree,
        ) -> tuple[list[jax.Array], list[jax.Array]]:
            trees, leaves = (self.params, self.state), (params, state)
            output, new = apply_leaves(self.apply, trees, leaves, key, fields, train)
            structures.append(jax.tree.structure(output))
            return jax.tree.leaves(output), new

        with intercepting(names=True):
            drawn = jax.ShapeDtypeStruct((), key)
            given = self.params.shapes, self.state.shapes, drawn, *fields
            flat = values_only(flatten(jax.make_jaxpr(run)(*given)))
        sources = dict(zip(flat.invars, self._sources(), strict=True))
        return with_names(flat, self.params.paths, sources), structures[0]

    def _sources(self) -> list[Source]:
        """What the inputs of a trace are, in their order."""
        sources = [Source(SourceKind.PARAMS, i) for i in range(len(self.params.paths))]
        sources += [Source(SourceKind.STATE, i) for i in range(len(self.state.paths))]
        sources.append(Source(SourceKind.KEY))
        for name, field in zip(self.fields, self.example, strict=True):
            sources += [Source(SourceKind.FIELD, name=name)] * len(
                jax.tree.leaves(field)
            )
        return sources

    def _resolve(
        self, trace: Traced, cut: str, ends: Sequence[str], train: bool
    ) -> Value:
        """Find the values of one cut.

        Args:
            trace: where to look.
            cut: its name.
            ends: the names of the values that it holds.
            train: the mode of the trace.

        Returns:
            An array where there is one, else a dictionary by their tags or
            order.
        """
        keyed: list[tuple[str, Atom]] = []
        for end in ends:
            found = find(trace.flat, *trace.ends(self.public), end)
            if not found:
                self._refuse_missing(trace, end, train)
            for key, v in found:
                # Of several ends, the name of the end comes first.
                full = key if len(ends) == 1 else dotted((end, key)).rstrip(".")
                keyed.append((full, v))

        return of_ends(keyed, len(ends))

    def _refuse_missing(self, trace: Traced, end: str, train: bool) -> NoReturn:
        """Say whether a cut that is not there is there in the other mode, or misspelt."""
        example = at_batch(self.example, self.batch)
        other = self._fresh_trace(self.batch, not train, self.key, example)
        if find(other.flat, *other.ends(self.public), end):
            modes = ("inference", "training") if train else ("training", "inference")
            raise ValueError(
                f"cut `{end}` exists only in {modes[0]}; the model must compute it in "
                f"{modes[1]} too."
            )
        layers = places_in(trace, self.params.paths)
        known = nearest(trace.flat, *trace.ends(self.public), end, layers)
        raise ValueError(f"cut `{end}` does not exist in the model; there are {known}.")
