"""One whole model into segments, by slicing its jaxpr at the cuts; and back again.

The segment of a cut is the backward slice from the cut's values that stops at the other cuts. So
it provably reads nothing but what the slice lists: its own parameters, its fields, the cuts before
it. Composed again, the slices are the whole model, equation for equation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, Var

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import names_of, topological_order
from jsplit.core.keys import node_key
from jsplit.core.paths import dotted, nest
from jsplit.core.trees import batch_of, describe
from jsplit.jaxprs.flat import (
    CUT,
    Atom,
    Flat,
    backward_slice,
    evaluate,
    shape_of,
    tag_arrays,
)
from jsplit.segments.interception import narrowed
from jsplit.segments.segment import segment
from jsplit.slicing.cut_points import CutPoint
from jsplit.slicing.ownership import SegmentSpec, divide
from jsplit.slicing.traced_model import Initial, Source, TracedModel, initial


def cut(value: PyTree, name: str) -> PyTree:
    """Mark `value` as (part of) the cut `name`; returns it unchanged.

    For use in a model's code; where the model is not split it is the identity. All values marked by one
    name cross together: a cut of one array is that array; a cut of several is a dictionary, with the
    keys of the marked pytree or, for values marked one by one, "0", "1", and so on in their order.

    Args:
        value: an array or a pytree of arrays, each [batch, ...].
        name: a Python identifier, or several joined by dots.

    Raises:
        ValueError: if `name` is no such name, or `value` holds no array.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            f"`name` of a cut must be an identifier, or several joined by dots, got {name!r}."
        )
    if not jax.tree.leaves(value):
        raise ValueError(f"`value` of the cut `{name}` holds no array.")
    return tag_arrays(narrowed(value), CUT + name)


def split(
    model: Any,
    *example: PyTree,
    cuts: Mapping[str, str | CutPoint | Sequence[str | CutPoint]]
    | Sequence[str | CutPoint]
    | None = None,
    outputs: Sequence[str] | None = None,
    shared_inputs: Sequence[str] = (),
    **options,
) -> dict[str, Segment]:
    """Divide one whole model at its cuts into segments, each with only its own parameters.

    Walked in order, the segments compute what the whole computes: outputs, gradients, statistics and,
    given the same key, dropout. A statistic belongs to the segment that reads it, or else to the one
    that can compute its update. The batch size is free; a new one is traced anew. What gives no value (`jax.debug.print`)
    is in no segment.

    Args:
        model: a Flax nnx or linen module, a function or a `Segment`, as `segment` takes it.
        example: its inputs, arrays or `jax.ShapeDtypeStruct`, each [batch, ...]; only shapes and dtypes count.
        cuts: where to cut: names of `jsplit.cut` in the model's code, paths of submodules whose output is meant
            (`"encoder.block1"`; `"block#2"` is the second call), or entries of `cut_points`. A mapping gives the cut a
            name of its own, and may join several places to one cut: `{"smashed": ["conv3", "skip"]}`. By
            default every `jsplit.cut` in the code, in either mode.
        outputs: names of what the model returns, where each is a segment of its own: the keys of a returned
            dictionary, or names for the elements of a tuple. By default all of it is one, `"output"`.
        shared_inputs: inputs that more than one segment may read (a mask, say).
        options: as for `segment`.

    Returns:
        Segments by the name of what they produce, cuts first, each after those it reads. The inputs of a
        segment are named as the model's inputs and the cuts. Parameters are nested dictionaries
        by path; `merge` puts them together again.

    Raises:
        ValueError: naming the culprit and the path: a cut that does not exist, exists in one mode only, lies in the body
            of a loop, or separates nothing; a skip connection around a cut; a weight or a statistic read on both
            sides; a cut that holds a raw input, or whose leading axis is not the batch; cuts that need each other;
            one name for two values; a mutable array.
    """
    made = segment(model, **options)
    start = initial(made, example)
    whole = TracedModel(made, start, example, _name_cuts(cuts), outputs, shared_inputs)
    parts = divide(whole, whole.both())
    return {
        name: _make_segment(whole, start, name, part) for name, part in parts.items()
    }


def _name_cuts(cuts: Any) -> dict[str, list[str]] | None:
    """For each cut its name and the names of the values it holds."""

    def names(ends: Any) -> list[str]:
        several = isinstance(ends, Iterable) and not isinstance(ends, (str, CutPoint))
        return names_of(
            "cuts",
            [
                end.name if isinstance(end, CutPoint) else end
                for end in (ends if several else [ends])
            ],
        )

    if cuts is None:
        return None
    if not isinstance(cuts, Mapping):
        return {name: [name] for name in names(cuts)}
    return {
        name: names(ends)
        for name, ends in zip(names(cuts.keys()), cuts.values(), strict=True)
    }


def _make_segment(
    whole: TracedModel, start: Initial, name: str, part: SegmentSpec
) -> Segment:
    """The slice of the whole that computes the value `name`, as a segment of its own."""
    param_paths = [whole.params.paths[i] for i in part.params]
    state_paths = [whole.state.paths[i] for i in part.state]
    starts = [start.params_atoms[i] for i in part.params] + [
        start.state_atoms[i] for i in part.state
    ]
    begin = _restrict(start.flat, starts)

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        leaves = begin(_as_key(key))
        return nest(param_paths, leaves[: len(param_paths)]), nest(
            state_paths, leaves[len(param_paths) :]
        )

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        *inputs: PyTree,
        train: bool = True,
    ):
        if len(inputs) != len(part.inputs):
            raise ValueError(
                f"segment `{name}` takes the inputs {part.inputs}, got {len(inputs)} values."
            )
        named = dict(zip(part.inputs, inputs, strict=True))
        trace = whole.trace(batch_of(named), train)
        values: dict[Var, Any] = {}

        def give(what: str, atoms: Sequence[Atom], leaves: Sequence[Any]) -> None:
            for v, x in zip(atoms, leaves, strict=True):
                if isinstance(x, jax.ShapeDtypeStruct):
                    raise ValueError(
                        f"segment `{name}` has only the shape of `{what}`, {describe(x)}, and needs its value."
                    )
                expected, got = (
                    shape_of(v),
                    jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)),
                )
                if (expected.shape, expected.dtype) != (got.shape, got.dtype):
                    raise ValueError(
                        f"segment `{name}` expects `{what}` as {describe(expected)}, got {describe(got)}."
                    )
                if isinstance(v, Var):
                    values[v] = x

        give("key", trace.variables[Source("key", 0)], [_as_key(key)])
        for i, path in zip(part.params, param_paths, strict=True):
            give(
                dotted(path),
                trace.variables[Source("params", i)],
                [_at(params, path, f"segment `{name}` needs the weight")],
            )
        for i, path in zip(part.state, state_paths, strict=True):
            give(
                dotted(path),
                trace.variables[Source("state", i)],
                [_at(state, path, f"segment `{name}` needs the statistic")],
            )
        for n, value in named.items():
            expected = (
                trace.cuts[n].structure if n in trace.cuts else whole.structure(n)
            )
            if jax.tree.structure(value) != expected:
                raise ValueError(
                    f"segment `{name}` expects `{n}` as {expected}, got {jax.tree.structure(value)}."
                )
            give(
                n,
                trace.cuts[n].atoms
                if n in trace.cuts
                else trace.variables.get(Source("field", n), []),
                jax.tree.leaves(value),
            )
        new_state = [trace.new_state[i] for i in part.state]
        outs = [*trace.values[name].atoms, *new_state]
        piece = backward_slice(trace.flat, outs, trace.stops(name))
        results = evaluate(trace.flat, piece.equations, outs, values)
        count = len(results) - len(new_state)
        return trace.values[name].structure.unflatten(results[:count]), nest(
            state_paths, results[count:]
        )

    return Segment(
        init,
        apply,
        tuple(part.inputs),
        name,
        trainable=bool(part.params),
        shares_key=True,
    )


def _restrict(
    flat: Flat, outs: Sequence[Atom | jax.ShapeDtypeStruct]
) -> Callable[[jax.Array], list]:
    """The part of an initialiser that gives `outs`, holding no array that it does not need."""
    atoms = [v for v in outs if not isinstance(v, jax.ShapeDtypeStruct)]
    piece = backward_slice(flat, atoms)
    read = {v for e in piece.equations for v in e.reads} | {
        v for v in atoms if isinstance(v, Var)
    }
    own = flat._replace(
        consts={v: x for v, x in flat.consts.items() if v in read},
        equations=[],
        outvars=[],
    )
    known = {v: own.consts[v] for v in atoms if isinstance(v, Var) and v in own.consts}
    known |= {
        v: v for v in outs if isinstance(v, jax.ShapeDtypeStruct)
    }  # what has no value stands for itself
    computed = [v for v in atoms if isinstance(v, Literal) or v not in known]
    variable = flat.invars[0]
    run = jax.jit(lambda key: evaluate(own, piece.equations, computed, {variable: key}))

    def start(key: jax.Array) -> list:
        results = iter(run(key) if computed else ())
        return [
            next(results) if isinstance(v, Literal) or v not in known else known[v]
            for v in outs
        ]

    return start


def _as_key(key: jax.Array | None) -> jax.Array:
    """A typed key; `None` is any key, for where none is used."""
    if key is None:
        return jax.random.key(0)
    return (
        key
        if jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key)
        else jax.random.wrap_key_data(key)
    )


def _at(tree: PyTree, path: tuple, needs: str) -> Any:
    for k in path:
        if not isinstance(tree, Mapping) or k not in tree:
            raise ValueError(
                f"{needs} `{dotted(path)}`, which is not in the tree given."
            )
        tree = tree[k]
    return tree


def join(
    segments: Mapping[str, Segment], inputs: Sequence[str] | None = None
) -> Segment:
    """Segments, walked one after the other, as one; the inverse of `split`.

    Parameters and state are `{name: those of the segment}`. The output is the value that no segment reads, or a
    dictionary of them if there are several.

    Args:
        segments: by the names of what they produce.
        inputs: the names of what no segment produces, in the order in which the joined segment takes it; by
            default in the order in which the segments read it.

    Raises:
        ValueError: if a segment does not name its inputs, two read each other's output, or `inputs` names others.
    """
    if not isinstance(segments, Mapping):
        raise ValueError(
            f"`segments` must be a dictionary by the names of what they produce, got a {type(segments).__name__}."
        )
    for name, made in segments.items():
        if not isinstance(made, Segment):
            raise ValueError(
                f"`{name}` must be a segment, got a {type(made).__name__}; make one of it by jsplit.segment."
            )
        if made.inputs is None:
            raise ValueError(
                f"segment `{name}` does not name its inputs; give them: jsplit.segment(..., inputs=[...])."
            )
    inputs = None if inputs is None else names_of("inputs", inputs)
    reads = {n: s.inputs or () for n, s in segments.items()}
    order = topological_order(reads, "the segments")
    read = tuple(dict.fromkeys(i for n in order for i in reads[n] if i not in reads))
    if inputs is not None and not set(read) <= set(inputs):
        raise ValueError(
            f"`inputs` must name all that the segments read, {list(read)}, got {list(inputs)}."
        )
    if inputs is not None and (produced := [i for i in inputs if i in reads]):
        raise ValueError(f"`inputs` names `{produced[0]}`, which a segment produces.")
    names = read if inputs is None else tuple(inputs)
    ends = [n for n in order if not any(n in r for r in reads.values())]

    def walk(run: Callable[[str, list], PyTree], values: tuple) -> dict:
        if len(values) != len(names):
            raise ValueError(
                f"the joined segments take the inputs {list(names)}, got {len(values)} values."
            )
        env = dict(zip(names, values, strict=True))
        for n in order:
            env[n] = run(n, [env[i] for i in reads[n]])
        return env

    def init(key: jax.Array, *values: PyTree) -> tuple[Params, State]:
        params, state = {}, {}

        def run(n, args):
            own = node_key(key, n, segments[n])
            params[n], state[n] = segments[n].init(own, *args)
            return jax.eval_shape(
                lambda *a: segments[n].apply(*a)[0], params[n], state[n], own, *args
            )

        walk(run, values)
        return params, state

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        *values: PyTree,
        train: bool = True,
    ):
        new = {}

        def run(n, args):
            own = None if key is None else node_key(key, n, segments[n])
            output, new[n] = segments[n].apply(
                params[n], state[n], own, *args, train=train
            )
            return output

        env = walk(run, values)
        return (env[ends[0]] if len(ends) == 1 else {n: env[n] for n in ends}), new

    return Segment(
        init,
        apply,
        names,
        trainable=any(s.trainable for s in segments.values()),
        shares_key=True,
    )
