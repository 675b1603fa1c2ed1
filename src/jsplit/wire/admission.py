"""Which frames a party lets in, judged by the head before anything is allocated.

All rules about heads are here, and a head is judged once, as soon as it
has come. They ask only for what does not change during a run; whether
it is a frame's turn is for the session to say (`jsplit.wire.session`).
"""

from __future__ import annotations

from dataclasses import dataclass

from jsplit.wire import codec
from jsplit.wire.codec import Head
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.layout import size_of
from jsplit.wire.relay import OVERHEAD, SEALED_KINDS
from jsplit.wire.terms import Terms, in_words

_FROM_THE_LEAD = ("start", "committed")


@dataclass(frozen=True)
class Admission:
    """What may come to one party, and from whom.

    Attributes:
        terms: of the run.
        me: this party, by its place.
        lead: the party that opens epochs, and passes on what goes
            between parties without a connection.
    """

    terms: Terms
    me: int
    lead: int

    def accept(self, peer: int, head: Head) -> None:
        """Refuse a head that may not come over the connection with `peer`.

        Raises:
            RemoteProtocolError: saying what came, and what the
                agreement says.
        """
        from_peer, for_me = head.sender == peer, head.receiver == self.me
        if from_peer and for_me:
            self._accept_direct(peer, head)
        elif for_me and peer == self.lead and self._is_other(head.sender):
            accept_between(self.terms, self.me, head.sender, head)
            self._accept_relayed(head)
        elif from_peer and self.me == self.lead and self._is_other(head.receiver):
            self._accept_to_pass_on(peer, head)
        else:
            raise _misdirected(self.terms, peer, head)

    def _is_other(self, party: int) -> bool:
        return party != self.me and party < len(self.terms.parties)

    def _accept_direct(self, peer: int, head: Head) -> None:
        if head.kind == "hello":
            # A hello may be of another run: then it says of which, and the
            # answer says what differs.
            return
        accept_between(self.terms, self.me, peer, head)
        wrong = head.kind in _FROM_THE_LEAD and peer != self.lead
        wrong = wrong or head.kind == "checkpoint" and self.me != self.lead
        if wrong:
            raise RemoteProtocolError(
                f"`{self.terms.name(peer)}` is not the lead and may not send {head.kind}."
            )

    def _accept_relayed(self, head: Head) -> None:
        """Refuse what must not go by way of the lead as it is."""
        # Keys show by themselves whose they are. All else goes sealed: an open
        # sync would let the lead say in another's name what that one lacks.
        if head.kind != "key" and not (head.kind in SEALED_KINDS and head.sealed):
            raise RemoteProtocolError(
                f"{head.kind} came by way of `{self.terms.name(self.lead)}` and is not sealed."
            )

    def _accept_to_pass_on(self, peer: int, head: Head) -> None:
        who = f"`{self.terms.name(peer)}`"
        if head.run != self.terms.run:
            raise RemoteProtocolError(f"{who} sent a frame of another run.")
        self._accept_relayed(head)
        # As its receiver will: it would else close its connection with this party.
        accept_between(self.terms, head.receiver, peer, head)


def accept_between(terms: Terms, me: int, peer: int, head: Head) -> None:
    """Refuse what one party may never send to another.

    Args:
        terms: of the run.
        me: the party that receives it.
        peer: the party that must have sent it.
        head: what came.

    Raises:
        RemoteProtocolError: saying what came, and what the agreement
            says.
    """
    who = f"`{terms.name(peer)}`"
    if (head.sender, head.receiver) != (peer, me):
        raise _misdirected(terms, peer, head)
    if head.run != terms.run:
        raise RemoteProtocolError(f"{who} sent a frame of another run.")
    if head.kind == "sync" and (head.value or head.step or head.micro > 1):
        # Of each of its two kinds one is due at a time, which the head tells.
        raise RemoteProtocolError(f"{who} sent a sync as of a step.")
    if head.kind not in codec.CARRIERS:
        return
    wire = head.value
    # `crosses` comes first: it is what makes `wire` a place in the
    # crossings.
    if not terms.crosses(wire, peer, me) or terms.crossings[wire].kind != head.kind:
        raise RemoteProtocolError(
            f"{who} may not send {head.kind} {wire} to `{terms.name(me)}`."
        )
    if not terms.within(wire, head.step, head.micro):
        raise no_such_step(terms, peer, head)
    # The outside of a sealed frame says only where it goes and how long it is; what
    # is in it is judged when it is open. The lead does not know what others hand over.
    if head.sealed and head.kind != "weights":
        most = size_of(terms.shapes_of(wire, head.step, head.micro)) + OVERHEAD
        if head.size > most:
            raise RemoteProtocolError(
                f"{who} sent {head.kind} `{terms.crossings[wire].what}` sealed, in "
                f"{head.size} bytes, it takes {most} at most."
            )
    agreed = terms.shapes_of(wire, head.step, head.micro)
    if not head.sealed and head.shapes != agreed:
        what = f"{head.kind} `{terms.crossings[wire].what}`"
        raise RemoteProtocolError(
            f"{who} sent {what} as {in_words(head.shapes)}, "
            f"the agreement says {in_words(agreed)}."
        )


def no_such_step(terms: Terms, peer: int, head: Head) -> RemoteProtocolError:
    """The error of a value in a step in which it does not cross."""
    what = f"{head.kind} `{terms.crossings[head.value].what}`"
    return RemoteProtocolError(
        f"`{terms.name(peer)}` sent {what} of step {head.step}, {head.micro}, "
        f"which there is not in a run of {terms.steps} steps."
    )


def _misdirected(terms: Terms, peer: int, head: Head) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"`{terms.name(peer)}` sent a frame from `{terms.name(head.sender)}` to "
        f"`{terms.name(head.receiver)}`."
    )
