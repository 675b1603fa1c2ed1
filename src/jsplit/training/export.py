"""A party's trained segments as programs that run without the model's code, by `jax.export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
from jax import export as jax_export

from jsplit.core.base import PyTree, TrainState
from jsplit.core.checks import first_line
from jsplit.core.trees import abstract
from jsplit.topology.graph import Topology


def export(
    topology: Topology,
    state: TrainState,
    fields: Mapping[str, PyTree],
    *,
    platforms: str | Sequence[str] | None = None,
) -> dict[str, dict[str, jax_export.Exported]]:
    """Every party's segments in inference mode, with its weights inside and the batch size free.

    `export(...)["hospital"]["smashed"].call(image)` computes the node's value. `.serialize()` makes bytes of it (this
    needs the extra `jsplit[export]`), which `jax.export.deserialize` reads anywhere, without the model's code.

    Args:
        topology: of the trainer.
        state: the trained state.
        fields: a batch, for shapes and dtypes alone; those fields that the nodes read.
        platforms: where it shall run, as `("cpu", "cuda", "tpu")`; by default where it is exported.

    Returns:
        By party and node, the exported functions of the node's inputs, in their order.

    Raises:
        ValueError: if a field is missing, the state is of another topology, or a segment does not run with the batch size free.
    """
    read = {i for n in topology.segments for i in n.reads if i in topology.fields}
    if missing := sorted(read - fields.keys()):
        raise ValueError(
            f"`fields` lacks `{missing[0]}`; it has {', '.join(fields) or 'none'}."
        )
    for n in topology.segments:
        if n.party not in state.parties or n.name not in state.parties[n.party].params:
            raise ValueError(
                f"`state` is of another topology: it has nothing of the node `{n.name}` at `{n.party}`."
            )
    platforms = (platforms,) if isinstance(platforms, str) else platforms
    (batch,) = jax_export.symbolic_shape("batch")
    values = {
        f: jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype),
            abstract(fields[f]),
        )
        for f in read
    }
    exported: dict[str, dict[str, jax_export.Exported]] = {
        party: {} for party in topology.parties
    }
    for n in topology.segments:
        own = state.parties[n.party]

        def run(*inputs, n=n, params=own.params[n.name], statistics=own.state[n.name]):
            return n.segment.apply(params, statistics, None, *inputs, train=False)[0]

        try:
            made = jax_export.export(jax.jit(run), platforms=platforms)(
                *[values[i] for i in n.reads]
            )
        except Exception as error:  # it ran with numbers
            raise ValueError(
                f"`{n.name}` cannot be exported, it does not run with a free batch size: {first_line(error)}"
            ) from error
        exported[n.party][n.name] = made
        outputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in made.out_avals]
        values[n.name] = jax.tree.unflatten(made.out_tree, outputs)
    return exported
