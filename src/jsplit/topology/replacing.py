"""One party does something else, and all others see the same: the parts, and the proof.

So an attacker is put in the place of a party. What others hold and compute is left as it is,
and what crosses must be what crossed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, replace
from typing import ClassVar, Protocol, TypeVar

from jsplit.core.checks import shown
from jsplit.topology.crossings import Crossing
from jsplit.topology.metrics import Metric
from jsplit.topology.names import as_names
from jsplit.topology.nodes import Loss, Node

_Part = Node | Loss | Metric


class _TopologyLike(Protocol):
    """What is asked of a topology, whose class is defined above this file."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    @property
    def nodes(self) -> Sequence[_Part]: ...
    @property
    def holds(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def instead_of(self) -> _TopologyLike | None: ...
    @property
    def parties(self) -> tuple[str, ...]: ...
    @property
    def crossings(self) -> tuple[Crossing, ...]: ...


_TopologyT = TypeVar("_TopologyT", bound=_TopologyLike)


def replace_party(
    topology: _TopologyT,
    party: str,
    nodes: Iterable[Node] | None = None,
    *,
    losses: Iterable[Loss | Metric] | None = None,
    holds: str | Sequence[str] = (),
) -> _TopologyT:
    """The topology in which one party does something else, unseen by all others.

    They hold and compute what they did, and the same values cross, whose
    cotangents come back as before. Shapes, dtypes and what of a value
    crosses are compared by the `init` of a trainer of the result. So an
    attacker is written, or a curious party's further head.

    Args:
        party: Who does something else.
        nodes: What it computes instead; by default what it did.
        losses: What it minimises and measures instead; by default what it
            did. A cotangent that it returns is that of these losses: an
            input `detached` in one of its nodes gets none from there.
        holds: Fields that it holds beside those that it held.

    Returns:
        A new topology; this one is not changed.

    Raises:
        ValueError: As for `Topology`; and naming the first difference that
            another party would see.

    Example:
        >>> import jsplit
        >>> bottom, top = (jsplit.segment(lambda w, x: w * x,
        ...     init=lambda key, x: 1.0) for _ in range(2))
        >>> honest = jsplit.vanilla(bottom, top, loss=max)
        >>> own = jsplit.Loss("own", lambda h: h.mean(-1), "server", "smashed")
        >>> attack = honest.replace("server", [], losses=[own])
        >>> attack.crossings == honest.crossings, attack.losses[0].name
        (True, 'own')
    """
    check_party(party, topology.parties)
    parts = parts_with(topology.nodes, party, nodes, losses)
    held = holds_with(topology.holds, party, holds)
    original = topology.instead_of or topology
    made = replace(topology, nodes=parts, holds=held, instead_of=original)
    check_same_crossings(party, topology.crossings, made.crossings)
    return made


def parts_with(
    parts: Sequence[_Part],
    party: str,
    nodes: Iterable[Node] | None,
    losses: Iterable[Loss | Metric] | None,
) -> list[_Part]:
    """The parts of a topology in which one party has others.

    Args:
        parts: of all parties.
        party: whose are replaced.
        nodes: what it computes instead; `None`: what it did.
        losses: its losses and metrics instead; `None`: those that it had.

    Returns:
        The parts. New nodes and losses stand where the party's stood, one by one, and
        what there are more of follow the last of these.

    Raises:
        ValueError: if one is of another kind or another party.
    """
    made: list[_Part] = []
    for argument, given in (("nodes", nodes), ("losses", losses)):
        of_kind = [p for p in parts if isinstance(p, Node) == (argument == "nodes")]
        own = [p for p in of_kind if p.party == party]
        new = own if given is None else _checked(argument, given, party)
        # The first loss of all says where sums of all parties are made: whoever had it
        # keeps it, so that these go the way that they went.
        made += _in_their_places(of_kind, own, new)
    return made


def _in_their_places(
    parts: Sequence[_Part], own: Sequence[_Part], new: Sequence[_Part]
) -> list[_Part]:
    """Parts with `new` ones in the places of `own` ones, in their order."""
    found: list[_Part] = []
    left, waiting = len(own), [*new]
    for part in parts:
        if part not in own:
            found.append(part)
            continue
        left -= 1
        # All that there are at the last place.
        count = 1 if left else len(waiting)
        found += waiting[:count]
        waiting = waiting[count:]
    return found + waiting


def _checked(argument: str, parts: Iterable[object], party: str) -> list[_Part]:
    """The parts that a party is given, if each is of the kind that its argument says."""
    wanted = (Node,) if argument == "nodes" else (Loss, Metric)
    called = " or ".join(x.__name__ for x in wanted)
    if not isinstance(parts, Iterable) or isinstance(parts, (str, Mapping)):
        got = type(parts).__name__
        raise ValueError(f"`{argument}` must be a list of {called}, got {got}.")
    found: list[_Part] = []
    for part in parts:
        if not isinstance(part, wanted):
            got = type(part).__name__
            raise ValueError(f"`{argument}` must hold {called}, got {got}.")
        if part.party != party:
            raise ValueError(
                f"`{argument}` must be of `{party}`, got `{part.name}` of "
                f"`{part.party}`: what others do stays as it is."
            )
        found.append(part)
    return found


def holds_with(
    holds: Mapping[str, Sequence[str]], party: str, more: str | Sequence[str]
) -> dict[str, list[str]]:
    """Who holds what if one party holds further fields beside its own."""
    found = {p: [*fields] for p, fields in holds.items()}
    added = as_names(f"party `{party}`", more, "holds")
    own = [*dict.fromkeys([*found.get(party, ()), *added])]
    if own:
        found[party] = own
    return found


def check_party(party: str, parties: Sequence[str]) -> None:
    """Refuse a party that there is not.

    Raises:
        ValueError: naming those that there are.
    """
    if party not in parties:
        raise ValueError(
            f"`party` must be one of {', '.join(parties)}, got {shown(party)}."
        )


def check_same_crossings(
    party: str, before: Sequence[Crossing], after: Sequence[Crossing]
) -> None:
    """Refuse a replaced party that others would notice by what crosses.

    Args:
        party: which is replaced.
        before: what crosses without it.
        after: what crosses with it.

    Raises:
        ValueError: naming the first difference.
    """
    was = {c[:3]: c for c in before}
    now = {c[:3]: c for c in after}
    for ends in [*was, *(e for e in now if e not in was)]:
        old, new = was.get(ends), now.get(ends)
        if old == new:
            continue
        name, sender, receiver = ends
        what = f"`{name}` from `{sender}` to `{receiver}`"
        if new is None:
            text = f"{what} crosses no more"
        elif old is None:
            text = f"{what} did not cross before"
        elif old.returns:
            # The usual slip of an attacker: to return one it needs a loss of its own on
            # the value, or a body with parameters.
            text = (
                f"no cotangent of {what} comes back; who receives it must read it in a "
                "loss or a node on the way to one, and what makes it must depend on "
                "parameters"
            )
        else:
            text = f"a cotangent of {what} comes back, which did not before"
        raise ValueError(
            f"`{party}` cannot be replaced so, others would see it: {text}."
        )
