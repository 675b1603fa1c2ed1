"""What stands for another party's segment or loss: known by name, and refusing to run.

From these and from its own segments a party builds the whole topology, so that it knows
what crosses without anybody else's model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, cast

import jax

from jsplit.core.base import Segment
from jsplit.core.checks import names_of
from jsplit.core.strength import Strength
from jsplit.party.contract.entries import LossEntry, MetricEntry, NodeEntry
from jsplit.topology.graph import Topology
from jsplit.topology.metrics import Metric
from jsplit.topology.nodes import Loss, Node

Own = Mapping[str, Segment | Callable] | Topology
"""What a party brings: its segments and losses by name, or a topology with them."""

_Given = dict[str, Segment | Callable]


def foreign(
    name: str,
    party: str,
    trainable: bool = True,
    inputs: str | Sequence[str] | None = None,
) -> Segment:
    """Make a placeholder for a segment that only `party` has.

    The placeholder takes the segment's place in a topology from which an agreement is
    made. It says whether the segment trains, and raises if it is run.

    Args:
        name: of the node that the segment is of.
        party: who has the segment.
        trainable: whether its parameters are trained.
        inputs: the names of what it reads, as for `jsplit.segment`.

    Returns:
        A `Segment` without parameters.

    Raises:
        ValueError: if `inputs` are no names.

    Example:
        >>> from jsplit import party
        >>> bottom = party.foreign("smashed", "hospital", inputs="image")
        >>> bottom.inputs
        ('image',)
        >>> bottom.apply({}, {}, None, 0.0)
        Traceback (most recent call last):
        ValueError: node `smashed` is of `hospital`: no one else can run it.
    """
    refuse = _refusing(f"node `{name}`", party)
    # `agreement` asks for this mark: it must not try to compute the shapes that the
    # segment gives, and takes them from its argument `values`.
    setattr(refuse, "foreign", True)  # noqa: B010 - functions declare no attributes
    names = None if inputs is None else tuple(names_of("inputs", inputs, twice=True))
    return Segment(refuse, refuse, names, name, trainable)


def _refusing(what: str, party: str) -> Callable[..., NoReturn]:
    """A function that raises whatever it is called with."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ValueError(f"{what} is of `{party}`: no one else can run it.")

    return refuse


def assemble(
    nodes: Sequence[NodeEntry],
    losses: Sequence[LossEntry | MetricEntry],
    holds: Mapping[str, Sequence[str]],
    party: str | None,
    own: Own | None,
    public: Sequence[str] = (),
) -> Topology:
    """The whole topology: segments and losses of one party, placeholders for the rest.

    Args:
        nodes: of the agreement.
        losses: of the agreement, and its metrics.
        holds: by role, the fields that it holds.
        party: the role whose segments and losses are given; `None` for nobody's.
        own: its segments and loss functions.
        public: fields of which all say that they are not secret.

    Returns:
        The topology, with nodes and losses in the order of the agreement.

    Raises:
        ValueError: naming what `own` lacks, or has and should not.
    """
    given = _by_name(own, party)
    if isinstance(own, Topology):
        _check_public(own, holds.get(party or "", ()), public)
    made: list[Node | Loss | Metric] = []
    for node in nodes:
        made.append(_node(node, given, party))
    for loss in losses:
        made.append(_loss(loss, given, party))
    # Each took its own out of `given`, so what is left belongs to nobody here: a
    # segment under a wrong name would else be ignored without a word.
    if given:
        raise ValueError(f"`own` has `{next(iter(given))}`, which is not of `{party}`.")
    return Topology(made, holds, public=public)


def _check_public(own: Topology, held: Sequence[str], public: Sequence[str]) -> None:
    """Refuse an agreement that makes a field public of which its holder does not say so."""
    for field in held:
        if field in public and field not in own.public:
            raise ValueError(
                f"`public` of the agreement names the field `{field}`, and that of `own` "
                "does not: it would cross as it is."
            )


def _by_name(own: Own | None, party: str | None) -> _Given:
    """The segments and losses that a party brings, by name.

    Raises:
        ValueError: if `own` is neither a dictionary nor a topology.
    """
    if isinstance(own, Topology):
        # A topology has those of all parties; the others' are left aside, not refused.
        found: _Given = {}
        for node in own.segments:
            if node.party == party:
                found[node.name] = node.segment
        for loss in (*own.losses, *own.metrics):
            if loss.party == party:
                found[loss.name] = loss.fn
        return found
    if not isinstance(own, Mapping) and own is not None:
        raise ValueError(
            "`own` must be a dictionary of segments and losses, or a topology, "
            f"got {type(own).__name__}."
        )
    return dict(own or {})


def _taken(given: _Given, name: str, what: str, party: str | None) -> object:
    """Take a party's own out of `given`.

    Raises:
        ValueError: if it is not there, with the names that are left: a wrong one is among
            them.
    """
    if name not in given:
        left = f"; it has {', '.join(f'`{n}`' for n in given)}" if given else ""
        raise ValueError(f"`own` lacks {what}, which is of `{party}`{left}.")
    return given.pop(name)


def _node(node: NodeEntry, given: _Given, party: str | None) -> Node:
    """One node, with its segment taken out of `given`, or with a placeholder."""
    if node.party != party:
        segment = foreign(node.name, node.party, node.trainable)
        return Node(node.name, segment, node.party, node.reads, node.detached)
    segment = _taken(given, node.name, f"the segment of the node `{node.name}`", party)
    if not isinstance(segment, Segment):
        raise ValueError(
            f"`own` must have a segment for the node `{node.name}`, "
            f"got {type(segment).__name__}; `jsplit.segment` makes one of a function, as "
            "one that merges, or of a model."
        )
    if segment.trainable != node.trainable:
        raise ValueError(
            f"node `{node.name}`: `trainable` is {segment.trainable}, "
            f"the agreement says {node.trainable}."
        )
    return Node(node.name, segment, node.party, node.reads, node.detached)


def _loss(
    loss: LossEntry | MetricEntry, given: _Given, party: str | None
) -> Loss | Metric:
    """One loss or metric, with its function out of `given`, or with a placeholder."""
    kind = "metric" if isinstance(loss, MetricEntry) else "loss"
    if loss.party == party:
        what = f"the function of the {kind} `{loss.name}`"
        fn = _taken(given, loss.name, what, party)
    else:
        fn = _refusing(f"{kind} `{loss.name}`", loss.party)
    if not callable(fn):
        raise ValueError(
            f"`own` must have a function for the {kind} `{loss.name}`, "
            f"got {type(fn).__name__}."
        )
    if isinstance(loss, MetricEntry):
        return Metric(loss.name, fn, loss.party, loss.reads, loss.weighted)
    made = cast(Callable[..., jax.Array], fn)
    # A strength at all parties: one of 0 is trained for, and its cotangents cross.
    weight = Strength(loss.strength, loss.weight) if loss.strength else loss.weight
    return Loss(loss.name, made, loss.party, loss.reads, weight, loss.local, loss.per)


def loss_entry(loss: Loss) -> LossEntry:
    """A loss as an agreement has it: all but its function."""
    strength, weight = "", loss.weight
    if isinstance(weight, Strength):
        strength, weight = weight.name, weight.value
    # Both may have been given as integers, and 1 and 1.0 are two texts of JSON, hence
    # two hashes.
    per = None if loss.per is None else float(loss.per)
    return LossEntry(
        loss.name, loss.party, loss.reads, float(weight), loss.local, strength, per
    )
