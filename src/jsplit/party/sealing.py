"""What seals the frames that go by way of the lead, made of a party's credentials.

It needs the package `cryptography`, which parties that all reach each other do not.
"""

from __future__ import annotations

from jsplit.party.connection.connections import identity_of
from jsplit.party.crossings_of_run import Frames
from jsplit.wire.certs import Trust
from jsplit.wire.relay import Seals


def sealer(frames: Frames, credentials: Trust, instance: int) -> Seals:
    """What seals the frames that go by way of the lead, and opens those that come so.

    Args:
        frames: of the run.
        credentials: of this party.
        instance: its process.
    """
    # Here, since not everybody has the package.
    from jsplit.wire.key_exchange import KeyExchange
    from jsplit.wire.seal import Sealer

    agreed, parties = frames.agreed, frames.agreed.parties
    identities = [identity_of(agreed, p, credentials) for p in parties]
    me = parties.index(frames.party)
    exchange = KeyExchange(credentials, parties, identities, frames.run, me, instance)
    return Sealer(exchange, frames.limit)
