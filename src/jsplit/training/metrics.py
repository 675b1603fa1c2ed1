"""Metrics of a whole set: what they read is gathered batch by batch, then each is computed once.

They are computed on the host, from NumPy arrays, so no program is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jsplit.core.base import PyTree
from jsplit.core.trees import abstract, describe
from jsplit.topology.graph import Topology
from jsplit.topology.metrics import Metric
from jsplit.training.kinds import Kind
from jsplit.training.walk import Name

Number = float | int | bool
"""What a metric is."""


class MetricFailed(ValueError):
    """The function of a metric did not run on the examples that it was given."""


class Rows(NamedTuple):
    """What metrics read of one batch.

    Attributes:
        values: by the place in a store, the values of nodes, [batch, ...].
        fields: by name, as they were given, [batch, ...].
        weight: how much each example counts, [batch], or each of its entries.
    """

    values: Mapping[Name, PyTree]
    fields: Mapping[str, PyTree]
    weight: np.ndarray


def observed_names(topology: Topology) -> tuple[Name, ...]:
    """Where the values of nodes lie that metrics read, each at the metric's party."""
    # By party: what came over a lossy link is another value than the sender has.
    places = {
        Name(metric.party, Kind.VALUE, i): None
        for metric in topology.metrics
        for i in metric.reads
        if i in topology.node
    }
    return tuple(places)


def rows_of(
    topology: Topology,
    values: Mapping[Name, PyTree],
    fields: Mapping[str, PyTree],
    weight: ArrayLike | None,
    size: int,
) -> Rows:
    """What metrics read of one batch, on the host.

    Args:
        topology: whose metrics.
        values: by place, the values of nodes that were computed.
        fields: of the batch.
        weight: how much each example counts; `None`: all alike.
        size: how many examples there are.

    Raises:
        ValueError: if it is traced, so that there are no numbers.
    """
    read = {i for metric in topology.metrics for i in metric.reads}
    given = {f: x for f, x in fields.items() if f in read}
    refuse_traced(topology, (dict(values), given, weight))
    # Off the device at once: what is read of a whole set may not fit there.
    computed, held = jax.tree.map(np.asarray, (dict(values), given))
    counts = np.ones(size, np.float32) if weight is None else np.asarray(weight)
    return Rows(computed, held, counts)


def refuse_traced(topology: Topology, read: PyTree) -> None:
    """Refuse to compute metrics within a program, where there are no numbers yet."""
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(read)):
        raise ValueError(
            f"metric `{topology.metrics[0].name}` is computed on the host, from the "
            "numbers of a whole set: `evaluate` of a topology with a Metric cannot be "
            "traced (jax.jit, vmap, scan, grad); call it outside, or trace that of a "
            "topology without."
        )


def compute_metrics(
    topology: Topology, metrics: Sequence[Metric], batches: Sequence[Rows]
) -> dict[str, Number]:
    """Every metric over all examples of all batches.

    Args:
        topology: which names are nodes.
        metrics: those that are computed here.
        batches: of the set, in order.

    Returns:
        By name, Python's own numbers.

    Raises:
        ValueError: if no example counts, examples count differently and `fn`
            takes no weights, an input has no row for each example, or `fn` does
            not run or gives no number.
    """
    return {x.name: _compute(topology, x, batches) for x in metrics}


def _compute(topology: Topology, metric: Metric, batches: Sequence[Rows]) -> Number:
    weights = [rows.weight for rows in batches]
    where = f"metric `{metric.name}` at `{metric.party}`"
    # An example of which any entry counts is read whole.
    kept = [(w > 0).reshape(len(w), -1).any(1) for w in weights]
    if not any(map(np.any, kept)):
        raise ValueError(f"{where}: no example counts, so there is nothing to measure.")
    parts = [w[keep] for w, keep in zip(weights, kept, strict=True)]
    weight = _together(where, "weight", parts)
    if not metric.weighted and (weight != weight.flat[0]).any():
        axes = "examples" if weight.ndim == 1 else "examples, ..."
        raise ValueError(
            f"{where}: {'examples' if weight.ndim == 1 else 'their entries'} have "
            "different weights, which `fn` does not take; give "
            f"it an argument `weight`, [{axes}], and say `weighted=True`."
        )

    inputs = []
    for i in metric.reads:
        place = Name(metric.party, Kind.VALUE, i) if i in topology.node else None
        parts = []
        for rows, keep in zip(batches, kept, strict=True):
            value = rows.fields[i] if place is None else rows.values[place]
            _check_rows(where, i, value, len(rows.weight))
            parts.append(jax.tree.map(lambda x, keep=keep: _wide(x)[keep], value))
        inputs.append(jax.tree.map(lambda *x, i=i: _together(where, i, x), *parts))

    extra = {"weight": weight} if metric.weighted else {}
    try:
        found = metric.fn(*inputs, **extra)
    except Exception as error:
        named = zip(metric.reads, inputs, strict=True)
        got = ", ".join(f"`{i}` {describe(abstract(x))}" for i, x in named)
        # Neither its words nor its cause: what runs on records may quote them.
        raise MetricFailed(
            f"{where} does not run on {got}: {type(error).__name__} {_place_of(error)}."
        ) from None
    return _number(where, found)


def _together(where: str, name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of several batches as one, if they differ in nothing but their batches."""
    if len({x.shape[1:] for x in parts}) > 1:
        found = " and ".join(sorted({describe(x) for x in parts}))
        raise ValueError(
            f"{where} is of all examples at once, and `{name}` is {found} in different "
            "batches; fill them up to one size, with entries of weight 0."
        )
    return np.concatenate(parts)


def _place_of(error: Exception) -> str:
    """Where an error was raised, without what it says."""
    frame = extract_tb(error.__traceback__)[-1]
    return f"in `{frame.name}`, line {frame.lineno} of {Path(frame.filename).name}"


def _check_rows(where: str, name: str, value: PyTree, size: int) -> None:
    """Refuse what cannot be put together along the batch axis."""
    if any(x.shape[:1] != (size,) for x in jax.tree.leaves(value)):
        raise ValueError(
            f"{where} reads `{name}`, which must have one row for each of the {size} "
            f"examples of a batch, got {describe(value)}."
        )


def _wide(x: np.ndarray) -> np.ndarray:
    """An array of less than 32 bits floating as float32, as losses get it."""
    # NumPy has no bfloat16 of its own, and host code takes float16 for an oddity.
    narrow = x.dtype.itemsize < 4 and jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(np.float32) if narrow else x


def _number(where: str, found: object) -> Number:
    """What a metric gave, as a number of Python's own."""
    if isinstance(found, (jax.Array, np.ndarray, np.generic)) and not found.shape:
        x = np.asarray(found)
        # `bfloat16`, a type of ml_dtypes, is of the kind "V" to NumPy.
        found = _wide(x).item() if x.dtype.kind in "biufV" else found
    if not isinstance(found, (bool, int, float)):
        shaped = isinstance(found, (jax.Array, np.ndarray, np.generic))
        got = describe(abstract(found)) if shaped else type(found).__name__
        raise ValueError(
            f"{where}: `fn` must return a float, an integer or a boolean, got {got}."
        )
    return found
