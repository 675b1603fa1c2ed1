"""Watching a model's submodules while it runs: what they return gets a name or a dtype, what they sow is noted.

The model, its classes and its values stay what they are: linen tells of every call itself, and of nnx, whose modules
carry their path meanwhile, the methods concerned are replaced for as long as a watched model runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from threading import RLock
from typing import Any, NamedTuple

import jax
from flax import linen, nnx

from jsplit.core.base import PyTree
from jsplit.core.paths import Path
from jsplit.core.trees import is_floating, narrow
from jsplit.jaxprs.flat import MODULE, tag_arrays


class _Interception(NamedTuple):
    """What is made of a model's submodules while it runs.

    Attributes:
        names: whether what a submodule returns carries the submodule's path as a name, so that a cut can be placed there.
        compute: the dtype to which floating values are cast that a submodule returns, if it is given no wider ones.
        sown: is told the path of everything that is sown.
    """

    names: bool = False
    compute: Any = None
    sown: Callable[[Path], None] | None = None


_WATCH: Any = jax.make_user_context(None)
"""The `_Interception` that is kept, or `None`. Being part of the key of JAX's caches, it holds in functions under `jit` too."""

_PLACE = "_pytree__place"
"""The attribute of a watched submodule that is its path; it stays with it through every nnx transformation.

It begins as the attributes do by which Flax itself keeps books, so that who walks through a module's own leaves it out.
"""


@contextmanager
def watching(**changes: Any) -> Iterator[None]:
    """While it is open, models run under a `_Interception` with these attributes, in this thread."""
    with ExitStack() as stack:
        if _WATCH.value is None:
            stack.enter_context(linen.intercept_methods(_around_linen))
        if "sown" in changes:
            stack.enter_context(_replaced(nnx.Module, "sow", _around_sow))
            stack.enter_context(_replaced(linen.Module, "sow", _around_sow))
        stack.enter_context(
            _WATCH((_WATCH.value or _Interception())._replace(**changes))
        )
        yield


@contextmanager
def watched(module: nnx.Module) -> Iterator[None]:
    """While it is open, the submodules of `module`, which must be a copy, are watched; those of linen always are."""
    with ExitStack() as stack:
        for path, child in (
            list(nnx.iter_modules(module)) if _WATCH.value is not None else ()
        ):
            vars(child)[_PLACE] = path
            if path and "__call__" in dir(type(child)):
                stack.enter_context(
                    _replaced(
                        type(child), "__call__", partial(_around_nnx, type(child))
                    )
                )
        yield


_REPLACED: dict[tuple[type, str], list] = {}
"""For each replaced method how many open contexts replace it, and what the class itself had by that name, if anything."""
_LOCK = RLock()


@contextmanager
def _replaced(kind: type, name: str, around: Callable) -> Iterator[None]:
    """While any such context is open, `kind.name` is `around(kind.name, ...)`; it must change nothing unwatched."""
    with _LOCK:
        if (kind, name) not in _REPLACED:
            original = getattr(kind, name)

            @wraps(original, updated=())
            def method(*args, **kwargs):
                return around(original, *args, **kwargs)

            _REPLACED[kind, name] = [0, vars(kind).get(name)]
            setattr(kind, name, method)
        _REPLACED[kind, name][0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _REPLACED[kind, name][0] -= 1
            if not _REPLACED[kind, name][0]:
                _, own = _REPLACED.pop((kind, name))
                delattr(kind, name) if own is None else setattr(kind, name, own)


def _around_linen(
    method: Callable,
    args: tuple,
    kwargs: dict,
    context: linen.module.InterceptorContext,
) -> PyTree:
    output = method(*args, **kwargs)
    return (
        _returned(output, context.module.path, (args, kwargs))
        if context.method_name == "__call__"
        else output
    )


def _around_nnx(
    kind: type, call: Callable, module: nnx.Module, *args: Any, **kwargs: Any
) -> PyTree:
    output = call(
        module, *args, **kwargs
    )  # from a class below, this is `super().__call__`, whose output has no name yet
    return (
        _returned(output, vars(module).get(_PLACE, ()), (args, kwargs))
        if type(module) is kind
        else output
    )


def _around_sow(sow: Callable, *args: Any, **kwargs: Any) -> Any:
    watch = _WATCH.value
    if watch is not None and watch.sown is not None:
        module, collection, name = list(
            inspect.signature(sow).bind(*args, **kwargs).arguments.values()
        )[:3]
        is_linen = isinstance(module, linen.Module)
        watch.sown(
            (collection, *module.path, name)
            if is_linen
            else (*vars(module).get(_PLACE, ()), name)
        )
    return sow(*args, **kwargs)


def _returned(output: PyTree, path: Path, given: PyTree) -> PyTree:
    """What the submodule at `path` returns, as it is watched; the model itself has the path `()`."""
    watch = _WATCH.value
    if watch is None or not path:
        return output
    if watch.compute is not None and all(
        x.dtype == watch.compute for x in jax.tree.leaves(given) if is_floating(x)
    ):
        output = narrowed(output)
    return (
        tag_arrays(output, MODULE + ".".join(map(str, path))) if watch.names else output
    )


def narrowed(tree: PyTree) -> PyTree:
    """A pytree in the dtype in which the watched model computes."""
    watch = _WATCH.value
    return (
        tree if watch is None or watch.compute is None else narrow(tree, watch.compute)
    )
