"""What a party's process needs, gathered from the command line and the user's function."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsplit import party as parties
from jsplit.commands.functions import load
from jsplit.party.contract.checks import check_addresses

_MAY_GIVE = {
    "own",
    "data",
    "optimizer",
    "ids",
    "links",
    "backward",
    "bound",
    "guard",
    "kernels",
    "keep_replies",
    "remind",
}
"""The arguments of `jsplit.party.run` that a user's function may give; all others are
options of the command, so that they can differ between two starts."""
FOR_EPOCHS = {
    "validation",
    "validation_ids",
    "class_weight",
    "label",
    "hyperparams",
    "monitor",
    "mode",
    "patience",
    "min_delta",
    "callbacks",
}
"""Those of `jsplit.party.fit` beside them, for an agreement with epochs."""

# `Any`: what the user's function gives goes to `run` as it is, which looks at each.
Given = Mapping[str, Any]
"""Arguments of `jsplit.party.run` by name."""


@dataclass(frozen=True)
class Gathered:
    """What every party's process needs.

    Attributes:
        agreed: the agreement.
        given: the arguments of `jsplit.party.run` that the user's function gives.
        credentials: the party's certificate and key.
        listen: where it listens, if not where the agreement says.
        addresses: by party, where it is dialled, if not where the agreement says.
        pulse: seconds of silence and of waiting for an answer, if given.
        bound: by value, the largest norm of a record that the party takes.
    """

    agreed: parties.Agreement
    given: Given
    credentials: parties.Credentials | parties.PlaintextWithoutIdentity
    listen: str | None
    addresses: Mapping[str, str]
    pulse: tuple[float, ...]
    bound: Mapping[str, float] | None

    @property
    def reach(self) -> Given:
        """By whom it is known and where it and others are, as all its calls take them."""
        names = ("credentials", "listen", "addresses", "pulse")
        return {name: getattr(self, name) for name in names}


def gather(options: argparse.Namespace) -> Gathered:
    """Read the agreement, call the user's function, and check what both say.

    Args:
        options: of the command line.

    Returns:
        All that a party's process needs.

    Raises:
        ValueError: naming the option, file or function to mend.
    """
    agreed = parties.read(options.agreement)
    # Before the user's function, which may take long and knows no other party.
    if options.party not in agreed.parties:
        raise ValueError(
            f"`party` must be one of {', '.join(agreed.parties)}, "
            f"got {options.party!r}."
        )
    given = dict(given_by(options.function, options.party))
    bound = given.pop("bound", None)
    if options.bound:
        # What is said in the command counts before what the function says.
        bound = {**(bound or {}), **_bound(options.bound)}
    return Gathered(
        agreed,
        given,
        _credentials(options),
        _listen(options.listen),
        _addresses(options.address, agreed),
        _pulse(options.pulse),
        bound,
    )


def given_by(spec: str, party: str) -> Given:
    """What the user's function gives of a party.

    Args:
        spec: the function, as file.py:function.
        party: what it is called with.

    Returns:
        Arguments of `jsplit.party.run`.

    Raises:
        ValueError: if it gives others.
    """
    given = load(spec)(party)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"`{spec}` must give a dictionary of arguments, got {type(given).__name__}."
        )
    if unknown := given.keys() - _MAY_GIVE - FOR_EPOCHS:
        raise ValueError(
            f"`{spec}` gives `{min(unknown)}`; "
            f"it may give {', '.join(sorted(_MAY_GIVE | FOR_EPOCHS))}."
        )
    return given


def _credentials(
    options: argparse.Namespace,
) -> parties.Credentials | parties.PlaintextWithoutIdentity:
    # The parser sees to it that one of the two is said: no connection is open to all
    # because an option was forgotten.
    if options.plaintext_without_identity:
        # Else whoever is meant would connect, without anybody having looked.
        if options.deny is not None:
            raise ValueError("`--deny` is of certificates, and needs `--certs`.")
        return parties.PlaintextWithoutIdentity(options.party)
    return parties.credentials(options.certs, options.party, deny=options.deny)


def _listen(listen: str | None) -> str | None:
    if listen:
        check_addresses({"--listen": listen})
    return listen


def _addresses(said: list[str], agreed: parties.Agreement) -> dict[str, str]:
    """Addresses by party, of options `party=host:port`."""
    addresses = {}
    for text in said:
        name, _, address = text.partition("=")
        if not address or name not in agreed.parties:
            raise ValueError(
                "`--address` must be party=host:port, "
                f"for one of {', '.join(agreed.parties)}, got {name}={address}."
            )
        if addresses.setdefault(name, address) != address:
            raise ValueError(f"`--address` gives two addresses of {name}.")
    return addresses


def _bound(said: list[str]) -> dict[str, float]:
    """Largest norms by value, of options `value=norm`."""
    found = {}
    for text in said:
        name, _, most = text.rpartition("=")
        try:
            norm = float(most)
        except ValueError:
            raise ValueError(
                f"`--bound` must be value=norm, a number, got {text}."
            ) from None
        # The last would count, and a forgotten first one be the one that was meant.
        if found.setdefault(name, norm) != norm:
            raise ValueError(f"`--bound` gives two norms of {name}.")
    return found


def _pulse(said: list[float] | None) -> tuple[float, ...]:
    if not said:
        return ()
    # NaN is not larger than 0 either, and so is refused with what is negative.
    if not min(said) > 0:
        raise ValueError(
            f"`--pulse` must be two positive numbers of seconds, got {said}."
        )
    return tuple(said)
