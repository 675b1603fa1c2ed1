"""What an agreement must say, looked at one entry after the other before it is used.

Its source is a file that anybody may have edited, so each error names the entry, what was
expected and what came.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import index
from typing import SupportsIndex, cast

from jsplit.core.checks import shown
from jsplit.party.contract.entry_types import check_types
from jsplit.party.contract.file_types import AgreementEntries
from jsplit.party.contract.plain_names import check_names, check_texts
from jsplit.party.contract.seconds import STALL, check_seconds
from jsplit.party.contract.turns import Turns
from jsplit.training.config import NONFINITE
from jsplit.training.dynamic_scale import DynamicScale, LossScale, as_scale

_FORMAT = "jsplit agreement 1"
"""What a file says under `format`; another number is another, incompatible format."""
_FORMAT_WITH_DETACHED = "jsplit agreement 2"
"""The same with nodes that have `detached`. Version 0.1 did not know the key, passed over
it and trained something else; this number it refuses by name."""
_FORMAT_WITH_FIELDS = "jsplit agreement 3"
"""The same with the dtypes of `fields`, and all else that version 0.1 did not know."""
_EMPTY: dict[str, object] = {
    "fields": {},
    "metrics": [],
    "unread": {},
    "norms": [],
    "wants_loss": [],
    "weight": "",
    "loss_scale": None,
}
_NEWER = tuple(_EMPTY)
"""The entries of that format, which no older one has."""
_OPTIONAL = {"stall": STALL, "public": [], "carried": {}, "epochs": None}
"""Entries of that format that are there only where they say something else than this."""

_ENTRIES = (
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
_LEAST = {
    "batch": 1,
    "microbatches": 1,
    "steps": 1,
    "checkpoint": 1,
    "seed": 0,
    "staleness": 0,
}
"""The entries that are integers, and the least that each may be."""


def checked(found: object) -> AgreementEntries:
    """The dictionary of an agreement, after its entries were looked at.

    What only the whole topology shows, as a value that nobody produces, is checked by
    `jsplit.party.contract.agreement.parsed`, which builds it.

    Args:
        found: as read from a file, or put together by `jsplit.party.agreement`.

    Returns:
        The same, with plain integers in the place of what only counts as one.

    Raises:
        ValueError: naming the entry that is not as it must be.
    """
    check_texts(found)  # first, since every message below may show what stands in it
    named = _with_all_names(found)
    check_types(named)
    _check_format(named)
    whole = {n: _integer(n, named[n], least) for n, least in _LEAST.items()}
    entries = cast(AgreementEntries, named | whole)
    _check_schedule(entries)
    _check_parties(entries)
    return entries


def _with_all_names(found: object) -> dict[str, object]:
    """Refuse what is no agreement, or lacks an entry, or has one too many."""
    formats = (_FORMAT, _FORMAT_WITH_DETACHED, _FORMAT_WITH_FIELDS)
    if not isinstance(found, dict) or found.get("format") not in formats:
        raise ValueError(
            f"an agreement says `format`: one of {', '.join(map(repr, formats))}."
        )
    newer = found["format"] == _FORMAT_WITH_FIELDS
    names = (*_ENTRIES, *_NEWER) if newer else _ENTRIES
    for name in names:
        if name not in found:
            raise ValueError(f"an agreement lacks `{name}`.")
    # An unknown entry is refused too: it may be what a later version trains by.
    may = (*names, *_OPTIONAL) if newer else names
    for name in found:
        if name not in may:
            raise ValueError(f"an agreement has `{name}`.")
    return found


def with_format(said: Mapping[str, object]) -> dict[str, object]:
    """The entries of an agreement in the lowest format that has them all.

    Args:
        said: the entries, with or without `format`, and those of newer formats.

    Returns:
        The same with `format`, and with the newer entries if any of them says
        something.
    """
    apart = (*_NEWER, *_OPTIONAL)
    found = {name: x for name, x in said.items() if name not in apart}
    other = {n: said[n] for n, x in _OPTIONAL.items() if said.get(n, x) != x}
    if other or any(said.get(name) for name in _NEWER):
        found |= {name: said.get(name, _EMPTY[name]) for name in _NEWER} | other
    return found | {"format": _format_of(found)}


def _format_of(found: Mapping[str, object]) -> str:
    """What an agreement of these entries, checked or not, says under `format`."""
    if any(found.get(name) for name in (*_NEWER, *_OPTIONAL)):
        return _FORMAT_WITH_FIELDS
    nodes = found.get("nodes")
    listed = nodes if isinstance(nodes, (list, tuple)) else ()
    # The lowest that will do: what needs no more keeps its text, hence its hash, and is
    # read by older versions.
    detached = any(isinstance(n, Mapping) and n.get("detached") for n in listed)
    return _FORMAT_WITH_DETACHED if detached else _FORMAT


def _check_format(found: Mapping[str, object]) -> None:
    """Refuse a file whose format is not the one that its entries are written in."""
    # Otherwise it would be written back as another text than was read.
    expected = _format_of(found)
    if found["format"] != expected:
        newer = ", ".join(f"`{name}`" for name in _NEWER)
        having = {
            _FORMAT: f"without {newer} and",
            _FORMAT_WITH_DETACHED: f"without {newer}, with",
            _FORMAT_WITH_FIELDS: f"with any of {newer}, with or without",
        }[expected]
        raise ValueError(
            f"`format` of an agreement {having} nodes that have `detached` must be "
            f"{expected!r}, got {found['format']!r}."
        )


def scale_of(said: object) -> LossScale | None:
    """The loss scale that an entry of an agreement stands for.

    Raises:
        ValueError: if it is neither a number nor a dictionary of those of a dynamic one.
    """
    if said is None:
        return None
    if not isinstance(said, Mapping):
        return as_scale("loss_scale", said)
    names = {x.name for x in dataclasses.fields(DynamicScale)}
    if {*said} != names:
        raise ValueError(
            f"`loss_scale` must be a number, or have {', '.join(sorted(names))}; got "
            f"{', '.join(sorted(map(str, said))) or 'none'}."
        )
    return DynamicScale(**said)


def _integer(name: str, value: object, least: int) -> int:
    """A plain integer, of what may be one of NumPy, which JSON cannot say."""
    number = index(value) if isinstance(value, SupportsIndex) else None
    # `True` is an integer in Python, and never what somebody meant by a number of steps.
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(
            f"`{name}` must be an integer from {least} on, got {shown(value)}."
        )
    return number


def _check_schedule(found: AgreementEntries) -> None:
    """Refuse numbers and policies that do not go together."""
    micros, batch, staleness = found["microbatches"], found["batch"], found["staleness"]
    if batch % micros:
        raise ValueError(
            f"`microbatches` is {micros}, which does not divide the batch of {batch}."
        )
    # Overlapping steps have one fixed order of turns, which knows neither parts of a
    # batch nor a client that goes on from another's last step.
    in_turn = found["turns"] is not None
    if staleness and (micros > 1 or in_turn):
        what = "`turns`" if in_turn else f"`microbatches` of {micros}"
        raise ValueError(f"`staleness` is {staleness}, which does not go with {what}.")
    check_seconds(found)
    # Steps that overlap would wait for each other's numbers.
    exchanged = {
        "`norms`": found.get("norms"),
        "`wants_loss`": found.get("wants_loss"),
        '`nonfinite` "skip"': found["nonfinite"] == "skip",
    }
    for what, said in exchanged.items():
        if staleness and said:
            raise ValueError(
                f"`staleness` is {staleness}, which does not go with {what}: parties "
                "exchange numbers before each update."
            )
    weight = found.get("weight", "")
    if any(weight in fields for fields in found["holds"].values()):
        raise ValueError(
            f"`weight` is {weight!r}, which is a field: weights have a name of their own."
        )
    scale = scale_of(found.get("loss_scale"))
    if isinstance(scale, DynamicScale) and found["nonfinite"] != "skip":
        raise ValueError(
            f"`nonfinite` must be 'skip' where `loss_scale` is dynamic, got "
            f"{found['nonfinite']!r}."
        )
    for party in found.get("wants_loss", ()):
        if party not in found["parties"]:
            raise ValueError(
                f"`wants_loss` names the party `{party}`, which is not one of "
                f"{', '.join(found['parties'])}."
            )
    if found["nonfinite"] not in NONFINITE:
        raise ValueError(
            f"`nonfinite` must be one of {', '.join(NONFINITE)}, "
            f"got {found['nonfinite']!r}."
        )


def _check_parties(found: AgreementEntries) -> None:
    """Refuse names of parties that there are not, and a lead that cannot lead."""
    roles, turns, lead = found["parties"], found["turns"], found["lead"]
    in_turn = Turns(turns, roles, found["steps"])
    parties = in_turn.parties
    check_names("parties", [*roles, *parties])
    check_names("clients", in_turn.names)
    by_party = {n: found[n] for n in ("addresses", "identities", "hosts")}
    for name, named in by_party.items():
        if unknown := set(named) - set(parties):
            raise ValueError(
                f"`{name}` names the party `{min(unknown)}`, "
                f"which is not one of {', '.join(parties)}."
            )
    check_addresses(found["addresses"])
    if lead not in found["addresses"]:
        raise ValueError(
            "`lead` must be a party that listens, one of "
            f"{list(found['addresses'])}, got {lead!r}."
        )
    # It opens epochs and passes frames on in every step, its own turn or not.
    if turns is not None and lead not in roles:
        raise ValueError(
            "`lead` must be a party that is there in every step, "
            f"got {lead!r}, which takes turns."
        )


def check_addresses(addresses: object) -> None:
    """Refuse what is no address, for each party.

    Args:
        addresses: `host:port` by party.

    Raises:
        ValueError: naming the party whose address is none.
    """
    if not isinstance(addresses, Mapping) or not addresses:
        raise ValueError(
            "`addresses` must say host:port of each party that listens, "
            f"of one at least, got {addresses!r}."
        )
    for party, address in addresses.items():
        host, port = "", ""
        if isinstance(address, str):
            # From the right: an IPv6 address has colons of its own.
            host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(
                f"`addresses` must say host:port for `{party}`, got {address!r}."
            )
