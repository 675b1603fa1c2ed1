"""The gRPC side that listens: it knows who may connect, and serves each in a thread.

What dials, and the choices that both sides share with it, is in
`jsplit.wire.rpc`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, Protocol, cast

import grpc

from jsplit.wire.certs import Credentials, Trust
from jsplit.wire.channel import Ends
from jsplit.wire.door import AT_A_TIME, Door
from jsplit.wire.listening import unusable
from jsplit.wire.open_files import limit as most_open_files
from jsplit.wire.pipe import Closed, Denied, Pipe
from jsplit.wire.rpc_options import options
from jsplit.wire.rpc_unknown import MakesHandlers, UnknownMethods
from jsplit.wire.transport import PULSE, Met, Pulse

SERVICE, METHOD = "jsplit.Wire", "talk"
PARTY = "jsplit-party"
"""The metadata in which a party says its name, where there are no certificates."""
REASON = "jsplit-reason-bin"
"""The metadata in which the listener says why it has ended a stream."""
_LONGEST = 500  # characters of it
DENIES = "jsplit-denies"
"""The metadata in which the listener says ahead that it does not let this party in."""

_MOST = 2048
"""Connections from outside at a time, at most: a silent one costs a file, and about 50 kB
of memory.
"""
_HANDSHAKE = 10.0
"""Seconds in which a connection must show its certificate, and then those in which it must
begin to say something. Those that dial give up after as many.
"""
_ENDING = 10.0
"""Seconds that the last words of a connection have to go out, before it is cut."""
_JUDGES = 4
"""Threads beyond those that parties can take up: they turn others away."""


_Metadata = tuple[tuple[str, str | bytes], ...]


# gRPC's own types know nothing of what crosses; so this says what is used of it.
class _Context(Protocol):
    def auth_context(self) -> Mapping[str, Sequence[bytes]]: ...
    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]: ...


def _most_connections(parties: int) -> int:
    """How many connections a listener of so many parties takes at a time.

    Half of the files that the process may have open, so that the other half is there for
    checkpoints and for what the party dials; but room for all that are known.
    """
    room = 2 * AT_A_TIME * parties + 16
    return max(min(_MOST, most_open_files() // 2), room)


def _door_options(parties: int) -> list[tuple[str, int | str]]:
    """What a listener asks of gRPC, so that who is nobody takes no place for long.

    Args:
        parties: that may connect.
    """
    soon = int(1000 * _HANDSHAKE)
    return [
        # Without these two a silent connection stays for two minutes, and nothing bounds
        # their number. Whoever knocks while all places are taken is hung up on, and dials
        # again; places of the silent are free after the handshake's time.
        ("grpc.server_handshake_timeout_ms", soon),
        ("grpc.max_allowed_incoming_connections", _most_connections(parties)),
        # The same of those that have a certificate, and say nothing after showing it.
        ("grpc.max_connection_idle_ms", soon),
        # And of those that make calls which are refused: after this time a connection takes
        # no further call, and ends with the one that it has. A party makes one only, which
        # lasts as long as it wants: no bound on that may be set beside it.
        ("grpc.max_connection_age_ms", soon),
        # A party that dials makes a connection for every stream. More of them on one
        # would wait in no bound.
        ("grpc.max_concurrent_streams", 1),
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
        NotYet: if the address is in use, or not this machine's yet.
        ValueError: if it cannot be listened at otherwise, or the
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
        self.met, self.limit, self.trust = met, limit, trust
        self.secure = isinstance(trust, Credentials)
        self.door = Door(allowed)
        # Every connection holds a thread for as long as it lasts. As many as the door
        # lets in at a time, and some to turn others away: so no party can take up those
        # of another. No bound on calls at a time beside it, which would turn away whom it
        # happens to meet: calls wait for a thread, at most one of each connection.
        workers = AT_A_TIME * len({*allowed.values()}) + _JUDGES
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="jsplit-listen")
        asked = [*options(pulse), *_door_options(len(allowed))]
        self.server = grpc.server(self.pool, options=asked)
        talk = cast(MakesHandlers, grpc).stream_stream_rpc_method_handler(self.talk)
        handler = grpc.method_handlers_generic_handler(SERVICE, {METHOD: talk})
        others = UnknownMethods(self.door, self.shown)
        self.server.add_generic_rpc_handlers((handler, others))
        try:
            self.port = self._port(address, trust)
        except RuntimeError as error:
            raise unusable(address, f": {error}") from None
        # Older versions of gRPC say 0 instead of raising.
        if not self.port:
            raise unusable(address, ".")
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

    def shown(self, context: grpc.ServicerContext) -> list[str]:
        """By what names somebody that connects shows itself."""
        if self.secure:
            uris = cast(_Context, context).auth_context().get("peer_uri", ())
            return [str(uri, errors="replace") for uri in uris]
        metadata = cast(_Context, context).invocation_metadata()
        return [str(value) for key, value in metadata if key == PARTY]

    def introduce(self, party: str, context: grpc.ServicerContext) -> _Metadata:
        """What shows the party that connects who listens, unless it is refused."""
        own = self.trust.current()
        if isinstance(own, Credentials):
            # Here, since who has no certificates needs no `cryptography`.
            from jsplit.wire import proof

            if why := proof.why_refused(own, _certificate(context)):
                refused = self.door.refusal(f"`{party}`: {why}", context.peer())
                self.deny(context, str(refused))
        return self._proof(context)

    def deny(self, context: grpc.ServicerContext, why: str) -> NoReturn:
        """Turn somebody away for good, and show who does so.

        Whoever dials comes no more by it, so it must not be anybody's word.
        """
        context.send_initial_metadata((*self._proof(context), (DENIES, "yes")))
        context.abort(grpc.StatusCode.PERMISSION_DENIED, why)

    def _proof(self, context: grpc.ServicerContext) -> _Metadata:
        own = self.trust.current()
        if not isinstance(own, Credentials):
            return ()
        from jsplit.wire import proof

        asked = cast(_Context, context).invocation_metadata()
        return proof.answer(own, asked, _certificate(context))

    def talk(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """One connection: what comes goes into one pipe, what is in another goes out."""
        try:
            party, leave = self.door.enter(self.shown(context), context.peer())
        except Closed as error:
            if isinstance(error, Denied):
                self.deny(context, str(error))
            # Who has all its places may come in again soon, who is unknown may not.
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        try:
            yield from self._let_in(party, requests, context)
        finally:
            leave()

    def _let_in(
        self, party: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        shown_back = self.introduce(party, context)
        outward, inward, over = Pipe(), Pipe(), threading.Event()

        def close(reason: str) -> None:
            outward.close(reason)
            inward.close(reason)

        def broke() -> None:
            over.set()
            outward.abandon(f"the connection with `{party}` broke.")
            inward.close(f"the connection with `{party}` broke.")

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
                # A peer that reads nothing would else keep the thread that writes to it.
                if not over.wait(_ENDING):
                    context.cancel()

        if not context.add_callback(broke):
            return  # the peer has gone while it waited for a thread
        # Sent before there is anything to say: by it the dialler knows that
        # it was let in, and by whom.
        context.send_initial_metadata(shown_back)
        for run in (pump, meet):
            name = f"jsplit-{run.__name__}"
            threading.Thread(target=run, name=name, daemon=True).start()
        yield from outward
        # Why, for who dialled. Not in the details: gRPC has none of what ended well.
        why = (outward.reason or "")[:_LONGEST].encode(errors="replace")
        context.set_trailing_metadata(((REASON, why),))

    def close(self, grace: float = 5.0) -> None:
        """Take no more connections; those that are left have `grace` seconds to end."""
        self.server.stop(grace).wait(grace + 5)
        self.pool.shutdown(wait=False)
        self.door.close()


def _certificate(context: grpc.ServicerContext) -> bytes:
    """That of whoever connects, in PEM, as TLS has shown it."""
    return cast(_Context, context).auth_context()["x509_pem_cert"][0]


def _configuration(own: Credentials) -> grpc.ServerCertificateConfiguration:
    """What gRPC needs of a party that listens."""
    return grpc.ssl_server_certificate_configuration(
        [(own.key, own.certificate)], own.authority
    )
