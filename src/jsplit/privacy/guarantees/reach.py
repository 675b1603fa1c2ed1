"""How a record reaches other parties: bare or through noise, by its row or by what is trained.

A record flows from its fields into values, from these into cotangents, and from both
into parameters. What has gone through noise is released: whatever is computed of it
reveals no more. Noise on a row holds up what comes by that row alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from jsplit.core.base import Link
from jsplit.core.receiving import remembers
from jsplit.core.strength import Strength
from jsplit.privacy.guarantees.mechanism import Mechanism
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node

UNKNOWN = "it is not known whether"
"""How a reason begins that is none if there is another one."""


class Release(NamedTuple):
    """Noise that a record has gone through.

    Attributes:
        kind: "activation", "cotangent", "training" or "field".
        name: of the value, the field, or the nodes that are trained.
        mechanism: what it is.
        to: who receives it. Each message has noise of its own: two parties that get one
            value, and put together what they have, have seen two draws.
    """

    kind: str
    name: str
    mechanism: Mechanism
    to: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" to {self.to}" if self.to else "")


class Trace(NamedTuple):
    """What is in a place of a record.

    Attributes:
        row: why it is there bare, in its own row; empty: it is not.
        wide: why it is there bare, beyond its own row.
        released: the noise through which it is there.
    """

    row: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    released: frozenset[Release] = frozenset()

    def __or__(self, other: object) -> Trace:
        assert isinstance(other, Trace)
        return Trace(
            self.row | other.row, self.wide | other.wide, self.released | other.released
        )


class Place(NamedTuple):
    """Where something lies: "value", "cotangent" or "params"; of what; at whom."""

    kind: str
    name: str
    party: str


class Setting(NamedTuple):
    """What is known of a training.

    Attributes:
        topology: who computes what.
        links: by "activation" or "cotangent" and the name of the value.
        mixes: what is said of nodes and losses that may mix records; `None`: not known.
        frozen: nodes whose parameters stay as they are.
        trained: by node, the noise of its DP-SGD.
        responses: by field, the noise that its records had from the start.
        strengths: numbers by name, of all parties.
    """

    topology: Topology
    links: Mapping[tuple[str, str], Link]
    mixes: Mapping[str, str] | None
    frozen: frozenset[str]
    trained: Mapping[str, Release]
    responses: Mapping[str, Mechanism]
    strengths: Mapping[str, float]


class Arrival(NamedTuple):
    """A message, and what is in it of a record."""

    sender: str
    receiver: str
    trace: Trace


Traces = dict[Place, Trace]


def reach(setting: Setting, fields: Iterable[str]) -> tuple[list[Arrival], Trace]:
    """What of a record's fields is in every message, and in the trained parameters.

    Args:
        setting: what is known of the training.
        fields: which may differ between two records.

    Returns:
        The messages, and what is in all parameters together.
    """
    at: Traces = {}
    for party, held in setting.topology.holds.items():
        for f in {*fields} & {*held}:
            at[Place("value", f, party)] = _origin(setting, f)
    while True:
        before = dict(at)
        arrivals = list(_messages(setting, at))
        for place, trace in (*_computed(setting, at), *_trained(setting, at)):
            at[place] = at.get(place, Trace()) | trace
        # Sets only grow and their members are finitely many, so it ends.
        if at == before:
            break
    nodes = setting.topology.segments
    trained = [at.get(Place("params", n.name, n.party), Trace()) for n in nodes]
    return arrivals, _all(trained)


def _origin(setting: Setting, field: str) -> Trace:
    mechanism = setting.responses.get(field)
    if mechanism is None:
        return Trace(row=frozenset([f"`{field}` has no noise"]))
    if fault := mechanism.fault():
        return Trace(row=frozenset([f"the noise of `{field}` {fault}"]))
    return Trace(released=frozenset([Release("field", field, mechanism)]))


def _all(traces: Iterable[Trace]) -> Trace:
    found = Trace()
    for trace in traces:
        found = found | trace
    return found


def _messages(setting: Setting, at: Traces) -> Iterator[Arrival]:
    """Every message, whose trace is put where it arrives."""
    for c in setting.topology.crossings:
        ways = [("activation", "value", c.sender, c.receiver)]
        if c.returns:
            ways.append(("cotangent", "cotangent", c.receiver, c.sender))
        for kind, place, sender, receiver in ways:
            sent = at.get(Place(place, c.name, sender), Trace())
            trace = _through(setting, at, kind, c.name, sender, receiver, sent)
            yield Arrival(sender, receiver, trace)
            # Under another name: cotangents of several receivers are added up.
            place = "arrived" if kind == "cotangent" else place
            there = Place(place, c.name, receiver)
            at[there] = at.get(there, Trace()) | trace


def _through(
    setting: Setting,
    at: Traces,
    kind: str,
    name: str,
    sender: str,
    receiver: str,
    sent: Trace,
) -> Trace:
    """What is left of a trace behind the link."""
    what = f"`{name}`" if kind == "activation" else f"the cotangent of `{name}`"
    way = f"{what} goes from {sender} to {receiver}"
    link = setting.links.get((kind, name))
    row = sent.row and frozenset([f"{way} without a mechanism"])
    if link is None:
        return sent._replace(row=row)
    # Read with a default: links made by hand in older code have none.
    declared = getattr(link, "mechanism", None)
    # Of a chain the first must be the noise: what comes before it might mix records.
    mechanism = declared[0] if isinstance(declared, tuple) and declared else declared
    released = sent.released
    if isinstance(mechanism, Mechanism):
        mechanism = mechanism.at(_numbers(link, setting.strengths))
        fault = mechanism.fault(linked=getattr(link, "secret", mechanism.secret))
        # Of a chain only the first: what a later one keeps is noisy already.
        if not fault and remembers(link, first=isinstance(declared, tuple)):
            fault = "keeps a memory, by which what it sends depends on earlier records"
        if sent.row and mechanism.kind == "response":
            fault = "declares a response, which is of fields and not of messages"
        row = sent.row and frozenset([f"{way}, whose link {fault}"] if fault else [])
        if sent.row and not fault:
            released = released | {Release(kind, name, mechanism, receiver)}
    found = Trace(row, sent.wide, released)
    for other in getattr(link, "reads", ()):
        # The noise bounds what the value does, not what else the link is told.
        told = at.get(Place("value", other, sender), Trace())
        read = told.row and frozenset([f"{way}, whose link reads `{other}`"])
        found = found | told._replace(row=read)
    return found


def _numbers(link: Link, given: Mapping[str, float]) -> dict[str, float]:
    """The strengths of a link, by the names it is told and by those they are set by."""
    found = dict(given)
    for told, x in getattr(link, "strengths", {}).items():
        name = x.name if isinstance(x, Strength) else told
        value = given.get(name, x.value if isinstance(x, Strength) else x)
        found |= {name: value, told: value}
    return found


def _mixed(setting: Setting, name: str, trace: Trace) -> Trace:
    if not trace.row or (setting.mixes is not None and name not in setting.mixes):
        return trace
    why = f"{UNKNOWN} `{name}` mixes the records of a batch: give `fields`, a batch"
    if setting.mixes is not None:
        why = f"`{name}` {setting.mixes[name]}"
    return trace._replace(wide=trace.wide | {why})


def _read(setting: Setting, at: Traces, reader: Node | Loss) -> Trace:
    """What is in the inputs of a node or a loss."""
    found = Trace()
    for i in reader.reads:
        node, _, own = i.rpartition(".")
        whole = i in setting.topology.node or i in setting.topology.fields
        if whole or own == "state":
            place = Place("value", i if whole else node, reader.party)
        else:
            place = Place("params", node, reader.party)
        found = found | at.get(place, Trace())
    return found


def _computed(setting: Setting, at: Traces) -> Iterator[tuple[Place, Trace]]:
    """Values, and cotangents of what was read."""
    topology = setting.topology
    for n in topology.segments:
        inside = _read(setting, at, n)
        for owner in (n.name, *(x.owner for x in topology.loans.get(n.name, ()))):
            inside = inside | at.get(Place("params", owner, n.party), Trace())
        yield Place("value", n.name, n.party), _mixed(setting, n.name, inside)
        if n.name in topology.on_loss_path:
            back = inside | _cotangent(at, n)
            for i in n.differentiable_inputs:
                yield Place("cotangent", i, n.party), _mixed(setting, n.name, back)
    for loss in topology.losses:
        inside = _read(setting, at, loss)
        for i in loss.differentiable_inputs:
            i = i if i in topology.node else i.removesuffix(".state")
            yield Place("cotangent", i, loss.party), _mixed(setting, loss.name, inside)


def _cotangent(at: Traces, node: Node) -> Trace:
    """Of a node's value: what its own party computed and what came back."""
    places = ("cotangent", "arrived")
    return _all(at.get(Place(p, node.name, node.party), Trace()) for p in places)


def _trained(setting: Setting, at: Traces) -> Iterator[tuple[Place, Trace]]:
    """Parameters: of all that their gradients are computed of."""
    for n in setting.topology.segments:
        place = Place("params", n.name, n.party)
        inside = _read(setting, at, n)
        if n.name in (setting.mixes or ()):
            # Its statistics are handed on with its parameters, frozen or not.
            yield place, Trace(wide=_mixed(setting, n.name, inside).wide)
        if n.name in setting.frozen or not n.segment.trainable:
            continue
        of_it = f"{n.name}.params"
        terms = [x for x in setting.topology.losses if x.weight and of_it in x.reads]
        penalties = _all(_read(setting, at, x) for x in terms)
        on_path = n.name in setting.topology.on_loss_path
        own = inside | _cotangent(at, n) if on_path else Trace()
        # Of a tied weight the gradients of all who read it are added up.
        for name, loans in setting.topology.loans.items():
            lends = n.name in [loan.owner for loan in loans]
            if lends and name in setting.topology.on_loss_path:
                reader = setting.topology.node[name]
                own = own | _read(setting, at, reader) | _cotangent(at, reader)
        bare = frozenset([f"`{n.name}` is trained on it without noise"])
        release = setting.trained.get(n.name)
        # A penalty that reads records is no part of the pullback that is clipped.
        if penalties.row or (release is None and own.row):
            yield place, Trace(wide=bare)
        elif release is not None and own.row:
            # What is clipped is a record's own only if no other record is in it.
            own = _mixed(setting, n.name, own)
            fault = release.mechanism.fault()
            if fault:
                why = f"DP-SGD of `{n.name}` {fault}"
                yield place, Trace(wide=frozenset([why]))
            else:
                yield place, Trace(released=frozenset([release]))
        rest = own | penalties
        yield place, Trace(wide=rest.wide, released=rest.released)
