"""How a party reaches each other one: whom it dials, who dials it, and who is relayed."""

from __future__ import annotations

from jsplit.party.contract.agreement_attributes import AgreementRecord


def routes(agreed: AgreementRecord, party: str) -> dict[str, str]:
    """How a party reaches each other one, as `jsplit.party.Agreement.reach` says it.

    Args:
        agreed: what the parties have agreed on.
        party: whose connections are meant.

    Returns:
        `"dial"`, `"wait"` or `"lead"` by each other party.

    Raises:
        ValueError: if the party is none of the agreement's.
    """
    # Of nobody there would be an answer too: that it reaches all by way of the lead.
    if party not in agreed.parties:
        raise ValueError(
            f"`party` must be one of {', '.join(agreed.parties)}, got {party!r}."
        )
    found = {}
    for other in agreed.parties:
        if other != party:
            dialled = _dialled(agreed, party, other)
            how = {other: "dial", party: "wait"}
            found[other] = how.get(dialled or "", "lead")
    return found


def _dialled(agreed: AgreementRecord, a: str, b: str) -> str | None:
    """Which of two parties the other dials, or `None` if they have no connection."""
    both = [party for party in agreed.parties if party in (a, b)]
    listening = [party for party in both if party in agreed.addresses]
    # The lead listens, and must be reached by all whether or not they ever work
    # together: it says from which step all go on.
    if agreed.lead in listening:
        return agreed.lead
    # A connection that carries nothing would only be one more that can be lost.
    if not listening or agreed.turns.never_connected(a, b):
        return None
    # Both sides must come to the same answer, so it goes by the order of parties.
    return listening[0]
