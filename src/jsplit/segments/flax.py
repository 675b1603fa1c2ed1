"""Flax modules as pure functions: where parameters, statistics and random streams live in nnx and in linen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import DenyList, unfreeze

from jsplit.core.base import Params, PyTree, State
from jsplit.core.paths import Path, keep, overlay, remove
from jsplit.segments.call import Call, Parts
from jsplit.segments.interception import watched, watching


def from_nnx(module: nnx.Module, call: Call) -> Parts:
    module = nnx.merge(
        *nnx.split(module)
    )  # shares arrays, not variables: the caller's module stays as it is
    module = nnx.with_vars(module, ref=False, hijax=False)
    nnx.pop(module, nnx.Intermediate)
    graph, params, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
    first = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
    known = jax.tree.map(
        lambda x: None, first[1]
    )  # `apply` holds the structure, not the values
    shapes = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), s)
        for s in (params, streams, state)
    ]
    tags = sorted(
        {
            stream.tag
            for _, stream in nnx.iter_graph(module)
            if isinstance(stream, nnx.RngStream)
        }
    )
    may_sow = bool(
        nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.BatchStat)))
    )

    def run(
        without: Collection[Path],
        params: Params,
        state: State,
        key: jax.Array,
        inputs: tuple,
        train: bool,
    ):
        model = nnx.merge(graph, *shapes, copy=True)
        nnx.pop(model, lambda path, _: path in without)
        nnx.update(model, params)
        nnx.update(model, keep(remove(state, without), known, inside=True))
        reseed: dict[str, Any] = {
            tag: key if i == 0 else jax.random.fold_in(key, i)
            for i, tag in enumerate(tags)
        }
        nnx.reseed(model, policy="match_shape", **reseed)
        model.train() if train else model.eval()
        with watched(model):
            output = call(model, (), inputs, train)
        return output, nnx.to_pure_dict(
            nnx.state(
                model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))
            )
        )

    return _sow_anew(run, lambda key, *inputs: first, lambda state: may_sow)


def from_linen(
    module: linen.Module, call: Call, variables: Mapping[str, PyTree] | None
) -> Parts:
    fixed = ("params", "intermediates")

    @jax.jit
    def fresh(key: jax.Array, *inputs: PyTree) -> Mapping[str, PyTree]:
        return call(module.init, (key,), inputs, train=True)

    def first(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        given = fresh(key, *inputs) if variables is None else unfreeze(variables)  # type: ignore[arg-type]
        return given.get("params", {}), {
            k: v for k, v in given.items() if k not in fixed
        }

    def run(
        without: Collection[Path],
        params: Params,
        state: State,
        key: jax.Array,
        inputs: tuple,
        train: bool,
    ):
        named = {"rngs": key, "mutable": DenyList(fixed)}
        output, new = call(
            module.apply,
            ({"params": params, **remove(state, without)},),
            inputs,
            train,
            **named,
        )
        return output, {**state, **new}

    return _sow_anew(
        run,
        first,
        lambda state: bool(set(state) - {"batch_stats"}),
        given=variables is not None,
    )


def _sow_anew(
    run: Callable,
    first: Callable[..., tuple[Params, State]],
    may_sow: Callable[[State], bool],
    given: bool = False,
) -> Parts:
    """`init` and `apply` of a module from `run(without, params, state, key, inputs, train)`, which does without some of the
    state: all that this call will sow, for `sow` to find nothing to add to. At the start, it is zero. A state that was `given`
    must have all else.
    """

    def sown(
        params: Params, state: State, key: jax.Array, inputs: tuple, train: bool
    ) -> frozenset[Path]:
        found: set[Path] = set()
        if may_sow(state):
            with watching(
                sown=lambda path: found.add(path)
            ):  # a new function each time, so that no `jit` has run with it
                jax.eval_shape(
                    lambda *a: run((), *a, train)[1], params, state, key, inputs
                )
        return frozenset(found)

    def init(key: jax.Array, *inputs: PyTree) -> tuple[Params, State]:
        params, state = first(key, *inputs)
        after = jax.eval_shape(lambda *a: apply(*a)[1], params, state, key, *inputs)
        paths = sown(params, state, key, inputs, True)
        kept = remove(state, paths)
        added = keep(after, kept, inside=False)
        if given and (lacking := remove(added, paths)):
            raise ValueError(
                f"the module keeps `{next(iter(lacking))}`, which `variables` lack; give all that `init` returns."
            )
        return params, overlay(
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), added), kept
        )

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        *inputs: PyTree,
        train: bool = True,
    ):
        key = jax.random.key(0) if key is None else key
        return run(
            sown(params, state, key, inputs, train), params, state, key, inputs, train
        )

    return init, apply
