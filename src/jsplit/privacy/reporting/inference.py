"""What crosses in inference, after training: as traffic of a party, and of public records."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree, TrainState
from jsplit.core.trainer import Trainer
from jsplit.privacy.reporting.training import Arrays, take
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing.records import Seen
from jsplit.privacy.viewing.view import View
from jsplit.privacy.watching import called
from jsplit.topology.graph import Topology


def activations_of(view: View, way: str) -> list[Seen]:
    """The activations that a party gets or sends in inference, each once.

    Args:
        view: of the party.
        way: "receives" or "sends".
    """
    found = {
        (s.name, s.sender, s.receiver): s
        for s in getattr(view, way)
        if s.kind == "activation" and "inference" in s.modes
    }
    return [*found.values()]


def decoded(
    trainer: Trainer, state: TrainState, topology: Topology, data: Arrays
) -> dict[tuple[str, str], PyTree]:
    """Every value that crosses in inference, as its receiver decodes it.

    Args:
        trainer: of all parties.
        state: of all parties.
        topology: who reads what.
        data: the records, at least those fields that nodes read.

    Returns:
        By value and receiver, [records, ...].
    """
    read = {i for n in topology.segments for i in n.reads}
    fields = {f: x for f, x in data.items() if f in read}
    party = {n.name: n.party for n in topology.segments}
    crossing = {
        i: sorted({n.party for n in topology.segments if i in n.reads} - {party[i]})
        for i in read & party.keys()
    }
    # What a loss alone reads crosses in `evaluate`, and has no place in `predict`.
    names = sorted(name for name, receivers in crossing.items() if receivers)
    if not names:
        return {}
    values = trainer.predict(state, fields, at=names)
    found = {}
    for name in names:
        receivers = crossing[name]
        for receiver in receivers:
            value = values[name] if len(receivers) == 1 else values[name][receiver]
            found[name, receiver] = value
    return found


def inference_traffic(
    view: View,
    values: Mapping[tuple[str, str], PyTree],
    data: Arrays,
    rows: np.ndarray,
) -> Traffic:
    """What a party has seen of an inference.

    Args:
        view: of the party.
        values: as `decoded` gives them, of the records `rows`.
        data: all records.
        rows: which they are.
    """
    ways: dict[str, dict[str, PyTree]] = {"receives": {}, "sends": {}}
    for way, found in ways.items():
        seen = activations_of(view, way)
        for s in seen:
            if (s.name, s.receiver) in values:
                value = values[s.name, s.receiver]
                found[called(s, seen, view.party)] = jax.tree.map(jnp.asarray, value)
    own = take({f: data[f] for f in view.fields if f in data}, rows)
    step = jnp.zeros(len(rows), jnp.int32)
    return Traffic(view.party, step, ways["receives"], sent=ways["sends"], fields=own)
