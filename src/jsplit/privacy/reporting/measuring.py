"""Measures at each cut, which attack nobody: dependence on fields, and probes of labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from jsplit.core.base import PyTree
from jsplit.privacy.measures.batched import Dependence, dependence
from jsplit.privacy.measures.probes import Kind, Probe, probe
from jsplit.privacy.reporting.inference import activations_of
from jsplit.privacy.reporting.knowing import class_numbers, classes_in
from jsplit.privacy.reporting.records import Exposure, Untested
from jsplit.privacy.reporting.training import Arrays
from jsplit.privacy.reporting.trying import said
from jsplit.privacy.viewing.all_views import Views

PROBES: tuple[Kind, ...] = ("linear", "neighbours")


def exposures(
    views: Views,
    values: Mapping[tuple[str, str], PyTree],
    records: Arrays,
    batch: int,
    key: jax.Array,
    untested: dict[Untested, None],
) -> tuple[Exposure, ...]:
    """Measure every activation that crosses against the fields it depends on, and labels.

    Args:
        views: of all parties.
        values: by value and receiver, [records, ...].
        records: all fields of the same records.
        batch: of which the distance correlation is measured.
        key: what is drawn from.
        untested: where it is noted what could not be measured.

    Returns:
        One for each activation, receiver and field.
    """
    found = []
    for view in (views[p] for p in views):
        for s in activations_of(view, "receives"):
            if (s.name, s.receiver) not in values:
                continue
            h = values[s.name, s.receiver]
            for name in dict.fromkeys([*s.fields, *view.labels]):
                if name not in records:
                    continue
                held = view.holds(name)
                label = name in view.labels
                try:
                    measured = _measured(h, records[name], batch, key, label=label)
                except ValueError as error:
                    why = f"`{name}`: {said(error)}"
                    untested[Untested("measures", s.receiver, s.name, why)] = None
                    continue
                found.append(Exposure(s.name, s.receiver, name, held, *measured))
    return tuple(found)


def _measured(
    h: PyTree, field: PyTree, batch: int, key: jax.Array, *, label: bool
) -> tuple[Dependence | None, tuple[Probe, ...]]:
    if label and classes_in(field) is not None:
        return None, tuple(_probes(h, field, key))
    # As many records as there are for two batches, if a step has more than that.
    size = min(batch, len(jax.tree.leaves(field)[0]) // 2)
    return dependence(h, _numbers(field), key, batch=size), ()


def _probes(h: PyTree, label: PyTree, key: jax.Array) -> Iterator[Probe]:
    for kind in PROBES:
        yield probe(h, class_numbers(label), key, kind)


def _numbers(field: PyTree) -> PyTree:
    """A field as numbers between which there are distances."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), field)
