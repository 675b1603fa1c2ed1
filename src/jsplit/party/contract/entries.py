"""The entries of an agreement: one node, one loss, and how clients rotate.

Each is a frozen record and, for the file, a dictionary of JSON; `entry` and `as_json` are
inverses, to the byte, since parties compare the hash of the whole file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar


@dataclass(frozen=True)
class NodeEntry:
    """A node, as all parties know it.

    Attributes:
        name: of the value that it produces.
        party: the role that runs it.
        reads: the fields and values that it reads, in its segment's order.
        trainable: whether its segment is trained.
        detached: those of them that get no cotangent from this node. In the file it is
            left out if there are none, as files of version 0.1 have it.
        frozen: the hash of which of its parameters are frozen, by paths, dtypes and
            shapes; left out where none is, or nobody said.
    """

    name: str
    party: str
    reads: tuple[str, ...]
    trainable: bool
    detached: tuple[str, ...] = ()
    frozen: str = ""


@dataclass(frozen=True)
class LossEntry:
    """A loss, as all parties know it.

    Attributes:
        name: of the loss.
        party: the role that computes it.
        reads: the fields and values that it reads.
        weight: of the loss in the sum that is minimised; 0 for a metric.
        local: whether its gradient stays at its party.
        strength: the name under which its party may set the weight, which is then what
            it is at first; "": nobody may. In the file it is left out then.
        per: by what its sum over examples is divided; left out where it is a mean.
    """

    name: str
    party: str
    reads: tuple[str, ...]
    weight: float
    local: bool
    strength: str = ""
    per: float | None = None


@dataclass(frozen=True)
class MetricEntry:
    """A metric of a whole set, as all parties know it.

    Attributes:
        name: of the metric.
        party: the role that computes it.
        reads: the fields and values that it reads.
        weighted: whether its function takes how much each example counts.
    """

    name: str
    party: str
    reads: tuple[str, ...]
    weighted: bool


@dataclass(frozen=True)
class Rotation:
    """How clients take turns, as `jsplit.party.turns` says it.

    Attributes:
        clients: by client, which party plays which role.
        order: clients, and how many steps each takes, over and over.
        handoff: how what was learned gets to the next client.
        missing: what becomes of a client that stays away.
        largest: the most bytes that a hand-over may take.
    """

    clients: Mapping[str, Mapping[str, str]]
    order: tuple[tuple[str, int], ...]
    handoff: str
    missing: str
    largest: int

    def alone(self, client: str, steps: int) -> Rotation:
        """The rotation of one client that has all of so many steps to itself."""
        return replace(
            self,
            clients={client: self.clients[client]},
            order=((client, steps),),
            handoff="none",
        )


_Entry = TypeVar("_Entry", NodeEntry, LossEntry, MetricEntry, Rotation)


def entry(kind: type[_Entry], found: object) -> _Entry:
    """The record that a dictionary of JSON stands for.

    Args:
        kind: of the record.
        found: the dictionary.

    Returns:
        The record; lists have become tuples.

    Raises:
        ValueError: if the dictionary has other keys than the record has attributes.
    """
    names = [field.name for field in fields(kind)]
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    # A key that is not understood would be lost when the agreement is written again,
    # and with it the hash that the parties compare.
    if not isinstance(found, Mapping) or not needed <= found.keys() <= {*names}:
        raise ValueError(
            f"an agreement does not hold what it must: an entry says "
            f"{', '.join(names)}, got {found!r}."
        )
    if kind is not Rotation:
        _check_values(found)
    # `Any`: each attribute has a type of its own, which was looked at just now, or of a
    # rotation by `turns_check`.
    attributes: dict[str, Any] = {name: _frozen(x) for name, x in found.items()}
    return kind(**attributes)


def as_json(
    record: NodeEntry | LossEntry | MetricEntry | Rotation,
) -> dict[str, object]:
    """The dictionary of JSON of a record; `entry` is the inverse."""
    found = {}
    for field in fields(record):
        value = getattr(record, field.name)
        # An attribute with a default was added later: where it says nothing it is left
        # out, so that older agreements keep their text and their hash.
        if field.default is MISSING or value != field.default:
            found[field.name] = _plain(value)
    return found


def _check_values(found: Mapping[str, object]) -> None:
    """Refuse what is of another type than an attribute of a node or a loss must be."""
    for name, value in found.items():
        if name in ("reads", "detached"):
            # A string is a sequence too, and "xy" must not become the names "x" and "y".
            listed = isinstance(value, (list, tuple))
            right = listed and all(isinstance(x, str) for x in value)
            kind = "a list of names"
        elif name in ("weight", "per"):
            # Python counts `True` as 1, and nobody means it by either.
            number = isinstance(value, (int, float))
            right, kind = number and not isinstance(value, bool), "a number"
        elif name in ("trainable", "local", "weighted"):
            right, kind = isinstance(value, bool), "true or false"
        else:
            right, kind = isinstance(value, str), "a name"
        if not right:
            raise ValueError(
                f"an agreement does not hold what it must: `{name}` is {kind}, "
                f"got {value!r}."
            )


def _frozen(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(x) for x in value)
    return value


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    if isinstance(value, Mapping):
        return {name: _plain(x) for name, x in value.items()}
    return value
