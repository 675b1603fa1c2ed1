"""How one party is reached, and reaches the others: choices that nobody else need know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jsplit.wire.transport import Transport


@dataclass(frozen=True)
class Reach:
    """One party's own choices, which the others need not know.

    Attributes:
        listen: where to listen, if not at the address that the others dial.
        addresses: where to dial parties, if not at the addresses of the agreement.
        remind: seconds of waiting after which what may have been lost is asked for
            again.
        pulse: seconds of silence after which a connection is asked, and that it has to
            answer; see `jsplit.wire.rpc.Pulse`, whose defaults are taken for what is
            left out.
        transport: what connects parties; gRPC by default.
    """

    listen: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    remind: float = 5.0
    pulse: Sequence[float] = ()
    transport: Transport | None = None
