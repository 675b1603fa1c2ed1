"""From how the parameters of each party travel to the table of all parts of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsplit.core.checks import one_of, shown
from jsplit.core.trainer import Trainer
from jsplit.rounds.round_method import check_trainer
from jsplit.rounds.sharing import PartySharing, Sharing, SharingTable


def client_and_others(
    trainer: Trainer, client: str | Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the parties that a client is made of, and all others."""
    parties = check_trainer(trainer).topology.parties
    if isinstance(client, str):
        # A string is a sequence too, of letters.
        mine = [client]
    else:
        mine = list(client) if isinstance(client, Sequence) else []
    if not mine or len({*mine}) < len(mine) or not {*mine} <= {*parties}:
        raise ValueError(
            f"`client` must be one or several of the parties {', '.join(parties)}, "
            f"got {shown(client)}."
        )
    return mine, [p for p in parties if p not in mine]


def sharing_table(
    sides: Mapping[str, Sharing],
    *,
    statistics: str = "averaged",
    moments: str = "fresh",
    states: Mapping[str, Sharing] | None = None,
    links: Sharing | None = None,
) -> SharingTable:
    """Return how each part of each party's state is shared.

    Args:
        sides: by party, how its parameters are; the rest of its state is
            so too, where nothing below says otherwise.
        statistics: how those of parties that are averaged are,
            `"averaged"` or `"own"`.
        moments: how optimizer states of parties that are averaged are,
            `"fresh"`, `"averaged"` or `"own"`.
        states: by party, how its statistics are, instead.
        links: how the memories of links are, instead.

    Returns:
        The table.

    Raises:
        ValueError: if `statistics` or `moments` is none of those.
    """
    one_of("statistics", statistics, ("averaged", "own"))
    one_of("moments", moments, ("fresh", "averaged", "own"))
    if links is None:
        # What a link has not sent yet is added to what it sends next. It
        # may go to the next client only where all that it belongs to goes
        # there too.
        carried = all(side is Sharing.CARRIED for side in sides.values())
        links = Sharing.CARRIED if carried else Sharing.OWN

    table = {}
    for party, side in sides.items():
        state = optimizer = side
        if side is Sharing.AVERAGED:
            state, optimizer = Sharing(statistics), Sharing(moments)
        if states and party in states:
            state = states[party]
        # As hyperparameters of optimizers: each client's where its optimizer is.
        own = optimizer is Sharing.OWN
        strengths = Sharing.OWN if own else Sharing.AVERAGED
        table[party] = PartySharing(side, state, optimizer, links, strengths)
    return SharingTable(table)
