"""One connection from its first frame to its last: read, and seen to its end.

Whatever a peer does costs it this connection, and the party nothing else, unless the
two cannot work together at all.
"""

from __future__ import annotations

import logging
import time

from jsplit.party.connection.outbox import Outbox
from jsplit.party.connection.peers import Peers
from jsplit.wire import codec
from jsplit.wire.channel import Channel
from jsplit.wire.codec import CodecError, Frame, Head
from jsplit.wire.errors import LocalProtocolError, Refused, RemoteProtocolError
from jsplit.wire.pipe import Closed

_log = logging.getLogger("jsplit.party")


def serve(peers: Peers, peer: int, channel: Channel) -> None:
    """Read a connection until it is lost, and see it to its end.

    Args:
        peers: of this party.
        peer: the party at the other end, by its place.
        channel: the connection.
    """
    with peers.changed:
        line = peers.outbox(channel)
        peers.all_lines.add(line)
        if peers.closing.is_set():
            line.cut(f"`{peers.party}` has left.")
        else:
            # An older connection keeps its place until this one has said hello.
            peers.lines.setdefault(peer, line)
        line.put(peers.member.hello(peer))
        if peers.verdict is not None:
            peers.tell(peer, line, peers.verdict)
    trouble = _read(peers, peer, line)
    with peers.changed:
        # Else a newer one has taken its place, and the peer is not lost.
        if peers.lines.get(peer, line) is line:
            peers.lines.pop(peer, None)
            peers.lost.setdefault(peer, time.monotonic())
            peers.note(peer, trouble)
        peers.changed.notify_all()
    line.end("the connection is closed.")
    line.join()
    with peers.changed:
        peers.all_lines.discard(line)


def _read(peers: Peers, peer: int, line: Outbox) -> str:
    """Take what comes on a connection until it ends; gives why it did."""
    try:
        return _take_all(peers, peer, line)
    except Closed as error:
        return str(error)
    except (CodecError, RemoteProtocolError) as error:
        _log.warning(
            "%s refused what `%s` sent: %s", peers.party, line.channel.peer, error
        )
        return str(error)
    except LocalProtocolError as error:
        peers.fail(error, tell=False)
        return str(error)
    except Exception as error:
        # Whatever else a peer may bring about costs it its connection, and this party
        # nothing.
        _log.exception(
            "%s: the connection with `%s` ends", peers.party, line.channel.peer
        )
        return str(error)


def _take_all(peers: Peers, peer: int, line: Outbox) -> str:
    heard = False
    while True:
        try:
            # A second at a time, so that a connection that was replaced is noticed.
            frame = line.channel.receive(1.0)
        except TimeoutError:
            continue
        with peers.changed:
            if heard and peers.lines.get(peer) is not line:
                return "a newer connection has taken its place."
            try:
                _take(peers, peer, line, frame, heard)
            except Refused as error:
                _on_refusal(peers, peer, line, frame.head, error)
                return str(error)
            heard = True


def _take(peers: Peers, peer: int, line: Outbox, frame: Frame, heard: bool) -> None:
    """Take a frame. A connection counts from its hello on, in the place of the last."""
    party = peers.names[peer]
    if not heard and frame.head.kind != "hello":
        raise RemoteProtocolError(
            f"`{party}` sent {frame.head.kind} before it said hello."
        )
    outgoing = peers.member.receive(peer, frame)
    if not heard:
        # Only now: a hello that is refused must not cost the peer the connection that
        # it has.
        old = peers.lines.get(peer)
        if old and old is not line:
            old.cut(f"`{party}` has connected again.")
        peers.lines[peer] = line
        peers.seen.add(peer)
        peers.lost.pop(peer, None)
        peers.trouble.pop(party, None)
    if frame.head.kind == "bye":
        # What others say is logged and printed, so it is cut to a length.
        reason = str(codec.about(frame).get("reason") or "")[:1000]
        peers.trouble[party] = f"`{party}` has left{': ' + reason if reason else '.'}"
        _log.info("%s: %s", peers.party, peers.trouble[party])
    peers.post(outgoing)
    peers.changed.notify_all()


def _on_refusal(
    peers: Peers, peer: int, line: Outbox, head: Head, error: Refused
) -> None:
    """Either side refuses the other, because of this head: end whom that concerns."""
    _log.error("%s: %s", peers.party, error)
    member = peers.member
    is_lead = member.rendezvous is not None
    # A refusal that came says that the other refuses; anything else, that this party
    # does.
    ours = head.kind != "refusal"
    # It is over for all if it came up in the epoch of all, or if the lead has found it.
    in_the_run = head.epoch == member.epoch > 0 or ours and is_lead
    for_all = head.run == member.terms.run and not error.alone and in_the_run
    if ours:
        line.put(member.refusal(peer, str(error)))
    # Who waits for others can wait for a better one; who dials would be refused again
    # for ever.
    dials = peers.agreed.reach(peers.party)[line.channel.peer] == "dial"
    if for_all or dials:
        peers.fail(error, tell=for_all and (ours or is_lead))
