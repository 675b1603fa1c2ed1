"""What connects parties: it listens at an address or dials one, and gives channels.

gRPC is the default (`jsplit.wire.rpc`), memory is another (`jsplit.wire.memory`). A
transport of your own has these two methods, and passes the tests of
`tests/wire/test_wire_channel.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from jsplit.wire.certs import Trust
from jsplit.wire.channel import Channel
from jsplit.wire.codec import Accept


class Pulse(NamedTuple):
    """When a silent connection counts as lost: asked after `every`, lost after `wait`.

    The question waits behind all that was sent before it and is still on its way. If
    that takes longer than `wait`, the connection is cut, and the frame that was on its
    way begins anew: so `wait` must be long where the line is slow.

    Attributes:
        every: seconds of silence.
        wait: seconds that the answer has.

    Example:
        >>> from jsplit.wire import Pulse
        >>> Pulse(wait=300.0)
        Pulse(every=10.0, wait=300.0)
    """

    every: float = 10.0
    wait: float = 60.0


PULSE = Pulse()
"""What counts unless a party says otherwise."""

# In two steps, because who judges heads is known only when it is known who connects.
Open = Callable[[Accept], Channel]
"""`open(accept)`: the channel of a connection, which asks `accept` for every head that
comes.
"""

# It is called and does not return a channel: then nobody has to ask for the next
# connection, and the transport knows when one is over.
Met = Callable[[str, Open], object]
"""`met(party, open)`: called for every connection, which lasts until this returns."""


# Protocols and no base classes: a transport of your own need not import this file.
class Listener(Protocol):
    """Waits for connections, from when it is made until it is closed."""

    def close(self, grace: float = 5.0) -> None:
        """Take no more connections; those that are left have `grace` seconds to end."""
        ...


class Transport(Protocol):
    """How parties reach each other; an argument of `run`, `evaluate` and `predict`.

    A transport moves bytes and knows who is at the other end. What they mean, and what
    is sent again, is none of its business: it may lose a connection at any time, but
    never reorder, repeat or change what it carries on one.

    Example:
        >>> from jsplit import party
        >>> transport: party.Transport = party.MemoryTransport()
        >>> callable(transport.listen) and callable(transport.dial)
        True
    """

    def listen(
        self,
        address: str,
        trust: Trust,
        allowed: Mapping[str, str],
        met: Met,
        limit: int,
        pulse: Pulse = PULSE,
    ) -> Listener:
        """Wait for connections of parties on an allow-list.

        Args:
            address: where, `host:port`.
            trust: this party's credentials; `trust.current()` gives those that count
                for a connection that is made now.
            allowed: party by the URI in its certificate, or by its name without
                certificates.
            met: called with each connection, in a thread of its own; the connection
                ends when it returns.
            limit: the most bytes that the arrays of one frame may take.
            pulse: how soon a silent connection counts as lost.

        Returns:
            What is to be closed in the end.

        Raises:
            ValueError: if the address cannot be listened at, or the credentials are
                none.

        Example:
            >>> from jsplit import party
            >>> lab = party.PlaintextWithoutIdentity("lab")
            >>> hub = party.MemoryTransport()
            >>> listener = hub.listen("a:1", lab, {}, lambda name, open: None, 1 << 20)
            >>> listener.close()
        """
        ...

    def dial(
        self,
        address: str,
        peer: str,
        trust: Trust,
        # Bytes that a head may announce; a frame beyond it is refused before memory is taken.
        limit: int,
        accept: Accept,
        *,
        # Apart from the address, which may be that of a tunnel: it is what must be in
        # the certificate of who answers.
        host: str | None = None,
        identity: str | None = None,
        timeout: float = 10.0,
        pulse: Pulse = PULSE,
    ) -> Channel:
        """Connect with a party that listens.

        Args:
            address: where, `host:port`.
            peer: the party that must be there.
            trust: this party's credentials.
            limit: the most bytes that the arrays of one frame may take.
            accept: asked for every head before anything is allocated; raises to refuse
                it.
            host: the host name in the peer's certificate, by default that of `jsplit
                certs`.
            identity: the URI in the peer's certificate, by default that of `jsplit
                certs`. A host name alone is not enough: several parties may have the
                same.
            timeout: seconds until the connection must be there.
            pulse: how soon a silent connection counts as lost.

        Returns:
            This party's end of the connection.

        Raises:
            Closed: if there is no connection in time, or the peer is not `peer`, or it
                refuses this party; the message says which is known.

        Example:
            >>> from jsplit import party
            >>> lab = party.PlaintextWithoutIdentity("lab")
            >>> hub = party.MemoryTransport()
            >>> hub.dial("a:1", "server", lab, 1 << 20, lambda head: None)
            Traceback (most recent call last):
            ...
            jsplit.wire.pipe.Closed: no connection with `server`: nobody listens at a:1.
        """
        ...
