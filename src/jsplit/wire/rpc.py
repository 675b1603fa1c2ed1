"""Channels over gRPC: one stream both ways for each pair of parties, raw bytes, mutual TLS. The only file that knows gRPC.

A stream carries chunks; gRPC's own flow control and the bounded pipes at both ends stop a sender whose peer does not read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import grpc

from jsplit.wire.certs import Credentials, Trust, host_of
from jsplit.wire.channel import CHUNK, Closed, Ends, Pipe
from jsplit.wire.codec import LARGEST_HEAD, Accept

_SERVICE, _METHOD = "jsplit.Wire", "talk"
_PARTY, _PEER = "jsplit-party", "jsplit-peer"  # only where there are no certificates
_log = logging.getLogger("jsplit.wire")


class Pulse(NamedTuple):
    """A connection that is silent for `every` seconds is asked, and counts as lost if nothing comes for `wait` more.

    The question waits behind all that was sent before it and is still on its way. If that takes longer than `wait`, the
    connection is cut, and the frame that was on its way begins anew: so `wait` must be long where the line is slow.
    """

    every: float = 10.0
    wait: float = 60.0

    def options(self) -> list[tuple[str, int]]:
        every, wait = (max(int(1000 * s), 1) for s in self)
        return [
            ("grpc.keepalive_time_ms", every),
            ("grpc.keepalive_timeout_ms", wait),
            (
                "grpc.http2.ping_timeout_ms",
                wait,
            ),  # else a side that goes on sending never notices
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", min(every, 1000)),
            (
                "grpc.http2.min_recv_ping_interval_without_data_ms",
                min(every, 1000) // 2,
            ),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.max_receive_message_length", CHUNK + LARGEST_HEAD),
            ("grpc.max_send_message_length", CHUNK + LARGEST_HEAD),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.so_reuseport", 0),
            ("grpc.enable_http_proxy", 0),
        ]


_PULSE = Pulse()
_Met = Callable[[str, Callable[[Accept], Ends]], Any]
"""`met(party, open)`: called for every connection; `open(accept)` gives its channel, and it lasts until that is closed."""


class Listener:
    """Waits for connections of parties on an allow-list.

    Args:
        address: `host:port`; port 0 takes a free one, see `port`.
        trust: this party's credentials.
        allowed: party by the URI in its certificate (or by its name, without certificates).
        met: called with each connection, in a thread of its own; the connection ends when it returns.
        limit: the most bytes that the arrays of one frame may take.
        pulse: how soon a silent connection counts as lost.

    Raises:
        ValueError: if the address cannot be listened at, or the credentials are none.
    """

    def __init__(
        self,
        address: str,
        trust: Trust,
        allowed: Mapping[str, str],
        met: _Met,
        limit: int,
        pulse: Pulse = _PULSE,
    ):
        self.allowed, self.met, self.limit, self.secure = (
            allowed,
            met,
            limit,
            isinstance(trust, Credentials),
        )
        workers = 2 * len(allowed) + 4
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="jsplit-listen")
        self.server = grpc.server(
            self.pool, options=pulse.options(), maximum_concurrent_rpcs=workers
        )
        handler = grpc.stream_stream_rpc_method_handler(self.talk)
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),)
        )
        try:
            if isinstance(trust, Credentials):
                pair = [(trust.key, trust.certificate)]
                self.port = self.server.add_secure_port(
                    address, grpc.ssl_server_credentials(pair, trust.authority, True)
                )
            else:
                self.port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            raise ValueError(
                f"`address` {address} cannot be listened at: {error}"
            ) from None
        if not self.port:
            raise ValueError(f"`address` {address} cannot be listened at.")
        self.server.start()

    def who(self, context: grpc.ServicerContext) -> tuple[str | None, str]:
        """The party that connects, if it is on the allow-list, and what it showed."""
        if self.secure:
            shown = [
                str(x, errors="replace")
                for x in context.auth_context().get("peer_uri", ())
            ]  # type: ignore[arg-type]
        else:
            shown = [str(v) for k, v in context.invocation_metadata() if k == _PARTY]
        found = [self.allowed[x] for x in shown if x in self.allowed]
        return (found[0] if len(found) == 1 else None), ", ".join(
            shown
        ) or "no identity"

    def talk(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        party, shown = self.who(context)
        if party is None:
            _log.warning(
                "refused a connection from %s: %s is not on the allow-list",
                context.peer(),
                shown,
            )
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"{shown} is not on the allow-list"
            )
        outward, inward = Pipe(), Pipe()

        def close(reason: str) -> None:
            outward.close(reason)
            inward.close(reason)

        def pump() -> None:
            try:
                for chunk in requests:
                    inward.put(chunk)
                close(f"`{party}` closed the connection.")
            except Closed:
                pass
            except Exception as error:  # whatever gRPC raises when a stream breaks
                close(f"the connection with `{party}` broke: {type(error).__name__}.")

        def meet() -> None:
            try:
                self.met(
                    party,
                    lambda accept: Ends(party, outward, inward, self.limit, accept),
                )
            finally:
                close("")

        context.add_callback(lambda: close(f"the connection with `{party}` broke."))
        context.send_initial_metadata(())
        threads = [
            threading.Thread(target=run, name=f"jsplit-{run.__name__}", daemon=True)
            for run in (pump, meet)
        ]
        for thread in threads:
            thread.start()
        yield from outward

    def close(self, grace: float = 5.0) -> None:
        self.server.stop(grace).wait(grace + 5)
        self.pool.shutdown(wait=False)


class _Connection(Ends):
    """The end of a channel that dialled; closing it closes the connection.

    Args:
        ends: peer, pipes, limit and what asks for every head, as for `Ends`.
        call, line: the stream, and what carries it.
        ended: set when the listener has ended the stream.
    """

    def __init__(self, *ends: Any, call: Any, line: Any, ended: threading.Event):
        super().__init__(*ends)
        self.call, self.line, self.ended = call, line, ended

    def close(self, reason: str = "", wait: float = 0.0) -> None:
        super().close(
            reason
        )  # this ends the stream one way; then the listener ends the other
        if wait:
            self.ended.wait(wait)
        self.call.cancel()
        self.line.close()


def dial(
    address: str,
    peer: str,
    trust: Trust,
    limit: int,
    accept: Accept = lambda head: None,
    *,
    host: str | None = None,
    timeout: float = 10.0,
    pulse: Pulse = _PULSE,
) -> _Connection:
    """Connect with a party that listens; its certificate must name it.

    Args:
        address: `host:port`.
        peer: the party that listens there.
        trust: this party's credentials.
        limit: the most bytes that the arrays of one frame may take.
        accept: asked for every head before anything is allocated.
        host: the host name in the peer's certificate, by default that of `jsplit certs`.
        timeout: seconds until the connection must be there.
        pulse: how soon a silent connection counts as lost.

    Raises:
        Closed: if there is no connection in time, or the peer is not `peer`, or it refuses this party; the message says which
            is known.
    """
    options: list[tuple[str, Any]] = [
        *pulse.options(),
        ("grpc.initial_reconnect_backoff_ms", 100),
    ]
    metadata = ()
    if isinstance(trust, Credentials):
        options.append(("grpc.ssl_target_name_override", host or host_of(peer)))
        line = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(trust.authority, trust.key, trust.certificate),
            options,
        )
    else:
        line = grpc.insecure_channel(address, options)
        metadata = ((_PARTY, trust.party), (_PEER, peer))
    outward, inward = Pipe(), Pipe()
    there, ended = threading.Event(), threading.Event()
    call = line.stream_stream(f"/{_SERVICE}/{_METHOD}")(
        iter(outward), metadata=metadata
    )

    def pump() -> None:
        try:
            call.initial_metadata()
            there.set()
            for chunk in call:
                with suppress(Closed):  # who reads no more still waits for the end
                    inward.put(chunk)
            reason = f"`{peer}` closed the connection."
        except grpc.RpcError as error:
            reason = _why(peer, error)
        outward.close(reason)
        inward.close(reason)
        there.set()
        ended.set()

    threading.Thread(target=pump, name="jsplit-pump", daemon=True).start()
    made = _Connection(
        peer, outward, inward, limit, accept, call=call, line=line, ended=ended
    )
    if not there.wait(timeout):
        made.close(f"no connection with `{peer}` at {address} within {timeout:g} s.")
    if inward.reason is not None:
        made.close()
        raise Closed(inward.reason)
    return made


def _why(peer: str, error: grpc.RpcError) -> str:
    """What gRPC says of a broken call, in one line."""
    code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__  # type: ignore[union-attr]
    details = error.details() if isinstance(error, grpc.Call) else ""  # type: ignore[union-attr]
    return f"the connection with `{peer}` broke: {code}, {details or 'no details'}"
