"""The first state of one party, made of its own segments and of the shapes that all agreed on."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from jsplit.core.base import PartyState, PyTree
from jsplit.core.checks import first_line
from jsplit.core.trees import describe
from jsplit.party.compute.exchange import structure_and_shapes
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.frozen_part import check_frozen
from jsplit.party.contract.unread import check_own_reads
from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.initial import example, first_states, seed_of, with_drawn_secrets
from jsplit.training.loss_value import loss_function
from jsplit.training.raw_crossings import refuse_raw


def first_state(
    agreed: Agreement,
    config: Config,
    party: str,
    name: str,
    batch: Mapping[str, PyTree],
    positions: int | None = None,
) -> PartyState:
    """What `messages` would begin with, of this party alone.

    Args:
        agreed: what the parties have agreed on.
        config: of the training, with the party's own segments in it.
        party: whose state it is, as the topology calls it.
        name: whose state it is, as the agreement calls it.
        batch: the party's fields, for shapes and dtypes alone.
        positions: how many of a sequence `batch` has, where these are others than
            agreed, as before a session; `None`: as agreed.

    Raises:
        ValueError: if a segment does not run on its inputs, gives other
            shapes than agreed, or hands on a raw field that is not public.
    """
    size = agreed.batch // config.microbatches
    said = {n: shapes.read(x, size) for n, x in agreed.values.items()}
    if positions is not None:
        said = {n: _as_long(x, positions) for n, x in said.items()}
    values = said | {f: example(f, x, size) for f, x in batch.items()}

    def check(node: Node, value: PyTree) -> None:
        # What crosses is agreed on; what stays with its party is its
        # own affair.
        wanted = said.get(node.name, value)
        if structure_and_shapes(value) != structure_and_shapes(wanted):
            raise ValueError(
                f"node `{node.name}` gives {describe(value)}, the agreement says "
                f"{describe(wanted)}; all batches of a run have the sizes of the one that "
                "the agreement was made of: pad to these (entries of weight 0 count for "
                "nothing), or agree anew."
            )

    # The seed is common, so this party makes the very arrays that one
    # process would.
    first = first_states(config, [party], seed_of(agreed.seed), values, check)
    check_frozen(agreed.nodes, config.topology, party, first[party])
    refuse_raw(config, first, values)
    _check_losses(config, party, name, values)
    fields = {f: values[f] for f in batch}
    check_own_reads(agreed, config, party, fields, said)
    # Kept with the checkpoint of step 0, which is on disk before anybody is connected:
    # a process that comes after this one draws the same noise.
    return with_drawn_secrets(config, first)[party]


def _as_long(value: PyTree, positions: int) -> PyTree:
    """Shapes of a value of sequences, [batch, positions, ...], at another length."""

    def one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:1], positions, *x.shape[2:])[: len(x.shape)]
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return jax.tree.map(one, value)


def _check_losses(
    config: Config, party: str, name: str, values: Mapping[str, PyTree]
) -> None:
    """Refuse losses that do not run on values of these shapes, before others are met."""
    for x in config.topology.losses:
        # Those that read parameters or states show it in their first
        # step.
        if x.party != party or any(i not in values for i in x.reads):
            continue
        try:
            jax.eval_shape(loss_function(x), *[values[i] for i in x.reads])
        except Exception as error:
            got = ", ".join(f"`{i}` {describe(values[i])}" for i in x.reads)
            raise ValueError(
                f"loss `{x.name}` at `{name}` does not run on {got}: {first_line(error)}"
            ) from error
