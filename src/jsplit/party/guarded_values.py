"""Which values of a party can be turned against it, and what it has to judge each by.

An attack on a bottom comes with the cotangent of what the bottom made of the party's own
fields; whoever gets none, or holds nothing, is not asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.kinds import WireKind
from jsplit.training.walk import Wire


@dataclass(frozen=True)
class Guarded:
    """Values whose cotangents are judged together.

    Attributes:
        name: of the values, in words.
        sent: the messages in which they go.
        returned: those in which their cotangents come, in the same order.
        received: answers that follow from them alone; none: there are no such answers.
        gave: the messages with the cotangents of these answers.
    """

    name: str
    sent: tuple[Wire, ...]
    returned: tuple[Wire, ...]
    received: tuple[Wire, ...] = ()
    gave: tuple[Wire, ...] = ()


def guarded_values(topology: Topology, party: str) -> list[Guarded]:
    """The values of a party that others could train to leak its fields.

    Args:
        topology: of all parties.
        party: the role that is guarded.

    Returns:
        All of them together where answers to them come back, else one for each
        receiver; none if nothing that the party makes of its fields has a cotangent.
    """
    private = _following({*topology.holds.get(party, ())}, topology, of=party)
    exposed = [
        c
        for c in topology.crossings
        if c.sender == party and c.returns and c.name in private
    ]
    if not exposed:
        return []
    sent = [Wire(WireKind.ACTIVATION, c.name, party, c.receiver) for c in exposed]
    back = [Wire(WireKind.COTANGENT, c.name, c.receiver, party) for c in exposed]
    answers = _answers(topology, party, {c.name for c in exposed})
    if not answers:
        return [
            Guarded(_called(w, sent), (w,), (b,))
            for w, b in zip(sent, back, strict=True)
        ]
    received = [Wire(WireKind.ACTIVATION, n, s, party) for n, s in answers]
    gave = [Wire(WireKind.COTANGENT, n, party, s) for n, s in answers]
    name = ", ".join(_called(w, sent) for w in sent)
    return [Guarded(name, *map(tuple, (sent, back, received, gave)))]


def why_not(
    values: Guarded,
    topology: Topology,
    dtypes: Mapping[str, str | Sequence[str]],
    config: Config,
) -> str:
    """Why an honest run could look like an attack, if it could.

    Args:
        values: that are to be judged.
        topology: of all parties.
        dtypes: of fields.
        config: of the training, with its links.

    Returns:
        The reason in words; nothing where there is none.
    """
    for wire in (*values.sent, *values.returned, *values.received, *values.gave):
        link = config.links.get((wire.kind, wire.what))
        if link is not None and link.receiver is not None:
            # A guard reads messages one by one, and has no memory of its own.
            return f"the link of `{wire.what}` keeps a memory at its receiver"
    if values.received:
        linked = [w.what for w in values.returned if (w.kind, w.what) in config.links]
        # Noise and rounding of what comes back are no part of the chain rule.
        return f"a link changes the cotangent of `{linked[0]}`" if linked else ""
    follows = _following({w.what for w in values.sent}, topology)
    for loss in topology.losses:
        if follows.isdisjoint(loss.differentiable_inputs):
            continue
        labels = [name for name in loss.reads if name in topology.fields]
        kinds = [dtypes.get(name, "float32") for name in labels]
        # Far from its optimum an honest regression pushes all records one way.
        if not labels or any("float" in str(kind) for kind in kinds):
            return (
                f"it gets no answers, and loss `{loss.name}` has no classes for labels "
                "(integers or booleans), so an honest start may look like an attack"
            )
    return ""


def _answers(
    topology: Topology, party: str, exposed: Collection[str]
) -> list[tuple[str, str]]:
    """What comes back of the exposed values, by name and sender, if the chain rule holds of it."""
    follows = _following(exposed, topology)
    # A loss of somebody else's pulls at the values as well, and this was agreed on.
    for loss in topology.losses:
        pulls = {*loss.differentiable_inputs}
        if loss.party != party and not pulls.isdisjoint(follows):
            return []
    found = [
        (c.name, c.sender)
        for c in topology.crossings
        if c.receiver == party and c.returns and c.name in follows
    ]
    # An answer that reads what others hold changes with that from record to record.
    alone = all(_of_alone(topology, name, exposed) for name, _ in found)
    return found if alone else []


def _following(
    values: Collection[str], topology: Topology, of: str | None = None
) -> set[str]:
    """These values, and all that is computed of them, by one party if one is named."""
    found = {*values}
    # Segments stand in the order of a forward pass.
    for node in topology.segments:
        if of in (None, node.party) and not found.isdisjoint(node.reads):
            found.add(node.name)
    return found


def _of_alone(topology: Topology, name: str, exposed: Collection[str]) -> bool:
    """Whether a value follows from the exposed ones and from nothing beside."""
    if name in exposed:
        return True
    node = topology.node.get(name)
    # What is detached moves the answer, and no cotangent of it comes back.
    return (
        node is not None
        and not node.detached
        and all(_of_alone(topology, read, exposed) for read in node.reads)
    )


def _called(wire: Wire, among: Sequence[Wire]) -> str:
    """The name of a value, with its receiver where it has several."""
    several = sum(w.what == wire.what for w in among) > 1
    return f"{wire.what} to {wire.receiver}" if several else wire.what
