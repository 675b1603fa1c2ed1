"""What two parties compare when they meet: the run, and which process is newer; refusals.

A mismatch is an error on both sides that says in one line what differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from jsplit.wire.codec import Frame
from jsplit.wire.difference import difference
from jsplit.wire.errors import Refused, RemoteProtocolError
from jsplit.wire.json_types import Json
from jsplit.wire.said import printable, quoted, says
from jsplit.wire.terms import Terms


def check_same_run(
    terms: Terms, said: Mapping[str, object], me: int, hello: Frame, theirs: Json
) -> None:
    """Refuse a hello of another run.

    Args:
        terms: of this party's run.
        said: its agreement.
        me: this party, by its place.
        hello: what came.
        theirs: the agreement that the hello holds, if it holds one.

    Raises:
        RemoteProtocolError: if the other is at another task of the same run, as
            evaluation: then it comes back to this one, or the run is not over yet, and
            it is enough to hang up. Likewise if its hello contradicts its head.
        Refused: saying what differs.
    """
    here, there = terms.name(me), terms.name(hello.head.sender)
    if hello.head.run == terms.run:
        # The head alone decides what is computed; what comes with it must say the same.
        if isinstance(theirs, dict) and theirs != said:
            raise RemoteProtocolError(
                f"`{there}` sent another agreement than that of the run: "
                f"{difference(said, theirs, here, there)}"
            )
        return
    if isinstance(theirs, dict):
        task = said.get("task")
        if said == theirs | {"task": task}:
            raise RemoteProtocolError(
                f"`{there}` is at another task: {quoted(theirs.get('task'))}, not {task!r}."
            )
    raise Refused(difference(said, theirs, here, there))


def check_newer(who: str, instance: int, newest: int) -> None:
    """Refuse a process of a party that another one of the same party has followed.

    Args:
        who: the party's name.
        instance: of the process that says hello.
        newest: of the one that is known.

    Raises:
        Refused: which concerns only the older process.
    """
    # Two processes that took turns at being the newest would roll the run back for
    # ever.
    if instance < newest:
        raise Refused(f"another process of `{who}` was started later.", alone=True)


def refusal_words(reason: str | Exception) -> dict[str, object]:
    """What a refusal says; `refused_by` is the inverse.

    Args:
        reason: why, or the error that says it.
    """
    # Cut: it may name all parties and what each has, and a body of JSON has a bound.
    said: dict[str, object] = {"reason": printable(str(reason))}
    if isinstance(reason, Refused) and reason.again:
        said["again"] = True
    return said


def refused_by(who: str, said: Mapping[str, Json]) -> Refused:
    """The error of a party that another refuses.

    Args:
        who: the other.
        said: what it has said.
    """
    return Refused(says(who, said.get("reason")), again=said.get("again") is True)
