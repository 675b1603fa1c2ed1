"""What an agreement must say, looked at one entry after the other before it is used.

Its source is a file that anybody may have edited, so each error names the entry, what was
expected and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import SupportsIndex, cast

from jsplit.party.contract.entry_types import check_types
from jsplit.party.contract.file_types import AgreementEntries
from jsplit.party.contract.turns import Turns

_FORMAT = "jsplit agreement 1"
"""What a file says under `format`; another number is another, incompatible format."""
_FORMAT_2 = "jsplit agreement 2"
"""The same with nodes that have `detached`, or with `unread`. Version 0.1 did not know
these keys; this number it refuses by name."""

_NONFINITE = ("refuse", "allow")
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
# Written only where it says something, so that other agreements keep their hash.
_LEFT_OUT = ("unread",)
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
    formats = (_FORMAT, _FORMAT_2)
    if not isinstance(found, dict) or found.get("format") not in formats:
        raise ValueError(
            f"an agreement says `format`: {' or '.join(map(repr, formats))}."
        )
    for name in _ENTRIES:
        if name not in found:
            raise ValueError(f"an agreement lacks `{name}`.")
    # An unknown entry is refused too: it may be what a later version trains by.
    for name in found:
        if name not in (*_ENTRIES, *_LEFT_OUT):
            raise ValueError(f"an agreement has `{name}`.")
    return found


def format_of(nodes: object, unread: object = None) -> str:
    """What an agreement says under `format`.

    Args:
        nodes: their entries in the file, checked or not.
        unread: the entry of that name, if there is one.
    """
    listed = nodes if isinstance(nodes, (list, tuple)) else ()
    # The lowest that will do: what needs no more keeps its text, hence its hash, and is
    # read by older versions.
    detached = any(isinstance(n, Mapping) and n.get("detached") for n in listed)
    return _FORMAT_2 if detached or unread else _FORMAT


def _check_format(found: Mapping[str, object]) -> None:
    """Refuse a file whose format is not the one that its nodes are written in."""
    # Otherwise it would be written back as another text than was read.
    expected = format_of(found["nodes"], found.get("unread"))
    if found["format"] != expected:
        having = "with" if expected == _FORMAT_2 else "without"
        raise ValueError(
            f"`format` of an agreement {having} nodes that have `detached`, or values of "
            f"which not all is read, must be {expected!r}, got {found['format']!r}."
        )


def _integer(name: str, value: object, least: int) -> int:
    """A plain integer, of what may be one of NumPy, which JSON cannot say."""
    number = index(value) if isinstance(value, SupportsIndex) else None
    # `True` is an integer in Python, and never what somebody meant by a number of steps.
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"`{name}` must be an integer from {least} on, got {value!r}.")
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
    patience = found["patience"]
    # Written so that NaN is refused as well, which no comparison finds too small.
    if not isinstance(patience, (int, float)) or not patience > 0:
        raise ValueError(
            f"`patience` must be a positive number of seconds, got {patience!r}."
        )
    if found["nonfinite"] not in _NONFINITE:
        raise ValueError(
            f"`nonfinite` must be one of {', '.join(_NONFINITE)}, "
            f"got {found['nonfinite']!r}."
        )


def _check_parties(found: AgreementEntries) -> None:
    """Refuse names of parties that there are not, and a lead that cannot lead."""
    roles, turns, lead = found["parties"], found["turns"], found["lead"]
    parties = Turns(turns, roles, found["steps"]).parties
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
