"""A model whose stacks of layers are divided: its leaves in pieces, its scans in several.

It computes what the model computes. Each stacked leaf is several at one path, and each
scan several, with a name on what is handed on from one to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from jsplit.core.base import Params, PyTree, Segment, SegmentApply, State
from jsplit.core.paths import Leaves, Path, by_path, dotted, nest
from jsplit.core.pieces import OfWhole, Piece, piece_of, rows_of, together
from jsplit.core.typed_jax import TreeDef
from jsplit.jaxprs.flat import Atom, Flat, flatten, values_only, variable
from jsplit.jaxprs.rows import Rows, Writer
from jsplit.jaxprs.slices import evaluate
from jsplit.slicing.layers import divided, stacks_of

Pieces = Mapping[Path, Sequence[Piece]]
"""By the paths of leaves that are divided, their pieces in order."""


class InPieces(NamedTuple):
    """How a model is divided.

    Attributes:
        params: the paths and structure of its parameters.
        state: the same of its state.
        pieces: of the parameters, and of the state.
        places: by the name of a stack, how many layers lie before each place.
    """

    params: Leaves
    state: Leaves
    pieces: tuple[Pieces, Pieces]
    places: Mapping[str, Sequence[int]]

    @property
    def leaves(self) -> list[tuple[Path, Sequence[Piece]]]:
        """All leaves, with their pieces; none of one that stays whole."""
        trees = zip((self.params, self.state), self.pieces, strict=True)
        return [(path, own.get(path, ())) for t, own in trees for path in t.paths]


class _Program(NamedTuple):
    """The model's own call as a program.

    Attributes:
        flat: of the leaves, the key and the inputs.
        output: the structure of what the model returns.
        state: the paths of the new state, whose leaves are the last results.
        keys: how many keys it is given, 1 or none.
    """

    flat: Flat
    output: TreeDef
    state: list[Path]
    keys: int


def in_pieces(made: Segment, how: InPieces) -> Segment:
    """The same model with some leaves in pieces, and some scans in several.

    Args:
        made: the model.
        how: what is divided.

    Returns:
        A segment of nested dictionaries by path.

    Raises:
        ValueError: if a leaf of the model has the name of a piece.
    """
    for path, _ in how.leaves:
        if piece_of(path[-1]):
            raise ValueError(f"the leaf `{dotted(path)}` has the name of a piece.")
    # Structures, paths and the call alone: all slices hold on to these, and to no values,
    # which `init` has.
    call = made.apply
    how = how._replace(
        params=how.params._replace(shapes=[]), state=how.state._replace(shapes=[])
    )

    def init(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        params, state = made.init(key, *inputs)
        return _apart(params, how.pieces[0]), _apart(state, how.pieces[1])

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        given = _given(how, params, state)
        whole = _trace(call, how, given, (key, inputs), train)
        flat, paths = _in_several(whole, how, given)
        values = [x for leaf in given for x in leaf] + jax.tree.leaves((key, inputs))
        known = dict(zip(flat.invars, values, strict=True))
        found = evaluate(flat, flat.equations, flat.outvars, known)
        count = whole.output.num_leaves
        return whole.output.unflatten(found[:count]), nest(paths, found[count:])

    return replace(
        made,
        init=init,
        apply=apply,
        trains=None if made.trains is None else OfWhole(made.trains),
        moves=None if made.moves is None else OfWhole(made.moves),
    )


def _apart(tree: PyTree, own: Pieces) -> PyTree:
    """A tree as nested dictionaries, with some leaves in pieces."""
    found = by_path(tree)
    paths: list[Path] = []
    leaves: list[PyTree] = []
    for path, x in zip(found.paths, found.shapes, strict=True):
        for piece in own.get(path, ()):
            paths.append((*path, piece.key))
            leaves.append(rows_of(x, piece))
        if path not in own:
            paths.append(path)
            leaves.append(x)
    return nest(paths, leaves)


def _given(how: InPieces, params: Params, state: State) -> list[list[jax.Array]]:
    """Each leaf of a tree that `_apart` made, in its pieces."""
    found: list[list[jax.Array]] = []
    trees = [params] * len(how.params.paths) + [state] * len(how.state.paths)
    for tree, (path, own) in zip(trees, how.leaves, strict=True):
        for key in path:
            tree = tree[key]
        found.append([tree[p.key] for p in own] or [tree])
    return found


def _trace(
    call: SegmentApply,
    how: InPieces,
    given: Sequence[Sequence[jax.Array]],
    rest: tuple[jax.Array | None, tuple[PyTree, ...]],
    train: bool,
) -> _Program:
    """Trace the call of the whole model."""
    noted: list[tuple[TreeDef, list[Path]]] = []
    count = len(how.params.paths)

    def run(
        leaves: list[jax.Array], key: jax.Array | None, inputs: tuple[PyTree, ...]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        params = how.params.structure.unflatten(leaves[:count])
        state = how.state.structure.unflatten(leaves[count:])
        output, new = call(params, state, key, *inputs, train=train)
        after = by_path(new)
        noted.append((jax.tree.structure(output), after.paths))
        return jax.tree.leaves(output), after.shapes

    shapes: list[PyTree] = []
    for leaf, (_, own) in zip(given, how.leaves, strict=True):
        parts = [_shape(x) for x in leaf]
        shapes.append(together(parts, own[0].axis) if own else parts[0])
    closed = jax.make_jaxpr(run)(shapes, *jax.tree.map(_shape, rest))
    keys = 0 if rest[0] is None else 1
    return _Program(values_only(flatten(closed)), *noted[0], keys)


def _shape(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def _in_several(
    whole: _Program, how: InPieces, given: Sequence[Sequence[jax.Array]]
) -> tuple[Flat, list[Path]]:
    """The same program of pieces, its scans divided, and the paths of its new state."""
    flat, count = whole.flat, len(how.leaves)
    invars, rest = flat.invars[:count], list(flat.invars[count:])
    number = len(how.params.paths)
    params = dict(zip(invars[:number], how.params.paths, strict=True))
    ends = flat.outvars[whole.output.num_leaves :]
    after: dict[Path, Atom] = dict(zip(whole.state, ends, strict=True))
    state = {
        v: after[path]
        for v, path in zip(invars[number:], how.state.paths, strict=True)
        if path in after
    }
    # The key comes first. What depends on it alone is each party's own.
    fields = rest[whole.keys :]
    stacks = stacks_of(flat, fields, params, state)

    writer = Writer()
    pieces: list[Var] = []
    for v, leaf, (_, own) in zip(invars, given, how.leaves, strict=True):
        # Whatever reads the whole array reads its pieces, one after the other.
        parts = [variable(_shape(x)) for x in leaf] if own else [v]
        pieces += parts
        if own:
            writer.called[v] = writer.concatenated(parts, own[0].axis, ())
    divided(writer, flat, stacks, how.places, fields)

    outs = [writer.now(v) for v in flat.outvars[: whole.output.num_leaves]]
    paths: list[Path] = []
    for path, v in after.items():
        own = how.pieces[1].get(path, ())
        paths += [(*path, p.key) for p in own] or [path]
        rows = [Rows(p.axis, p.start, p.stop) for p in own]
        outs += [writer.rows(writer.now(v), r, ()) for r in rows] or [writer.now(v)]
    flat = writer.finished(flat._replace(outvars=[]))
    return flat._replace(invars=[*pieces, *rest], outvars=outs), paths
