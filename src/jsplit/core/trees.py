"""Pytrees of arrays: their shapes, their sizes, and the part that can be differentiated.

What is not about the arrays but about the paths to them is in
`core/paths.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.arrays import KEPT, NUMPY, Foreign, is_exact
from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.foreign import as_array, check_rows
from jsplit.core.identified import check_records
from jsplit.core.keys import is_key
from jsplit.core.typed_jax import asarray, eval_shape, is_traced

# Under a type that a strict checker can follow, as in `arrays`.
_ARRAYS: tuple[type[Foreign], ...] = (jax.Array, np.ndarray)
_LISTS: tuple[type[Foreign], ...] = (list, tuple)
_MAPPING: type[Foreign] = Mapping


def abstract(tree: PyTree) -> PyTree:
    """The shapes and dtypes of a pytree of arrays, as `jax.ShapeDtypeStruct`."""

    def shape(x: PyTree) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))

    return jax.tree.map(shape, tree)


def nbytes(tree: PyTree) -> int:
    """The size of a pytree of arrays, or of their shapes, in bytes."""
    total = 0
    for x in jax.tree.leaves(tree):
        # A typed key has an item size of its own; in a file or a
        # message it is the integers that it is made of.
        if is_key(x):
            x = eval_shape(jax.random.key_data, x)
        total += x.size * x.dtype.itemsize
    return total


def frame_bytes(payload: PyTree) -> int:
    """The size of the frame around a message, in bytes.

    96 bytes (protocol and version, run, epoch, sender, receiver,
    step, micro-batch, kind, value, sizes, checksum), and for each
    array 8 and 8 for each axis. What gRPC, TLS and TCP add below is
    not counted.
    """
    # Said here and not in the wire's codec, which knows no pytree:
    # costs need the number where nothing is sent. A test holds it to
    # what the codec packs.
    return 96 + sum(8 + 8 * len(x.shape) for x in jax.tree.leaves(payload))


def describe(shapes: PyTree) -> str:
    """Shapes and dtypes in words: `float32[8,3]`, several joined by "and"."""
    words: list[str] = []
    for x in jax.tree.leaves(shapes):
        sizes = ",".join(str(size) for size in x.shape)
        words.append(f"{x.dtype}[{sizes}]")
    return " and ".join(words) or "nothing"


def as_arrays(
    fields: Mapping[str, PyTree], place: str = "field `{}` of the batch"
) -> Mapping[str, PyTree]:
    """The fields of a batch as arrays that JAX takes without losing anything.

    Args:
        fields: by name, arrays or what can be read as such (columns and
            tables of pandas or polars, tensors, arrays of another byte
            order), or their shapes; each a pytree.
        place: what an error calls a field, with braces for its name.

    Returns:
        The same object if all are arrays of JAX or NumPy already, else a
        dictionary.

    Raises:
        ValueError: naming the field, and never a value in it.
    """
    # Whoever asks for the batch says better what is wrong with it.
    if not isinstance(fields, _MAPPING):
        return fields
    # It runs in every step: no call for what is an array already.
    for name, value in fields.items():
        one = isinstance(value, _ARRAYS)
        for x in (value,) if one else _leaves_of(place, name, value):
            if isinstance(x, jax.Array):
                continue
            # By type: a masked array is one of NumPy's to `isinstance`.
            plain = type(x) is NUMPY
            if not plain or (x.dtype not in KEPT and not _is_native_exact(x)):
                return _converted(fields, place)
    return fields


def _leaves_of(place: str, name: str, value: PyTree) -> list[Foreign]:
    try:
        return jax.tree.leaves(value)
    except (TypeError, ValueError) as error:
        kind = type(error).__name__
    # JAX sorts the keys of dictionaries, and cannot sort those of several kinds.
    raise ValueError(
        f"{place.format(name)} is no tree of arrays that JAX can read: {kind}; the keys of "
        "a dictionary must be of one kind."
    )


def _is_native_exact(x: Foreign) -> bool:
    return x.dtype.isnative and x.dtype.kind in "iu" and is_exact(x)


def check_same_records(fields: Mapping[str, PyTree], place: str) -> None:
    """Refuse fields whose rows say that they are of other records, or in another order.

    Raises:
        ValueError: naming two of them, and no label or id.
    """
    check_rows(fields, place)
    check_records(fields, place)


def _converted(fields: Mapping[str, PyTree], place: str) -> dict[str, PyTree]:
    check_same_records(fields, place)
    found: dict[str, PyTree] = {}
    for name, value in fields.items():
        found[name] = jax.tree.map(partial(as_array, place.format(name)), value)
    return found


def as_weight(weight: PyTree, fields: PyTree = None, name: str = "weight") -> PyTree:
    """The weights of examples as an array, [batch]; `None` as it is.

    Args:
        weight: how much each counts.
        fields: as they were given, whose examples they are; `None` if none are known.
        name: of the argument.

    Raises:
        ValueError: if a weight is none, or they are of other records than the fields.
    """
    # A list of numbers is meant as it stands here: there is but one array.
    if isinstance(weight, _LISTS):
        weight = np.asarray(weight)
    elif isinstance(fields, _MAPPING) and not isinstance(weight, _ARRAYS):
        # A column of a table knows whose its rows are, and an array does not.
        check_same_records({**fields, name: weight}, "`{}`")
    found = as_arrays({name: weight}, "`{}`")[name]
    if found is not None and not is_traced(found):
        check_weight(f"`{name}`", found)
    return found


def check_weight(name: str, weight: PyTree) -> None:
    """Refuse weights of examples of which one is negative or not finite.

    Args:
        name: of the weights, for the error.
        weight: [batch].

    Raises:
        ValueError: saying how many, and never a value.
    """
    found = np.asarray(weight)
    # Written so that NaN is refused as well. What is too small for a float32 is 0 to some
    # devices, and would count for nothing.
    tiny = float(np.finfo(np.float32).tiny)
    good = (found == 0) | ((found >= tiny) & np.isfinite(found))
    if bad := int((~good).sum()):
        raise ValueError(
            f"{name} must hold weights from 0 on: {bad} of {found.size} are negative, not "
            f"finite, or below {tiny:.2g}."
        )


def batch_of(fields: Mapping[str, PyTree]) -> int:
    """The length of the leading axis that all arrays of all fields share.

    Args:
        fields: arrays or their shapes by name, each a pytree, [batch,
            ...].

    Returns:
        The batch size; where a model is exported with a free one, a
        symbolic one.

    Raises:
        ValueError: if sizes differ, there is no example, or something
            has no batch axis.
    """
    sizes: dict[str, int] = {}
    for name, value in fields.items():
        for x in jax.tree.leaves(value):
            # Asked of the array itself, which is several times as fast.
            shape = x.shape if hasattr(x, "shape") else jnp.shape(x)
            if not shape:
                _refuse_scalar(name, value)

            size = sizes.setdefault(name, shape[0])
            if size != shape[0]:
                raise ValueError(
                    f"batch axes differ: `{name}` has {size} and {shape[0]} examples."
                )

        if name not in sizes:
            raise ValueError(f"`{name}` holds no array, got {shown(value)}.")

    if len(set(sizes.values())) > 1:
        found = ", ".join(f"`{n}` has {size}" for n, size in sizes.items())
        raise ValueError(f"batch axes differ: {found} examples.")

    size = next(iter(sizes.values()), 0)
    # A symbolic size (of `jax.export`) is no int, and whether it is
    # below 1 cannot be asked.
    if type(size) is int and size < 1:
        names = ", ".join(f"`{n}`" for n in fields) or "no field"
        raise ValueError(f"the batch is empty: {names} has no examples.")
    return size


def _refuse_scalar(name: str, value: PyTree) -> None:
    # A list of numbers is a pytree of scalars to JAX, and hardly
    # meant so.
    kind: str = type(value).__name__
    if isinstance(value, list | tuple):
        raise ValueError(
            f"`{name}` must be an array, got a {kind}; make one by np.asarray."
        )
    raise ValueError(
        f"`{name}` has no batch axis: it is a scalar; the leading axis of each value is "
        "the batch."
    )


def inexact_part(tree: PyTree) -> PyTree:
    """The part of a pytree that can be differentiated.

    Cotangents and gradients have this form; `combine` is the inverse.

    Returns:
        The same containers with `None` in the place of every other
        leaf.
    """

    # None and not a zero of `float0`, which optimizers and links do
    # not know: to JAX a None is a container without leaves, and
    # everything passes it by.
    def part(x: PyTree) -> PyTree:
        return x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None

    return jax.tree.map(part, tree)


def combine(tree: PyTree, part: PyTree) -> PyTree:
    """`tree` with the leaves of `part` in the place of its own, wherever it has one."""

    def chosen(old: PyTree, new: PyTree) -> PyTree:
        return old if new is None else new

    return jax.tree.map(chosen, tree, part)


def tree_sum(trees: Sequence[PyTree]) -> PyTree:
    """The sum of pytrees of one structure, leaf by leaf, from the first to the last."""
    # Not from zero: adding one would be an operation in the program,
    # and would turn -0.0 into 0.0.
    total = trees[0]
    for tree in trees[1:]:
        total = jax.tree.map(jnp.add, total, tree)
    return total


def is_floating(x: PyTree) -> bool:
    """Whether `x` is an array, or the shape of one, of a floating dtype."""
    return hasattr(x, "dtype") and bool(jnp.issubdtype(x.dtype, jnp.floating))


def narrow(tree: PyTree, dtype: np.dtype) -> PyTree:
    """The floating arrays and numbers of a pytree cast to `dtype`; all else as it is."""

    def cast(x: PyTree) -> PyTree:
        # A Python float has no dtype, and would widen what it meets
        # as soon as it is an array.
        return asarray(x, dtype) if isinstance(x, float) or is_floating(x) else x

    return jax.tree.map(cast, tree)
