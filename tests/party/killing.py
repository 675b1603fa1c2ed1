"""Parties that are killed at points of a training by epochs, and started again each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jsplit
from jsplit import party
from tests.party.federation import together


class Killed(Exception):
    """In the place of `kill -9`: nothing is saved and nobody is told."""


class Kills:
    """A callback by which a party dies at steps, and at the ends of epochs ("epoch 1")."""

    def __init__(self, at: Iterable[object]):
        self.left = list(at)

    def on_step(self, step, metrics):
        self._reached(step)

    def on_epoch(self, epoch):
        self._reached(f"epoch {epoch.number}")

    def _reached(self, at):
        if self.left and self.left[0] == at:
            self.left.pop(0)
            raise Killed


def _until_done(fit: Callable[[Kills], party.Fitted], at: Iterable[object]):
    """What a party is left with that is started again wherever it is killed.

    Args:
        fit: trains, given the callback.
        at: where it is killed, in this order.
    """
    kills = Kills(at)
    while True:
        try:
            return fit(kills)
        except Killed:
            continue


def all_fitted(
    agreed: party.Agreement,
    topology: jsplit.Topology,
    given: Callable[[str], Mapping],
    folder: Path | None = None,
    kills: Mapping[str, Iterable[object]] | None = None,
) -> dict:
    """What all parties of a training by epochs are left with, or the errors they raise.

    Args:
        agreed: what they have agreed on.
        topology: which all of them know.
        given: what a party gives to `party.fit`, by its name.
        folder: of the folders of all.
        kills: where each is killed, and started again.
    """
    transport = party.MemoryTransport()

    def one(name):
        def fit(kills):
            return party.fit(
                agreed,
                name,
                topology,
                credentials=party.PlaintextWithoutIdentity(name),
                remind=0.2,
                transport=transport,
                folder=folder and folder / name,
                **{"callbacks": [kills], **given(name)},
            )

        return _until_done(fit, (kills or {}).get(name, ()))

    return together(agreed.parties, one)
