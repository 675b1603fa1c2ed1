"""The parts of a topology: a `Node` computes a value; and of which kind each part is.

All name what they read in `inputs`. A new sort of part (beside segments,
losses, metrics and penalties) starts here, with its `NodeKind`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jsplit.core.base import Segment, Tied
from jsplit.core.checks import topological_order
from jsplit.core.loans import owners_of
from jsplit.topology.losses import Loss
from jsplit.topology.metrics import Metric
from jsplit.topology.names import as_names, check_names


class NodeKind(StrEnum):
    """What a part of a topology is for."""

    SEGMENT = "segment"
    LOSS = "loss"
    METRIC = "metric"
    PENALTY = "penalty"

    # Enum's own hash is a Python function; dictionaries of kinds need none.
    __hash__ = str.__hash__


@dataclass(frozen=True)
class Node:
    """A segment at a party. Its output is a value with the node's name.

    Attributes:
        name: Name of the value produced.
        segment: What computes it.
        party: Who runs the segment and owns its parameters.
        inputs: Names of the fields and values read, in the segment's order,
            or the only one; by default the names that the segment itself
            has for its inputs.
        detached: Those inputs that get no cotangent from this node: the
            node learns from them, but what makes them does not learn from
            the node.

    Raises:
        ValueError: If `segment` is no Segment, a name is not a string,
            `inputs` is missing and the segment does not name its own, or
            `detached` names something that is no input.

    Example:
        >>> import jsplit
        >>> bottom = jsplit.segment(lambda image: image)
        >>> jsplit.Node("smashed", bottom, party="hospital").reads
        ('image',)
        >>> jsplit.Node("smashed", bottom, "hospital", inputs=["scan"]).reads
        ('scan',)
    """

    name: str
    segment: Segment
    party: str
    inputs: str | Sequence[str] | None = None
    detached: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        check_names("node", self.name, self.party)
        if not isinstance(self.segment, Segment):
            got = type(self.segment).__name__
            raise ValueError(
                f"node `{self.name}`: `segment` must be a Segment, got {got}; "
                "see jsplit.segment."
            )

        inputs = self.segment.inputs if self.inputs is None else self.inputs
        if inputs is None:
            raise ValueError(
                f"node `{self.name}`: its segment does not name its inputs, "
                "so `inputs` must."
            )
        owner = f"node `{self.name}`"
        detached = as_names(owner, self.detached, "detached")
        # Tuples, so that a node is hashable and equal to its like however the user
        # wrote the names; the dataclass is frozen, so only `object` can set them.
        object.__setattr__(self, "inputs", as_names(owner, inputs))
        object.__setattr__(self, "detached", detached)

        for name in detached:
            if name not in self.reads:
                raise ValueError(
                    f"node `{self.name}`: `detached` names `{name}`, "
                    "which is none of its inputs."
                )

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of all inputs, in the segment's order.

        Returns:
            A tuple of names; a name may come twice.

        Example:
            >>> import jsplit
            >>> top = jsplit.segment(lambda h, skip: h + skip)
            >>> jsplit.Node("logits", top, "server").reads
            ('h', 'skip')
        """
        return tuple(self.inputs or ())

    @property
    def differentiable_inputs(self) -> tuple[str, ...]:
        """The inputs that may get a cotangent from this node, each once.

        Returns:
            The names in `reads` that are not detached.

        Example:
            >>> import jsplit
            >>> top = jsplit.segment(lambda h, skip: h + skip)
            >>> node = jsplit.Node("logits", top, "server", detached="skip")
            >>> node.differentiable_inputs
            ('h',)
        """
        # A value read at two positions has one cotangent, the sum of both.
        names = dict.fromkeys(self.reads)
        return tuple(i for i in names if i not in self.detached)

    pulls = differentiable_inputs  # the name until 0.1, kept for those who use it


def kind_of(node: Node | Loss | Metric) -> NodeKind:
    """Whether a part is a segment, a loss, a metric or a penalty."""
    if isinstance(node, Node):
        return NodeKind.SEGMENT
    # Weight first: a penalty of weight 0 is not trained for, so it is a metric.
    if isinstance(node, Metric) or not node.weight:
        return NodeKind.METRIC
    return NodeKind.PENALTY if node.local else NodeKind.LOSS


def in_order(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Nodes, each after those that it reads, or borrows a weight of; else as given.

    Raises:
        ValueError: If nodes read each other's values in a circle.
    """
    by_name = {n.name: n for n in nodes}
    owners: dict[tuple[str, Tied], str] = {}
    for party in {n.party for n in by_name.values()}:
        own = {name: n.segment for name, n in by_name.items() if n.party == party}
        owners |= {(party, tied): by[0] for tied, by in owners_of(own).items()}
    reads: dict[str, list[str]] = {}
    for name, n in by_name.items():
        lenders = [owners.get((n.party, tied), name) for tied in n.segment.tied]
        reads[name] = [*n.reads, *(owner for owner in lenders if owner != name)]
    return tuple(by_name[name] for name in topological_order(reads, "the nodes"))
