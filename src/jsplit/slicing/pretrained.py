"""Segments that start from a pretrained file: each reads its own leaves of it, and no others.

Whether the file fits is known when `load` is called, from the heads of its entries. The
weights themselves are read by `init`, so by the party that has the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Params, PyTree, Segment, SegmentInit, State
from jsplit.core.checks import shown
from jsplit.core.paths import Leaves, by_path, dotted
from jsplit.core.trees import abstract
from jsplit.core.typed_jax import TreeDef, is_traced
from jsplit.segments.trainable import matches
from jsplit.slicing.weight_files import Entry, Files, entries_of
from jsplit.slicing.weight_fit import Leaf, check_fit, check_keep, check_left_over
from jsplit.slicing.weight_groups import with_groups
from jsplit.slicing.weight_names import Aim, Names, aims_of, apply_change
from jsplit.slicing.weight_pieces import in_pieces_of
from jsplit.slicing.weight_stacks import with_stacks


class _Tree(NamedTuple):
    """Parameters or statistics of a segment, leaf by leaf."""

    structure: TreeDef
    leaves: list[Leaf]


_Trees = tuple[_Tree, _Tree]  # parameters and statistics


@overload
def load(
    segments: Segment,
    files: Files,
    *example: PyTree,
    names: Names | None = None,
    keep: str | Sequence[str] = (),
    cast: bool = False,
    partial: bool = False,
) -> Segment: ...
@overload
def load(
    segments: Mapping[str, Segment],
    files: Files,
    *,
    names: Names | None = None,
    keep: str | Sequence[str] = (),
    cast: bool = False,
    partial: bool = False,
) -> dict[str, Segment]: ...
def load(
    segments: Segment | Mapping[str, Segment],
    files: Files,
    *example: PyTree,
    names: Names | None = None,
    keep: str | Sequence[str] = (),
    cast: bool = False,
    partial: bool = False,
) -> Segment | dict[str, Segment]:
    """Start segments from a pretrained checkpoint, of which each reads its own part.

    Here only names, shapes and dtypes are read, and compared. Weights are read by
    `trainer.init`, and over a network each party reads those of its own segments, array by
    array: the whole checkpoint is nowhere in memory. So the model may be
    one of `nnx.eval_shape` or `jax.eval_shape`, which has no arrays at all; the weights of
    one that has are not read from it.

    Args:
        segments: all that `split` made of a model, or one segment.
        files: a `.safetensors` or `.gguf` file, the `.index.json` of a checkpoint in
            several files, or a list of files. Quantised arrays of GGUF are float32.
        *example: where `segments` is one that `segment` made, its inputs or their
            shapes, as `split` takes them.
        names: which entry of the files is which leaf of the model, a dictionary or
            `names(entry)`. `"model.layers.{i}.mlp.up_proj.weight"` is a pattern, in which
            `{i}` is one part between dots, and may be in the path of the leaf too. A value is the
            path of a leaf, `"blocks.{i}.up.kernel"`; or a pair of it and the order of
            axes, `("blocks.{i}.up.kernel", (1, 0))`, as PyTorch's [out, in] needs it for
            Flax's [in, out]; or a pair of it and a function of the array, in the dtype
            of the leaf; or `None`: the model has none. `"blocks.w[{i}]"` is one layer
            of a stack of layers (`"blocks.w[:, {i}]"`: along its second axis). A key
            that is a tuple of entries, `("q.weight", "k.weight", "v.weight")`, is one
            leaf: one after the other along their first axis, before the order of axes; or
            as the function says, which is given all of them. By default the entries
            have the paths of leaves.
        keep: paths of leaves, or of submodules, or patterns (`"*.lora_*"`), that stay as
            the model has them, whatever the files hold.
        cast: whether floating arrays of another precision are converted to that of the
            model, as bfloat16 to float32.
        partial: whether files may hold, and `names` and `keep` mean, leaves that no segment
            here has, since others have them.

    Returns:
        Segments of the same form, whose `init` reads the files; they must stay as they are
        until then.

    Raises:
        ValueError: that lists the paths, if a leaf is in no file, an entry is no leaf, or
            shapes or dtypes differ; if a square matrix `weight` becomes a `kernel` and
            `names` does not say in which order of axes; if a leaf that is kept has no
            value; or a file is not whole. `init` raises it if a file has changed.
        ImportError: if the package that reads such files is not there (`safetensors`,
            `gguf`; `pip install 'jsplit[weights]'`).

    References:
        The formats: https://github.com/huggingface/safetensors and
        https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Example:
        >>> import os, tempfile, jax, jsplit, numpy as np
        >>> from safetensors.numpy import save_file
        >>> def model(params, x):
        ...     h = jsplit.cut(x @ params["low"], "smashed")
        ...     return h @ params["high"]
        >>> shape = lambda *axes: jax.ShapeDtypeStruct(axes, "float32")
        >>> weights = {"low": shape(3, 2), "high": shape(2, 1)}
        >>> parts = jsplit.split(model, shape(4, 3), init=lambda key, x: weights)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = os.path.join(folder, "model.safetensors")
        ...     saved = {"fc.0": np.ones((2, 3), "f"), "fc.1": np.ones((1, 2), "f")}
        ...     save_file(saved, file)
        ...     names = {"fc.0": ("low", (1, 0)), "fc.1": ("high", (1, 0))}
        ...     parts = jsplit.load(parts, file, names=names)
        ...     params, _ = parts["smashed"].init(jax.random.key(0))  # reads `fc.0` alone
        >>> params["low"].shape
        (3, 2)
    """
    is_one = isinstance(segments, Segment)
    given = {"": segments} if isinstance(segments, Segment) else dict(segments)
    patterns = _checked(given, example, keep, is_one)
    trees = {name: _trees_of(x, example) for name, x in given.items()}
    leaves = [x for both in trees.values() for tree in both for x in tree.leaves]
    kept = {x.path for x in leaves if any(matches(x.path, p) for p in patterns)}
    check_keep(leaves, () if partial else patterns, kept)

    names, entries = with_groups(names, entries_of(files))
    aims = aims_of(names, entries).items()
    found = {aim.path: (entries[name], aim) for name, aim in aims if aim is not None}
    sources = {path: x for path, x in with_stacks(found).items() if path not in kept}
    sources = in_pieces_of(sources, [x.path for x in leaves], partial)
    if not partial:
        check_left_over(sources, leaves)
    check_fit(leaves, sources, kept, cast)
    made = {
        name: replace(x, init=_reading(x.init, _sourced(trees[name], sources)))
        for name, x in given.items()
    }
    return made[""] if is_one else made


def _checked(
    given: Mapping[str, object],
    example: Sequence[PyTree],
    keep: str | Sequence[str],
    is_one: bool,
) -> list[str]:
    """Refuse arguments of other kinds; give the patterns of `keep`."""
    for segment in given.values():
        if not isinstance(segment, Segment):
            raise ValueError(
                "`segments` must be a Segment, or those that `split` made, got "
                f"{type(segment).__name__}."
            )
    if example and not is_one:
        raise ValueError(
            "an example of the inputs belongs to one segment, got several."
        )
    patterns = [keep] if isinstance(keep, str) else [*keep]
    if not all(isinstance(p, str) for p in patterns):
        raise ValueError(f"`keep` must hold paths of leaves, got {shown(keep)}.")
    return patterns


def _trees_of(segment: Segment, example: Sequence[PyTree]) -> _Trees:
    """The leaves of a segment, from its `init`, which is traced and not run."""
    found: list[_Tree] = []
    shapes = abstract(list(example))

    def start(key: jax.Array) -> None:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        found[:] = [_tree_of(by_path(tree)) for tree in segment.init(key, *zeros)]

    try:
        jax.eval_shape(start, jax.eval_shape(jax.random.key, 0))
    except Exception as error:
        # What is wrong with an example the model's own error says.
        if example:
            raise
        raise ValueError(
            f"{segment!r} does not start without its inputs: give `load` an example of "
            "them, as further arguments."
        ) from error
    params, state = found
    return params, state


def _tree_of(tree: Leaves) -> _Tree:
    leaves: list[Leaf] = []
    for path, x in zip(tree.paths, tree.shapes, strict=True):
        like = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
        known = not isinstance(x, jax.ShapeDtypeStruct)
        leaves.append(Leaf(dotted(path), like, known))
    return _Tree(tree.structure, leaves)


def _sourced(trees: _Trees, sources: Mapping[str, tuple[Entry, Aim]]) -> _Trees:
    """The leaves with what fills them."""

    def with_source(tree: _Tree) -> _Tree:
        return tree._replace(
            leaves=[x._replace(source=sources.get(x.path)) for x in tree.leaves]
        )

    params, state = trees
    return with_source(params), with_source(state)


def _reading(init: SegmentInit, trees: _Trees) -> SegmentInit:
    """An `init` that reads its leaves from files, and takes from `init` those that stay."""
    leaves = [x for tree in trees for x in tree.leaves]
    stay = any(x.source is None for x in leaves)
    count = len(trees[0].leaves)

    def own(key: jax.Array, *inputs: PyTree) -> list[jax.Array]:
        every = jax.tree.leaves(init(key, *inputs))
        return [x for x, leaf in zip(every, leaves, strict=True) if not leaf.source]

    def first(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        traced = is_traced(key)
        # Compiled, so that nothing is drawn that a file replaces.
        run: Callable[..., list[jax.Array]] = own if traced else jax.jit(own)
        rest = iter(run(key, *inputs) if stay else ())
        found = [_value(x, traced) if x.source else next(rest) for x in leaves]
        params = trees[0].structure.unflatten(found[:count])
        return params, trees[1].structure.unflatten(found[count:])

    return first


def _value(leaf: Leaf, traced: bool) -> jax.Array:
    # In a program that is being traced, as for a count of costs, nothing is read yet.
    if traced:
        return jax.pure_callback(lambda: np.asarray(_read(leaf)), leaf.like)
    value = _read(leaf)
    if not isinstance(value, jax.Array):
        # Copied once, from the file to the device: an array on a CPU may else be the
        # file itself, which others can change.
        value = jax.device_put(value, may_alias=False)
    # One array at a time: until it is copied its part of the file is mapped.
    return jax.block_until_ready(value)


def _read(leaf: Leaf) -> np.ndarray | jax.Array:
    assert leaf.source is not None
    entry, aim = leaf.source
    return apply_change(aim, entry.read().astype(leaf.like.dtype, copy=False))
