"""`evaluate` of one batch or of a set of them: losses are means of examples, metrics of all.

An interpreter gives what measures one batch; here batches become a set.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import Fields, Info, Message, PyTree, TrainState
from jsplit.core.finite import together
from jsplit.core.secret_keys import numbered, words_of_call
from jsplit.core.trainer import EvaluateFn
from jsplit.core.trees import abstract, as_arrays, batch_of
from jsplit.core.typed_jax import is_traced
from jsplit.topology.graph import Topology
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node
from jsplit.training.config import Config
from jsplit.training.left_out import Weight, array_of, as_checked
from jsplit.training.loss_value import of_examples
from jsplit.training.losses import info_of
from jsplit.training.metrics import Rows, compute_metrics, rows_of
from jsplit.training.signatures import documented_as
from jsplit.training.strengths import in_state
from jsplit.training.walk import Name

Measure = Callable[
    [TrainState, Fields, Weight | None, PyTree], tuple[Info, Mapping[Name, PyTree]]
]
"""`measure(state, batch, weight, noise) -> (info, values)`: the losses of one batch, and by
place the values that metrics read; `noise` are the words of `words_of_call`."""


class ScalarLosses:
    """The losses of weight 0 that give one number for a batch, found as they are traced.

    Over several batches such a number becomes a mean of batches, each by its
    examples. That is right for a mean, and wrong for an AUC or a rank. And the losses
    that give one for each entry, which are no means of examples.
    """

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.by_entry: set[str] = set()
        self._told: set[str] = set()

    def watch(self, config: Config) -> Config:
        """The same training, whose losses of examples note what they give."""
        topology = config.topology
        nodes = [self._watched(topology, n) for n in topology.nodes]
        return config._replace(topology=replace(topology, nodes=nodes))

    def _watched(
        self, topology: Topology, node: Node | Loss | Metric
    ) -> Node | Loss | Metric:
        if not isinstance(node, Loss):
            return node
        # One on parameters alone is of no examples, and the same in every batch.
        if not of_examples(topology, node):
            return node

        # Wrapped, so that it takes weights where the other does.
        @wraps(node.fn)
        def fn(*inputs: PyTree, **weight: jax.Array | None) -> jax.Array:
            result = node.fn(*inputs, **weight)
            if jnp.ndim(result) == 0 and not node.weight:
                self.found.add(node.name)
            # [batch, 1] is one for each example.
            if jnp.ndim(result) > 1 and result.size > len(result):
                self.by_entry.add(node.name)
            return result

        return replace(node, fn=fn)

    def check_sizes(self, shapes: Collection[Hashable], fine: bool) -> None:
        """Refuse means over entries of batches of which some have more entries.

        Args:
            shapes: of all batches, beyond the batch axis.
            fine: whether weights have said of each entry how much it counts.

        Raises:
            ValueError: naming the loss.
        """
        if self.by_entry and not fine and len(shapes) > 1:
            raise ValueError(
                f"loss `{min(self.by_entry)}` is of each entry of an example, as a token, "
                "and batches have more and fewer of them: give pairs (batch, weight) that "
                "say how much each entry counts, [batch, ...], ones if all count alike."
            )

    def warn(self, batches: int, level: int) -> None:
        """Say once of each by name what it is over several batches.

        Args:
            batches: how many there were.
            level: how many calls up the line is that the warning names: whoever
                called `evaluate`.
        """
        if batches < 2:
            return
        for name in sorted(self.found - self._told):
            self._told.add(name)
            warnings.warn(
                f"loss `{name}` of weight 0 gives one number for a batch, so over "
                "several batches it is the mean of theirs, each by its examples. What "
                "is no such mean, as an AUC, is a jsplit.Metric; what is one can "
                "return a number for each example.",
                stacklevel=level,
            )


def evaluator(
    topology: Topology,
    measure: Measure,
    scalars: ScalarLosses,
    drawing: tuple[str, ...] = (),
) -> EvaluateFn:
    """`evaluate` of a trainer, from what measures one batch.

    Args:
        topology: whose losses and metrics are measured.
        measure: checks a batch and measures it.
        scalars: the losses that it watches.
        drawing: the parties that draw secret noise in inference.
    """

    def one(
        state: TrainState, batch: Fields, weight: Weight | None, noise: PyTree
    ) -> tuple[Info, Sequence[Rows]]:
        batch, weight = as_arrays(batch), as_checked(weight, batch)
        info, values = measure(state, batch, weight, noise)
        if not topology.metrics:
            return info, []
        counts = None if weight is None else array_of(weight)
        return info, [rows_of(topology, values, batch, counts, batch_of(batch))]

    @documented_as(EvaluateFn)
    def evaluate(
        state: TrainState,
        batch: Fields | Iterable[Fields | tuple[Fields, ArrayLike]],
        weight: ArrayLike | None = None,
        *,
        noise: jax.Array | None = None,
    ) -> Info:
        if isinstance(batch, Mapping) or not isinstance(batch, Iterable):
            words = words_of_call(noise, drawing, state, batch)
            # What is neither is refused there, by name.
            info, rows = one(state, cast(Fields, batch), weight, words)
            if weight is not None:
                check_counts([_total(weight)])
        else:
            if weight is not None:
                raise ValueError(
                    "`weight` is of one batch; of a set give pairs (batch, weight)."
                )
            words = words_of_call(noise, drawing, state)
            info, rows = _of_set(topology, one, state, batch, scalars, words)
        if not topology.metrics:
            return info
        found = compute_metrics(topology, topology.metrics, rows)
        return info._replace(metrics=found)

    return evaluate


_One = Callable[
    [TrainState, Fields, ArrayLike | None, PyTree], tuple[Info, Sequence[Rows]]
]


def _of_set(
    topology: Topology,
    one: _One,
    state: TrainState,
    batches: Iterable[Fields | tuple[Fields, ArrayLike]],
    scalars: ScalarLosses,
    noise: PyTree,
) -> tuple[Info, Sequence[Rows]]:
    """The losses over all batches of a set, and what metrics read of each."""
    infos: list[Info] = []
    rows: list[Rows] = []
    counts: list[ArrayLike] = []
    messages: list[Message] = []
    shapes: set[Hashable] = set()
    fine = True
    for item in batches:
        pair = isinstance(item, tuple) and len(item) == 2
        given = item if pair else (item, None)
        fields, weight = cast(tuple[Fields, ArrayLike | None], given)
        weight = as_checked(weight, fields)
        # Two batches of one call draw apart, as two calls do.
        words = numbered(noise, len(infos))
        info, of_batch = one(state, fields, weight, words)
        infos.append(info)
        rows += of_batch
        messages += info.messages
        counts.append(batch_of(fields) if weight is None else _total(weight))
        fine = fine and weight is not None and jnp.ndim(weight) > 1
        sizes = [(n, x.shape[1:]) for n, x in _paths(fields)]
        shapes.add(tuple(sorted(sizes)))
    if not infos:
        raise ValueError("`batch` holds no batch: there is nothing to evaluate.")
    scalars.check_sizes(shapes, fine)
    scalars.warn(len(infos), 4)
    losses = means_of_set(topology, [info.losses for info in infos], counts)
    finite = together([info.finite for info in infos])
    info = info_of(topology, losses, in_state(topology, state))
    return info._replace(messages=tuple(messages), finite=finite), rows


def _paths(fields: Fields) -> list[tuple[str, PyTree]]:
    """The arrays of a batch, each with what it is called."""
    found, _ = jax.tree.flatten_with_path(abstract(dict(as_arrays(fields))))
    return [(jax.tree_util.keystr(path), x) for path, x in found]


def means_of_set(
    topology: Topology,
    of_batches: Sequence[Mapping[str, ArrayLike]],
    counts: Sequence[ArrayLike],
) -> dict[str, jax.Array]:
    """The losses over all batches of a set, in one process as at each party of a network.

    Args:
        topology: whose losses they are.
        of_batches: by batch, those losses that are known here, by name.
        counts: by batch, how many examples it is of.

    Raises:
        ValueError: if no example counts.
    """
    check_counts(counts)
    found = {}
    for x in topology.losses:
        if x.name in of_batches[0]:
            terms = [jnp.asarray(losses[x.name]) for losses in of_batches]
            # A penalty is the same whatever counts.
            mean = _mean if of_examples(topology, x) else _plain_mean
            found[x.name] = mean(terms, counts)
    return found


def _plain_mean(terms: Sequence[jax.Array], _: object) -> jax.Array:
    return jnp.stack(terms).mean()


def _mean(terms: Sequence[jax.Array], counts: Sequence[ArrayLike]) -> jax.Array:
    """The mean of batches' means, each by how many examples it is of."""
    values = jnp.stack(terms)
    # NumPy's, in 64 bits, unless within a program of the user's.
    np_or_jnp = jnp if any(map(is_traced, counts)) else np
    counted = np_or_jnp.stack([np_or_jnp.asarray(n, float) for n in counts])
    whole = counted.sum()
    share = jnp.asarray(counted / np_or_jnp.where(whole > 0, whole, 1), values.dtype)
    # A batch in which nothing counts may have any loss, NaN too.
    return jnp.where(share > 0, values * share, 0).sum()


def check_counts(counts: Sequence[ArrayLike]) -> None:
    """Refuse an evaluation in which no example counts: its loss would be 0, as a perfect one.

    Raises:
        ValueError: if all of `counts`, by batch, are 0.
    """
    # Within a program of the user's nothing can be raised.
    if not any(map(is_traced, counts)) and not any(np.any(n) for n in counts):
        raise ValueError("no example counts: `weight` is 0 for all that is evaluated.")


def _total(weight: ArrayLike) -> ArrayLike:
    """How much all examples of a batch count together."""
    checked = array_of(cast(Weight, as_checked(weight)))
    # Many ones in half precision are infinite together.
    if is_traced(checked):
        return jnp.sum(jnp.asarray(checked, jnp.result_type(float)))
    return np.sum(np.asarray(checked, np.float64))
