"""Shapes of what crosses, for an agreement: of every value that its author can compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import first_line
from jsplit.core.loans import lent_to, with_loans
from jsplit.core.paths import Nested
from jsplit.core.trees import abstract, describe
from jsplit.topology.graph import Topology
from jsplit.training.configure import fields_of
from jsplit.training.initial import example


def measured(
    topology: Topology,
    batch: Mapping[str, PyTree],
    size: int,
    given: Mapping[str, PyTree] | None,
) -> dict[str, PyTree]:
    """Shapes of every value at a batch size, as far as they can be known. Computes nothing.

    Raises:
        ValueError: naming a node that does not run, or a value of unknown shape.
    """
    return measured_with_params(topology, batch, size, given)[0]


def measured_with_params(
    topology: Topology,
    batch: Mapping[str, PyTree],
    size: int,
    given: Mapping[str, PyTree] | None,
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """The same, and the shapes of the parameters of nodes that are here."""
    given = given or {}
    found: dict[str, PyTree] = {}
    params: dict[str, PyTree] = {}
    for field in fields_of(topology, losses=False):
        if field in batch:
            found[field] = example(field, batch[field], size)
    own = jax.tree.leaves(dict(batch))[0].shape[0]
    for node in topology.segments:
        if node.name in given:
            found[node.name] = _resized(given[node.name], own, size)
            continue
        # A placeholder would refuse to run; what depends on it cannot be known either.
        lenders = [loan.owner for loan in topology.loans.get(node.name, ())]
        known = {*node.reads} <= found.keys() and {*lenders} <= params.keys()
        if known and not hasattr(node.segment.init, "foreign"):
            inputs = [found[name] for name in node.reads]
            try:
                lent = lent_to(topology.loans, node.name, params)
                first_of = _first_of(node.segment)
                found[node.name], params[node.name] = jax.eval_shape(
                    first_of, lent, *inputs
                )
            except Exception as error:
                named = zip(node.reads, inputs, strict=True)
                got = ", ".join(f"`{name}` {describe(x)}" for name, x in named)
                raise ValueError(
                    f"node `{node.name}` at `{node.party}` does not run on {got}: "
                    f"{first_line(error)}"
                ) from error
    for crossing in topology.crossings:
        if crossing.name not in found:
            raise ValueError(
                f"`values` must give the shapes of `{crossing.name}`, which crosses "
                "and cannot be computed here."
            )
    return found, params


def _resized(value: PyTree, own: int, size: int) -> PyTree:
    """Shapes of a value at another batch size than its `own`."""

    def resize(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # Not simply `size`: the leading axis may be a multiple of the batch.
        return jax.ShapeDtypeStruct((x.shape[0] * size // own, *x.shape[1:]), x.dtype)

    return jax.tree.map(resize, abstract(value))


def _as_array(x: PyTree) -> PyTree:
    """An array in the place of a weight whose shape alone is known until it is loaded."""
    shape = isinstance(x, jax.ShapeDtypeStruct)
    return jnp.zeros(x.shape, x.dtype) if shape else x


def _first_of(segment: Segment):
    """A segment's output and first parameters, as a function of what it is lent and reads."""

    def first(lent: Sequence[Nested], *inputs: PyTree) -> tuple[PyTree, PyTree]:
        # The key is made in here, so that it is abstract like everything else.
        key = jax.random.key(0)
        params, state = jax.tree.map(_as_array, segment.init(key, *inputs))
        given = with_loans(params, lent)
        return segment.apply(given, state, key, *inputs)[0], params

    return first
