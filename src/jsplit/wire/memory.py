"""Channels within one process: parties in threads, without ports or `jsplit[grpc]`.

A `MemoryTransport` is a hub: parties listen and dial by address as they do over gRPC,
and what they send takes the same way from frames to chunks and back. `memory_pair` is
one connection alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from jsplit.wire.certs import Credentials, Trust, host_of, uri_of
from jsplit.wire.channel import CHUNK, Channel, Ends, accept_all
from jsplit.wire.codec import Accept
from jsplit.wire.door import Door
from jsplit.wire.identity import shown_by, why_refused
from jsplit.wire.pipe import Closed, Pipe
from jsplit.wire.said import quoted
from jsplit.wire.transport import PULSE, Listener, Met, Pulse


def memory_pair(
    a: str,
    b: str,
    limit: int = 1 << 30,
    accept: tuple[Accept, Accept] = (accept_all, accept_all),
    chunk: int = CHUNK,
) -> tuple[Ends, Ends]:
    """Two ends of one channel: that of party `a`, whose peer is `b`, and that of `b`.

    Args:
        a: a party.
        b: the other one.
        limit: the most bytes that the arrays of one frame may take.
        accept: of either end, asked for every head; raises to refuse it.
        chunk: bytes that are sent at a time.
    """
    # Either end closes both pipes, so what one says of the end is what the other hears.
    there, back = Pipe(), Pipe()
    ours, theirs = accept
    end_of_a = Ends(b, there, back, limit, ours, chunk)
    end_of_b = Ends(a, back, there, limit, theirs, chunk)
    return end_of_a, end_of_b


class _Listener:
    """One party that listens at an address of a hub."""

    def __init__(
        self,
        forget: Callable[[_Listener], None],
        address: str,
        trust: Trust,
        allowed: Mapping[str, str],
        met: Met,
        limit: int,
    ):
        self.forget, self.address, self.trust = forget, address, trust
        self.door, self.met, self.limit = Door(allowed), met, limit
        self.connections: dict[threading.Thread, tuple[Pipe, Pipe]] = {}
        self._lock, self._closed = threading.Lock(), False

    def take(self, trust: Trust, outward: Pipe, inward: Pipe) -> None:
        """Begin a connection with who dials with these credentials, in its own thread.

        Raises:
            Closed: if it is nobody on the allow-list, or has all its places.
        """
        shown = shown_by(trust)
        try:
            # As over gRPC, a certificate that is denied is refused like an unknown one.
            if why := why_refused(self.trust.current(), shown):
                raise self.door.refusal(why)
            party, leave = self.door.enter(shown.uris)
        except Closed as error:
            raise type(error)(f"the connection broke: {error}") from None

        def meet() -> None:
            try:
                self.met(
                    party,
                    lambda accept: Ends(party, outward, inward, self.limit, accept),
                )
            finally:
                # Who dialled must not wait for a thread that is no more.
                outward.close("the connection is over.")
                inward.close("the connection is over.")
                self.connections.pop(threading.current_thread(), None)
                leave()

        # In the table before it starts: it takes itself out of it at the end.
        thread = threading.Thread(target=meet, name="jsplit-meet", daemon=True)
        # Both at once for whoever closes: a thread that has not begun has no end to wait
        # for, and one that came later would be left.
        with self._lock:
            if not self._closed:
                self.connections[thread] = outward, inward
                thread.start()
                return
        leave()
        raise Closed("the connection broke: the listener is closed.")

    def close(self, grace: float = 5.0) -> None:
        """Take no more connections; those that are left have `grace` seconds to end."""
        self.forget(self)
        end = time.monotonic() + grace
        with self._lock:
            self._closed = True
            # A copy: every thread takes itself out of the table when it ends.
            left = [*self.connections.items()]
        for thread, pipes in left:
            thread.join(max(end - time.monotonic(), 0))
            # Also of threads that have ended: a closed pipe stays as it is.
            for pipe in pipes:
                pipe.close("the listener is closed.")
        self.door.close()


class MemoryTransport:
    """Connects parties that are threads of one process; all are given the same one.

    For trials, teaching and tests: all of a run is as over a network but the network.
    Addresses are names only, written as `host:port` because an agreement has them so.
    Certificates, where parties have some, are read for who shows them and not verified:
    within a process there is nobody to deceive.

    Example:
        >>> from jsplit import party
        >>> hub = party.MemoryTransport()
        >>> lab, server = map(party.PlaintextWithoutIdentity, ["lab", "server"])
        >>> names = []
        >>> met = lambda name, open: names.append(name)
        >>> listener = hub.listen("server:1", server, {"lab": "lab"}, met, 1 << 20)
        >>> hub.dial("server:1", "server", lab, 1 << 20).peer
        'server'
        >>> listener.close()
        >>> names
        ['lab']
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, _Listener] = {}

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
            address: where; any text that nobody else listens at.
            trust: this party's credentials.
            allowed: party by the URI in its certificate, or by its name without
                certificates.
            met: called with each connection, in a thread of its own; the connection
                ends when it returns.
            limit: the most bytes that the arrays of one frame may take.
            pulse: not needed: in a process no connection is lost in silence.

        Returns:
            What is to be closed in the end.

        Raises:
            ValueError: if somebody listens at the address already.

        Example:
            >>> from jsplit import party
            >>> lab = party.PlaintextWithoutIdentity("lab")
            >>> hub = party.MemoryTransport()
            >>> listener = hub.listen("a:1", lab, {}, lambda name, open: None, 1 << 20)
            >>> listener.close()
        """
        made = _Listener(self._forget, address, trust, allowed, met, limit)
        with self._lock:
            # Looked up and set in one step, or two parties could both find it free.
            if self._listeners.setdefault(address, made) is not made:
                raise ValueError(
                    f"`address` {address} cannot be listened at: somebody does already."
                )
        return made

    def _forget(self, listener: _Listener) -> None:
        """Let the address of a listener be free again."""
        with self._lock:
            # One that is closed a second time may have a successor by now.
            if self._listeners.get(listener.address) is listener:
                del self._listeners[listener.address]

    def dial(
        self,
        address: str,
        peer: str,
        trust: Trust,
        limit: int,
        accept: Accept = accept_all,
        *,
        host: str | None = None,
        identity: str | None = None,
        timeout: float = 10.0,
        pulse: Pulse = PULSE,
    ) -> Channel:
        """Connect with a party that listens.

        Args:
            address: where it listens.
            peer: the party that must be there.
            trust: this party's credentials.
            limit: the most bytes that the arrays of one frame may take.
            accept: asked for every head before anything is allocated; raises to refuse
                it.
            host: the host name in the peer's certificate, by default that of `jsplit
                certs`.
            identity: the URI in it, by default that of `jsplit certs`.
            timeout: not needed: who listens is there at once, or not at all.
            pulse: not needed, as for `listen`.

        Returns:
            This party's end of the connection.

        Raises:
            Closed: if nobody listens there, or another than `peer`, or it refuses this
                party.

        Example:
            >>> from jsplit import party
            >>> lab = party.PlaintextWithoutIdentity("lab")
            >>> party.MemoryTransport().dial("a:1", "server", lab, 1 << 20)
            Traceback (most recent call last):
            ...
            jsplit.wire.pipe.Closed: no connection with `server`: nobody listens at a:1.
        """
        with self._lock:
            listener = self._listeners.get(address)
        if listener is None:
            raise Closed(f"no connection with `{peer}`: nobody listens at {address}.")
        # As over gRPC: who dials looks for a host name and a URI, who listens for a URI.
        shown, name, uri = shown_by(listener.trust.current()), peer, peer
        if isinstance(trust, Credentials):
            name, uri = host or host_of(peer), identity or uri_of(peer)
        for expected, there in ((name, shown.hosts), (uri, shown.uris)):
            if expected not in there:
                said = quoted(", ".join(there)) if there else "no one"
                raise Closed(
                    f"no connection with `{peer}`: at {address} is {said}, not {expected}."
                )
        if why := why_refused(trust, shown):
            raise Closed(f"no connection with `{peer}`: {why}.")
        # Both ends share the pipes: what one puts in, the other takes out.
        there, back = Pipe(), Pipe()
        listener.take(trust, back, there)
        return Ends(peer, there, back, limit, accept)
