"""How a party reaches the others, where that is not for all of them to agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jsplit.wire.transport import Transport


@dataclass(frozen=True)
class Reach:
    """One party's own choices, which the others need not know.

    Attributes:
        listen: where to listen, if not at the address that the others
            dial.
        addresses: where to dial parties, if not at the addresses of the
            agreement.
        remind: seconds of waiting after which what may have been lost
            is asked for again.
        pulse: seconds of silence after which a connection is asked, and
            that it has to answer; see `jsplit.wire.transport.Pulse`,
            whose defaults are taken for what is left out.
        transport: what connects parties; gRPC by default.

    Raises:
        ValueError: if `transport` is no transport.
    """

    # All of it may differ from process to process of one party, so it is
    # not in the agreement.
    listen: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    remind: float = 5.0
    pulse: Sequence[float] = ()
    transport: Transport | None = None

    def __post_init__(self) -> None:
        given = self.transport
        methods = [getattr(given, name, None) for name in ("listen", "dial")]
        # A class has both methods too, and would lack `self` at the first call, in a
        # thread where the error is far from its cause.
        right = all(map(callable, methods)) and not isinstance(given, type)
        if given is not None and not right:
            raise ValueError(
                "`transport` must be an object with the methods `listen` and `dial`, "
                f"or None for gRPC, got {given!r}."
            )


def default_transport() -> Transport:
    """What connects parties that are given no other transport: gRPC."""
    # Not at the top: a run in one process must do without the extra that
    # brings gRPC.
    from jsplit.wire.rpc import Grpc

    return Grpc()
