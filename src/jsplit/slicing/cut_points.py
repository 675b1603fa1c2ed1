"""Every place where a model can be cut in two, with what it costs the one who has the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jsplit.core.base import PyTree
from jsplit.core.trees import nbytes
from jsplit.jaxprs.flat import backward_slice, shape_of
from jsplit.jaxprs.macs import count
from jsplit.segments.segment import segment
from jsplit.slicing.ownership import divide
from jsplit.slicing.separators import separating
from jsplit.slicing.traced_model import LEAF, TracedModel, Value, initial


class CutPoint(NamedTuple):
    """A place where one value separates the model's input from its output.

    Attributes:
        name: what `split(..., cuts=[...])` takes; a submodule's path where one returns the value.
        shape, dtype: of the value, for one example (without the batch axis).
        params: number of parameters on the input's side.
        param_bytes: their size in bytes.
        bytes_per_example: size of the value, for one example.
        forward_macs, backward_macs: multiply-accumulates on the input's side for one example (at the batch size of the
            example given), forward and back to all its parameters; see `jsplit.jaxprs.macs`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    params: int
    param_bytes: int
    bytes_per_example: int
    forward_macs: float
    backward_macs: float

    @property
    def flops(self) -> float:
        """FLOPs of a training step on the input's side for one example, two for each multiply-accumulate."""
        return 2 * (self.forward_macs + self.backward_macs)


def cut_points(
    model: Any,
    *example: PyTree,
    outputs: Sequence[str] | None = None,
    shared_inputs: Sequence[str] = (),
    **options,
) -> list[CutPoint]:
    """Every place where one value separates input from output, from the input on.

    A place counts if `split` takes a cut there: no weight, statistic or input is read on both sides, something is computed
    before it and after it, and its leading axis is the batch, in training and in inference mode. A place that has several
    names is listed by the outermost.

    Args:
        model: as for `split`.
        example: the model's inputs, arrays or `jax.ShapeDtypeStruct`, each [batch, ...].
        outputs, shared_inputs: as for `split`.
        options: as for `segment`.
    """
    made = segment(model, **options)
    whole = TracedModel(
        made, initial(made, example), example, {}, outputs, shared_inputs
    )
    traces = whole.both()
    train, infer = (separating(t.flat, *t.ends(whole.shared)) for t in traces)
    last = {p.origin: name for name, p in train.items()}
    families = [Counter(p.family for p in points.values()) for points in (train, infer)]
    found = []
    for name, point in train.items():
        if (
            name not in last.values()
            or name not in infer
            or families[0][point.family] != families[1][point.family]
        ):
            continue  # a name must mean the same place in both modes
        pair = (point.variable, infer[name].variable)
        try:
            parts = divide(
                whole,
                [
                    t._replace(cuts={name: Value(LEAF, [v])})
                    for t, v in zip(traces, pair, strict=True)
                ],
            )
        except ValueError:
            continue
        params = [whole.params.shapes[i] for i in parts[name].params]
        one, same = (
            jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in map(shape_of, pair)
        )
        if one == same:
            piece, weights = (
                backward_slice(traces[0].flat, [point.variable]),
                traces[0].weights,
            )
            work = (
                n / whole.batch
                for n in count((e.eqn for e in piece.equations), weights)
            )
            found.append(
                CutPoint(
                    name,
                    one.shape,
                    one.dtype,
                    sum(p.size for p in params),
                    nbytes(params),
                    nbytes(one),
                    *work,
                )
            )
    return found
