"""A whole model, traced: its jaxpr in each mode at each batch size, with the values that are its cuts and outputs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from jsplit.core.base import PyTree, Segment, SegmentApply
from jsplit.core.checks import first_line, names_of
from jsplit.core.paths import Leaves, by_path, dotted
from jsplit.core.trees import abstract, batch_of
from jsplit.jaxprs.flat import Atom, Flat, flatten, shape_of, values_only
from jsplit.segments.interception import watching
from jsplit.slicing.separators import find, marked, nearest


class Source(NamedTuple):
    """What an input variable of the whole is: `kind` "params", "state", "key" or "field", and which."""

    kind: str
    which: Any


class Value(NamedTuple):
    """A value of the whole: the pytree it forms and the variables of its leaves."""

    structure: Any
    atoms: Sequence[Atom]


LEAF = jax.tree.structure(0)


class Traced(NamedTuple):
    """The whole model in one mode at one batch size.

    Attributes:
        flat: its equations.
        batch: the batch size.
        sources: what each input variable is; `variables`: the other way round.
        new_state: the atom of each state leaf after the call.
        outputs, cuts: the values to compute, by name.
    """

    flat: Flat
    batch: Any
    sources: dict[Var, Source]
    variables: dict[Source, list[Var]]
    new_state: list[Atom]
    outputs: dict[str, Value]
    cuts: dict[str, Value]

    @property
    def values(self) -> dict[str, Value]:
        return {**self.cuts, **self.outputs}

    @property
    def weights(self) -> list[Var]:
        """The variables of all parameters that can be trained."""
        return [
            v
            for v, s in self.sources.items()
            if s.kind == "params" and jnp.issubdtype(shape_of(v).dtype, jnp.inexact)
        ]

    def ends(self, shared: Collection[str] = ()) -> tuple[list[Var], list[Atom]]:
        """The variables of all inputs that are not `shared`, and those of all outputs."""
        fields = [
            v
            for v, s in self.sources.items()
            if s.kind == "field" and s.which not in shared
        ]
        return fields, [v for o in self.outputs.values() for v in o.atoms]

    def stops(self, name: str) -> list[Var]:
        """Where a slice that computes `name` stops: at the other cuts."""
        own = self.values[name].atoms if name in self.cuts else ()
        others = [v for n, value in self.cuts.items() if n != name for v in value.atoms]
        return [
            v for v in others if isinstance(v, Var) and all(v is not o for o in own)
        ]


class Initial(NamedTuple):
    """How a model starts: the equations of its `init`, and the leaves of what that returns.

    It alone holds arrays (the values that an nnx module has); a `TracedModel` does not refer to it. A leaf that has a shape
    but no value stands for itself among the atoms.
    """

    flat: Flat
    params: Leaves
    state: Leaves
    params_atoms: list[Atom | jax.ShapeDtypeStruct]
    state_atoms: list[Atom | jax.ShapeDtypeStruct]


def _fields_of(model: Segment, example: Sequence[PyTree]) -> dict[str, PyTree]:
    """The shapes of the example by the names of the model's inputs."""
    names = list(
        model.inputs or (f"input{i}" if i else "input" for i in range(len(example)))
    )
    if len(names) != len(example) or not names:
        raise ValueError(
            f"the model takes `inputs` {names}, but the example has {len(example)}."
        )
    fields = {}
    for name, value in zip(names_of("inputs", names), example, strict=True):
        try:
            fields[name] = abstract(value)
        except TypeError as error:
            raise ValueError(
                f"the example of `{name}` must hold arrays, or their shapes, got {value!r}."
            ) from error
    return fields


def initial(model: Segment, example: Sequence[PyTree]) -> Initial:
    """Trace `model.init`."""
    zeros = [
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), e)
        for e in _fields_of(model, example).values()
    ]
    leaves: list[Leaves] = []

    def start(key):
        found = [by_path(x) for x in model.init(key, *zeros)]
        known = [
            [x if isinstance(x, jax.ShapeDtypeStruct) else None for x in part.shapes]
            for part in found
        ]
        leaves[:] = [
            part._replace(shapes=x) for part, x in zip(found, known, strict=True)
        ]  # and no tracer
        return [
            x
            for part in found
            for x in part.shapes
            if not isinstance(x, jax.ShapeDtypeStruct)
        ]

    flat = values_only(
        flatten(jax.make_jaxpr(start)(jax.eval_shape(jax.random.key, 0)))
    )
    outs = iter(flat.outvars)
    atoms = [[next(outs) if x is None else x for x in part.shapes] for part in leaves]
    shapes = [
        [x if isinstance(x, jax.ShapeDtypeStruct) else shape_of(x) for x in part]
        for part in atoms
    ]
    params, state = (
        Leaves(p.paths, s, p.structure) for p, s in zip(leaves, shapes, strict=True)
    )
    return Initial(flat, params, state, *atoms)


class TracedModel:
    """A whole model and the shapes of its example, without any of its values.

    Attributes:
        apply: the model.
        fields: names of its inputs; `shared`: those that several segments may read.
        batch: the example's batch size.
        params, state: the leaves of both.
        outputs: names of its outputs.
        cuts: for each cut, the names whose values it holds.
    """

    def __init__(
        self,
        model: Segment,
        start: Initial,
        example: Sequence[PyTree],
        cuts: Mapping[str, Sequence[str]] | None = None,
        outputs: Sequence[str] | None = None,
        shared: Sequence[str] = (),
    ):
        self.apply: SegmentApply = model.apply
        fields = _fields_of(model, example)
        self.fields, self.example = list(fields), list(fields.values())
        self.batch = batch_of(fields)
        self.key = jax.eval_shape(jax.random.key, 0)
        self.params, self.state = start.params, start.state
        self.outputs = names_of("outputs", outputs or "output")
        if both := set(self.outputs) & set(self.fields):
            raise ValueError(
                f"the output `{both.pop()}` has the name of an input of the model; give it another by `outputs`."
            )
        self.shared = frozenset(names_of("shared_inputs", shared))
        if unknown := self.shared - set(self.fields):
            raise ValueError(
                f"`shared_inputs` names {sorted(unknown)}, the model's inputs are {self.fields}."
            )
        self.traces: dict[Hashable, Traced] = {}
        self.cuts: dict[str, list[str]] = {}
        found = (
            {n: [n] for trace in self.both() for n in marked(trace.flat)}
            if cuts is None
            else cuts
        )
        self.cuts = {name: list(ends) for name, ends in found.items()}

    def structure(self, field: str) -> Any:
        return jax.tree.structure(self.example[self.fields.index(field)])

    def both(self) -> list[Traced]:
        """The traces that tell how the model divides: in both modes, and at two batch sizes, so that an axis that is
        only by chance as long as the batch is not taken for it.
        """
        train = self.trace(self.batch, True)
        try:
            return [train, self.trace(2 * self.batch, False)]
        except Exception as error:
            self.trace(
                self.batch, False
            )  # what is wrong at any batch size is said as it is
            raise ValueError(
                f"the batch size must be free, but the model does not run with {2 * self.batch}: {first_line(error)}"
            ) from error

    def trace(self, batch: Any, train: bool) -> Traced:
        """The whole traced at a batch size (an int, or symbolic), each once, with its cuts."""
        config: Any = jax.config
        at = (
            batch,
            train,
            config.jax_enable_x64,
            config.jax_default_matmul_precision,
        )  # what the jaxpr depends on
        trace = self.traces.get(at) if isinstance(batch, int) else None
        if trace is None:
            trace = self.fresh_trace(batch, train)
        if not trace.cuts:
            trace = trace._replace(
                cuts={
                    name: self.resolve(trace, name, ends, train)
                    for name, ends in self.cuts.items()
                }
            )
        if isinstance(batch, int):
            self.traces[at] = trace
        return trace

    def fresh_trace(self, batch: Any, train: bool) -> Traced:
        fields = [
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), e
            )
            for e in self.example
        ]
        result: list[Any] = []

        def whole(
            params, state, key, *fields
        ):  # a new function each time: make_jaxpr caches by identity
            trees = (
                self.params.structure.unflatten(params),
                self.state.structure.unflatten(state),
            )
            output, new = self.apply(*trees, key, *fields, train=train)
            after = by_path(new)
            found = dict(zip(after.paths, after.shapes, strict=True))
            result.append(jax.tree.structure(output))
            new_state = [
                found.get(path, old)
                for path, old in zip(self.state.paths, state, strict=True)
            ]
            return jax.tree.leaves(output), new_state

        with watching(names=True):
            flat = values_only(
                flatten(
                    jax.make_jaxpr(whole)(
                        self.params.shapes, self.state.shapes, self.key, *fields
                    )
                )
            )
        sources = [Source("params", i) for i in range(len(self.params.paths))]
        sources += [Source("state", i) for i in range(len(self.state.paths))] + [
            Source("key", 0)
        ]
        sources += [
            Source("field", name)
            for name, f in zip(self.fields, fields, strict=True)
            for _ in jax.tree.leaves(f)
        ]
        count = result[0].num_leaves
        outputs = self.name_outputs(result[0].unflatten(flat.outvars[:count]))
        given = dict(zip(flat.invars, sources, strict=True))
        variables: dict[Source, list[Var]] = {}
        for v, source in given.items():
            variables.setdefault(source, []).append(v)
        return Traced(
            flat, batch, given, variables, list(flat.outvars[count:]), outputs, {}
        )

    def name_outputs(self, output: PyTree) -> dict[str, Value]:
        names = self.outputs
        if isinstance(output, Mapping) and set(names) <= set(output):
            found = {n: output[n] for n in names}
        elif isinstance(output, (tuple, list)) and len(names) == len(output) > 1:
            found = dict(zip(names, output, strict=True))
        elif len(names) == 1:
            found = {names[0]: output}
        else:
            what = (
                f"the keys {list(output)}"
                if isinstance(output, Mapping)
                else f"a {type(output).__name__}"
            )
            what = (
                f"{len(output)} values"
                if isinstance(output, (tuple, list))
                else "one array"
                if isinstance(output, Var)
                else what
            )
            raise ValueError(f"`outputs` names {names}, but the model returns {what}.")
        return {
            n: Value(jax.tree.structure(v), jax.tree.leaves(v))
            for n, v in found.items()
        }

    def resolve(
        self, trace: Traced, cut: str, ends: Sequence[str], train: bool
    ) -> Value:
        """The values of one cut: an array where there is one, else a dictionary by their tags or order."""
        keyed: list[tuple[str, Atom]] = []
        for end in ends:
            found = find(trace.flat, *trace.ends(self.shared), end)
            if not found:
                self.refuse_missing(trace, end, train)
            keyed += [
                (key if len(ends) == 1 else dotted((end, key)).rstrip("."), v)
                for key, v in found
            ]
        if len(keyed) == 1 and len(ends) == 1 and not keyed[0][0]:
            return Value(LEAF, [keyed[0][1]])
        keys = [key for key, _ in keyed]
        named = {
            k if k and keys.count(k) == 1 else str(i): v
            for i, (k, v) in enumerate(keyed)
        }
        return Value(jax.tree.structure(named), jax.tree.leaves(named))

    def refuse_missing(self, trace: Traced, end: str, train: bool) -> NoReturn:
        other = self.fresh_trace(self.batch, not train)
        if find(other.flat, *other.ends(self.shared), end):
            modes = ("inference", "training") if train else ("training", "inference")
            raise ValueError(
                f"cut `{end}` exists only in {modes[0]}; the model must compute it in {modes[1]} too."
            )
        close = nearest(trace.flat, *trace.ends(self.shared), end)
        raise ValueError(
            f"cut `{end}` does not exist in the model; there are {', '.join(map(repr, close)) or 'none'}."
        )
