"""What parties agree on before they train together: a small file that says all but anyone's model.

From it every party builds the whole topology, with its own segments in it and, in the place of all others, segments that
are known by name, by whether they train, and by the shapes of what crosses, and that refuse to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from operator import index
from pathlib import Path
from typing import Any, cast

import jax

from jsplit.core.base import Link, PyTree, Segment
from jsplit.core.checks import first_line, names_of
from jsplit.core.links import identity
from jsplit.core.trees import inexact_part
from jsplit.party.contract import schema as shapes
from jsplit.party.contract.turns import Turns
from jsplit.topology.graph import Loss, Node, Topology
from jsplit.training.configure import both_ways
from jsplit.training.crossing import wires
from jsplit.training.walk import Wire

FORMAT = "jsplit agreement 1"
_NONFINITE = ("refuse", "allow")
_NEEDED = (
    "format",
    "parties",
    "lead",
    "addresses",
    "holds",
    "nodes",
    "losses",
    "values",
    "links",
    "batch",
    "microbatches",
    "steps",
    "turns",
    "staleness",
    "seed",
    "checkpoint",
    "patience",
    "nonfinite",
    "identities",
    "hosts",
)
_SCHEMA = (
    "parties",
    "holds",
    "nodes",
    "losses",
    "values",
    "links",
    "batch",
    "microbatches",
    "staleness",
    "seed",
)
_SCHEMA_OF_TURNS = ("clients", "order", "handoff")
"""What a checkpoint depends on; the rest, as addresses and the number of steps, may change between two runs."""


@dataclass(frozen=True)
class Agreement:
    """What parties have agreed on; equal texts are equal agreements.

    Attributes:
        text: as JSON, with sorted keys.
        whole: of one client's agreement: the turns of all, by which its checkpoints were made.
    """

    text: str
    whole: str = ""

    @cached_property
    def said(self) -> dict[str, Any]:
        return json.loads(self.text)

    def __getitem__(self, name: str) -> Any:
        return self.said[name]

    @cached_property
    def turns(self) -> Turns:
        """Who works with whom in which step."""
        return Turns(self["turns"], self["parties"], self["steps"])

    @property
    def parties(self) -> tuple[str, ...]:
        """All parties; where clients take turns, those of every client, and then those that are always there."""
        return self.turns.parties

    def of(self, client: str) -> Agreement:
        """The agreement of one client with those that are always there: for evaluation and prediction.

        Raises:
            ValueError: if there is no such client.
        """
        if self["turns"] is None or client not in self["turns"]["clients"]:
            raise ValueError(
                f"`client` must be one of {', '.join(self.turns.names) or 'none'}, got {client!r}."
            )
        clients = {client: self["turns"]["clients"][client]}
        one = self["turns"] | {
            "clients": clients,
            "order": [[client, self["steps"]]],
            "handoff": "none",
        }
        there = {*Turns(one, self["parties"], self["steps"]).parties}
        kept = {
            k: {p: x for p, x in self[k].items() if p in there}
            for k in ("addresses", "identities", "hosts")
        }
        return replace(
            self.replace(turns=one, **kept),
            whole=self.whole or canonical(self["turns"]),
        )

    @cached_property
    def hash(self) -> str:
        """What two parties compare first."""
        return sha256(self.text.encode()).hexdigest()

    @cached_property
    def schema(self) -> str:
        """Hash of what a checkpoint depends on."""
        turns = json.loads(self.whole) if self.whole else self["turns"]
        who = turns and {k: turns[k] for k in _SCHEMA_OF_TURNS}
        return sha256(
            canonical({**{k: self[k] for k in _SCHEMA}, "turns": who}).encode()
        ).hexdigest()

    def replace(self, **changes: Any) -> Agreement:
        """Another agreement, with other addresses, steps or the like."""
        return replace(checked(self.said | changes), whole=self.whole)

    def topology(
        self, party: str | None = None, own: Mapping[str, Any] | Topology | None = None
    ) -> Topology:
        """The whole topology, with the segments and losses of `party` in it, and placeholders for all others.

        Args:
            party: whose they are, by its role where clients take turns.
            own: its segments and loss functions by name, or a topology that has them.

        Raises:
            ValueError: naming what is missing or not the party's.
        """
        given = _brought(own, party)
        nodes: list[Node | Loss] = []
        for n in self["nodes"]:
            mine = (
                given.pop(n["name"], None)
                if n["party"] == party
                else foreign(n["name"], n["party"], n["trainable"])
            )
            if not isinstance(mine, Segment):
                raise ValueError(
                    f"`own` lacks the segment of the node `{n['name']}`, which is of `{party}`."
                )
            if mine.trainable != n["trainable"]:
                raise ValueError(
                    f"node `{n['name']}`: `trainable` is {mine.trainable}, the agreement says {n['trainable']}."
                )
            nodes.append(Node(n["name"], mine, n["party"], n["reads"]))
        for x in self["losses"]:
            fn = (
                given.pop(x["name"], None)
                if x["party"] == party
                else _refusing(f"loss `{x['name']}`", x["party"])
            )
            if fn is None or not callable(fn):
                raise ValueError(
                    f"`own` lacks the function of the loss `{x['name']}`, which is of `{party}`."
                )
            nodes.append(
                Loss(
                    x["name"],
                    cast(Callable[..., jax.Array], fn),
                    x["party"],
                    x["reads"],
                    x["weight"],
                    x["local"],
                )
            )
        if given:
            raise ValueError(
                f"`own` has `{next(iter(given))}`, which is not of `{party}`."
            )
        return Topology(nodes, self["holds"])

    @cached_property
    def wires(self) -> tuple[Wire, ...]:
        """Everything that crosses in a step; places in it are what frames say."""
        return tuple(wires(self.topology_of_strangers))

    @cached_property
    def topology_of_strangers(self) -> Topology:
        """The topology with none of its models."""
        return self.topology()

    def value(self, wire: Wire, batch: int) -> PyTree:
        """Shapes and dtypes of what crosses, before its link."""
        like = shapes.read(self["values"][wire.what], batch)
        return like if wire.kind == "activation" else inexact_part(like)

    def links(
        self, given: Mapping[str, Link] | None = None
    ) -> dict[str, tuple[Link | None, Link | None]]:
        """The links of every value that has one: those of `jsplit.compress` by what the agreement calls them, or `given`."""
        return {
            name: tuple(shapes.link(spec, given) for spec in pair)
            for name, pair in self["links"].items()
        }  # type: ignore[misc]

    def reach(self, party: str) -> dict[str, str]:
        """How this party reaches each other one: `"dial"`, `"wait"`, or `"lead"` if neither can dial the other."""
        listens, found = self["addresses"], {}
        for other in self.parties:
            if other == party:
                continue
            ends = sorted(
                (party, other), key=lambda p: (p != self["lead"], self.parties.index(p))
            )
            ends = sorted(ends, key=lambda p: p not in listens)  # the first is dialled
            apart = (
                ends[0] not in listens
                or self["lead"] not in ends
                and self.turns.never_connected(party, other)
            )
            found[other] = "lead" if apart else "dial" if ends[0] == other else "wait"
        return found

    def __repr__(self) -> str:
        return f"Agreement of {', '.join(self.parties)}: {self.hash[:16]}"


def canonical(tree: Any) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _brought(
    own: Mapping[str, Any] | Topology | None, party: str | None
) -> dict[str, Any]:
    """What a party brings, by name."""
    if isinstance(own, Topology):
        found: dict[str, Any] = {
            n.name: n.segment for n in own.segments if n.party == party
        }
        return found | {x.name: x.fn for x in own.losses if x.party == party}
    if not isinstance(own, Mapping) and own is not None:
        raise ValueError(
            f"`own` must be a dictionary of segments and losses, or a topology, got {type(own).__name__}."
        )
    return dict(own or {})


def _refusing(what: str, party: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError(f"{what} is of `{party}`: no one else can run it.")

    return refuse


def foreign(
    name: str,
    party: str,
    trainable: bool = True,
    inputs: str | Sequence[str] | None = None,
) -> Segment:
    """A segment that only `party` has. It says whether it trains, and refuses to run; `inputs` as for `jsplit.segment`."""
    refuse = _refusing(f"node `{name}`", party)
    refuse.foreign = True  # type: ignore[attr-defined]
    return Segment(
        refuse,
        refuse,
        None if inputs is None else tuple(names_of("inputs", inputs, twice=True)),
        name,
        trainable,
    )


def write(file: str | os.PathLike, agreed: Agreement) -> Path:
    """Write the file that all parties get; `read` is the inverse."""
    Path(file).write_text(json.dumps(agreed.said, sort_keys=True, indent=1) + "\n")
    return Path(file)


def read(file: str | os.PathLike) -> Agreement:
    """The agreement in a file.

    Raises:
        ValueError: naming the file and what in it is not as it must be.
    """
    try:
        found = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} holds no agreement: {error}") from None
    try:
        return checked(found)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def checked(found: Any) -> Agreement:
    """An agreement, after all in it was looked at."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"an agreement says `format`: {FORMAT!r}.")
    for name in (*_NEEDED, *found):
        if name not in found or name not in _NEEDED:
            raise ValueError(
                f"an agreement {'lacks' if name in _NEEDED else 'has'} `{name}`."
            )
    for name, least in (
        ("batch", 1),
        ("microbatches", 1),
        ("steps", 1),
        ("checkpoint", 1),
        ("seed", 0),
        ("staleness", 0),
    ):
        if (
            isinstance(found[name], bool)
            or not hasattr(found[name], "__index__")
            or index(found[name]) < least
        ):
            raise ValueError(
                f"`{name}` must be an integer from {least} on, got {found[name]!r}."
            )
        found = found | {name: index(found[name])}
    if found["batch"] % found["microbatches"]:
        raise ValueError(
            f"`microbatches` is {found['microbatches']}, which does not divide the batch of {found['batch']}."
        )
    if found["staleness"] and (found["microbatches"] > 1 or found["turns"] is not None):
        what = (
            "`turns`"
            if found["turns"] is not None
            else f"`microbatches` of {found['microbatches']}"
        )
        raise ValueError(
            f"`staleness` is {found['staleness']}, which does not go with {what}."
        )
    if not isinstance(found["patience"], (int, float)) or not found["patience"] > 0:
        raise ValueError(
            f"`patience` must be a positive number of seconds, got {found['patience']!r}."
        )
    if found["nonfinite"] not in _NONFINITE:
        raise ValueError(
            f"`nonfinite` must be one of {', '.join(_NONFINITE)}, got {found['nonfinite']!r}."
        )
    parties = Turns(found["turns"], found["parties"], found["steps"]).parties
    for name in ("addresses", "identities", "hosts"):
        if unknown := set(found[name]) - set(parties):
            raise ValueError(
                f"`{name}` names the party `{sorted(unknown)[0]}`, which is not one of {', '.join(parties)}."
            )
    check_addresses(found["addresses"])
    if found["lead"] not in found["addresses"]:
        raise ValueError(
            f"`lead` must be a party that listens, one of {list(found['addresses'])}, got {found['lead']!r}."
        )
    if found["turns"] is not None and found["lead"] not in found["parties"]:
        raise ValueError(
            f"`lead` must be a party that is there in every step, got {found['lead']!r}, which takes turns."
        )
    made = Agreement(canonical(found))
    try:
        topology = made.topology_of_strangers
        if set(topology.parties) != set(found["parties"]):
            raise ValueError(
                f"`parties` are {found['parties']}, the nodes and fields are of {list(topology.parties)}."
            )
        for wire in made.wires:
            made.value(wire, found["batch"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"an agreement does not hold what it must: {first_line(error)}"
        ) from None
    names = {s for pair in found["links"].values() for s in pair if s is not None}
    both_ways(topology, dict.fromkeys(found["links"], identity))
    if not all(isinstance(s, str) for s in names):
        raise ValueError(f"`links` must hold names of links, got {found['links']}.")
    for name in names:
        shapes.check_link(name)
    return made


def check_addresses(addresses: Any) -> None:
    """Refuse what is no address, for each party."""
    if not isinstance(addresses, Mapping) or not addresses:
        raise ValueError(
            f"`addresses` must say host:port of each party that listens, of one at least, got {addresses!r}."
        )
    for party, address in addresses.items():
        host, _, port = (
            address.rpartition(":") if isinstance(address, str) else ("", "", "")
        )
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(
                f"`addresses` must say host:port for `{party}`, got {address!r}."
            )
