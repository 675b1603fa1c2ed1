"""From a Flax module or a plain function to a `Segment`. Only this file and `watch` know Flax.

A Flax nnx module, a Flax linen module and a function differ in where parameters, statistics and
random streams live. Here all become explicit arguments of one pure function, nothing else.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import CodeType, FunctionType

import jax
from flax import linen, nnx

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import names_of
from jsplit.segments.call import Call, Parts
from jsplit.segments.flax import from_linen, from_nnx


def segment(
    model: nnx.Module | linen.Module | Callable | Segment,
    *,
    init: Callable[..., Params] | None = None,
    variables: Mapping[str, PyTree] | None = None,
    inputs: Sequence[str] | None = None,
    name: str | None = None,
) -> Segment:
    """A `Segment` that computes what `model` computes.

    - **nnx module**: parameters are its `nnx.Param` variables, state is every other variable except
      random streams; `init` returns the values that the module has now, whatever the key. `train`
      switches it with `module.train()` and `module.eval()`. The module itself is never changed. Its random
      streams are reseeded from the key on every call, as by `nnx.reseed(module, <stream>=key)`.
    - **linen module**: parameters are the collection `params`, state is every other collection but
      `intermediates`; `init` is `module.init(key, ...)`. The key is `apply`'s `rngs`, for every stream.
    - **function**: `model(params, *inputs)` with `init(key, *inputs) -> params`, or, without `init`,
      `model(*inputs)` with no parameters. A parameter called `key` receives the key.

    A `__call__` or function that takes any of `train`, `training`, `is_training`, `deterministic` and
    `use_running_average` is told the mode by these names. What a module sows is sown anew on every call: it is part of
    the new state, so a `Penalty` can read it, and never fed back.

    Args:
        model: what to wrap; a `Segment` is returned with `inputs` and `name` replaced where given.
        init: for functions with parameters.
        variables: for linen, what `module.init` would return: start from these values.
        inputs: names of the positional inputs, or the name of the only one; by default those of the signature that
            have no default.
        name: name of the value produced.

    Raises:
        ValueError: if an argument does not belong to this kind of model, or if a function holds a module whose
            parameters would become constants.
    """
    if variables is not None and not isinstance(model, linen.Module):
        raise ValueError(
            f"`variables` belongs to a linen module, got a {type(model).__name__}."
        )
    if variables is not None and "params" not in variables:
        raise ValueError(
            f"`variables` must hold the collection `params`, as `module.init` returns it, got {list(variables)}."
        )
    if init is not None and isinstance(model, (nnx.Module, linen.Module, Segment)):
        raise ValueError(
            f"`init` belongs to a plain function, got a {type(model).__name__}, which has its own."
        )
    if isinstance(model, type):
        raise ValueError(
            f"`model` must be a module or a function, got the class `{model.__name__}`; make one of it first."
        )
    names = None if inputs is None else names_of("inputs", inputs, twice=True)
    if isinstance(model, Segment):
        return Segment(
            model.init,
            model.apply,
            tuple(names or model.inputs or ()) or None,
            name or model.name,
            model.trainable,
            model.shares_key,
        )
    if not callable(model):
        raise ValueError(
            f"`model` must be a Flax module or a function, got {type(model).__name__}, which has no `__call__`."
        )
    call = Call(model, names, skip=1 if init is not None else 0)
    if isinstance(model, nnx.Module):
        parts, trainable = (
            from_nnx(model, call),
            bool(jax.tree.leaves(nnx.state(model, nnx.Param))),
        )
    elif isinstance(model, linen.Module):
        parts, trainable = from_linen(model, call, variables), True
    else:
        _refuse_modules(model)
        parts, trainable = _from_function(model, call, init), init is not None
    return Segment(*parts, inputs=call.inputs, name=name, trainable=trainable)


def _refuse_modules(function: Callable) -> None:
    """Refuse a function that wraps, binds, encloses or reads a global module whose parameters would become constants."""
    todo, known = [function], set()
    for x in todo:  # grows while it is walked
        if id(x) in known or isinstance(x, type):
            continue
        known.add(id(x))
        if isinstance(x, (nnx.Module, linen.Module)):
            if (
                jax.tree.leaves(nnx.state(x, nnx.Param))
                if isinstance(x, nnx.Module)
                else x.scope is not None
            ):
                raise ValueError(
                    f"`model` holds a {type(x).__name__}, whose parameters would become constants; pass the module itself, "
                    "or a function of parameters and inputs that holds no module, with its `init`."
                )
        elif isinstance(x, (list, tuple)):
            todo += x
        elif isinstance(x, Mapping):
            todo += x.values()
        elif isinstance(x, FunctionType):
            for cell in x.__closure__ or ():
                with suppress(ValueError):  # a cell that is empty yet
                    todo.append(cell.cell_contents)
            todo += [
                *(x.__defaults__ or ()),
                *(x.__kwdefaults__ or {}).values(),
                getattr(x, "__wrapped__", None),
            ]
            near = (
                x.__globals__[n] for n in _globals_of(x.__code__) if n in x.__globals__
            )
            todo += [
                g
                for g in near
                if getattr(inspect.unwrap(g), "__globals__", x.__globals__)
                is x.__globals__
            ]
        elif callable(x):
            held = [
                getattr(x, a, None)
                for a in (
                    "__wrapped__",
                    "__self__",
                    "__func__",
                    "func",
                    "args",
                    "keywords",
                )
            ]
            todo += [*held, *getattr(x, "__dict__", {}).values()]


def _globals_of(code: CodeType) -> set[str]:
    """The names of the globals that a function reads, in its inner functions too."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return names.union(
        *(_globals_of(c) for c in code.co_consts if isinstance(c, CodeType))
    )


def _from_function(
    function: Callable, call: Call, init: Callable[..., Params] | None
) -> Parts:
    def start(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        return ({} if init is None else init(key, *inputs)), {}

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        *inputs: PyTree,
        train: bool = True,
    ):
        named = (
            {"key": jax.random.key(0) if key is None else key} if call.takes_key else {}
        )
        return call(
            function, () if init is None else (params,), inputs, train, **named
        ), state

    return start, apply
