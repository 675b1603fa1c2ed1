"""`cost`: what a training step costs each party, from shapes alone.

The numbers are those of the functions that an interpreter would run; `traced_step`
traces them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import jax
import optax

from jsplit.core.base import Link, PyTree
from jsplit.core.trees import abstract, as_arrays, batch_of, nbytes
from jsplit.costing.party_cost import MODES, PartyCost
from jsplit.costing.step_cost import Cost
from jsplit.costing.traced_step import TracedStep, evaluation_messages
from jsplit.topology.graph import Topology
from jsplit.training.configure import Optimizers, check_batch, configure
from jsplit.training.dynamic_scale import LossScale
from jsplit.training.initial import initial_shapes
from jsplit.training.keys_apart import swap
from jsplit.training.kinds import OpKind
from jsplit.training.own_reads import training_fields
from jsplit.training.passing import passing
from jsplit.training.store import layout_of

# Losses, links and the optimizer: all that is neither pass of a segment.
# Looking at what is finite is no arithmetic of the model.
_MODEL = (OpKind.FORWARD, OpKind.BACKWARD, OpKind.CHECK)
_OTHER = tuple(k for k in OpKind if k not in _MODEL)


def cost(
    topology: Topology,
    batch: Mapping[str, PyTree],
    *,
    optimizer: Optimizers | None = None,
    links: Mapping[str, Link | tuple[Link | None, Link | None]] | None = None,
    microbatches: int = 1,
    nonfinite: str = "refuse",
    loss_scale: LossScale | None = None,
) -> Cost:
    """What one training step costs each party, before anything runs.

    Every operation of the step is traced on shapes, so a network of any
    size is costed in seconds and no weight is allocated. The messages equal
    those that `jsplit.messages` records, and the work, summed over parties,
    is the whole model's.

    Args:
        topology: Who computes what. Its segments may come from a model
            without values (`nnx.eval_shape`).
        batch: The fields, arrays or `jax.ShapeDtypeStruct`, each [batch,
            ...].
        optimizer: One for all parties, or one for each by name; by default
            plain SGD, which keeps nothing.
        links: What happens to values on their way, by the name of the
            value: a link, or a pair of them (activation, cotangent).
        microbatches: Into how many parts each batch is divided.
        nonfinite: As of the trainer: `"skip"` sends a number of each party.
        loss_scale: As of the trainer: with one, a link that states its noise
            in numbers sends cotangents in float32 at least.

    Returns:
        A `Cost`: by party, for both backward modes. `print` shows tables,
        `figure` draws bars.

    Raises:
        ValueError: Naming the argument that does not fit.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> client = cost.parties["client"]
        >>> client.sent, client.params  # 32 numbers of 4 bytes and a frame; 4 weights
        (248, 16)
    """
    if not isinstance(topology, Topology) and callable(topology):
        raise ValueError(
            f"`topology` must be a Topology, got {type(topology).__name__}: a model alone "
            "has no parties and no loss. jsplit.cut_points and jsplit.plan cost a model by "
            "where it is cut; jsplit.vanilla(*jsplit.split(model, x).values(), loss=...) "
            "is a topology of it."
        )
    # There must be some; plain SGD keeps no state, so it adds nothing to the memory.
    optimizer = optax.sgd(1.0) if optimizer is None else optimizer
    configs = {
        mode: configure(
            topology,
            optimizer,
            links,
            mode,
            microbatches,
            nonfinite=nonfinite,
            loss_scale=loss_scale,
        )
        for mode in MODES
    }
    config = configs[MODES[0]]
    batch = as_arrays(batch)
    # Before anything is traced: else a wrong field is met somewhere in a segment.
    check_batch(topology, batch, training_fields(config), config.microbatches)
    shapes = {name: abstract(x) for name, x in batch.items()}
    configs = {mode: passing(c, shapes) for mode, c in configs.items()}
    state = initial_shapes(configs[MODES[0]], shapes)
    steps = {mode: TracedStep(configs[mode], state, shapes) for mode in MODES}
    # The modes differ in the backward pass alone, so all else is taken from either.
    first = steps[MODES[0]]
    messages = tuple(first.messages)

    def party_cost(party: str) -> PartyCost:
        own = state.parties[party]
        sent = [m.bytes + m.frame for m in messages if m.sender == party]
        received = [m.bytes + m.frame for m in messages if m.receiver == party]
        return PartyCost(
            forward=first.work(party, OpKind.FORWARD),
            backward={
                mode: s.work(party, OpKind.BACKWARD) for mode, s in steps.items()
            },
            other=first.work(party, *_OTHER),
            sent=sum(sent),
            received=sum(received),
            params=nbytes(own.params),
            statistics=nbytes(own.state),
            optimizer=nbytes(own.optimizer),
            links=nbytes(own.links),
            activations={mode: s.kept(party) for mode, s in steps.items()},
        )

    def again(size: int) -> Cost:
        return cost(
            topology,
            {name: _resized(x, size) for name, x in shapes.items()},
            optimizer=optimizer,
            links=links,
            microbatches=microbatches,
            nonfinite=nonfinite,
            loss_scale=loss_scale,
        )

    # Cached: in a whole run many clients have a last step of the same size.
    parties = {party: party_cost(party) for party in topology.parties}
    return Cost(
        batch_of(shapes),
        parties,
        messages,
        state,
        swap(layout_of(config), state),
        cache(again),
        cache(lambda: evaluation_messages(config, state, shapes)),
    )


def _resized(shapes: PyTree, size: int) -> PyTree:
    """Shapes with another batch axis."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), shapes
    )
