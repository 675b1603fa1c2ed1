"""Standing between a model and its submodules while it runs.

What submodules return gets a name or a dtype, and what they sow is noted.
The model, its classes and its values stay what they are: linen reports every
call itself; of nnx the methods concerned are replaced while such a model
runs, and its modules carry their path meanwhile.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from threading import RLock
from typing import NamedTuple

import jax
import numpy as np
from flax import linen, nnx

from jsplit.core.base import PyTree
from jsplit.core.paths import Path
from jsplit.core.trees import is_floating, narrow
from jsplit.jaxprs.tags import MODULE, tag_arrays


class _Interception(NamedTuple):
    """What is made of a model's submodules while it runs.

    Attributes:
        names: whether what a submodule returns carries the submodule's path
            as a name, so that a cut can be placed there.
        compute: the dtype to which floating values are cast that a
            submodule returns, if it is given no wider ones.
        sown: is told the path of everything that is sown.
        called: is told every call: the submodule, its arguments, and those by
            keyword.
    """

    names: bool = False
    compute: np.dtype | None = None
    sown: Callable[[Path], None] | None = None
    called: Callable[..., None] | None = None


# The interception of this thread, or `None`. A context of JAX's and not a
# variable of ours: it is part of the key of JAX's caches, so it holds in
# functions under `jit` too.
_CURRENT = jax.make_user_context(None)

# The attribute of a submodule that is its path; it stays with it through
# every nnx transformation. It begins as the attributes do by which Flax
# itself keeps books, so that who walks through a module's own leaves it
# out.
_PATH = "_pytree__place"


@contextmanager
def intercepting(
    *,
    names: bool | None = None,
    compute: np.dtype | None = None,
    sown: Callable[[Path], None] | None = None,
    called: Callable[..., None] | None = None,
) -> Iterator[None]:
    """Run models under an interception, in this thread, while it is open.

    What is left out stays as it is in an interception that is open already.

    Args:
        names: whether what a submodule returns is named by its path.
        compute: the dtype to which floating values are cast.
        sown: is told the path of everything that is sown.
        called: is told every call of a submodule.
    """
    asked = {"names": names, "compute": compute, "sown": sown, "called": called}
    changes = {name: value for name, value in asked.items() if value is not None}
    with ExitStack() as stack:
        if _CURRENT.value is None:
            stack.enter_context(linen.intercept_methods(_around_linen))
        # Every module sows by one method, so that it is enough to replace
        # it in two classes, whichever module runs.
        if sown is not None:
            stack.enter_context(_replaced(nnx.Module, "sow", _around_sow))
            stack.enter_context(_replaced(linen.Module, "sow", _around_sow))
        current = _CURRENT.value or _Interception()
        stack.enter_context(_CURRENT(current._replace(**changes)))
        yield


@contextmanager
def intercepted_submodules(module: nnx.Module) -> Iterator[None]:
    """Intercept the submodules of an nnx module while it is open; linen's always are.

    Args:
        module: it must be a copy, since its submodules are given an
            attribute.
    """
    with ExitStack() as stack:
        modules = nnx.iter_modules(module) if _CURRENT.value is not None else ()
        # A list, before the first attribute is set: the iteration goes over
        # attributes.
        for path, child in list(modules):
            vars(child)[_PATH] = path
            kind = type(child)
            if path and "__call__" in dir(kind):
                around = partial(_around_nnx, kind)
                stack.enter_context(_replaced(kind, "__call__", around))
        yield


class _Replacement:
    """A method that is replaced: by how many open contexts, and what the class had."""

    def __init__(self, own: object):
        self.contexts = 0
        # What the class itself has by that name; `None` where it inherits
        # it, and the replacement must be deleted to bring the inherited one
        # back.
        self.own = own


_REPLACED: dict[tuple[type, str], _Replacement] = {}

# Models run in several threads (a party computes ahead), and a class is one
# for all.
_LOCK = RLock()


@contextmanager
def _replaced(kind: type, name: str, around: Callable[..., object]) -> Iterator[None]:
    """Replace a method of a class while any such context is open.

    Args:
        kind: the class.
        name: of the method.
        around: `around(method, *args)` is called instead; it must change
            nothing where there is no interception, since other threads call
            it too.
    """
    with _LOCK:
        if (kind, name) not in _REPLACED:
            _replace(kind, name, around)
        _REPLACED[kind, name].contexts += 1
    try:
        yield
    finally:
        with _LOCK:
            replacement = _REPLACED[kind, name]
            replacement.contexts -= 1
            if not replacement.contexts:
                del _REPLACED[kind, name]
                _put_back(kind, name, replacement.own)


def _replace(kind: type, name: str, around: Callable[..., object]) -> None:
    original = getattr(kind, name)

    # Signature and name are kept: Flax and users look at them. Not the
    # attributes, since some decorators keep state of the original there.
    @wraps(original, updated=())
    def method(*args: object, **kwargs: object) -> object:
        return around(original, *args, **kwargs)

    _REPLACED[kind, name] = _Replacement(vars(kind).get(name))
    setattr(kind, name, method)


def _put_back(kind: type, name: str, own: object) -> None:
    if own is None:
        delattr(kind, name)
    else:
        setattr(kind, name, own)


def _around_linen(
    method: Callable[..., PyTree],
    args: tuple[PyTree, ...],
    kwargs: Mapping[str, PyTree],
    context: linen.module.InterceptorContext,
) -> PyTree:
    output = method(*args, **kwargs)
    # linen intercepts every method of a module, also `setup` and those of
    # one's own.
    if context.method_name != "__call__":
        return output
    _tell(context.module, args, kwargs)
    return _returned(output, context.module.path, (args, kwargs))


def _around_nnx(
    kind: type,
    call: Callable[..., PyTree],
    module: nnx.Module,
    *args: PyTree,
    **kwargs: PyTree,
) -> PyTree:
    output = call(module, *args, **kwargs)
    # From a class below, this is `super().__call__`, whose output has no
    # name yet.
    if type(module) is not kind:
        return output
    _tell(module, args, kwargs)
    return _returned(output, vars(module).get(_PATH, ()), (args, kwargs))


def _tell(
    module: nnx.Module | linen.Module,
    args: tuple[PyTree, ...],
    kwargs: Mapping[str, PyTree],
) -> None:
    current: _Interception | None = _CURRENT.value
    if current is not None and current.called is not None:
        current.called(module, args, kwargs)


def _around_sow(sow: Callable[..., object], *args: object, **kwargs: object) -> object:
    current: _Interception | None = _CURRENT.value
    if current is not None and current.sown is not None:
        # By its signature: the three first arguments may be given by
        # keyword.
        given = inspect.signature(sow).bind(*args, **kwargs).arguments
        module, collection, name = list(given.values())[:3]
        if isinstance(module, linen.Module):
            path = (collection, *module.path, name)
        else:
            path = (*vars(module).get(_PATH, ()), name)
        current.sown(path)
    return sow(*args, **kwargs)


def _returned(output: PyTree, path: Path, given: PyTree) -> PyTree:
    """What a submodule returns, as the interception has it.

    Args:
        output: what it returned.
        path: its own; the model itself has the path `()`.
        given: its arguments.

    Returns:
        The output, cast and named as asked.
    """
    current: _Interception | None = _CURRENT.value
    if current is None or not path:
        return output

    if current.compute is not None:
        floating = [x for x in jax.tree.leaves(given) if is_floating(x)]
        # Given something wider, it is meant to compute wide, and so what it
        # returns is.
        if all(x.dtype == current.compute for x in floating):
            output = in_compute_dtype(output)
    if current.names:
        output = tag_arrays(output, MODULE + ".".join(map(str, path)))
    return output


def in_compute_dtype(tree: PyTree) -> PyTree:
    """A pytree in the dtype in which the model that runs is asked to compute."""
    current: _Interception | None = _CURRENT.value
    if current is None or current.compute is None:
        return tree
    return narrow(tree, current.compute)
