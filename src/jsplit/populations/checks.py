"""Arguments of populations that users give, checked: how many clients, and how they fail."""

from __future__ import annotations

from operator import index

from jsplit.core.checks import as_positive_int, shown


def at_most(most: int, clients: int, of: str = "records") -> int:
    """Return `clients` as a plain integer from 1 to `most`."""
    if as_positive_int("clients", clients) > most:
        raise ValueError(f"`clients` is {clients}, but there are only {most} {of}.")
    return index(clients)


def check_failures(dropout: float, unfinished: str) -> None:
    """Refuse a probability of failing outside [0, 1), or an unknown fate of the work."""
    # Not 1: a round in which everybody fails with certainty trains nothing.
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must lie in [0, 1), got {shown(dropout)}.")
    if unfinished not in ("keep", "discard"):
        raise ValueError(
            f'`unfinished` must be "keep" or "discard", got {shown(unfinished)}.'
        )
