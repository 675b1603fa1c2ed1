"""Modules that a plain function holds: their parameters would become constants.

A function is searched for them through all by which Python lets it hold an
object: what it wraps, binds or encloses, its defaults, and the globals that
it reads.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import CodeType, FunctionType

import jax
from flax import linen, nnx

# Where `functools.partial`, bound methods and decorated callables keep what
# they call.
_HOLDING = ("__wrapped__", "__self__", "__func__", "func", "args", "keywords")


def refuse_captured_modules(function: Callable[..., object]) -> None:
    """Refuse a function that holds a module with parameters.

    Args:
        function: what a user gave as a model.

    Raises:
        ValueError: naming the module's class.
    """
    known: set[int] = set()
    todo: list[object] = [function]
    for x in todo:  # it grows while it is walked
        # By identity: what a closure holds may have no hash, and may hold
        # itself.
        if id(x) in known or isinstance(x, type):
            continue
        known.add(id(x))

        if isinstance(x, nnx.Module | linen.Module):
            if _has_parameters(x):
                kind = type(x).__name__
                raise ValueError(
                    f"`model` holds a {kind}, whose parameters would become constants; "
                    "pass the module itself, or a function of parameters and inputs "
                    "that holds no module, with its `init`."
                )
        else:
            todo += _held_by(x)


def _has_parameters(module: nnx.Module | linen.Module) -> bool:
    if isinstance(module, nnx.Module):
        return bool(jax.tree.leaves(nnx.state(module, nnx.Param)))
    # A linen module is a description until it is bound to a scope, which
    # has its variables.
    return module.scope is not None


def _held_by(x: object) -> Iterable[object]:
    """The objects that another one holds, as far as a call of it can reach them."""
    if isinstance(x, list | tuple):
        return x
    if isinstance(x, Mapping):
        return x.values()
    if isinstance(x, FunctionType):
        return _held_by_function(x)
    if callable(x):
        attributes = [getattr(x, name, None) for name in _HOLDING]
        return [*attributes, *getattr(x, "__dict__", {}).values()]
    return ()


def _held_by_function(function: FunctionType) -> list[object]:
    held: list[object] = []
    for cell in function.__closure__ or ():
        # A cell may be empty yet: of a function that is defined further
        # down.
        with suppress(ValueError):
            held.append(cell.cell_contents)

    held += function.__defaults__ or ()
    held += (function.__kwdefaults__ or {}).values()
    held.append(getattr(function, "__wrapped__", None))

    own = function.__globals__
    for name in _globals_of(function.__code__):
        # Functions of other modules are not followed: they lead all through
        # the libraries that the user's module imports, and none of those
        # holds the user's weights.
        if name in own:
            there = getattr(inspect.unwrap(own[name]), "__globals__", own)
            if there is own:
                held.append(own[name])
    return held


def _globals_of(code: CodeType) -> set[str]:
    """The names of the globals that a function reads, in its inner functions too."""
    # From the bytecode: `co_names` has the names of attributes too.
    found = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _globals_of(constant)
    return found
