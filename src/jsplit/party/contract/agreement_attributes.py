"""An agreement as its file says it: one typed attribute for each entry, and their hash.

What follows from the entries, as the topology and who reaches whom, is in `agreement`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar, cast

from jsplit.party.contract.checks import with_format
from jsplit.party.contract.entries import (
    LossEntry,
    MetricEntry,
    NodeEntry,
    Rotation,
    as_json,
    entry,
)
from jsplit.party.contract.epochs import Epochs, epochs_of
from jsplit.party.contract.file_types import AgreementEntries
from jsplit.party.contract.schema import Words
from jsplit.party.contract.seconds import STALL
from jsplit.party.contract.turns import Turns

_SCHEMA = tuple(
    "parties holds nodes losses values links batch microbatches staleness seed".split()
)
"""What a checkpoint depends on, by its name in the file. The rest, as addresses and the
number of steps, may change between two runs."""
_SCHEMA_OF_TURNS = ("clients", "order", "handoff")


# Compared by its text: dictionaries among the attributes could not be hashed, and what
# two parties compare is the text as well.
@dataclass(frozen=True, eq=False, repr=False)
class AgreementRecord:
    """The entries of an agreement; `jsplit.party.Agreement` documents each."""

    roles: tuple[str, ...]
    lead: str
    addresses: Mapping[str, str]
    holds: Mapping[str, tuple[str, ...]]
    nodes: tuple[NodeEntry, ...]
    losses: tuple[LossEntry, ...]
    values: Mapping[str, Words]
    link_names: Mapping[str, tuple[str | None, str | None]]
    batch: int
    microbatches: int
    steps: int
    rotation: Rotation | None
    staleness: int
    seed: int
    checkpoint: int
    patience: float
    nonfinite: str
    identities: Mapping[str, str]
    hosts: Mapping[str, str]
    fields: Mapping[str, str | list[str]]
    metrics: tuple[MetricEntry, ...]
    rotation_of_all: Rotation | None = None
    unread: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    norms: tuple[str, ...] = ()
    wants_loss: tuple[str, ...] = ()
    weight: str = ""
    loss_scale: float | Mapping[str, float] | None = None
    stall: float = STALL
    public: tuple[str, ...] = ()
    carried: Mapping[str, Sequence[str]] = field(default_factory=dict)
    epochs: Epochs | None = None

    @cached_property
    def said(self) -> AgreementEntries:
        """The agreement as its file says it, a dictionary of JSON.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> sample_agreement().said["parties"]
            ['client', 'server']
        """
        nodes: list[Mapping[str, object]] = [as_json(node) for node in self.nodes]
        found = {
            "parties": list(self.roles),
            "lead": self.lead,
            "addresses": dict(self.addresses),
            "holds": {party: list(fields) for party, fields in self.holds.items()},
            "nodes": nodes,
            "losses": [as_json(loss) for loss in self.losses],
            "values": dict(self.values),
            "links": {name: list(pair) for name, pair in self.link_names.items()},
            "batch": self.batch,
            "microbatches": self.microbatches,
            "steps": self.steps,
            "turns": None if self.rotation is None else as_json(self.rotation),
            "staleness": self.staleness,
            "seed": self.seed,
            "checkpoint": self.checkpoint,
            "patience": self.patience,
            "nonfinite": self.nonfinite,
            "identities": dict(self.identities),
            "hosts": dict(self.hosts),
            "fields": dict(self.fields),
            "metrics": [as_json(metric) for metric in self.metrics],
            "unread": {
                party: {label: list(paths) for label, paths in own.items()}
                for party, own in self.unread.items()
            },
            "norms": list(self.norms),
            "wants_loss": list(self.wants_loss),
            "weight": self.weight,
            "loss_scale": self.loss_scale,
            "stall": self.stall,
            "public": list(self.public),
            "carried": {n: list(names) for n, names in self.carried.items()},
            "epochs": self.epochs and asdict(self.epochs),
        }
        return cast(AgreementEntries, with_format(found))

    @cached_property
    def turns(self) -> Turns:
        """Who works with whom in which step, in turns or not.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> agreed = sample_agreement("north", "south")
            >>> [agreed.turns.client(step) for step in range(6)]
            [0, 0, 1, 1, 0, 0]
        """
        rotation = None if self.rotation is None else as_json(self.rotation)
        every = self.epochs.steps if self.epochs else 0
        return Turns(rotation, self.roles, self.steps, every=every)

    @property
    def parties(self) -> tuple[str, ...]:
        """All parties: those of every client, then those that are always there.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> sample_agreement("north", "south").parties
            ('north', 'south', 'server')
        """
        return self.turns.parties

    # `Any`: what is there depends on the name.
    def __getitem__(self, name: str) -> Any:
        """An entry by its name in the file; attributes are typed, so prefer them."""
        return self.said[name]

    @cached_property
    def text(self) -> str:
        """The agreement as one line of JSON with sorted keys, which is what is hashed.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> sample_agreement().text[:28]
            '{"addresses":{"server":"loca'
        """
        return canonical(self.said)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AgreementRecord):
            return NotImplemented
        mine = (self.text, self.rotation_of_all)
        return mine == (other.text, other.rotation_of_all)

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Agreement of {', '.join(self.parties)}: {self.hash[:16]}"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the text, in hexadecimal: what two parties compare first.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> agreed = sample_agreement()
            >>> len(agreed.hash), agreed.hash == agreed.replace(steps=11).hash
            (64, False)
        """
        return sha256(self.text.encode()).hexdigest()

    @property
    def _crossing_in_training(self) -> set[str]:
        """The values that another party's node or loss reads."""
        maker = {node.name: node.party for node in self.nodes}
        readers = (*self.nodes, *self.losses)
        return {i for r in readers for i in r.reads if maker.get(i, r.party) != r.party}

    @cached_property
    def schema(self) -> str:
        """SHA-256, in hexadecimal, of the part that a checkpoint depends on.

        Example:
            >>> from jsplit.party.contract.sample import sample_agreement
            >>> agreed = sample_agreement()
            >>> agreed.schema == agreed.replace(steps=11).schema
            True
            >>> agreed.schema == agreed.replace(batch=8).schema
            False
        """
        entries = cast("Mapping[str, object]", self.said)
        found: dict[str, object] = {name: entries[name] for name in _SCHEMA}
        # What only metrics read crosses in no step, so a run may be evaluated by others
        # than it was trained with.
        trained = self._crossing_in_training
        for name in ("values", "links"):
            by_value = cast("Mapping[str, object]", found[name])
            found[name] = {v: x for v, x in by_value.items() if v in trained}
        # The memory of a link has the form of what crosses.
        if self.unread:
            found["unread"] = self.unread
        # A dynamic scale has a memory.
        if self.loss_scale is not None:
            found["loss_scale"] = self.loss_scale
        # One client's agreement reads the checkpoints that the run of all has written.
        rotation = self.rotation_of_all or self.rotation
        found["turns"] = None
        if rotation is not None:
            turns = as_json(rotation)
            found["turns"] = {name: turns[name] for name in _SCHEMA_OF_TURNS}
        return sha256(canonical(found).encode()).hexdigest()


_Record = TypeVar("_Record", bound=AgreementRecord)


def record_of(kind: type[_Record], found: AgreementEntries) -> _Record:
    """The record that a dictionary of JSON stands for; `said` is the inverse.

    Args:
        kind: of the record.
        found: the dictionary, checked.

    Returns:
        The record; lists have become tuples.

    Raises:
        ValueError: if a node, a loss, the rotation or epochs have other entries.
    """
    rotation = found["turns"]
    # That each value has two was looked at before, by `check_types`.
    links = {
        name: cast("tuple[str | None, str | None]", tuple(pair))
        for name, pair in found["links"].items()
    }
    # In the file `parties`, `links` and `turns` stand for what code calls otherwise:
    # for roles, for names of links, and for a rotation.
    return kind(
        roles=tuple(found["parties"]),
        lead=found["lead"],
        addresses=found["addresses"],
        holds={party: tuple(names) for party, names in found["holds"].items()},
        nodes=tuple(entry(NodeEntry, x) for x in found["nodes"]),
        losses=tuple(entry(LossEntry, x) for x in found["losses"]),
        values=found["values"],
        link_names=links,
        batch=found["batch"],
        microbatches=found["microbatches"],
        steps=found["steps"],
        rotation=None if rotation is None else entry(Rotation, rotation),
        staleness=found["staleness"],
        seed=found["seed"],
        checkpoint=found["checkpoint"],
        patience=found["patience"],
        nonfinite=found["nonfinite"],
        identities=found["identities"],
        hosts=found["hosts"],
        fields=found.get("fields", {}),
        metrics=tuple(entry(MetricEntry, x) for x in found.get("metrics", ())),
        unread=found.get("unread", {}),
        norms=tuple(found.get("norms", ())),
        wants_loss=tuple(found.get("wants_loss", ())),
        weight=found.get("weight", ""),
        loss_scale=found.get("loss_scale"),
        stall=found.get("stall", STALL),
        public=tuple(found.get("public", ())),
        carried=found.get("carried", {}),
        epochs=epochs_of(found.get("epochs")),
    )


def canonical(tree: object) -> str:
    """JSON of which equal trees give equal texts: sorted keys, and no spaces.

    Args:
        tree: of dictionaries, lists, strings and finite numbers.

    Returns:
        The text.

    Raises:
        ValueError: if a number is not finite; NaN would not be equal to itself.
    """
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
