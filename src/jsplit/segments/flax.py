"""Flax modules as pure functions of parameters, state, key and inputs.

Where parameters, statistics and random streams live in nnx and in linen is
known here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol, cast

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import DenyList, unfreeze

from jsplit.core.base import Params, PyTree, SegmentInit, State
from jsplit.core.paths import Path, by_path, dotted, keep, overlay, remove
from jsplit.core.trees import abstract
from jsplit.segments.call import Call, InitApply
from jsplit.segments.interception import intercepted_submodules, intercepting
from jsplit.segments.written import Left, Looking, noting

# linen: neither is fed back. Parameters have a place of their own, and
# intermediates are what a call leaves for whoever looks at it.
_NOT_STATE = ("params", "intermediates")


class _Run(Protocol):
    """One call of a module, which is not told some of its state."""

    def __call__(
        self,
        without: Collection[Path],
        params: Params,
        state: State,
        key: jax.Array,
        inputs: tuple[PyTree, ...],
        train: bool,
    ) -> tuple[PyTree, State]: ...


def from_nnx(
    module: nnx.Module, call: Call, parameters: nnx.filterlib.Filter = nnx.Param
) -> InitApply:
    """`init` and `apply` of an nnx module.

    Args:
        module: it stays as it is.
        call: how it is called.
        parameters: which variables are parameters.

    Returns:
        Functions over nested dictionaries; `init` gives the values that it
        has now.
    """
    module = _copy_of(module)
    graph, params, streams, state = nnx.split(module, parameters, nnx.RngState, ...)
    first = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
    # `run` holds structures and shapes and no values: a segment must not
    # keep alive the weights that another party trains.
    known = jax.tree.map(lambda x: None, first[1])
    shapes = [abstract(part) for part in (params, streams, state)]
    streams_by_tag = _stream_tags(module)
    may_sow = _may_sow(module)
    frozen_in_part = _is_frozen_in_part(module)

    def run(
        without: Collection[Path],
        params: Params,
        state: State,
        key: jax.Array,
        inputs: tuple[PyTree, ...],
        train: bool,
        left: Left | None = None,
    ) -> tuple[PyTree, State]:
        model = nnx.merge(graph, *shapes, copy=True)
        nnx.pop(model, lambda path, _: path in without)
        nnx.update(model, params)
        # What the module did not have when it was taken apart, it makes for
        # itself.
        nnx.update(model, keep(remove(state, without), known, inside=True))
        _reseed(model, streams_by_tag, key)
        if not train:
            model.eval()
        elif not frozen_in_part:
            model.train()

        if call.attributes:
            model.set_attributes(**call.attributes)

        named = call.drawn(key, apart=bool(streams_by_tag))
        with intercepted_submodules(model), noting(left, model):
            output = call(model, (), inputs, train, **named)
        carried = nnx.Not(nnx.Any(parameters, nnx.RngState, nnx.Intermediate))
        return output, nnx.to_pure_dict(nnx.state(model, carried))

    looking = Looking(parameters)

    def after(without: Collection[Path], *given: PyTree) -> State:
        return looking.state_after(partial(run, without), *given)

    def start(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        return first

    return _sow_anew(run, start, lambda state: may_sow, looking.check_made, after)


def _is_frozen_in_part(module: nnx.Module) -> bool:
    """Whether some layers were put in inference mode by the user, and others were not."""
    # A pretrained part is frozen so; a model that is wholly in inference mode was last
    # used for that, and is meant to train here.
    found = {
        value
        for _, child in nnx.iter_modules(module)
        for name in ("deterministic", "use_running_average")
        if isinstance(value := getattr(child, name, None), bool)
    }
    return len(found) == 2


def _copy_of(module: nnx.Module) -> nnx.Module:
    """A module of the same arrays in variables of its own."""
    module = nnx.merge(*nnx.split(module))
    # Plain variables: those that are references to mutable arrays could not
    # be traced as values.
    module = nnx.with_vars(module, ref=False, hijax=False)
    nnx.pop(module, nnx.Intermediate)
    return module


def _stream_tags(module: nnx.Module) -> list[str]:
    """The names of a module's random streams."""
    tags = {x.tag for _, x in nnx.iter_graph(module) if isinstance(x, nnx.RngStream)}
    # Sorted, since which stream is the first says which gets the key
    # itself.
    return sorted(tags)


def _may_sow(module: nnx.Module) -> bool:
    """Whether a module has state of a kind that may be sown."""
    # What was sown before is in the state of a module that has run.
    # BatchNorm's statistics are not sown, and a trace for each call is
    # spared where they are all there is.
    sown = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.BatchStat))
    return bool(nnx.state(module, sown))


def _reseed(model: nnx.Module, tags: list[str], key: jax.Array) -> None:
    """Draw every stream from the key; the first gets the key itself."""
    seeds: dict[str, jax.Array] = {}
    for i, tag in enumerate(tags):
        seeds[tag] = key if i == 0 else jax.random.fold_in(key, i)
    # Under a type without Flax's own keywords, for the checker, which must
    # think that a random stream may be called as one of them.
    reseed = cast("Callable[..., None]", nnx.reseed)
    reseed(model, policy="match_shape", **seeds)


def from_linen(
    module: linen.Module, call: Call, variables: Mapping[str, PyTree] | None
) -> InitApply:
    """`init` and `apply` of a linen module.

    Args:
        module: the module.
        call: how it is called.
        variables: what `init` gives, instead of what the module's own
            would.

    Returns:
        Functions over what linen makes: dictionaries, or its boxes of
        parameters.
    """

    # Compiled: a module's own `init` computes its whole output, one
    # operation at a time.
    @jax.jit
    def fresh(key: jax.Array, *inputs: PyTree) -> Mapping[str, PyTree]:
        return call(module.init, (key,), inputs, train=True, **call.drawn(key))

    def first(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        found: Mapping[str, PyTree]
        if variables is None:
            found = fresh(key, *inputs)
        else:
            # A dictionary around it, since any mapping may be given: `unfreeze`
            # hands on, as it is, what is neither its own class nor a dict.
            found = unfreeze({**variables})
        state = {k: v for k, v in found.items() if k not in _NOT_STATE}
        return found.get("params", {}), state

    def run(
        without: Collection[Path],
        params: Params,
        state: State,
        key: jax.Array,
        inputs: tuple[PyTree, ...],
        train: bool,
    ) -> tuple[PyTree, State]:
        given = {"params": params, **remove(state, without)}
        # All collections but these may change; a collection that this call
        # makes anew is part of what comes out.
        named = {"rngs": key, "mutable": DenyList(_NOT_STATE)} | call.drawn(key)
        output, new = call(module.apply, (given,), inputs, train, **named)
        return output, {**state, **new}

    def may_sow(state: State) -> bool:
        return bool(set(state) - {"batch_stats"})

    def after(without: Collection[Path], *given: PyTree) -> State:
        # New each time: JAX caches traces by the function.
        call_once = partial(run, without, train=True)
        return jax.eval_shape(lambda *args: call_once(*args)[1], *given)

    def check(made: State, *_: object) -> None:
        if variables is not None:
            raise ValueError(
                f"the module keeps `{dotted(by_path(made).paths[0])}`, which `variables` "
                "lack; give all that `init` returns."
            )

    return _sow_anew(run, first, may_sow, check, after)


def _sow_anew(
    run: _Run,
    first: SegmentInit,
    may_sow: Callable[[State], bool],
    check: Callable[..., None],
    after: Callable[..., State],
) -> InitApply:
    """`init` and `apply` of a module which sows anew on every call.

    `sow` adds to what it finds, so what a call will sow is taken out of the
    state before the call. In the first state it is zero.

    Args:
        run: one call of the module, without some of its state.
        first: parameters and state as they are found.
        may_sow: whether a module with such a state may sow.
        check: refuses, or not, what a call makes of state and does not sow; it is
            given that, a call, and its arguments. In the first state that is zero too.
        after: the shapes of the state after a call in training, which is given what
            `run` is.

    Returns:
        `init` and `apply` of a segment.
    """

    def sown(
        params: Params,
        state: State,
        key: jax.Array,
        inputs: tuple[PyTree, ...],
        train: bool,
    ) -> frozenset[Path]:
        """The paths to which a call sows, from a trace of it."""
        found: set[Path] = set()
        if may_sow(state):

            def traced(
                params: Params, state: State, key: jax.Array, inputs: tuple[PyTree, ...]
            ) -> State:
                return run((), params, state, key, inputs, train)[1]

            # A lambda that is new each time is part of the key of JAX's
            # caches, so that no `jit` within the module has run with it and
            # is passed over.
            with intercepting(sown=lambda path: found.add(path)):
                jax.eval_shape(traced, params, state, key, inputs)
        return frozenset(found)

    def init(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        params, state = first(key, *inputs)
        paths = sown(params, state, key, inputs, True)
        kept = remove(state, paths)
        # The structure after a call is that of every state from then on:
        # what a step carries may not change its structure.
        added = keep(after(paths, params, state, key, inputs), kept, inside=False)
        if new := remove(added, paths):
            check(new, partial(run, paths), params, state, key, inputs)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), added)
        return params, overlay(zeros, kept)

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        key = jax.random.key(0) if key is None else key
        without = sown(params, state, key, inputs, train)
        return run(without, params, state, key, inputs, train)

    return init, apply
