"""Whether others see a party that was replaced: its messages, to the last leaf and shape.

`Topology.replace` has compared what crosses by name; what a value is made of, and which
leaves of it anybody reads, is known with a batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import optax

from jsplit.core.base import PyTree
from jsplit.core.trees import abstract, describe, inexact_part
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import fields_of
from jsplit.training.crossing import crossing_part
from jsplit.training.kinds import WireKind
from jsplit.training.known import known_of
from jsplit.training.passing import Agreed, claims_of, together
from jsplit.training.walk import Wire
from jsplit.training.walks import all_wires, scalar_shape


def compared_fields(topology: Topology) -> set[str]:
    """The fields without which others' view of a replaced party cannot be compared."""
    original = topology.instead_of
    return set() if original is None else fields_of(original, losses=True)


def check_same_for_others(config: Config, batch: Mapping[str, PyTree]) -> None:
    """Refuse a topology of `Topology.replace` whose messages differ from the original's.

    Args:
        config: of the training; nothing is done if its topology replaces none.
        batch: fields of both topologies, [batch, ...]; only shapes matter.

    Raises:
        ValueError: naming the first message that differs.
    """
    original = config.topology.instead_of
    if original is None:
        return
    lacking = sorted(compared_fields(config.topology) - batch.keys())
    if lacking:
        raise ValueError(
            f"the batch lacks the field `{lacking[0]}`: `init` of a topology that "
            "`replace` made compares what others see with the original, which reads it."
        )
    # The party may have had parameters where it has none now; how it trained them is seen
    # by nobody.
    any_optimizer = dict.fromkeys(original.parties, optax.identity())
    before = config._replace(
        topology=original, optimizer={**any_optimizer, **config.optimizer}
    )
    was = _messages(before, batch)
    now = _messages(config, batch)
    for wire in [*was, *(w for w in now if w not in was)]:
        old, new = was.get(wire), now.get(wire)
        # Containers and all: a receiver reads a value by its structure.
        if old is None or new is None or old != new:
            raise ValueError(
                f"`topology`: others would see that a party was replaced: the "
                f"{wire.kind} of `{wire.what}` from `{wire.sender}` to "
                f"`{wire.receiver}` was {_described(old)}, it is {_described(new)}."
            )


def _described(shapes: list[PyTree] | None) -> str:
    if shapes is None:
        return "not sent"
    return describe(shapes) if describe(shapes) != "nothing" else "empty"


def _messages(config: Config, batch: Mapping[str, PyTree]) -> dict[Wire, list[PyTree]]:
    """By message, the shapes of what of it crosses; in a list, since it may be `None`."""
    topology: Topology = config.topology
    fields = {f: x for f, x in abstract(dict(batch)).items() if f in topology.fields}
    known = known_of(config, fields)
    config = config._replace(passing=Agreed(together(claims_of(known))))
    found: dict[Wire, list[PyTree]] = {}
    for wire in all_wires(config):
        if wire.kind == WireKind.SCALAR:
            found[wire] = [scalar_shape(config, wire)]
            continue
        value = known.values[wire.what]
        if wire.kind == WireKind.COTANGENT:
            value = inexact_part(value)
        found[wire] = [crossing_part(config, wire, value)]
    return found
