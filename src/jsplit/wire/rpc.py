"""Channels over gRPC: one stream both ways for each pair of parties, mutual TLS.

This file and `rpc_listener` are the only ones that know gRPC. A stream carries chunks;
gRPC's own flow control and the bounded pipes at both ends stop a sender whose peer does
not read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, cast

import grpc

from jsplit.wire.certs import Credentials, Trust, host_of, uri_of
from jsplit.wire.channel import Ends, accept_all
from jsplit.wire.codec import Accept
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.pipe import Closed, Denied, Pipe
from jsplit.wire.rpc_listener import (
    DENIES,
    METHOD,
    PARTY,
    REASON,
    SERVICE,
    Listener,
)
from jsplit.wire.rpc_options import options
from jsplit.wire.said import quoted
from jsplit.wire.transport import PULSE, Met, Pulse

_PEER = "jsplit-peer"
"""The metadata in which whom a party dials is said, where there are no certificates."""


# gRPC's own types know nothing of what crosses: here it is bytes, both ways. So these
# say what is used of it.
class _Code(Protocol):
    name: str


class _Call(Protocol):
    """A stream, of which gRPC tells how it ended."""

    def __iter__(self) -> Iterator[bytes]: ...
    def initial_metadata(self) -> Sequence[tuple[str, str | bytes]]: ...
    def cancel(self) -> object: ...
    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]] | None: ...
    def add_callback(self, callback: Callable[[], object]) -> bool: ...
    def code(self) -> _Code: ...
    def details(self) -> str: ...


class _Opens(Protocol):
    def __call__(
        self, chunks: Iterator[bytes], *, metadata: Sequence[tuple[str, str | bytes]]
    ) -> _Call: ...


class _GrpcChannel(Protocol):
    def stream_stream(self, method: str) -> _Opens: ...


class Grpc:
    """Connects parties over gRPC: the transport of a run that is given no other."""

    def listen(
        self,
        address: str,
        trust: Trust,
        allowed: Mapping[str, str],
        met: Met,
        limit: int,
        pulse: Pulse = PULSE,
    ) -> Listener:
        """Wait for connections; see `jsplit.wire.transport.Transport.listen`."""
        return Listener(address, trust, allowed, met, limit, pulse)

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
    ) -> _Connection:
        """Connect with a party that listens; see `Transport.dial`."""
        return dial(
            address,
            peer,
            trust,
            limit,
            accept,
            host=host,
            identity=identity,
            timeout=timeout,
            pulse=pulse,
        )


class _Connection(Ends):
    """The end of a channel that dialled; closing it closes the connection.

    Args:
        peer: the party at the other end.
        outward: what is sent goes into it.
        inward: what is received comes out of it.
        limit: the most bytes that the arrays of one frame may take.
        accept: asked for every head before anything is allocated.
        call: the stream.
        connection: what carries it.
        ended: set when the listener has ended the stream.
    """

    def __init__(
        self,
        peer: str,
        outward: Pipe,
        inward: Pipe,
        limit: int,
        accept: Accept,
        call: _Call,
        connection: grpc.Channel,
        ended: threading.Event,
    ):
        super().__init__(peer, outward, inward, limit, accept)
        self.call, self.connection, self.ended = call, connection, ended

    def close(self, reason: str = "", wait: float = 0.0) -> None:
        """Close both ways; see `jsplit.wire.channel.Channel.close`."""
        # This ends the stream one way; then the listener, which has all by then, ends
        # the other.
        super().close(reason)
        if wait:
            self.ended.wait(wait)
        self.call.cancel()
        self.connection.close()


def dial(
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
) -> _Connection:
    """Connect with a party that listens; its certificate must name it.

    Args:
        address: `host:port`.
        peer: the party that listens there.
        trust: this party's credentials.
        limit: the most bytes that the arrays of one frame may take.
        accept: asked for every head before anything is allocated.
        host: the host name in the peer's certificate, by default that of `jsplit
            certs`.
        identity: the URI in it, by default that of `jsplit certs`.
        timeout: seconds until the connection must be there.
        pulse: how soon a silent connection counts as lost.

    Raises:
        Denied: if it does not let this party in.
        Closed: if there is no connection in time, or the peer is not `peer`; the
            message says which is known.
    """
    # gRPC's own second between two attempts would be most of a short outage.
    chosen = [*options(pulse), ("grpc.initial_reconnect_backoff_ms", 100)]
    metadata: list[tuple[str, str | bytes]] = []
    shows = _believe
    if isinstance(trust, Credentials):
        # The address is often a tunnel's or a proxy's: it is the party that must be the
        # right one.
        chosen.append(("grpc.ssl_target_name_override", host or host_of(peer)))
        credentials = grpc.ssl_channel_credentials(
            trust.authority, trust.key, trust.certificate
        )
        connection = grpc.secure_channel(address, credentials, chosen)
        # Here, since who has no certificates needs no `cryptography`.
        from jsplit.wire import proof

        asked = proof.question()
        metadata = [(proof.QUESTION, asked)]
        shows = partial(proof.check, trust, identity or uri_of(peer), asked)
        # A chain of long RSA certificates is more than the 8 kB of gRPC's own.
        chosen.append(("grpc.max_metadata_size", 1 << 16))
    else:
        connection = grpc.insecure_channel(address, chosen)
        metadata = [(PARTY, trust.party), (_PEER, peer)]
    outward, inward = Pipe(), Pipe()
    there, ended = threading.Event(), threading.Event()
    denied = False
    stream = cast(_GrpcChannel, connection).stream_stream(f"/{SERVICE}/{METHOD}")
    call = stream(iter(outward), metadata=metadata)

    def pump() -> None:
        nonlocal denied
        shown: Sequence[tuple[str, str | bytes]] = ()
        proven = False
        try:
            # Before anything that came is looked at, and anything is sent: until then the
            # one at the other end may be another.
            shown = call.initial_metadata()
            shows(shown)
            proven = True
            if not any(name == DENIES for name, _ in shown):
                there.set()
            for chunk in call:
                with suppress(Closed):  # who reads no more still waits for the end
                    inward.put(chunk)
            reason = _ended(peer, call)
        except grpc.RpcError as error:
            reason = _why(peer, error)
            # Only the word of who listens there is a reason to come no more.
            denied = proven and isinstance(error, grpc.Call) and _denied(call)
        except RemoteProtocolError as error:
            # One that has no place left shows nothing either, and says why; so may anybody.
            if not shown and _has_ended(call, 1.0):
                who = f", by one that did not show that it is `{peer}`"
                said = f"{_status(call)}{who if _denied(call) else ''}"
                reason = f"{_broke(peer)}: {said}"
            else:
                reason = f"no connection with `{peer}` at {address}: {error}."
            call.cancel()
        outward.close(reason)
        inward.close(reason)
        there.set()
        ended.set()

    threading.Thread(target=pump, name="jsplit-pump", daemon=True).start()
    made = _Connection(peer, outward, inward, limit, accept, call, connection, ended)
    if not there.wait(timeout):
        made.close(f"no connection with `{peer}` at {address} within {timeout:g} s.")
    if inward.reason is not None:
        # The pipe knows why: closed above, or by the pump, which has heard it from
        # gRPC.
        made.close()
        raise Denied(inward.reason) if denied else Closed(inward.reason)
    return made


def _believe(shown: Sequence[tuple[str, str | bytes]]) -> None:
    """Without certificates whoever answers is believed."""


def _why(peer: str, error: grpc.RpcError) -> str:
    """What gRPC says of a broken call, in one line."""
    # What is raised out of a call is the call itself, but the types do not say so.
    if not isinstance(error, grpc.Call):
        return f"{_broke(peer)}: {type(error).__name__}, no details"
    return f"{_broke(peer)}: {_status(cast(_Call, error))}"


def _broke(peer: str) -> str:
    return f"the connection with `{peer}` broke"


def _status(call: _Call) -> str:
    # The details are the words of whoever ended the stream: gRPC, or the other end.
    details = call.details()
    return f"{call.code().name}, {quoted(details) if details else 'no details'}"


def _denied(call: _Call) -> bool:
    """Whether the other side has ended a stream because it does not let this party in."""
    return call.code().name == grpc.StatusCode.PERMISSION_DENIED.name


def _has_ended(call: _Call, seconds: float) -> bool:
    """Whether the other side has ended a stream, or does so in a moment."""
    over = threading.Event()
    # It takes no callback any more once it is over.
    return not call.add_callback(over.set) or over.wait(seconds)


def _ended(peer: str, call: _Call) -> str:
    """That the peer has closed the connection, and what it says of it, if anything."""
    said = dict(call.trailing_metadata() or ()).get(REASON, b"")
    why = said.decode(errors="replace") if isinstance(said, bytes) else said
    ended = f"`{peer}` closed the connection"
    return f"{ended}, and says: {quoted(why)}" if why else f"{ended}."
