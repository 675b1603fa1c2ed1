"""The value of a loss: what its function gives for the examples of a batch, as one number.

A mean, each example as often as its weight says; or with `per` a sum, divided by a
constant. A function that takes the weights gives one number of weighted examples itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line
from jsplit.core.trees import abstract, batch_of, describe
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss
from jsplit.training.config import Config
from jsplit.training.left_out import (
    Weights,
    by_example,
    spread,
    without_nonfinite,
    zeros_for_left_out,
)


def of_examples(topology: Topology, loss: Loss) -> bool:
    """Whether a loss is of examples; a penalty on parameters or states alone is not."""
    return any(i in topology.node or i in topology.fields for i in loss.reads)


def check_normalisers(topology: Topology) -> None:
    """Refuse a sum over examples of a loss that has none.

    Raises:
        ValueError: naming the loss.
    """
    for x in topology.losses:
        if x.per is not None and not of_examples(topology, x):
            raise ValueError(
                f"loss `{x.name}`: `per` is of a sum over examples, and it reads "
                f"parameters or states alone, {', '.join(x.reads)}."
            )


def loss_function(loss: Loss, weight: PyTree = None) -> Callable[..., jax.Array]:
    """The function of a loss, of its inputs alone.

    Args:
        loss: whose function.
        weight: of the examples, [batch] of mean 1, or its shape; `None`: all
            count alike.
    """
    return partial(loss.fn, weight=weight) if loss.takes_weight else loss.fn


def value_of(
    config: Config,
    loss: Loss,
    inputs: Sequence[PyTree],
    weight: Weights | None,
    *,
    train: bool,
) -> jax.Array:
    """The value of a loss, [].

    Args:
        config: of the training.
        loss: which.
        inputs: what it reads.
        weight: of the examples of the batch or micro-batch.
        train: whether it is minimised here: only then is `per` what divides.
    """
    # A penalty on parameters has no examples that could count.
    counted = of_examples(config.topology, loss)
    normal, given = weight if weight is not None and counted else (None, None)
    # What `evaluate` gives is of examples, however many a batch had.
    per = loss.per if train else None
    if loss.takes_weight:
        # Who takes weights takes those of examples, whoever has given them finer.
        normal = None if normal is None else by_example(normal)
        result, share = _weighted(loss, inputs, normal)
        if share is None or given is None:
            size = _size(config.topology, loss, inputs)
            return result if per is None else result * (size * _parts(config) / per)
        factor = share if per is None else jnp.sum(given) * _parts(config) / per
        # In a micro-batch in which nothing counts it may be anything.
        return jnp.where(share > 0, result * factor.astype(result.dtype), 0)

    if normal is not None and normal.ndim > 1:
        inputs = _fields_without_nonfinite(config.topology, loss, inputs, normal)
    result = _checked(loss, loss.fn, inputs)
    if loss.per is not None and not result.ndim:
        raise ValueError(
            f"loss `{loss.name}`: with `per` its examples are summed up, so `fn` must "
            "return one number for each, or take `weight`, got "
            f"{describe(abstract(result))}."
        )
    if normal is not None:
        if given is not None and normal.ndim > 1 and normal.size == len(normal):
            # Of one entry each, as what the function gives was.
            normal, given = normal.reshape(-1), given.reshape(-1)
        if result.shape[: normal.ndim] != normal.shape:
            sizes = ",".join(map(str, normal.shape))
            ways = ", or take `weight`, got" if normal.ndim == 1 else ", got"
            whose = "examples" if normal.ndim == 1 else "entries of examples"
            raise ValueError(
                f"loss `{loss.name}`: {whose} have weights, so `fn` must return one "
                f"number for each, [{sizes}]{ways} {describe(abstract(result))}."
            )
        result = zeros_for_left_out(normal, result)
    counts = normal if per is None else given
    if counts is not None:
        result = result * spread(counts, result).astype(result.dtype)
    return jnp.mean(result) if per is None else jnp.sum(result) * _parts(config) / per


def _fields_without_nonfinite(
    topology: Topology, loss: Loss, inputs: Sequence[PyTree], normal: jax.Array
) -> list[PyTree]:
    """What a loss reads, its fields without NaN where an entry counts for nothing."""
    # Of fields alone: what a segment gives there is its own matter.
    return [
        without_nonfinite(normal, x) if i in topology.fields else x
        for i, x in zip(loss.reads, inputs, strict=True)
    ]


def _parts(config: Config) -> int:
    """By what a sum over a micro-batch is multiplied: of all of them the mean is taken."""
    return config.microbatches


def _size(topology: Topology, loss: Loss, inputs: Sequence[PyTree]) -> int:
    """How many examples a batch or micro-batch has."""
    for i, x in zip(loss.reads, inputs, strict=True):
        if i in topology.node or i in topology.fields:
            return batch_of({i: x})
    return 1


def _weighted(
    loss: Loss, inputs: Sequence[PyTree], normal: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """The one number of a function that takes weights, and the mean of the weights."""
    share = None
    if normal is not None:
        share = jnp.mean(normal)
        # Of this micro-batch mean 1 again. Where nothing counts all do, so that no
        # function divides by 0: the value is not used, and 0 times NaN would be.
        normal = jnp.where(share > 0, normal / jnp.where(share > 0, share, 1), 1)
    result = _checked(loss, loss_function(loss, normal), inputs)
    if result.ndim:
        # Weights of jsplit over those that the function has multiplied by would be
        # squares, and nobody would be told.
        raise ValueError(
            f"loss `{loss.name}`: `fn` takes `weight`, so it must weight the examples "
            f"itself and return one number, got {describe(abstract(result))}. A "
            "function that returns one for each needs no parameter of that name."
        )
    return result, share


def _checked(
    loss: Loss, fn: Callable[..., jax.Array], inputs: Sequence[PyTree]
) -> jax.Array:
    """What the function of a loss returns, checked: one number, one for each example or entry.

    Entries are what all inputs have beyond the batch, as time steps.
    """

    def got(joined: str) -> str:
        shapes = [describe(abstract(x)) for x in inputs]
        return joined.join(
            f"`{i}` {shape}" for i, shape in zip(loss.reads, shapes, strict=True)
        )

    try:
        result = fn(*jax.tree.map(_wide, inputs))
    except Exception as error:
        raise ValueError(
            f"loss `{loss.name}` at `{loss.party}` does not run on {got(', ')}: "
            f"{first_line(error)}"
        ) from error
    if not hasattr(result, "dtype") or not jnp.issubdtype(result.dtype, jnp.floating):
        array = hasattr(result, "dtype")
        kind = jax.typeof(result).str_short() if array else type(result).__name__
        raise ValueError(
            f"loss `{loss.name}`: `fn` must return a floating array, got {kind}."
        )

    # [batch, 1] is one number for each example, as a last layer of
    # width 1 gives it.
    if result.ndim > 1 and result.size == len(result):
        result = result.reshape(-1)
    sizes = {x.shape[0] for x in jax.tree.leaves(inputs) if x.ndim}
    if result.ndim and not (len(result) in sizes and _has_axes(inputs, result)):
        raise ValueError(
            f"loss `{loss.name}`: `fn` must return a number, or one for each example, got "
            f"{describe(abstract(result))} from {got(' and ')}. One for each entry of an "
            "example, as a token, is for a loss all of whose inputs have that axis."
        )
    return result


def _has_axes(inputs: Sequence[PyTree], result: jax.Array) -> bool:
    """Whether all that a loss reads of a batch has as many axes as what it gives."""
    # Predictions [batch, 1] and labels [batch] broadcast to [batch, batch], and classes
    # are no entries of which each has a loss: neither is meant by a mean over all.
    of_batch = [
        x.ndim for x in jax.tree.leaves(inputs) if x.shape[:1] == result.shape[:1]
    ]
    return min(of_batch, default=0) >= result.ndim


def _wide(x: jax.Array) -> jax.Array:
    """An array of less than 32 bits floating as float32."""
    # The log of a sum of exponentials, and the mean over a batch, lose
    # too much in 16 bits.
    floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return x.astype(jnp.float32) if floating and x.dtype.itemsize < 4 else x
