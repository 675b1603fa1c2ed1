"""What parties say to each other while they serve: the frames, and what is in them.

A session is opened by a `hello` of whoever asks and the `hello` that answers it, values
cross as in training, `refusal` says why not, and `bye` ends a session. `epoch` is the
number of the session, `step` that of the call in it, `micro` how many positions, or
records, the call has, `value` which wire it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from jsplit.core.base import PartyState
from jsplit.core.ids import Id
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.agreement_attributes import canonical
from jsplit.training.base_hash import hash_of
from jsplit.wire.codec import CodecError, Frame, Head, frame_of, text_of
from jsplit.wire.layout import LARGEST_TEXT, Shapes, size_of

STAMP = 40
"""Bytes that an answer has more than was agreed on: the step and the hash of what its
sender has learned."""
STAMP_SHAPE = (np.dtype("uint8"), (STAMP,))
UNKNOWN = 1 << 20
"""Bytes of a value of a session that is not known, at most."""
IDS = "sync"
"""The kind of frame in which whoever asks says whose records are meant."""


class Model(NamedTuple):
    """Which model has answered.

    Attributes:
        step: how many steps it was trained.
        hash: SHA-256, in hexadecimal digits, of the parameters and statistics of a
            party, or over those of all parties.

    Example:
        >>> from jsplit.party import Model
        >>> Model(7, "ab" * 32).step
        7
    """

    step: int
    hash: str


def model_of(state: PartyState) -> Model:
    """What a party has learned: parameters and statistics, and no optimizer's state."""
    digest = np.asarray(hash_of({"params": state.params, "state": state.state}))
    return Model(int(state.step), digest.tobytes().hex())


def all_together(models: Mapping[str, Model]) -> Model:
    """The model that several parties have together.

    Args:
        models: by party, of the same step.
    """
    text = canonical({party: model.hash for party, model in models.items()})
    return Model(next(iter(models.values())).step, sha256(text.encode()).hexdigest())


def stamp_of(model: Model) -> np.ndarray:
    """A model as an answer carries it, uint8 [40]."""
    data = model.step.to_bytes(8, "little") + bytes.fromhex(model.hash)
    return np.frombuffer(data, np.uint8)


def said_of(agreed: Agreement) -> dict[str, object]:
    """What parties compare when they meet."""
    return {**agreed.said, "task": "serve"}


def run_of(agreed: Agreement) -> bytes:
    """The hash of that, which every frame carries."""
    return sha256(canonical(said_of(agreed)).encode()).digest()


def new_number() -> int:
    """The number of a session, or of a process; nobody can guess it."""
    return secrets.randbits(63)


class Words:
    """Makes the frames that one party sends.

    Args:
        agreed: what the parties have agreed on.
        party: this one.
    """

    def __init__(self, agreed: Agreement, party: str):
        self.agreed, self.party = agreed, party
        self.run, self.me = run_of(agreed), agreed.parties.index(party)
        self.instance = new_number()

    def head(
        self,
        kind: str,
        to: str,
        session: int,
        call: int,
        count: int = 0,
        place: int = 0,
    ) -> Head:
        """A head of this party's."""
        return Head(
            kind,
            self.run,
            session,
            self.instance,
            self.me,
            self.agreed.parties.index(to),
            step=call,
            micro=count,
            value=place,
        )

    def text(
        self,
        kind: str,
        to: str,
        session: int,
        said: Mapping[str, object],
        call: int = 0,
    ) -> Frame:
        """A frame that holds JSON."""
        return text_of(self.head(kind, to, session, call), said)

    def value(
        self,
        to: str,
        session: int,
        place: int,
        call: int,
        count: int,
        arrays: Sequence[np.ndarray],
    ) -> Frame:
        """A frame that holds the arrays of a wire."""
        head = self.head("activation", to, session, call, count, place)
        return frame_of(head, arrays)

    def judge(self, peer: str, head: Head, expected: Shapes | None) -> None:
        """Refuse a head before anything is allocated for what it announces.

        Args:
            peer: who has sent it, by its certificate.
            head: what came.
            expected: of a value of a known session, its shapes.

        Raises:
            CodecError: saying why; it costs the peer its connection.
        """
        sender = self.agreed.parties.index(peer)
        if (head.sender, head.receiver) != (sender, self.me) or head.sealed:
            raise CodecError(
                f"`{peer}` sent a frame that is not from it to this party."
            )
        if head.kind in ("hello", "refusal", "bye", IDS):
            # Those of another agreement too: its party is told what differs.
            if size_of(head.shapes) > LARGEST_TEXT:
                raise CodecError(f"`{peer}` sent too long a text.")
            return
        if head.kind != "activation" or head.run != self.run:
            raise CodecError(f"`{peer}` sent a frame of the kind {head.kind}.")
        if expected is None and size_of(head.shapes) > UNKNOWN:
            raise CodecError(f"`{peer}` sent a large value of a session that is over.")
        if expected is not None and head.shapes != expected:
            said = ", ".join(f"{dtype}{list(shape)}" for dtype, shape in head.shapes)
            there = ", ".join(f"{dtype}{list(shape)}" for dtype, shape in expected)
            raise CodecError(f"`{peer}` sent a value {said}, expected {there}.")


def ids_in(said: Mapping[str, object]) -> list[Id]:
    """The ids of records that whoever asks has sent."""
    ids = said.get("ids")
    if not isinstance(ids, list) or not all(type(i) in (str, int) for i in ids):
        raise ValueError("ids must be a list of texts and whole numbers.")
    return ids
