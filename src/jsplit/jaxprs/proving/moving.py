"""Primitives that move entries of arrays without changing them: reshape, slice, concatenate.

They move numbers of entries as they move entries, so a crop, a permutation or a column
is found entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jsplit.jaxprs.proving.facts import NONE, Fact

Params = Mapping[str, object]
_Moved = Callable[[Params, Sequence[np.ndarray], tuple[int, ...]], np.ndarray]
_Int = tuple[int, ...]


def _ints(params: Params, name: str) -> _Int:
    found = params[name]
    return tuple(int(i) for i in found) if isinstance(found, tuple | list) else ()


def _reshape(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    order = params.get("dimensions")
    x = of[0] if order is None else of[0].transpose(_ints(params, "dimensions"))
    return x.reshape(shape)


def _transpose(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    return of[0].transpose(_ints(params, "permutation"))


def _broadcast(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    axes = _ints(params, "broadcast_dimensions")
    first = [1] * len(shape)
    for axis, size in zip(axes, of[0].shape, strict=True):
        first[axis] = size
    return np.broadcast_to(of[0].reshape(first), shape)


def _rev(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    return np.flip(of[0], _ints(params, "dimensions"))


def _slice(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    start, stop = _ints(params, "start_indices"), _ints(params, "limit_indices")
    stride = _ints(params, "strides") or (1,) * len(start)
    return of[0][tuple(slice(*s) for s in zip(start, stop, stride, strict=True))]


def _concatenate(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    return np.concatenate(of, axis=int(str(params["dimension"])))


def _stack(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    return np.stack(of, axis=int(str(params["axis"])))


def _pad(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    found = of[0]
    config = params["padding_config"]
    assert isinstance(config, tuple | list)
    for axis, (low, high, inner) in enumerate(config):
        size = found.shape[axis]
        spread = [*found.shape]
        spread[axis] = max(0, size + max(0, size - 1) * inner)
        wide = np.full(spread, NONE, np.int64)
        at: list[slice] = [slice(None)] * found.ndim
        at[axis] = slice(None, None, inner + 1)
        wide[tuple(at)] = found
        # Negative padding cuts off.
        at[axis] = slice(max(0, -low), spread[axis] - max(0, -high))
        wide = wide[tuple(at)]
        more = [(0, 0)] * found.ndim
        more[axis] = (max(0, low), max(0, high))
        found = np.pad(wide, more, constant_values=NONE)
    return found


def _tile(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    return np.tile(of[0], _ints(params, "reps"))


def _same(params: Params, of: Sequence[np.ndarray], shape: _Int) -> np.ndarray:
    return of[0].reshape(shape)


MOVES: dict[str, _Moved] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "copy": _same,
    "copy_p": _same,
    "device_put": _same,
    "layout_constraint": _same,
    "pcast": _same,
    "reshard": _same,
    "expand_dims": _same,
    "name": _same,
    "pad": _pad,
    "pvary": _same,
    "reshape": _reshape,
    "rev": _rev,
    "sharding_constraint": _same,
    "slice": _slice,
    "squeeze": _same,
    "stack": _stack,
    "tile": _tile,
    "stop_gradient": _same,
    "transpose": _transpose,
}
"""By primitive, how it moves the numbers of entries."""

ALL_MOVED = {"concatenate", "stack"}
"""Primitives of which all arguments are moved; of others the first alone."""


def divide(
    name: str, params: Params, numbers: np.ndarray, shapes: Sequence[_Int]
) -> list[np.ndarray]:
    """The numbers of entries in the results of `split` or `unstack`."""
    axis = int(str(params["axis"]))
    if name == "unstack":
        return [*np.moveaxis(numbers, axis, 0)]
    ends = np.cumsum([s[axis] for s in shapes])[:-1]
    return np.split(numbers, ends, axis)


def keeps_all(name: str, params: Params) -> bool:
    """Whether every entry of the arguments is in the result."""
    if name == "pad":
        config = params["padding_config"]
        assert isinstance(config, tuple | list)
        return all(low >= 0 and high >= 0 for low, high, _ in config)
    return name in MOVES and name != "slice"


def move(name: str, params: Params, facts: Sequence[Fact], shape: _Int) -> np.ndarray:
    """The numbers of entries in the result of a primitive of `MOVES`."""
    moved = facts if name in ALL_MOVED else facts[:1]
    numbers = [np.full(f.shape, NONE) if f.ids is None else f.ids for f in moved]
    return np.asarray(MOVES[name](params, numbers, shape))
