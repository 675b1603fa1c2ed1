"""One slice of a traced model as a `Segment` of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from jsplit.core.base import Params, PyTree, Segment, SegmentInit, State
from jsplit.core.keys import typed_key
from jsplit.core.paths import Path, dotted, nest
from jsplit.core.tied import Tied
from jsplit.core.trees import describe
from jsplit.jaxprs.flat import Atom, shape_of
from jsplit.jaxprs.slices import backward_slice, evaluate
from jsplit.slicing.handing import check_handed, handed_to
from jsplit.slicing.initial import Initial, initialiser
from jsplit.slicing.other_sizes import OtherSizes
from jsplit.slicing.ownership import SegmentSpec
from jsplit.slicing.trace import Source, SourceKind, Traced
from jsplit.slicing.traced_model import TracedModel
from jsplit.slicing.unread import paths_of


def slice_segment(
    model: TracedModel,
    start: Initial,
    name: str,
    spec: SegmentSpec,
    ties: Mapping[int, Tied],
    sizes: OtherSizes,
) -> Segment:
    """The slice of a model that computes one value, as a segment.

    Args:
        model: the whole model.
        start: its `init`.
        name: of the value.
        spec: what the segment has of the model.
        ties: by number, the weights that several segments read.
        sizes: the traces of the model at other sizes than the example's.

    Returns:
        A `Segment` whose parameters and state are nested dictionaries by
        path.
    """
    param_paths = [model.params.paths[i] for i in spec.params]
    state_paths = [model.state.paths[i] for i in spec.state]
    # What it is applied to has the weights that it borrows too.
    numbers = [*spec.params, *spec.borrowed]
    paths = [model.params.paths[i] for i in numbers]
    handed = handed_to(model.both_modes(), spec.inputs)

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        if len(inputs) != len(spec.inputs):
            got = f"got {len(inputs)} values."
            raise ValueError(f"segment `{name}` takes the inputs {spec.inputs}, {got}")
        named = dict(zip(spec.inputs, inputs, strict=True))
        key = typed_key(key)
        trace = sizes.trace_for(name, named, train, key.dtype)
        check_handed(name, trace, handed)
        given = _Given(name, trace)
        given.take_key(key)
        given.take_leaves(SourceKind.PARAMS, numbers, paths, params)
        given.take_leaves(SourceKind.STATE, spec.state, state_paths, state)
        for field, value in named.items():
            given.take_input(model, field, value)

        # The trace's own slice, found again at each trace of the segment:
        # the equations differ between modes and batch sizes.
        value = trace.values[name]
        outs = [*value.atoms, *(trace.new_state[i] for i in spec.state)]
        piece = backward_slice(trace.flat, outs, trace.stops(name))
        results = evaluate(trace.flat, piece.equations, outs, given.values)
        leaves, new_state = results[: len(value.atoms)], results[len(value.atoms) :]
        return value.structure.unflatten(leaves), nest(state_paths, new_state)

    # A slice shares the step's key with its siblings, for the masks of
    # dropout to be the whole model's.
    return Segment(
        _init_of(start, spec, param_paths, state_paths),
        apply,
        tuple(spec.inputs),
        name,
        trainable=bool(numbers),
        shares_key=True,
        unread=_unread_of(model, name),
        tied=tuple(ties[i] for i in numbers if i in ties),
        carried=(model.carried or {}).get(name, ()),
        handed=handed,
    )


def _init_of(
    start: Initial,
    spec: SegmentSpec,
    param_paths: Sequence[Path],
    state_paths: Sequence[Path],
) -> SegmentInit:
    # Made here, so that `init` does not keep all of `start`, which holds
    # the values of the other segments too.
    begin = initialiser(start, spec.params, spec.state)
    count = len(param_paths)

    def init(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        leaves = begin(typed_key(key))
        params, state = leaves[:count], leaves[count:]
        return nest(param_paths, params), nest(state_paths, state)

    return init


def _unread_of(model: TracedModel, name: str) -> tuple[str, ...]:
    # Only of cuts: an output may have a `None` that the model has given.
    if name not in model.unread:
        return ()
    return paths_of(model.trace(model.batch, True).cuts[name])


class _Given:
    """The values that a slice is given, by variable, each checked against the trace."""

    def __init__(self, segment: str, trace: Traced):
        self.segment = segment
        self.trace = trace
        self.values: dict[Var, jax.Array] = {}

    def take_key(self, key: jax.Array) -> None:
        """Take the key that random streams are drawn from."""
        self._take("key", self.trace.variables[Source(SourceKind.KEY)], [key])

    def take_leaves(
        self,
        kind: SourceKind,
        numbers: Sequence[int],
        paths: Sequence[Path],
        tree: PyTree,
    ) -> None:
        """Take parameters, or state, out of a tree.

        Args:
            kind: which of both.
            numbers: of the leaves.
            paths: to the leaves.
            tree: nested dictionaries; what else is in them is not looked
                at.

        Raises:
            ValueError: if a leaf is lacking, or of another shape or dtype.
        """
        word = "weight" if kind == SourceKind.PARAMS else "statistic"
        for number, path in zip(numbers, paths, strict=True):
            leaf = _at(tree, path, f"segment `{self.segment}` needs the {word}")
            variables = self.trace.variables[Source(kind, number)]
            self._take(dotted(path), variables, [leaf])

    def take_input(self, model: TracedModel, name: str, value: PyTree) -> None:
        """Take a field, or a cut that another segment computed."""
        cut = self.trace.cuts.get(name)
        if cut is None:
            expected = model.structure(name)
            # A field that is an empty container has no variable.
            atoms = self.trace.variables.get(Source(SourceKind.FIELD, name=name), [])
        else:
            expected, atoms = cut.structure, cut.atoms

        got = jax.tree.structure(value)
        if got != expected:
            raise ValueError(
                f"segment `{self.segment}` expects `{name}` as {expected}, got {got}."
            )
        self._take(name, atoms, jax.tree.leaves(value))

    def _take(self, what: str, atoms: Sequence[Atom], leaves: Sequence[PyTree]) -> None:
        for v, x in zip(atoms, leaves, strict=True):
            # The place of a weight that is loaded later, and was not.
            if isinstance(x, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"segment `{self.segment}` has only the shape of `{what}`, "
                    f"{describe(x)}, and needs its value."
                )
            # Checked here: the equations would broadcast, or fail with a
            # name that no user has seen.
            expected = shape_of(v)
            got = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
            if (expected.shape, expected.dtype) != (got.shape, got.dtype):
                raise ValueError(
                    f"segment `{self.segment}` expects `{what}` as {describe(expected)}, "
                    f"got {describe(got)}."
                )
            # A cut may hold a literal, which needs no value.
            if isinstance(v, Var):
                self.values[v] = x


def _at(tree: PyTree, path: Path, needs: str) -> PyTree:
    """What lies at a path in nested dictionaries."""
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            raise ValueError(
                f"{needs} `{dotted(path)}`, which is not in the tree given."
            )
        tree = tree[key]
    return tree
