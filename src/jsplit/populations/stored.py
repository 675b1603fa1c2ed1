"""Records that are read when a round needs them: files mapped into memory, data sources.

Neither a device nor the memory has to hold the data set. What a round reads is gathered,
and what it computes is the same to the bit as with arrays in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from mmap import mmap
from typing import Protocol, cast

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.trees import as_arrays


class RecordSource(Protocol):
    """Records by number, as a data source of grain or a `Dataset` of torch has them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> PyTree: ...


class ArraySource(Protocol):
    """One array by rows, as a memory-mapped file, an HDF5 or a zarr array has them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class Stored:
    """One array of a data set that is read by rows, and never whole.

    `stored` makes it.

    Args:
        read: from rows, int [n], each once and in rising order, to the leaves of these
            records, each [n, ...].
        leaf: which of the leaves this array is.
        shape: [records, ...].
        dtype: of the numbers.

    Example:
        >>> import jsplit, numpy as np
        >>> x = jsplit.population.stored(np.arange(6.0).reshape(3, 2))
        >>> x, x[np.array([2, 0, 2])].tolist()
        (Stored(float64[3,2]), [[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]])
    """

    # No `__array__`: whoever takes it for an array would read the whole file.
    def __init__(
        self,
        read: Callable[[np.ndarray], Sequence[np.ndarray]],
        leaf: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
    ):
        self.read, self.leaf = read, leaf
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        # HDF5 takes rows in rising order alone, and no row twice.
        distinct, where = np.unique(np.asarray(rows), return_inverse=True)
        found = np.asarray(self.read(distinct)[self.leaf])
        return found[where.reshape(np.shape(rows))]

    def __repr__(self) -> str:
        # Shapes alone: a log must hold no record.
        shape = ",".join(map(str, self.shape))
        return f"Stored({self.dtype}[{shape}])"


def stored(source: ArraySource | RecordSource) -> PyTree:
    """Read a data set by rows as rounds need them, so that it need not fit the memory.

    Arrays of `np.memmap` and `np.load(..., mmap_mode="r")` are read so by themselves.

    Args:
        source: one array with `shape` and `dtype` that is indexed by an array of rows
            (an `h5py.Dataset`, a zarr array); or records by number, all of one structure
            and shape (`grain.sources`, a `Dataset` of torch), by `__getitems__` where it
            has that.

    Returns:
        A `Stored` for the array; or a pytree of them with the structure of one record,
        which is a field, or, of a dictionary, all fields.

    Raises:
        ValueError: if `source` is neither, or holds no record.

    Example:
        >>> import jsplit, numpy as np
        >>> class Source:  # as one of grain is
        ...     def __len__(self):
        ...         return 6
        ...     def __getitem__(self, number):
        ...         return {"x": np.full(2, number, "f"), "label": np.float32(0)}
        >>> fields = jsplit.population.stored(Source())
        >>> fields
        {'label': Stored(float32[6]), 'x': Stored(float32[6,2])}
        >>> people = jsplit.population.iid(records=6, clients=3)
        >>> people.round(fields, 0, batch=2)
        Round(label, x; 3 of 3 clients, up to 1 steps of 2 records)
    """
    if not hasattr(source, "__getitem__"):
        raise ValueError(
            "`source` must be an array that is indexed by rows or a sequence of records, "
            f"got {type(source).__name__}."
        )
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return _of_array(cast(ArraySource, source))
    records = cast(RecordSource, source)
    if not hasattr(source, "__len__") or not len(records):
        raise ValueError(
            "`source` must have a length, of at least one record, got "
            f"{type(source).__name__}."
        )
    return _of_records(records)


def _of_array(source: ArraySource) -> Stored:
    shape = tuple(source.shape)
    if not shape or not shape[0]:
        raise ValueError(f"`source` holds no record, its shape is {shape}.")

    def read(rows: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(source[rows])]

    return Stored(read, 0, shape, np.dtype(source.dtype))


def _of_records(source: RecordSource) -> PyTree:
    leaves, structure = jax.tree.flatten(source[0])
    first = [np.asarray(x) for x in leaves]
    several = getattr(source, "__getitems__", None)

    def read(rows: np.ndarray) -> list[np.ndarray]:
        numbers = [int(i) for i in rows]
        records = several(numbers) if several else [source[i] for i in numbers]
        by_leaf = zip(*map(structure.flatten_up_to, records), strict=True)
        found: list[np.ndarray] = []
        for one, column in zip(first, by_leaf, strict=True):
            # NumPy would widen all to the largest of several dtypes without a word.
            for x in map(np.asarray, column):
                if x.shape != one.shape or x.dtype != one.dtype:
                    raise ValueError(
                        f"records of `source` differ: the first has {one.dtype} "
                        f"{list(one.shape)}, another {x.dtype} {list(x.shape)}."
                    )
            found.append(np.stack(column))
        return found

    made = [
        Stored(read, k, (len(source), *x.shape), x.dtype) for k, x in enumerate(first)
    ]
    return jax.tree.unflatten(structure, made)


def is_stored(x: object) -> bool:
    """Whether an array is read by rows: it lies in a file, or elsewhere."""
    if isinstance(x, Stored):
        return True
    # By what owns the memory: a plain view of a mapped file, as `np.asarray` gives it, lies
    # in the file too, and what was taken of one does not.
    while isinstance(x, np.ndarray):
        x = x.base
    return isinstance(x, mmap)


def without_records(fields: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The fields with mere shapes in the place of arrays that lie in files."""

    # What only asks for shapes would else read them whole, to check their numbers.
    def shape(x: PyTree) -> PyTree:
        return jax.ShapeDtypeStruct(x.shape, x.dtype) if is_stored(x) else x

    return {name: jax.tree.map(shape, x) for name, x in fields.items()}


def gather(
    fields: Mapping[str, PyTree], rows: np.ndarray, place: str
) -> dict[str, PyTree]:
    """Read some records of all fields.

    Args:
        fields: the data set, [records, ...].
        rows: which, int [n], each once and in rising order.
        place: what an error calls a field, with braces for its name.

    Returns:
        The records, [n, ...], checked as arrays in memory are.
    """
    # A source of whole records is read once, and not again for every field.
    read: dict[int, Sequence[np.ndarray]] = {}

    def take(x: PyTree) -> PyTree:
        if not isinstance(x, Stored):
            found = x[rows]
            return np.asarray(found) if isinstance(found, np.memmap) else found
        if id(x.read) not in read:
            read[id(x.read)] = x.read(rows)
        return np.asarray(read[id(x.read)][x.leaf])

    # What lies in memory becomes arrays first: a table is not indexed by rows.
    here = {
        name: x
        for name, x in fields.items()
        if not any(map(is_stored, jax.tree.leaves(x)))
    }
    ready = {**fields, **as_arrays(here, place)}
    found = {name: jax.tree.map(take, x) for name, x in ready.items()}
    return dict(as_arrays(found, place))
