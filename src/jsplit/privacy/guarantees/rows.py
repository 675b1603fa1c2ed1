"""Which segments and losses may mix the records of a batch: followed, and tried out.

Noise on a record's own vector hides that record only if no other vector of the batch
depends on it. BatchNorm in training, and a distance correlation, make others depend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.loans import params_for
from jsplit.core.trees import as_arrays, batch_of
from jsplit.privacy.guarantees.programs import cotangents, of_loss, of_segment, of_size
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss

_TRIED = 8
"""So many records at most take the place of the first, one after another."""

Values = dict[str, PyTree]


_SEEN = "mixes the records of a batch"
_NOT_SHOWN = "is not shown to keep the records of a batch apart"


def sizes(batch: int | None) -> tuple[int, ...]:
    """Of how many records the programs are that are followed.

    Args:
        batch: that of the training, if it is known.
    """
    # A prime: a program that folds a batch in two or three does not fit it.
    found = {7, *([batch] if batch is not None and batch > 1 else [])}
    return tuple(sorted(found))


def mixing(
    topology: Topology, fields: Mapping[str, PyTree], batch: int | None = None
) -> dict[str, str]:
    """The nodes and losses that are not shown to compute each record's results from it.

    Their programs are followed, equation by equation, for parameters and records
    whatever they are: what a node gives in training and in inference, its statistics,
    what it pulls back, and the cotangents that a loss gives. An experiment is a second
    look: another record takes the place of the first, and nothing else may change.

    Args:
        topology: of which nodes and losses are followed.
        fields: a batch, [batch, ...] each, of records that differ.
        batch: of how many records they are in training.

    Returns:
        By the name of the node or loss, what is said of it.

    Raises:
        ValueError: if a field is missing, the batch has less than two records, or a
            field of it is the same for all of them: then nothing could be seen.
    """
    trained = [x for x in topology.losses if x.weight]
    for part in (*topology.segments, *trained):
        for i in part.reads:
            if i in topology.fields and i not in fields:
                raise ValueError(f"`fields` lacks `{i}`, which `{part.name}` reads.")
    given = as_arrays(fields, "`fields`: `{}`")
    # As in a step: code may call what only JAX's arrays have.
    values: Values = {f: jax.tree.map(jnp.asarray, x) for f, x in given.items()}
    size = batch_of(values)
    if size < 2:
        raise ValueError(f"`fields` must have at least 2 records, got {size}.")
    order = _telling_first(values, size)
    values = {f: jax.tree.map(lambda x: x[order], v) for f, v in values.items()}
    followed = [
        {f: of_size(values[f], records) for f in values} for records in sizes(batch)
    ]
    found: dict[str, str] = {}
    first: dict[str, PyTree] = {}
    for n in topology.segments:
        # The same key for all: two runs differ by the record alone, not by dropout.
        key = jax.random.key(0)
        inputs = [values[i] for i in n.reads]
        first[n.name], state = n.segment.init(key, *inputs)
        params = params_for(topology.loans, n.name, first)
        run = _run_of(n.segment.apply, params, state, key)
        values[n.name], after = run(*inputs)
        values |= {f"{n.name}.params": first[n.name], f"{n.name}.state": after}
        doubts = [of_segment(topology, n, params, state, at) for at in followed]
        _say(found, n.name, _mixes(run, inputs, size), doubts)
    batched = {*topology.node, *topology.fields}
    for loss in trained:
        own = [i for i in loss.reads if i in topology.node]
        if own:
            run, inputs = _cotangents_of(loss, own, batched, values)
            rest = {i: values[i] for i in loss.reads if i not in batched}
            doubts = [of_loss(loss, own, rest, at) for at in followed]
            _say(found, loss.name, _mixes(run, inputs, size), doubts)
    return found


def _telling_first(values: Values, size: int) -> np.ndarray:
    """The records in an order in which one of the first differs from the first in each field."""
    first = [0]
    for name, x in values.items():
        different = np.zeros(size, bool)
        for leaf in jax.tree.leaves(x):
            keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            rows = np.asarray(jax.random.key_data(leaf) if keys else leaf)
            rows = rows.reshape(size, rows[0].size)
            # NaN in the same places is no difference.
            same = (rows == rows[0]) | ((rows != rows) & (rows[0] != rows[0]))
            different |= ~same.all(1)
        if not different.any():
            raise ValueError(
                f"`fields`: records must differ in `{name}`, to see whether they are "
                "mixed; give a batch in which not all have the same."
            )
        if not different[first].any():
            first.append(int(np.argmax(different)))
    return np.array([*first, *np.delete(np.arange(size), first)])


def _say(
    found: dict[str, str], name: str, mixes: bool, doubts: Sequence[str | None]
) -> None:
    doubt = next((d for d in doubts if d is not None), None)
    if mixes or doubt is not None:
        found[name] = _SEEN if mixes else f"{_NOT_SHOWN}: {doubt}"


def _run_of(
    apply: Callable[..., tuple[PyTree, PyTree]],
    params: PyTree,
    state: PyTree,
    key: jax.Array,
) -> Callable[..., tuple[PyTree, PyTree]]:
    return lambda *inputs: apply(params, state, key, *inputs, train=True)


def _cotangents_of(
    loss: Loss, own: Sequence[str], batched: Collection[str], values: Values
) -> tuple[Callable[..., tuple[PyTree, PyTree]], list[PyTree]]:
    """What gives a loss's cotangents of values, and the inputs that are of records."""
    # Not what it reads of parameters or statistics.
    of_records = [i for i in dict.fromkeys(loss.reads) if i in batched]

    def run(*inputs: PyTree) -> tuple[PyTree, PyTree]:
        named = values | dict(zip(of_records, inputs, strict=True))
        return cotangents(loss, own, named), ()

    return run, [values[i] for i in of_records]


def _mixes(
    run: Callable[..., tuple[PyTree, PyTree]], inputs: Sequence[PyTree], size: int
) -> bool:
    """Whether other rows, or what is of no row, change with the first record."""
    value, rest = run(*inputs)
    if any(x.shape[:1] != (size,) for x in jax.tree.leaves(value)):
        return True
    others = jax.tree.map(lambda x: x[1:], value)
    for i in range(1, min(size, _TRIED)):
        changed, rest_changed = run(*[_swapped(x, i) for x in inputs])
        # Bits, not nearly: rows that are computed alike from the same are the same.
        if not _equal(jax.tree.map(lambda x: x[1:], changed), others):
            return True
        if not _equal(rest_changed, rest):
            return True
    return False


def _swapped(value: PyTree, i: int) -> PyTree:
    """A value in which the first record is the one at `i`."""
    return jax.tree.map(lambda x: jnp.asarray(x).at[0].set(x[i]), value)


def _equal(a: PyTree, b: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(_bits_equal(x, y) for x, y in pairs)


def _bits_equal(x: jax.Array, y: jax.Array) -> bool:
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    one, other = np.asarray(x), np.asarray(y)
    # NaN in the same places is no change.
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
