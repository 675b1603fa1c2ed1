"""A connection while parties serve: a thread that reads, one that writes, and an end.

What comes is handed to one function, in the order in which it came; what is sent waits in
a queue, so that nobody is held up by a peer that does not read.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from jsplit.core.checks import first_line
from jsplit.party.connection.connections import identity_of
from jsplit.party.contract.agreement import Agreement
from jsplit.party.serving.ahead import Ahead
from jsplit.wire.certs import Trust, host_of
from jsplit.wire.channel import Channel
from jsplit.wire.codec import Accept, CodecError, Frame
from jsplit.wire.pipe import Closed
from jsplit.wire.said import quoted
from jsplit.wire.transport import Pulse, Transport

LIMIT = 1 << 30
"""Bytes of the arrays of a frame, at most; of a known session exactly what is due."""
_DUE = 256
"""Frames that may wait to be sent on one connection; a peer that lets more come together
does not read."""
_SENDING = 30.0
"""Seconds that a peer may take to read one."""
_log = logging.getLogger("jsplit.party")


class Line:
    """A connection with a peer.

    Args:
        channel: what carries its frames.

    Attributes:
        peer: who is at the other end, by its certificate.
        over: why the connection is over; `None` while it is not.
        refused: whether it is because this party has refused what came.
        ahead: what of it waits to be computed.
    """

    def __init__(self, channel: Channel):
        self.channel, self.peer = channel, channel.peer
        self.over: str | None = None
        self.refused = False
        self.ahead = Ahead()
        self._due: queue.Queue[Frame | None] = queue.Queue(_DUE)
        name = f"jsplit-tell-{self.peer}"
        threading.Thread(target=self._write, name=name, daemon=True).start()

    def put(self, frame: Frame) -> None:
        """Send a frame, after those before it.

        Raises:
            Closed: if the connection is over, or the peer does not read.
        """
        if self.over is not None:
            raise Closed(self.over)
        try:
            self._due.put_nowait(frame)
        except queue.Full:
            self.end(f"`{self.peer}` does not read.")
            raise Closed(self.over) from None

    def _write(self) -> None:
        while (frame := self._due.get()) is not None:
            try:
                self.channel.send(frame, _SENDING)
            except (Closed, TimeoutError) as error:
                self.end(str(error))
                return

    def read(self, take: Callable[[Line, Frame], object]) -> None:
        """Hand over what comes, until the connection is over."""
        while self.over is None:
            try:
                frame = self.channel.receive(1.0)
            except TimeoutError:
                continue
            except CodecError as error:
                _log.warning("what `%s` sent is refused: %s", self.peer, error)
                self.refused = True
                self.end(str(error))
            except Closed as error:
                self.end(str(error))
            except Exception as error:
                # Whatever a peer may bring about costs it this connection, and no more.
                what = f"{type(error).__name__}: {quoted(str(error))}"
                _log.error("the connection with `%s` ends: %s", self.peer, what)
                self.refused = True
                self.end(what)
            else:
                take(self, frame)

    def end(self, reason: str, wait: float = 0.0) -> None:
        """Close the connection; the first reason counts.

        Args:
            reason: why.
            wait: seconds that what is due has to go out.
        """
        until = time.monotonic() + wait
        while wait and self.over is None and not self._due.empty():
            if time.monotonic() > until:
                break
            time.sleep(0.005)
        if self.over is None:
            self.over = reason or "closed"
        self.channel.close(self.over, wait)
        # The thread that writes may wait for something to write.
        while True:
            try:
                self._due.put_nowait(None)
                return
            except queue.Full:
                self._due.get_nowait()


class Dialler:
    """Dials parties that serve.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        trust: its credentials.
        transport: what connects parties.
        addresses: where parties are dialled elsewhere than agreed.
        pulse: how soon a silent connection counts as lost.

    Raises:
        ValueError: naming `addresses`, if they are none.
    """

    def __init__(
        self,
        agreed: Agreement,
        party: str,
        trust: Trust,
        transport: Transport,
        addresses: dict[str, str],
        pulse: Pulse,
    ):
        # By way of the agreement, which checks them as its own.
        elsewhere = agreed.replace(addresses={**agreed.addresses, **addresses})
        self.addresses = elsewhere.addresses
        self.agreed, self.party, self.trust = agreed, party, trust
        self.transport, self.pulse = transport, pulse

    def dial(self, peer: str, accept: Accept, timeout: float) -> Line:
        """Connect with a party.

        Raises:
            Closed: if it is not there, or does not let this one in.
        """
        if peer not in self.addresses:
            raise ValueError(
                f"`{peer}` has no address in the agreement, and who serves is dialled: "
                f'`addresses={{"{peer}": "host:port"}}`.'
            )
        try:
            channel = self.transport.dial(
                self.addresses[peer],
                peer,
                self.trust.current(),
                LIMIT,
                accept,
                host=self.agreed.hosts.get(peer, host_of(peer)),
                identity=identity_of(self.agreed, peer, self.trust),
                timeout=timeout,
                pulse=self.pulse,
            )
        except OSError as error:
            # What sockets raise in a transport of a user's own; `Closed` is one too.
            if isinstance(error, Closed):
                raise
            raise Closed(f"no connection with `{peer}`: {first_line(error)}") from None
        return Line(channel)
