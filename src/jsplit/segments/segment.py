"""From a Flax module or a plain function to a `Segment`. Only this file and `watch` know Flax.

A Flax nnx module, a Flax linen module and a function differ in where parameters, statistics and
random streams live. Here all become explicit arguments of one pure function, nothing else.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import DenyList, unfreeze

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.segments.interception import Path, watched, watching

TRAIN_FLAGS = {"train", "training", "is_training"}
EVAL_FLAGS = {"deterministic", "use_running_average"}


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
        raise ValueError(f"`variables` belongs to a linen module, got a {type(model).__name__}.")
    if variables is not None and "params" not in variables:
        raise ValueError(f"`variables` must hold the collection `params`, as `module.init` returns it, got {list(variables)}.")
    if init is not None and isinstance(model, (nnx.Module, linen.Module, Segment)):
        raise ValueError(f"`init` belongs to a plain function, got a {type(model).__name__}, which has its own.")
    if isinstance(model, type):
        raise ValueError(f"`model` must be a module or a function, got the class `{model.__name__}`; make one of it first.")
    names = None if inputs is None else names_of("inputs", inputs, twice=True)
    if isinstance(model, Segment):
        return Segment(
            model.init, model.apply, tuple(names or model.inputs or ()) or None, name or model.name,
            model.trainable, model.shares_key,
        )  # fmt: skip
    if not callable(model):
        raise ValueError(f"`model` must be a Flax module or a function, got {type(model).__name__}, which has no `__call__`.")
    call = Call(model, names, skip=1 if init is not None else 0)
    if isinstance(model, nnx.Module):
        parts, trainable = from_nnx(model, call), bool(jax.tree.leaves(nnx.state(model, nnx.Param)))
    elif isinstance(model, linen.Module):
        parts, trainable = from_linen(model, call, variables), True
    else:
        refuse_modules(model)
        parts, trainable = from_function(model, call, init), init is not None
    return Segment(*parts, inputs=call.inputs, name=name, trainable=trainable)


def names_of(what: str, names: Any, twice: bool = False) -> list[str]:
    """The argument `what` as a list of names, of one if it is a string; they differ unless a name may come `twice`."""
    found = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else [names]
    for i, name in enumerate(found):
        if not isinstance(name, str):
            raise ValueError(f"`{what}` must be names, got {name!r}.")
        if name in found[:i] and not twice:
            raise ValueError(f"`{what}` names `{name}` twice.")
    return found


def refuse_modules(function: Callable) -> None:
    """Refuse a function that wraps, binds, encloses or reads a global module whose parameters would become constants."""
    todo, known = [function], set()
    for x in todo:  # grows while it is walked
        if id(x) in known or isinstance(x, type):
            continue
        known.add(id(x))
        if isinstance(x, (nnx.Module, linen.Module)):
            if jax.tree.leaves(nnx.state(x, nnx.Param)) if isinstance(x, nnx.Module) else x.scope is not None:
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
            todo += [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values(), getattr(x, "__wrapped__", None)]
            near = (x.__globals__[n] for n in globals_of(x.__code__) if n in x.__globals__)
            todo += [g for g in near if getattr(inspect.unwrap(g), "__globals__", x.__globals__) is x.__globals__]
        elif callable(x):
            held = [getattr(x, a, None) for a in ("__wrapped__", "__self__", "__func__", "func", "args", "keywords")]
            todo += [*held, *getattr(x, "__dict__", {}).values()]


def globals_of(code: CodeType) -> set[str]:
    """The names of the globals that a function reads, in its inner functions too."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return names.union(*(globals_of(c) for c in code.co_consts if isinstance(c, CodeType)))


class Call:
    """How a model is called: the names of its inputs, and the flags that tell it the mode.

    Inputs go by position as far as they are the leading parameters, and by keyword from there on.
    """

    def __init__(self, model: Callable, inputs: Sequence[str] | None, skip: int):
        self.is_module = isinstance(model, (nnx.Module, linen.Module))
        function = type(model).__call__ if self.is_module else model
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # builtins without a signature
            parameters = []
        parameters = parameters[1 if self.is_module else skip :]
        names = [p.name for p in parameters]
        self.flags = [n for n in names if n in TRAIN_FLAGS | EVAL_FLAGS]
        self.takes_key = not self.is_module and "key" in names
        self.free = not parameters or any(p.kind is p.VAR_POSITIONAL for p in parameters)
        told = {*self.flags, *(["key"] if self.takes_key else [])}
        taken = [p for p in parameters if p.name not in told and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        known = [p.name for p in taken]
        required = [p.name for p in taken if p.default is p.empty]
        if not self.free and len(inputs or ()) > len(known):
            raise ValueError(f"`inputs` names {inputs}, but the model takes {known}.")
        self.inputs = tuple(inputs or (() if self.free else required)) or (None if self.free else ())
        first = list(inputs) if inputs and set(inputs) <= set(known) else [] if inputs else required
        self.order = [*first, *(n for n in known if n not in first)]
        leading = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        same = [a == b for a, b in zip(self.order, leading, strict=False)]
        self.lead = None if self.free else [*same, False].index(False)

    def __call__(self, function: Callable, first: tuple, inputs: tuple, train: bool, **named: PyTree) -> PyTree:
        if not self.free and not len(self.inputs or ()) <= len(inputs) <= len(self.order):
            raise ValueError(f"the model takes inputs {self.inputs}, got {len(inputs)}.")
        named |= {flag: train == (flag in TRAIN_FLAGS) for flag in self.flags}
        if self.lead is not None:
            named |= zip(self.order[self.lead :], inputs[self.lead :], strict=False)
        return function(*first, *inputs[: self.lead], **named)


Parts = tuple[Callable[..., tuple[Params, State]], Callable[..., tuple[PyTree, State]]]


def from_function(function: Callable, call: Call, init: Callable[..., Params] | None) -> Parts:
    def start(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        return ({} if init is None else init(key, *inputs)), {}

    def apply(params: Params, state: State, key: jax.Array | None, *inputs: PyTree, train: bool = True):
        named = {"key": jax.random.key(0) if key is None else key} if call.takes_key else {}
        return call(function, () if init is None else (params,), inputs, train, **named), state

    return start, apply


def from_nnx(module: nnx.Module, call: Call) -> Parts:
    module = nnx.merge(*nnx.split(module))  # shares arrays, not variables: the caller's module stays as it is
    module = nnx.with_vars(module, ref=False, hijax=False)
    nnx.pop(module, nnx.Intermediate)
    graph, params, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
    first = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
    known = jax.tree.map(lambda x: None, first[1])  # `apply` holds the structure, not the values
    shapes = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), s) for s in (params, streams, state)]
    tags = sorted({stream.tag for _, stream in nnx.iter_graph(module) if isinstance(stream, nnx.RngStream)})
    may_sow = bool(nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.BatchStat))))

    def run(without: Collection[Path], params: Params, state: State, key: jax.Array, inputs: tuple, train: bool):
        model = nnx.merge(graph, *shapes, copy=True)
        nnx.pop(model, lambda path, _: path in without)
        nnx.update(model, params)
        nnx.update(model, keep(remove(state, without), known, inside=True))
        reseed: dict[str, Any] = {tag: key if i == 0 else jax.random.fold_in(key, i) for i, tag in enumerate(tags)}
        nnx.reseed(model, policy="match_shape", **reseed)
        model.train() if train else model.eval()
        with watched(model):
            output = call(model, (), inputs, train)
        return output, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))))

    return sow_anew(run, lambda key, *inputs: first, lambda state: may_sow)


def from_linen(module: linen.Module, call: Call, variables: Mapping[str, PyTree] | None) -> Parts:
    fixed = ("params", "intermediates")

    @jax.jit
    def fresh(key: jax.Array, *inputs: PyTree) -> Mapping[str, PyTree]:
        return call(module.init, (key,), inputs, train=True)

    def first(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        given = fresh(key, *inputs) if variables is None else unfreeze(variables)  # type: ignore[arg-type]
        return given.get("params", {}), {k: v for k, v in given.items() if k not in fixed}

    def run(without: Collection[Path], params: Params, state: State, key: jax.Array, inputs: tuple, train: bool):
        named = {"rngs": key, "mutable": DenyList(fixed)}
        output, new = call(module.apply, ({"params": params, **remove(state, without)},), inputs, train, **named)
        return output, {**state, **new}

    return sow_anew(run, first, lambda state: bool(set(state) - {"batch_stats"}), given=variables is not None)


def sow_anew(
    run: Callable, first: Callable[..., tuple[Params, State]], may_sow: Callable[[State], bool], given: bool = False
) -> Parts:
    """`init` and `apply` of a module from `run(without, params, state, key, inputs, train)`, which does without some of the
    state: all that this call will sow, for `sow` to find nothing to add to. At the start, it is zero. A state that was `given`
    must have all else.
    """

    def sown(params: Params, state: State, key: jax.Array, inputs: tuple, train: bool) -> frozenset[Path]:
        found: set[Path] = set()
        if may_sow(state):
            with watching(sown=lambda path: found.add(path)):  # a new function each time, so that no `jit` has run with it
                jax.eval_shape(lambda *a: run((), *a, train)[1], params, state, key, inputs)
        return frozenset(found)

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        params, state = first(key, *inputs)
        after = jax.eval_shape(lambda *a: apply(*a)[1], params, state, key, *inputs)
        paths = sown(params, state, key, inputs, True)
        kept = remove(state, paths)
        added = keep(after, kept, inside=False)
        if given and (lacking := remove(added, paths)):
            raise ValueError(f"the module keeps `{next(iter(lacking))}`, which `variables` lack; give all that `init` returns.")
        return params, overlay(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), added), kept)

    def apply(params: Params, state: State, key: jax.Array | None, *inputs: PyTree, train: bool = True):
        key = jax.random.key(0) if key is None else key
        return run(sown(params, state, key, inputs, train), params, state, key, inputs, train)

    return init, apply


def remove(tree: Mapping, paths: Collection[Path]) -> dict:
    """Nested dicts without what lies at any of `paths`."""
    kept = {}
    for k, v in tree.items():
        below = [path[1:] for path in paths if path[:1] == (k,)]
        if below and () not in below and isinstance(v, Mapping):
            v = remove(v, below)
            below = [] if v else [()]
        if () not in below:
            kept[k] = v
    return kept


def keep(tree: Mapping, other: Mapping, *, inside: bool) -> dict:
    """The part of nested dicts `tree` whose paths are (`inside`) or are not in `other`."""
    kept = {}
    for k, v in tree.items():
        if isinstance(v, Mapping) and isinstance(other.get(k), Mapping):
            if sub := keep(v, other[k], inside=inside):
                kept[k] = sub
        elif (k in other) == inside:
            kept[k] = v
    return kept


def overlay(*trees: Mapping) -> dict:
    """Nested dicts laid over one another; where two hold the same leaf, the last one counts."""
    merged: dict = {}
    for tree in trees:
        for k, v in tree.items():
            both = isinstance(v, Mapping) and isinstance(merged.get(k), Mapping)
            merged[k] = overlay(merged[k], v) if both else v
    return merged
