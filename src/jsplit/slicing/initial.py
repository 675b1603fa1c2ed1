"""How a model starts: its `init`, traced, so that each segment can run its part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal, Var

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import names_of
from jsplit.core.paths import Leaves, by_path
from jsplit.core.trees import abstract, as_arrays
from jsplit.jaxprs.flat import Atom, Flat, flatten, shape_of, values_only
from jsplit.jaxprs.rows import Rows, Writer
from jsplit.jaxprs.slices import backward_slice, evaluate
from jsplit.segments.from_model import unnamed_inputs

# A leaf of which only the shape is known (a frozen weight that is loaded
# later) stands for itself among the atoms.
Leaf = Atom | jax.ShapeDtypeStruct


class Initial(NamedTuple):
    """How a model starts: the equations of its `init`, and the leaves of what it returns.

    It alone holds arrays (the values that an nnx module has); a
    `TracedModel` does not refer to it.

    Attributes:
        again: the same of a key of another implementation, given the key's
            shape and dtype.
        flat: the equations.
        params: paths and shapes of the parameters.
        state: paths and shapes of the state.
        params_atoms: the variable of each parameter.
        state_atoms: the variable of each state leaf.
    """

    again: Callable[[jax.Array], Initial]
    flat: Flat
    params: Leaves
    state: Leaves
    params_atoms: list[Leaf]
    state_atoms: list[Leaf]


def fields_of(model: Segment, example: Sequence[PyTree]) -> dict[str, PyTree]:
    """The shapes of an example by the names of a model's inputs.

    Args:
        model: the model.
        example: its inputs, or their shapes.

    Returns:
        The shapes, by name.

    Raises:
        ValueError: if there are more or fewer than the model takes, or one
            is no array.
    """
    names = list(model.inputs or unnamed_inputs(len(example)))
    if len(names) != len(example) or not names:
        raise ValueError(
            f"the model takes `inputs` {names}, but the example has {len(example)}."
        )

    fields: dict[str, PyTree] = {}
    for name, value in zip(names_of("inputs", names), example, strict=True):
        read = as_arrays({name: value}, "the example of `{}`")[name]
        fields[name] = abstract(read)
    return fields


def initial(
    model: Segment, example: Sequence[PyTree], key: jax.Array | None = None
) -> Initial:
    """Trace a model's `init` on zeros of the shapes of an example.

    Args:
        model: the model.
        example: its inputs, or their shapes.
        key: a key, or its shape; by default one as `jax.random.key` makes it.
    """
    inputs = list(fields_of(model, example).values())
    found: list[Leaves] = []

    def start(key: jax.Array) -> list[jax.Array]:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), inputs)
        trees = [by_path(tree) for tree in model.init(key, *zeros)]
        # What leaves the trace by the back door must hold no tracer: only
        # leaves that are mere shapes stay in it, and the others come out as
        # results.
        found[:] = [tree._replace(shapes=_only_shapes(tree)) for tree in trees]
        return [x for tree in trees for x in tree.shapes if not _is_shape(x)]

    key = jax.eval_shape(jax.random.key, 0) if key is None else key
    flat = _by_rows(values_only(flatten(jax.make_jaxpr(start)(key))))

    outs = iter(flat.outvars)
    atoms: list[list[Leaf]] = []
    shaped: list[Leaves] = []
    for tree in found:
        leaves: list[Leaf] = [next(outs) if x is None else x for x in tree.shapes]
        shapes = [
            x if isinstance(x, jax.ShapeDtypeStruct) else shape_of(x) for x in leaves
        ]
        atoms.append(leaves)
        shaped.append(tree._replace(shapes=shapes))
    params, state = shaped

    def again(key: jax.Array) -> Initial:
        return initial(model, inputs, key)

    return Initial(again, flat, params, state, *atoms)


def _by_rows(flat: Flat) -> Flat:
    """The same program, in which a leaf that is rows of a stack needs no other rows.

    Else whoever has a few of many layers would draw them all.
    """
    wanted = {v for v in flat.outvars if isinstance(v, Var)}
    writer = Writer()
    for e in flat.equations:
        rows = _rows_of(e.eqn) if wanted.intersection(e.writes) else None
        if rows is None:
            writer.copy(e)
        else:
            made = writer.rows(writer.now(e.eqn.invars[0]), rows, e.regions)
            writer.called[e.writes[0]] = made
    return writer.finished(flat)


def _rows_of(eqn: JaxprEqn) -> Rows | None:
    """The rows that an equation takes of an array, if that is all it does."""
    if eqn.primitive.name != "slice" or not {*(eqn.params["strides"] or ())} <= {1}:
        return None
    bounds = zip(
        eqn.params["start_indices"],
        eqn.params["limit_indices"],
        shape_of(eqn.invars[0]).shape,
        strict=True,
    )
    found = [Rows(i, a, b) for i, (a, b, n) in enumerate(bounds) if (a, b) != (0, n)]
    return found[0] if len(found) == 1 else None


def _is_shape(x: object) -> TypeGuard[jax.ShapeDtypeStruct]:
    return isinstance(x, jax.ShapeDtypeStruct)


def _only_shapes(tree: Leaves) -> list[jax.ShapeDtypeStruct | None]:
    return [x if _is_shape(x) else None for x in tree.shapes]


def initialiser(
    start: Initial, params: Sequence[int], state: Sequence[int]
) -> Callable[[jax.Array], list[jax.Array | jax.ShapeDtypeStruct]]:
    """The part of an `init` that gives some of its leaves.

    Args:
        start: the whole `init`.
        params: the numbers of the parameters.
        state: the numbers of the state leaves, which follow.

    Returns:
        `begin(key) -> leaves`, for a key of any implementation. It holds no
        array that it does not need.
    """
    traced_for = shape_of(start.flat.invars[0]).dtype
    program, reads_key = _program(start, params, state)
    if not reads_key:
        return program

    # What draws from a key is traced for its implementation. Only a segment
    # that draws keeps hold of the model's own `init`, to trace it again.
    programs = {traced_for: program}
    again = start.again

    def begin(key: jax.Array) -> list[jax.Array | jax.ShapeDtypeStruct]:
        if key.dtype not in programs:
            programs[key.dtype], _ = _program(again(key), params, state)
        return programs[key.dtype](key)

    return begin


def _program(
    start: Initial, params: Sequence[int], state: Sequence[int]
) -> tuple[Callable[[jax.Array], list[jax.Array | jax.ShapeDtypeStruct]], bool]:
    """Some leaves of an `init` as a function of the key, and whether they depend on it."""
    flat = start.flat
    outs = [start.params_atoms[i] for i in params]
    outs += [start.state_atoms[i] for i in state]
    atoms = [v for v in outs if not isinstance(v, jax.ShapeDtypeStruct)]
    piece = backward_slice(flat, atoms)
    read = {v for e in piece.equations for v in e.reads}
    read |= {v for v in atoms if isinstance(v, Var)}
    consts = {v: x for v, x in flat.consts.items() if v in read}
    own = flat._replace(consts=consts, equations=[], outvars=[])

    # What needs no computing is not put through a program, which would copy
    # it: the values of an nnx module are constants of its `init`.
    known: dict[Leaf, jax.Array | jax.ShapeDtypeStruct] = {}
    for v in outs:
        if isinstance(v, jax.ShapeDtypeStruct):
            known[v] = v
        elif isinstance(v, Var) and v in consts:
            known[v] = consts[v]

    def is_computed(v: Leaf) -> bool:
        # Literals first: they have no hash.
        return isinstance(v, Literal) or v not in known

    computed = [v for v in atoms if is_computed(v)]
    variable = flat.invars[0]
    run = jax.jit(lambda key: evaluate(own, piece.equations, computed, {variable: key}))

    def begin(key: jax.Array) -> list[jax.Array | jax.ShapeDtypeStruct]:
        results = iter(run(key) if computed else ())
        return [next(results) if is_computed(v) else known[v] for v in outs]

    return begin, variable in read
