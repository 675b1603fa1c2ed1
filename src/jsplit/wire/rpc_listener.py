"""The gRPC side that listens: it knows who may connect, and serves each in a thread.

What dials, and the choices that both sides share with it, is in
`jsplit.wire.rpc`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, cast

import grpc

from jsplit.wire.certs import Credentials, Trust
from jsplit.wire.channel import CHUNK, Ends
from jsplit.wire.codec import LARGEST_HEAD
from jsplit.wire.pipe import Closed, Pipe
from jsplit.wire.transport import PULSE, Met, Pulse

SERVICE, METHOD = "jsplit.Wire", "talk"
PARTY = "jsplit-party"
"""The metadata in which a party says its name, where there are no certificates."""
_log = logging.getLogger("jsplit.wire")


# gRPC's own types know nothing of what crosses: here it is bytes, both
# ways. So these say what is used of it.
class _MakesHandlers(Protocol):
    def stream_stream_rpc_method_handler(
        self, talk: Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]: ...


class _Context(Protocol):
    def auth_context(self) -> Mapping[str, Sequence[bytes]]: ...
    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]: ...


def options(pulse: Pulse) -> list[tuple[str, int | str]]:
    """What either side asks of gRPC."""
    every, wait = (max(int(1000 * seconds), 1) for seconds in pulse)
    least = min(every, 1000)
    return [
        ("grpc.keepalive_time_ms", every),
        ("grpc.keepalive_timeout_ms", wait),
        # Else a side that goes on sending never notices that nobody is
        # there.
        ("grpc.http2.ping_timeout_ms", wait),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", least),
        # A listener hangs up on one that asks more often than it allows: so
        # it allows twice that.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", least // 2),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", CHUNK + LARGEST_HEAD),
        ("grpc.max_send_message_length", CHUNK + LARGEST_HEAD),
        # Two parties of one process must not share a connection, nor two
        # listeners a port.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.so_reuseport", 0),
        ("grpc.enable_http_proxy", 0),
    ]


class Listener:
    """Waits for connections of parties on an allow-list.

    Args:
        address: `host:port`; port 0 takes a free one, see `port`.
        trust: this party's credentials.
        allowed: party by the URI in its certificate, or by its name
            without certificates.
        met: called with each connection, in a thread of its own; the
            connection ends when it returns.
        limit: the most bytes that the arrays of one frame may take.
        pulse: how soon a silent connection counts as lost.

    Raises:
        ValueError: if the address cannot be listened at, or the
            credentials are none.
    """

    def __init__(
        self,
        address: str,
        trust: Trust,
        allowed: Mapping[str, str],
        met: Met,
        limit: int,
        pulse: Pulse = PULSE,
    ):
        self.allowed, self.met, self.limit = allowed, met, limit
        self.trust = trust
        self.secure = isinstance(trust, Credentials)
        # Every connection holds a thread for as long as it lasts, and for a
        # while there are two of a party that has connected again.
        workers = 2 * len(allowed) + 4
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="jsplit-listen")
        self.server = grpc.server(
            self.pool, options=options(pulse), maximum_concurrent_rpcs=workers
        )
        talk = cast(_MakesHandlers, grpc).stream_stream_rpc_method_handler(self.talk)
        handler = grpc.method_handlers_generic_handler(SERVICE, {METHOD: talk})
        self.server.add_generic_rpc_handlers((handler,))
        try:
            self.port = self._port(address, trust)
        except RuntimeError as error:
            raise ValueError(
                f"`address` {address} cannot be listened at: {error}"
            ) from None
        # Older versions of gRPC say 0 instead of raising.
        if not self.port:
            raise ValueError(f"`address` {address} cannot be listened at.")
        self.server.start()

    def _port(self, address: str, trust: Trust) -> int:
        if not isinstance(trust, Credentials):
            return self.server.add_insecure_port(address)
        served = trust.current()

        def renewed() -> grpc.ServerCertificateConfiguration:
            # Asked before every handshake; `None` says that all is as it was, which the
            # types of gRPC do not know.
            nonlocal served
            before, served = served, trust.current()
            found = None if served is before else _configuration(served)
            return cast(grpc.ServerCertificateConfiguration, found)

        # `True`: who shows no certificate is turned away before it can say
        # anything.
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(served), renewed, True
        )
        return self.server.add_secure_port(address, credentials)

    def who(self, context: grpc.ServicerContext) -> tuple[str | None, str]:
        """The party that connects, if it is on the allow-list, and what it showed."""
        if self.secure:
            uris = cast(_Context, context).auth_context().get("peer_uri", ())
            shown = [str(uri, errors="replace") for uri in uris]
        else:
            metadata = cast(_Context, context).invocation_metadata()
            shown = [str(value) for key, value in metadata if key == PARTY]
        found = [self.allowed[name] for name in shown if name in self.allowed]
        # A certificate of two parties is none of either.
        party = found[0] if len(found) == 1 else None
        return party, ", ".join(shown) or "no identity"

    def introduce(
        self, party: str, context: grpc.ServicerContext
    ) -> tuple[tuple[str, str | bytes], ...]:
        """What shows the party that connects who listens, unless it is refused."""
        own = self.trust.current()
        if not isinstance(own, Credentials):
            return ()
        # Here, since who has no certificates needs no `cryptography`.
        from jsplit.wire import proof

        found = cast(_Context, context)
        pem = found.auth_context()["x509_pem_cert"][0]
        if why := proof.denied(own, pem):
            _log.warning("refused `%s` from %s: %s", party, context.peer(), why)
            context.abort(grpc.StatusCode.PERMISSION_DENIED, why)
        return proof.answer(own, found.invocation_metadata(), pem)

    def talk(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """One connection: what comes goes into one pipe, what is in another goes out."""
        party, shown = self.who(context)
        if party is None:
            refused = "refused a connection from %s: %s is not on the allow-list"
            _log.warning(refused, context.peer(), shown)
            status = grpc.StatusCode.PERMISSION_DENIED
            context.abort(status, f"{shown} is not on the allow-list")
        shown_back = self.introduce(party, context)
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
        # Sent before there is anything to say: by it the dialler knows that
        # it was let in, and by whom.
        context.send_initial_metadata(shown_back)
        for run in (pump, meet):
            name = f"jsplit-{run.__name__}"
            threading.Thread(target=run, name=name, daemon=True).start()
        yield from outward

    def close(self, grace: float = 5.0) -> None:
        """Take no more connections; those that are left have `grace` seconds to end."""
        self.server.stop(grace).wait(grace + 5)
        self.pool.shutdown(wait=False)


def _configuration(own: Credentials) -> grpc.ServerCertificateConfiguration:
    """What gRPC needs of a party that listens."""
    return grpc.ssl_server_certificate_configuration(
        [(own.key, own.certificate)], own.authority
    )
