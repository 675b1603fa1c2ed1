"""Which parameters of a model are trained: what `trainable` of `segment` and `split` says.

Said by kinds of `nnx.Variable`, by a function of the path, or by paths; it becomes one
function of the path, `Segment.trains`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from jsplit.core.base import Params, PyTree, Segment, SegmentInit, State
from jsplit.core.checks import shown
from jsplit.core.frozen import NOTHING, AtPaths
from jsplit.core.paths import Path, by_path, dotted

Trains = Callable[[Path], bool]
Trainable = bool | str | type | Callable[..., bool] | Sequence[object]
"""What `segment` and `split` take as `trainable`; a list means any of its entries."""

_SHOWN = 4  # paths in an error

_NEVER = nnx.Any(nnx.RngState, nnx.Intermediate, nnx.BatchStat, nnx.Cache)
"""What a call leaves behind: it is written, and has no gradient."""


@dataclass(frozen=True)
class _AnyOf:
    """What a list says: any of its entries.

    Attributes:
        entries: what the user wrote, in words, and the function of the path.
    """

    entries: tuple[tuple[str, Trains], ...]

    def __call__(self, path: Path, /) -> bool:
        return any(trains(path) for _, trains in self.entries)


def trains_of(model: object, trainable: Trainable) -> Trains | None:
    """Which parameters of a model are trained, as a function of the path.

    Args:
        model: a module, a function or a `Segment`.
        trainable: as the user gave it.

    Returns:
        The function; `None`: all are trained.

    Raises:
        ValueError: if `trainable` is none of what it may be, or the module has nothing
            that it names, or the segment is private already.
    """
    if isinstance(model, Segment) and model.noise is not None:
        raise ValueError(
            "`trainable` must be given before `private`, which clips what is trained: "
            "private(segment(..., trainable=...), ...)."
        )
    if trainable is True:
        return None
    if trainable is False:
        return NOTHING
    if isinstance(model, nnx.Module):
        return _of_module(model, trainable)
    return _predicate(trainable)


def _of_module(module: nnx.Module, trainable: Trainable) -> AtPaths:
    """The paths of the variables of a module that are trained."""
    listed = isinstance(trainable, list | tuple)
    entries = trainable if listed and trainable else [trainable]
    found: set[Path] = set()
    for entry in entries:
        chosen = nnx.All(nnx.Not(_NEVER), _nnx_filter(entry))
        own = by_path(nnx.to_pure_dict(nnx.state(module, chosen)))
        if not any(map(_is_floating, own.shapes)):
            there = nnx.to_pure_dict(nnx.state(module, nnx.Param))
            raise _matches_nothing(there, _words(entry) if listed else "")
        found |= {*own.paths}
    return AtPaths(frozenset(found))


def _is_floating(x: PyTree) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _nnx_filter(trainable: object) -> Callable[..., bool]:
    """What the user gave as a filter of nnx, of the path and the variable."""
    if isinstance(trainable, type):
        if not issubclass(trainable, nnx.Variable):
            raise _refused(trainable)
        return nnx.filterlib.to_predicate(trainable)
    # Filters of nnx are functions too, of the path and the variable.
    if callable(trainable) and _takes_two(trainable):
        return cast("Callable[..., bool]", trainable)
    by_path_alone = _predicate(trainable)
    is_param: Callable[..., bool] = nnx.filterlib.to_predicate(nnx.Param)
    # Where a layer has weights and other variables, its path means the weights.
    return lambda path, x: is_param(path, x) and by_path_alone(path)


def _words(entry: object) -> str:
    """An entry of a list, for an error."""
    return entry.__name__ if isinstance(entry, type) else shown(entry)


def _takes_two(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind((), None)
    except TypeError:
        return False
    return True


def _predicate(trainable: object) -> Trains:
    """What the user gave as a function of the path."""
    if isinstance(trainable, str):
        pattern = trainable
        return lambda path: matches(dotted(path), pattern)
    if isinstance(trainable, list | tuple) and trainable:
        return _AnyOf(tuple((_words(x), _predicate(x)) for x in trainable))
    if isinstance(trainable, type) or not callable(trainable):
        raise _refused(trainable)
    function = trainable
    try:
        inspect.signature(function).bind(())
    except TypeError:
        raise ValueError(
            "`trainable` must be a function of one argument, the path of a parameter as "
            f"a tuple, got {shown(function)}; filters of nnx are for nnx modules."
        ) from None
    return lambda path: bool(function(path))


def matches(name: str, pattern: str) -> bool:
    # The path of a submodule is meant with all that is in it.
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _refused(trainable: object) -> ValueError:
    is_type = isinstance(trainable, type)
    got = f"the class {trainable.__name__}" if is_type else shown(trainable)
    return ValueError(
        "`trainable` must be True or False, paths such as 'encoder.lora_*' (one, or a "
        "list), a function of the path, or for an nnx module a filter such as "
        f"nnx.LoRAParam, got {got}."
    )


def _matches_nothing(params: PyTree, entry: str = "") -> ValueError:
    paths = [dotted(path) for path in by_path(params).paths]
    more = ", ..." if len(paths) > _SHOWN else ""
    there = ", ".join(f"`{path}`" for path in paths[:_SHOWN]) + more or "none"
    # Of a list too: one that is misspelt would be frozen without a word.
    what = f"`trainable` has {entry}, which" if entry else "`trainable`"
    return ValueError(
        f"{what} matches no floating parameter; there are {there}. What is wholly "
        "frozen has `trainable=False`."
    )


def params_filter(trains: Trains | None) -> Callable[..., bool]:
    """Which variables of an nnx module are parameters: `nnx.Param`, and what is trained."""
    is_param: Callable[..., bool] = nnx.filterlib.to_predicate(nnx.Param)
    paths = trains.paths if isinstance(trains, AtPaths) else frozenset[Path]()

    def is_parameter(path: Path, x: object) -> bool:
        # A variable may hold a tree, whose leaves have longer paths than it.
        return is_param(path, x) or any(p[: len(path)] == path for p in paths)

    return is_parameter


def check_trains(trains: Trains, params: PyTree) -> None:
    """Refuse what is trained if it is nothing, or an entry of a list names nothing.

    Raises:
        ValueError: if no floating parameter is trained.
    """
    leaves = by_path(params)
    pairs = zip(leaves.paths, leaves.shapes, strict=True)
    floating = [path for path, x in pairs if _is_floating(x)]
    entries: Iterable[tuple[str, Trains]] = [("", trains)]
    if isinstance(trains, _AnyOf):
        entries = trains.entries
    for words, entry in entries:
        if not any(map(entry, floating)):
            raise _matches_nothing(params, words)


def checked(init: SegmentInit, trains: Trains | None) -> SegmentInit:
    """An `init` that refuses parameters of which nothing is trained.

    Of a linen module, or a function, it is not known before it has seen an input.
    """
    if trains is None or trains is NOTHING:
        return init

    def first(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        params, state = init(key, *inputs)
        check_trains(trains, params)
        return params, state

    return first


def is_trained(segment: Segment, trains: Trains | None) -> bool:
    """Whether a segment of which `trains` is trained has parameters that are."""
    return segment.trainable and trains is not NOTHING
