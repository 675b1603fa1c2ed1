"""What does not cross between parties on different machines, as an agreement says it.

Each party answers for its own part: what it does not read, which cotangents are zero
where it makes them, and which are of no use to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import optax

from jsplit.core.base import PyTree
from jsplit.core.paths import by_path, dotted
from jsplit.core.trees import inexact_part
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.agreement_attributes import AgreementRecord
from jsplit.party.contract.placeholders import assemble
from jsplit.topology.graph import Topology
from jsplit.training.config import Config
from jsplit.training.configure import configure
from jsplit.training.known import known_of
from jsplit.training.passing import claims_of, together
from jsplit.training.walk import Wire
from jsplit.training.wires import wires

Paths = dict[str, dict[str, list[str]]]
"""By party, and by message in words, the paths of leaves of its value."""


def whole(agreed: AgreementRecord, wire: Wire, batch: int) -> PyTree:
    """Shapes of a value, or its cotangent, with what does not cross of it.

    Args:
        agreed: what the parties have agreed on.
        wire: a message that carries it.
        batch: how many records cross at once.
    """
    return _of_wire(wire, shapes.read(agreed.values[wire.what], batch))


def found_unread(
    topology: Topology,
    fields: Mapping[str, PyTree],
    values: Mapping[str, PyTree],
) -> Paths:
    """What parties whose segments are there have no use for.

    Args:
        topology: with placeholders for the segments of others.
        fields: shapes of the fields of a batch, as far as they are known.
        values: shapes of what crosses.

    Returns:
        Only what does not cross; of one array nothing.
    """
    several = any(len(jax.tree.leaves(values[c.name])) > 1 for c in topology.crossings)
    if not several:
        return {}
    parties = [p for p in topology.parties if _is_complete(topology, p, fields)]
    config = configure(topology, optax.sgd(1.0), None, "residuals", 1)
    given = {
        n.name: values[n.name]
        for n in topology.segments
        if n.party not in parties and n.name in values
    }
    claims = claims_of(known_of(config, fields, parties, given))

    found: Paths = {}
    for wire in wires(topology):
        paths = _paths(_of_wire(wire, values[wire.what]))
        for party in (wire.sender, wire.receiver):
            numbers = claims.get(party, {}).get(wire, frozenset())
            if numbers and len(paths) > 1:
                listed = [paths[i] for i in sorted(numbers)]
                found.setdefault(party, {})[_words(wire)] = listed
    return found


def _is_complete(topology: Topology, party: str, fields: Collection[str]) -> bool:
    """Whether all is known of a party: its segments, and the shapes of its fields."""
    own = [n for n in topology.segments if n.party == party]
    losses = [x for x in topology.losses if x.party == party]
    reads = {i for n in (*own, *losses) for i in n.reads}
    there = all(i in fields for i in reads if i in topology.fields)
    return there and not any(hasattr(n.segment.init, "foreign") for n in own)


def _of_wire(wire: Wire, value: PyTree) -> PyTree:
    # Integers have no cotangent, so on the way back only floating arrays cross.
    return value if wire.kind == "activation" else inexact_part(value)


def _paths(value: PyTree) -> list[str]:
    return [dotted(path) for path in by_path(value).paths]


def _words(wire: Wire) -> str:
    """A message in words. Its label is the same for cotangents from several parties."""
    return f"{wire.kind} {wire.what} from {wire.sender} to {wire.receiver}"


def _by_words(agreed: AgreementRecord) -> dict[str, Wire]:
    topology = assemble(agreed.nodes, agreed.losses, agreed.holds, None, None)
    return {_words(wire): wire for wire in wires(topology)}


def unread_of(agreed: AgreementRecord) -> dict[Wire, frozenset[int]]:
    """By message, the numbers of the leaves of its value that do not cross."""
    return together(_numbers(agreed)) if agreed.unread else {}


def _numbers(agreed: AgreementRecord) -> dict[str, dict[Wire, frozenset[int]]]:
    """What an agreement says that does not cross, by party and message, in numbers."""
    wire_of = _by_words(agreed)
    found: dict[str, dict[Wire, frozenset[int]]] = {}
    for party, own in agreed.unread.items():
        found[party] = {}
        for words, listed in own.items():
            wire = wire_of[words]
            paths = _paths(whole(agreed, wire, agreed.batch))
            found[party][wire] = frozenset(paths.index(path) for path in listed)
    return found


def check_unread(agreed: AgreementRecord) -> None:
    """Refuse an agreement that says of something that does not cross what there is not.

    Raises:
        ValueError: naming the party, message or part.
    """
    wire_of = _by_words(agreed)
    for party, own in agreed.unread.items():
        for words, listed in own.items():
            wire = wire_of.get(words)
            if wire is None or party not in (wire.sender, wire.receiver):
                raise ValueError(
                    f"`unread` of `{party}` names the message `{words}`, which it neither "
                    "sends nor gets."
                )
            paths = _paths(whole(agreed, wire, agreed.batch))
            # Of one array all crosses, so that a message is never asked for in vain.
            if len(paths) < 2 or not {*listed} <= {*paths}:
                raise ValueError(
                    f"`unread` of `{party}` names {list(listed)} of the message "
                    f"`{words}`, which has {paths}."
                )


def check_own_reads(
    agreed: AgreementRecord,
    config: Config,
    party: str,
    fields: Mapping[str, PyTree],
    values: Mapping[str, PyTree],
) -> None:
    """Refuse segments that need what by the agreement does not cross.

    Args:
        agreed: what the parties have agreed on.
        config: of the training, with the party's own segments in it.
        party: whose segments they are, as the topology calls it.
        fields: shapes of the party's fields.
        values: shapes of all that crosses.

    Raises:
        ValueError: naming the part of a value that would be missing.
    """
    if party not in agreed.unread:
        return
    said = _numbers(agreed)[party]
    made = {n.name for n in config.topology.segments if n.party == party}
    given = {name: x for name, x in values.items() if name not in made}
    known = known_of(config, fields, [party], given, unread_of(agreed))
    claims = claims_of(known)[party]
    for wire in _by_words(agreed).values():
        # Without labels, as to predict, nothing is known of cotangents, and none cross.
        numbers = said.get(wire, frozenset())
        missing = numbers - claims.get(wire, numbers)
        if missing:
            path = _paths(whole(agreed, wire, agreed.batch))[min(missing)]
            raise ValueError(
                f"the segments of `{party}` need `{path}` of the {wire.kind} "
                f"`{wire.what}`, which by `unread` of the agreement does not cross."
            )
