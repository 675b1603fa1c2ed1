"""The whole model at one party: what every split of it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import jax

from jsplit.core.base import Params, PyTree
from jsplit.core.trees import abstract
from jsplit.segments.arguments import Constants
from jsplit.segments.flags import Flags
from jsplit.segments.from_model import (
    Model,
    Told,
    segment_and_inputs,
    unnamed_inputs,
)
from jsplit.topology.configurations.building import (
    LossFunction,
    labels_of,
    loss_at,
    make_node,
)
from jsplit.topology.graph import Topology


def whole(
    model: Model,
    *example: PyTree,
    loss: LossFunction,
    party: str = "whole",
    fields: str | Sequence[str] | None = None,
    label: str | None = "label",
    init: Callable[..., Params] | None = None,
    variables: Mapping[str, PyTree] | None = None,
    inputs: Sequence[str] | None = None,
    flags: Flags | None = None,
    key: str | Sequence[str] | None = None,
    fixed: Constants | None = None,
) -> Topology:
    """A topology whose only party has data, the whole model, labels and loss.

    The baseline of every split: trained from the same seed on the same
    batches it gives what `split` gives, dropout masks and first parameters
    included. (`Node("output", jsplit.segment(model), ...)` does not: it is a
    part like any other, which draws from a key of its own.)

    Args:
        model: A Flax nnx or linen module, a function or a `Segment`, as
            `jsplit.split` takes it. It is not cut, whatever `jsplit.cut`
            marks.
        *example: Its inputs, arrays or `jax.ShapeDtypeStruct`, as
            `jsplit.split` takes them. They may be left out; with them it is
            seen here, and not in `init`, whether the model runs.
        loss: `loss(output, label)`, a scalar or one number per example,
            [batch].
        party: Name of the party.
        fields: What the model reads; by default its own names.
        label: The field with the labels; `None`: there are none, and the loss is
            `loss(output)`, as one that compares the records of a batch.
        init: For functions with parameters, `init(key, *inputs) -> params`.
        variables: For linen, what `module.init` would return: start from
            these values.
        inputs: Names of the positional inputs, or the name of the only one;
            by default those of the signature that have no default, and
            `"input"` where it names none.
        flags: What parameters that say the mode are in training,
            `{"is_train": True}`, as `jsplit.segment` takes it.
        key: Parameters that are given the key of each step, as
            `jsplit.segment` takes them.
        fixed: Constants by parameter, as `jsplit.segment` takes them.

    Returns:
        A `Topology` of one party. Its node is `"output"`, as it is after
        `split`, and nothing crosses.

    Raises:
        ValueError: If an argument does not fit the model, or the model does
            not run on the example.

    Example:
        >>> import jsplit
        >>> init = lambda key, image: 1.0
        >>> jsplit.whole(lambda w, image: w * image, init=init, loss=max)
        Topology
          whole  holds image, label; output = segment(image); loss = loss(output, label)
    """
    told = Told(init, variables, inputs, flags, key, fixed)
    made, example = segment_and_inputs(model, example or None, told)
    # The step's own key, as all slices of one model get it: the masks of
    # dropout are those of the split model by this alone.
    names = made.inputs or tuple(unnamed_inputs(len(example) or 1))
    made = replace(made, inputs=names, name="output", shares_key=True)
    node = make_node(made, party, fields, "output")
    if example:
        _check_runs(node.reads, made.init, example)

    # A field that is input and label too is held once.
    held = dict.fromkeys([*node.reads, *labels_of(label)])
    return Topology([node, loss_at(party, loss, node, label)], {party: [*held]})


def _check_runs(
    reads: Sequence[str], init: Callable[..., PyTree], example: Sequence[PyTree]
) -> None:
    """Trace the `init` of a model on the shapes of an example."""
    if len(reads) != len(example):
        raise ValueError(
            f"the model takes `inputs` {list(reads)}, but the example has {len(example)}."
        )
    key = jax.eval_shape(jax.random.key, 0)
    jax.eval_shape(init, key, *abstract(example))
