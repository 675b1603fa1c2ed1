"""One connection from its first frame to its last: read, and seen to its end.

Whatever a peer does costs it this connection, and the party nothing else, unless the
two cannot work together at all.
"""

from __future__ import annotations

import logging
import time
import traceback

from jsplit.party.connection.newcomers import FIRST_WORD
from jsplit.party.connection.outbox import Outbox
from jsplit.party.connection.peers import Peers
from jsplit.wire import codec
from jsplit.wire.channel import Channel
from jsplit.wire.codec import CodecError, Frame, Head
from jsplit.wire.errors import Astray, LocalProtocolError, Refused, RemoteProtocolError
from jsplit.wire.pipe import Closed
from jsplit.wire.said import printable, quoted

_log = logging.getLogger("jsplit.party")
_DEEPEST = -20
"""So many calls are logged of an error that came up in taking a frame: the last ones."""


def serve(peers: Peers, peer: int, channel: Channel) -> None:
    """Read a connection until it is lost, and see it to its end.

    Args:
        peers: of this party.
        peer: the party at the other end, by its place.
        channel: the connection.
    """
    with peers.changed:
        outbox = peers.new_outbox(channel)
        peers.all_outboxes.add(outbox)
        if peers.closing.is_set():
            outbox.cut(f"`{peers.party}` has left.")
        admitted = peers.newcomers.admit(peer, outbox)
        if admitted:
            # An older connection keeps its place until this one has said hello.
            peers.outboxes.setdefault(peer, outbox)
            outbox.put(peers.member.hello(peer))
            if peers.verdict is not None:
                peers.tell(peer, outbox, peers.verdict)
    trouble = _read(peers, peer, outbox) if admitted else outbox.reason
    with peers.changed:
        peers.newcomers.gone(peer, outbox)
        # Else a newer one has taken its place, and the peer is not lost.
        if peers.outboxes.get(peer) is outbox:
            del peers.outboxes[peer]
            peers.lost.setdefault(peer, time.monotonic())
            peers.note(peer, trouble)
        peers.changed.notify_all()
    outbox.end("the connection is closed.")
    outbox.join()
    with peers.changed:
        peers.all_outboxes.discard(outbox)


def _read(peers: Peers, peer: int, outbox: Outbox) -> str:
    """Take what comes on a connection until it ends; gives why it did."""
    try:
        return _take_all(peers, peer, outbox)
    except Closed as error:
        return str(error)
    except (CodecError, RemoteProtocolError) as error:
        _log.warning(
            "%s refused what `%s` sent: %s", peers.party, outbox.channel.peer, error
        )
        return str(error)
    except LocalProtocolError as error:
        peers.fail(error, tell=False)
        return str(error)
    except Exception as error:
        # Whatever else a peer may bring about costs it its connection, and this party
        # nothing. Where it came up is in our own code; what the error says may be the
        # peer's words, which a traceback would print as they are.
        where = "".join(traceback.format_tb(error.__traceback__, _DEEPEST))
        what = f"{type(error).__name__}: {quoted(str(error))}"
        _log.error(
            "%s: the connection with `%s` ends: %s\n%s",
            peers.party,
            outbox.channel.peer,
            what,
            where,
        )
        return what


def _take_all(peers: Peers, peer: int, outbox: Outbox) -> str:
    # The process that has said hello.
    heard: int | None = None
    until = time.monotonic() + FIRST_WORD
    while True:
        try:
            # A second at a time, so that a connection that was replaced is noticed.
            frame = outbox.channel.receive(1.0)
        except TimeoutError:
            # Half a frame counts for nothing: it may come byte by byte, for ever.
            if heard is None and time.monotonic() > until:
                party = peers.names[peer]
                outbox.cut(f"`{party}` did not say hello within {FIRST_WORD:g} s.")
                return outbox.reason
            continue
        with peers.changed:
            # What came before a connection was cut can still be received.
            replaced = not peers.newcomers.is_newest(peer, outbox)
            if heard is not None:
                replaced = peers.outboxes.get(peer) is not outbox
            if replaced:
                return "a newer connection has taken its place."
            try:
                _take(peers, peer, outbox, frame, heard)
            except Astray as error:
                peers.strays.note(frame.head.sender, str(error))
            except Refused as error:
                _on_refusal(peers, peer, outbox, frame.head, error)
                return str(error)
            if heard is None:
                heard = frame.head.instance


def _take(
    peers: Peers, peer: int, outbox: Outbox, frame: Frame, heard: int | None
) -> None:
    """Take a frame. A connection counts from its hello on, in the place of the last."""
    party = peers.names[peer]
    if heard is None and frame.head.kind != "hello":
        raise RemoteProtocolError(
            f"`{party}` sent {frame.head.kind} before it said hello."
        )
    # Connections have a bound in time, and by a new process all go back: so each needs a
    # connection of its own.
    newer = frame.head.kind == "hello" and frame.head.instance != heard
    if newer and heard is not None:
        raise RemoteProtocolError(
            f"`{party}` said hello as another process on the connection of one."
        )
    epoch = peers.member.epoch
    outgoing = peers.member.receive(peer, frame)
    if heard is None:
        peers.newcomers.greeted(peer, went_back=peers.member.epoch != epoch)
        instance, committed = frame.head.instance, peers.member.committed
        peers.comebacks.greeted(peer, instance, committed)
        # Only now: a hello that is refused must not cost the peer the connection that
        # it has.
        old = peers.outboxes.get(peer)
        if old and old is not outbox:
            old.cut(f"`{party}` has connected again.")
        peers.outboxes[peer] = outbox
        peers.met(peer)
    if frame.head.kind == "sign":
        peers.vigil.hear(peers.member.signs, peers.member.epoch)
    if frame.head.kind == "bye":
        reason = codec.about(frame).get("reason")
        why = f", and says: {quoted(reason)}" if reason else "."
        peers.trouble[party] = f"`{party}` has left{why}"
        # Once on a connection: it can be said as often as a peer likes.
        if not outbox.goodbye:
            outbox.goodbye = True
            _log.info("%s: %s", peers.party, peers.trouble[party])
    # Only if it was opened: without its sender's key it is dropped too.
    seals = peers.member.seals
    if frame.head.sealed and seals is not None and seals.has(frame.head.sender):
        peers.strays.found(frame.head.sender)
    peers.post(outgoing)
    peers.changed.notify_all()


def _on_refusal(
    peers: Peers, peer: int, outbox: Outbox, head: Head, error: Refused
) -> None:
    """Either side refuses the other, because of this head: end whom that concerns."""
    _log.error("%s: %s", peers.party, error)
    member = peers.member
    peers.lasting[peers.names[peer]] = printable(str(error))
    is_lead = member.rendezvous is not None
    # A refusal that came says that the other refuses; anything else, that this party
    # does.
    ours = head.kind != "refusal"
    # It is over for all if it came up in the epoch of all, or if the lead has found it.
    in_the_run = head.epoch == member.epoch > 0 or ours and is_lead
    for_all = head.run == member.terms.run and not error.alone and in_the_run
    if ours:
        outbox.put(member.refusal(peer, error))
    # Who waits for others can wait for a better one; who dials would be refused again
    # for ever.
    dials = peers.agreed.reach(peers.party)[outbox.channel.peer] == "dial"
    if for_all or dials:
        peers.fail(error, tell=for_all and (ours or is_lead))
