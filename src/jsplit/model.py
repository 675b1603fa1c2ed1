"""From a Flax module or a plain function to a `Segment`. The only file that knows Flax.

A Flax nnx module, a Flax linen module and a function differ in where parameters, statistics and
random streams live. Here all become explicit arguments of one pure function, nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import DenyList
from jax.ad_checkpoint import checkpoint_name

from jsplit.base import MODULE, Params, PyTree, Segment, State

TRAIN_FLAGS = {"train": True, "training": True, "is_training": True}
EVAL_FLAGS = {"deterministic": False, "use_running_average": False}


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

    A `__call__` or function that takes `train`, `training`, `is_training`, `deterministic` or
    `use_running_average` is told the mode by that name. Collections that a module sows anew on every call
    (a penalty, say) are part of the new state, so a `Penalty` can read them, and never fed back.

    Args:
        model: what to wrap; a `Segment` is returned with `inputs` and `name` replaced where given.
        init: for functions with parameters.
        variables: for linen, what `module.init` would return: start from these values.
        inputs: names of the positional inputs; by default those of the signature that have no default.
        name: name of the value produced.

    Raises:
        ValueError: if an argument does not belong to this kind of model.
    """
    if variables is not None and not isinstance(model, linen.Module):
        raise ValueError(f"`variables` belongs to a linen module, got a {type(model).__name__}.")
    if init is not None and isinstance(model, (nnx.Module, linen.Module, Segment)):
        raise ValueError(f"`init` belongs to a plain function, got a {type(model).__name__}, which has its own.")
    if isinstance(model, type):
        raise ValueError(f"`model` must be a module or a function, got the class `{model.__name__}`; make one of it first.")
    if isinstance(owner := getattr(model, "__self__", None), (nnx.Module, linen.Module)):
        raise ValueError(
            f"`model` is a method of a {type(owner).__name__}, whose parameters would become constants; "
            "pass the module, or a function of parameters and inputs with its `init`."
        )
    if isinstance(model, Segment):
        return Segment(
            model.init, model.apply, tuple(inputs or model.inputs or ()) or None, name or model.name,
            model.trainable, model.shares_key,
        )  # fmt: skip
    call = Call(model, inputs, skip=1 if init is not None else 0)
    if isinstance(model, nnx.Module):
        parts = from_nnx(model, call)
    elif isinstance(model, linen.Module):
        parts = from_linen(model, call, variables)
    elif callable(model):
        parts = from_function(model, call, init)
    else:
        raise ValueError(f"`model` must be a Flax module or a function, got {type(model).__name__}.")
    return Segment(*parts, inputs=call.inputs, name=name, trainable=call.is_module or init is not None)


class Call:
    """How a model is called: the names of its inputs, and the flag that tells it the mode."""

    def __init__(self, model: Callable, inputs: Sequence[str] | None, skip: int):
        self.is_module = isinstance(model, (nnx.Module, linen.Module))
        function = type(model).__call__ if self.is_module else model
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # builtins without a signature
            parameters = []
        parameters = parameters[1 if self.is_module else skip :]
        names = [p.name for p in parameters]
        flags = [n for n in names if n in TRAIN_FLAGS or n in EVAL_FLAGS]
        self.flag = flags[0] if flags else None
        self.takes_key = not self.is_module and "key" in names
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        positional = [p for p in positional if p.name != self.flag and not (self.takes_key and p.name == "key")]
        if any(p.kind is p.VAR_POSITIONAL for p in parameters) or not parameters:
            self.inputs = tuple(inputs) if inputs else None
            self.keyword = frozenset()
            return
        self.inputs = tuple(inputs or (p.name for p in positional if p.default is p.empty))
        known = [p.name for p in positional]
        in_place = all(a == b for a, b in zip(self.inputs, known, strict=False))
        self.keyword = frozenset() if in_place or not set(self.inputs) <= set(known) else frozenset(self.inputs)

    def __call__(self, function: Callable, first: tuple, inputs: tuple, train: bool, **named: PyTree) -> PyTree:
        if self.flag is not None:
            named[self.flag] = train if self.flag in TRAIN_FLAGS else not train
        if self.keyword and len(inputs) != len(self.keyword):
            raise ValueError(f"the model takes inputs {self.inputs}, got {len(inputs)}.")
        if self.keyword:
            return function(*first, **dict(zip(self.inputs or (), inputs, strict=True)), **named)
        return function(*first, *inputs, **named)


Parts = tuple[Callable[..., tuple[Params, State]], Callable[..., tuple[PyTree, State]]]


def from_function(function: Callable, call: Call, init: Callable[..., Params] | None) -> Parts:
    def start(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        return ({} if init is None else init(key, *inputs)), {}

    def apply(params: Params, state: State, key: jax.Array | None, *inputs: PyTree, train: bool = True):
        named = {"key": key} if call.takes_key else {}
        return call(function, () if init is None else (params,), inputs, train, **named), state

    return start, apply


def from_nnx(module: nnx.Module, call: Call) -> Parts:
    module = nnx.merge(*nnx.split(module))  # shares arrays, not variables: the caller's module stays as it is
    nnx.pop(module, nnx.Intermediate)
    graph, params, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
    first = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
    known = jax.tree.map(lambda x: None, first[1])  # `apply` holds the structure, not the values
    shapes = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), s) for s in (params, streams, state)]
    tags = sorted({stream.tag for _, stream in nnx.iter_graph(module) if isinstance(stream, nnx.RngStream)})

    def start(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        after = jax.eval_shape(lambda *a: apply(*a)[1], *first, key, *inputs)
        sown = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), keep(after, first[1], inside=False))
        return first[0], overlay(sown, first[1])

    def apply(params: Params, state: State, key: jax.Array | None, *inputs: PyTree, train: bool = True):
        model = nnx.merge(graph, *shapes, copy=True)
        nnx.update(model, params)
        nnx.update(model, keep(state, known, inside=True))
        key = jax.random.key(0) if key is None else key
        reseed: dict[str, Any] = {tag: key if i == 0 else jax.random.fold_in(key, i) for i, tag in enumerate(tags)}
        nnx.reseed(model, policy="match_shape", **reseed)
        model.train() if train else model.eval()
        if TRACED.get():
            tag_nnx(model)
        output = call(model, (), inputs, train)
        return output, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))))

    return start, apply


def computing_in(model: Any, dtype: Any) -> Any:
    """An nnx module with the layers that leave their computation's dtype open set to `dtype`; any other model as it is.

    An nnx BatchNorm with an open dtype would widen its output to that of its statistics."""
    if not isinstance(model, nnx.Module):
        return model
    copy = nnx.merge(*nnx.split(model))
    layers: list[Any] = [child for _, child in nnx.iter_modules(copy)]
    for layer in layers:
        if getattr(layer, "dtype", dtype) is None:
            layer.dtype = dtype
    return copy


def from_linen(module: linen.Module, call: Call, variables: Mapping[str, PyTree] | None) -> Parts:
    fixed = ("params", "intermediates")

    def divide(variables: Mapping[str, PyTree]) -> tuple[Params, State]:
        return variables.get("params", {}), {k: v for k, v in variables.items() if k not in fixed}

    @jax.jit
    def fresh(key: jax.Array, *inputs: PyTree) -> Mapping[str, PyTree]:
        return call(module.init, (key,), inputs, train=True)

    def run(params: Params, state: State, key: jax.Array, inputs: tuple, train: bool) -> tuple[PyTree, State]:
        named = {"rngs": key, "mutable": DenyList(fixed)}
        output, new = call(module.apply, ({"params": params, **state},), inputs, train, **named)
        return output, {**state, **new}

    def kept(params: Params, state: State, key: jax.Array, inputs: tuple, train: bool) -> State:
        """The collections that are fed back; one that would grow is sown anew on every call."""
        if not set(state) - {"batch_stats"}:
            return state
        grown = jax.eval_shape(lambda p, s, k, i: run(p, s, k, i, train)[1], params, state, key, inputs)
        return {k: v for k, v in state.items() if same_structure(v, grown[k])}

    def start(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        params, state = divide(fresh(key, *inputs) if variables is None else variables)
        after = jax.eval_shape(lambda *a: apply(*a)[1], params, state, key, *inputs)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), after)
        return params, {**zeros, **kept(params, state, key, inputs, True)}

    def apply(params: Params, state: State, key: jax.Array | None, *inputs: PyTree, train: bool = True):
        key = jax.random.key(0) if key is None else key
        return run(params, kept(params, state, key, inputs, train), key, inputs, train)

    return start, apply


def same_structure(a: PyTree, b: PyTree) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b)


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


# Naming what submodules return, so that a cut can be placed there without touching the model.

TRACED = ContextVar("TRACED", default=False)


@contextmanager
def traced() -> Iterator[None]:
    """While it is open, the output of every submodule of a traced model carries its path as a name."""
    token = TRACED.set(True)
    try:
        with linen.intercept_methods(tag_linen):
            yield
    finally:
        TRACED.reset(token)


def tag(output: PyTree, path: Iterable) -> PyTree:
    name = MODULE + ".".join(map(str, path))
    return tag_arrays(output, name)


def tag_arrays(tree: PyTree, name: str) -> PyTree:
    """Name every array of a pytree `name/<its path in the tree>`, by JAX's own `checkpoint_name`."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    ends = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    named = [checkpoint_name(x, f"{name}/{e}") if hasattr(x, "dtype") else x for e, (_, x) in zip(ends, leaves, strict=True)]
    return structure.unflatten(named)


def tag_linen(function: Callable, args: tuple, kwargs: dict, context: linen.module.InterceptorContext) -> PyTree:
    output = function(*args, **kwargs)
    return tag(output, context.module.path) if context.method_name == "__call__" and context.module.path else output


def tag_nnx(module: nnx.Module) -> None:
    """Give every submodule a class of its own whose `__call__` names the output. `module` must be a copy."""
    for path, child in list(nnx.iter_modules(module)):
        kind = type(child)
        if path and "__call__" in dir(kind):

            def call(self, *args, kind=kind, path=path, **kwargs):
                return tag(kind.__call__(self, *args, **kwargs), path)

            child.__class__ = type(kind.__name__, (kind,), {"__call__": call})
