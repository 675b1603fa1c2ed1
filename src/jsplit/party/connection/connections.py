"""A party's connections: threads that listen and dial, around a protocol without I/O."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from functools import partial

from jsplit.core.checks import first_line
from jsplit.party.connection.peers import Peers
from jsplit.party.connection.reader import serve
from jsplit.party.contract.agreement import Agreement
from jsplit.wire.certs import Credentials, Trust, host_of, uri_of
from jsplit.wire.member import Member
from jsplit.wire.pipe import Closed, Denied
from jsplit.wire.transport import PULSE, Listener, Open, Pulse, Transport

_FIRST, _SLOWEST = 0.05, 5.0
"""Seconds between two attempts to connect, at first and at most."""
_LOOK = 600.0
"""Seconds between two looks at this party's own certificate."""
_TELLING = 5.0
"""Seconds that a party whose run is over for all stays, at most, until its peers know
why.
"""

_log = logging.getLogger("jsplit.party")


def identity_of(agreed: Agreement, party: str, trust: Trust) -> str:
    """What a party's certificate says, or without certificates its name."""
    if not isinstance(trust, Credentials):
        return party
    return agreed.identities.get(party, uri_of(party))


def _check_identity(agreed: Agreement, party: str, trust: Trust) -> None:
    """Refuse a certificate of one's own by which no other party would know one.

    The others would say so, or hang up; here it is said before anybody is waited for.
    """
    if not isinstance(trust, Credentials):
        return
    # Of the extra, as all that reads certificates.
    from jsplit.wire.signatures import uris_of

    shown, expected = uris_of(trust.certificate), identity_of(agreed, party, trust)
    if expected not in shown:
        raise ValueError(
            f"the certificate of `{party}` names {', '.join(shown) or 'no URI'}, and by the "
            f"agreement it must name {expected}."
        )


class Connections:
    """All connections of one party.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
        member: its side of the protocol.
        trust: its credentials.
        limit: the most bytes that the arrays of one frame may take.
        transport: what connects parties.
        listen: where to listen, if not at the address that the others dial.
        addresses: where to dial parties, if not at the addresses of the agreement.
        pulse: how soon a silent connection counts as lost.

    Attributes:
        peers: what is known of the others, shared by all threads.

    Raises:
        ValueError: naming `addresses`, if they are none.
    """

    def __init__(
        self,
        agreed: Agreement,
        party: str,
        member: Member,
        trust: Trust,
        limit: int,
        transport: Transport,
        *,
        listen: str | None = None,
        addresses: Mapping[str, str] | None = None,
        pulse: Pulse = PULSE,
    ):
        listens = agreed.addresses
        # Through the agreement, which checks them as it checks its own.
        elsewhere = agreed.replace(addresses={**listens, **(addresses or {})})
        dialled = elsewhere.addresses
        self.agreed, self.member, self.trust = agreed, member, trust
        self.limit, self.transport, self.pulse = limit, transport, pulse
        self.peers = Peers(agreed, party, member)
        self.changed = self.peers.changed
        self.listener: Listener | None = None
        if listen and party not in listens:
            # No port is opened. One script may serve tasks in which others dial it.
            _log.warning(
                "`listen` is %s, and by the agreement nobody dials `%s`", listen, party
            )
        _check_identity(agreed, party, trust)
        if party in listens:
            others = [p for p in agreed.parties if p != party]
            allowed = {identity_of(agreed, p, trust): p for p in others}
            self.listener = transport.listen(
                listen or listens[party], trust, allowed, self._met, limit, pulse
            )
        # Of a connection that lasts for weeks nothing else would look at the files, and
        # nobody be told that a certificate ends.
        looks = threading.Thread(target=self._look, name="jsplit-look", daemon=True)
        self.threads = [looks]
        looks.start()
        for other, how in agreed.reach(party).items():
            if how == "dial":
                given = (other, dialled[other])
                name = f"jsplit-dial-{other}"
                thread = threading.Thread(
                    target=self._dial, args=given, name=name, daemon=True
                )
                self.threads.append(thread)
                thread.start()

    def _look(self) -> None:
        """Look at this party's own certificate now and then; it warns by itself."""
        while not self.peers.closing.wait(_LOOK):
            self.trust.current()

    def _met(self, party: str, opened: Open) -> None:
        """Serve a connection that somebody has dialled."""
        peer = self.agreed.parties.index(party)
        # The protocol's own function, without a lock: it judges heads by what never
        # changes.
        serve(self.peers, peer, opened(partial(self.member.accept, peer)))

    def _dial(self, party: str, address: str) -> None:
        """Connect, and whenever the connection is lost connect again, more slowly."""
        peer, pause = self.agreed.parties.index(party), _FIRST
        host = self.agreed.hosts.get(party, host_of(party))
        peers = self.peers
        try:
            while not peers.closing.is_set():
                try:
                    channel = self.transport.dial(
                        address,
                        party,
                        # What is in its files now: a certificate may have been
                        # renewed since the last time.
                        self.trust.current(),
                        self.limit,
                        partial(self.member.accept, peer),
                        host=host,
                        identity=identity_of(self.agreed, party, self.trust),
                        timeout=min(peers.patience, 10.0),
                        pulse=self.pulse,
                    )
                except Closed as error:
                    denied = isinstance(error, Denied)
                    peers.note(peer, str(error), denied=denied)
                except OSError as error:
                    # `ConnectionError` and `TimeoutError` too: what sockets raise in a
                    # transport of a user's own, which need not know of `Closed`.
                    trouble = first_line(error)
                    peers.note(peer, f"no connection with `{party}`: {trouble}")
                else:
                    began = time.monotonic()
                    serve(peers, peer, channel)
                    # A connection that is cut as soon as it is there is no reason to
                    # hurry.
                    pause = _FIRST if time.monotonic() - began > 1 else pause
                # At random, or all that lost one listener would come back in the same
                # moment.
                peers.closing.wait(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _SLOWEST)
        except Exception as error:
            # Not the peer's doing, and nobody dials it any more.
            peers.fail(error, tell=False)

    def leave(self, reason: str) -> None:
        """Say goodbye, and close all connections when what is due on them went out.

        From now on there are no new ones.
        """
        peers = self.peers
        with self.changed:
            peers.closing.set()
            outboxes = list(peers.all_outboxes)
            for peer, outbox in peers.outboxes.items():
                outbox.put(self.member.bye(peer, reason))
            # Connections that wait for their turn wait no longer.
            self.changed.notify_all()
        # All are told to end before any is waited for: each may take its time.
        for outbox in outboxes:
            outbox.end(f"`{peers.party}` has left.")
        for outbox in outboxes:
            outbox.join()

    def close(self) -> None:
        """Leave, at the latest now.

        If it is over for all, those whose connection is down may come back before, to
        be told.
        """
        peers, end = self.peers, time.monotonic() + _TELLING
        with self.changed:
            while peers.verdict is not None and not peers.all_told():
                if time.monotonic() >= end:
                    break
                # In short waits: that a frame has gone out is told to nobody.
                self.changed.wait(0.05)
        self.leave("it could not go on.")
        if self.listener:
            self.listener.close()
        for thread in self.threads:
            thread.join(5.0)
