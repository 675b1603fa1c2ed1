"""Whether all have the same records, told from counts and digests: no id leaves.

It is compared before an epoch begins, because records in another order would train
without an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from jsplit.wire.control import Counted, Status
from jsplit.wire.errors import Refused
from jsplit.wire.said import named


def same_records(said: Mapping[str, Status]) -> dict[str, int]:
    """By client, how many records all parties have that have any.

    Args:
        said: the status of each party.

    Raises:
        Refused: if they are not the same, giving counts.
    """
    # In the order in which clients first appear, so that all print the same.
    clients = dict.fromkeys(
        client for status in said.values() for client in status.records
    )
    counts: dict[str, int] = {}
    for client in clients:
        having = {p: s.records[client] for p, s in said.items() if client in s.records}
        counts[client] = _count_of(client, having)
    return counts


def _count_of(client: str, having: Mapping[str, Counted]) -> int:
    """How many records of a client there are, if all that have any have the same."""
    differ = "the parties do not have the same records" + (
        f" of {named(client)}" if client else ""
    )
    counts = [count for count, _ in having.values()]
    if len({*counts}) > 1:
        each = ", ".join(f"`{party}` {count}" for party, (count, _) in having.items())
        missing = max(counts) - min(counts)
        raise Refused(
            f"{differ}: {each}; at least {missing} are missing at one of them."
        )
    bare = [party for party, (_, digest) in having.items() if digest is None]
    # All without ids is allowed: then the order in which each gives them is the order.
    if 0 < len(bare) < len(having):
        raise Refused(
            f"{differ}: {_names(bare)} gave them without ids, others with ids; with them or "
            "without, it must be the same at all."
        )
    keyed = {party for party, (_, digest) in having.items() if _is_keyed(digest)}
    if 0 < len(keyed) < len(having):
        without = [party for party in having if party not in keyed]
        raise Refused(
            f"{differ}: {_names(without)} gave no `ids_key`, others did; it must be the same at "
            "all that hold records."
        )
    first, *others = having
    # With equal counts a digest tells only that they differ, not at whom: the first is
    # the measure.
    odd = [party for party in others if having[party] != having[first]]
    if odd:
        raise Refused(
            f"{differ}: all have {counts[0]}, but the ids, or the weights"
            f"{', or the `ids_key`' if keyed else ''}, of "
            f"{_names(odd)} are not those of `{first}`."
        )
    return counts[0]


def _is_keyed(digest: str | None) -> bool:
    # As `jsplit.party.contract.record_order` writes it.
    return digest is not None and digest.startswith("keyed ")


def _names(parties: list[str]) -> str:
    return ", ".join(f"`{party}`" for party in parties)
