"""The parts of a topology: a `Node` computes a value, a `Loss` a term of the objective.

Both name what they read in `inputs`. A new sort of part (beside segments,
losses, metrics and penalties) starts here, with its `NodeKind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real

import jax

from jsplit.core.base import Segment
from jsplit.core.checks import shown, topological_order
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


@dataclass(frozen=True)
class Loss:
    """A term of the objective, computed at one party.

    The objective is the sum of `weight` times the mean of each loss.

    Attributes:
        name: Name of the loss.
        fn: `fn(*inputs)`, a scalar or one number per example, [batch]; its
            mean counts. Floating inputs narrower than float32 arrive as
            float32.
        party: Who computes it.
        inputs: Names of fields and values; also `<node>.params` and
            `<node>.state` of the party's own nodes (the state is the one
            after the step's forward pass, with all that the segment sowed).
        weight: Factor in the objective; 0: it is computed but not trained
            for. Over several batches it is the mean over their examples;
            what is no mean, as an AUC, is a `Metric`.
        local: Whether the loss may read only what the party already has, so
            that it makes nothing cross. See `Penalty`.

    Raises:
        ValueError: If `fn` is no function, `weight` no number, `inputs` is
            empty, or a name is not a string.

    Example:
        >>> import jsplit, optax
        >>> entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> loss = jsplit.Loss("loss", entropy, "server", ["logits", "label"])
        >>> loss.reads, loss.weight
        (('logits', 'label'), 1.0)
    """

    name: str
    fn: Callable[..., jax.Array]
    party: str
    inputs: str | Sequence[str]
    weight: float = 1.0
    local: bool = False

    def __post_init__(self) -> None:
        check_names("loss", self.name, self.party)
        if not callable(self.fn):
            got = type(self.fn).__name__
            raise ValueError(f"loss `{self.name}`: `fn` must be a function, got {got}.")
        # `Real` and not `float`: NumPy's scalars and Python's integers are weights too.
        if not isinstance(self.weight, Real):
            raise ValueError(
                f"loss `{self.name}`: `weight` must be a number, got {shown(self.weight)}."
            )
        object.__setattr__(self, "inputs", as_names(f"loss `{self.name}`", self.inputs))
        if not self.reads:
            raise ValueError(
                f"loss `{self.name}`: `inputs` is empty, so it depends on nothing."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of all inputs, in the order in which `fn` takes them.

        Returns:
            A tuple of names; a name may come twice.

        Example:
            >>> import jsplit
            >>> jsplit.Loss("size", abs, "server", "logits").reads
            ('logits',)
        """
        return tuple(self.inputs)

    @property
    def differentiable_inputs(self) -> tuple[str, ...]:
        """The inputs that may get a cotangent from this loss, each once.

        Returns:
            The names in `reads`; none for a metric, whose weight is 0.

        Example:
            >>> import jsplit
            >>> jsplit.Loss("size", abs, "server", "h").differentiable_inputs
            ('h',)
            >>> jsplit.Loss("size", abs, "server", "h", 0).differentiable_inputs
            ()
        """
        return tuple(dict.fromkeys(self.reads)) if self.weight else ()

    pulls = differentiable_inputs  # the name until 0.1, kept for those who use it


# A function and no subclass, so that all that reads a topology knows two records and
# not three; named like them, since users write the three side by side.
def Penalty(
    name: str,
    fn: Callable[..., jax.Array],
    party: str,
    inputs: str | Sequence[str],
    weight: float = 1.0,
) -> Loss:
    """A loss that one party adds on what it already has, so that nothing crosses for it.

    It reads the party's own parameters, activations and fields. Three uses:
    weight decay, `Penalty("decay", l2, "hospital", ["smashed.params"],
    1e-4)`; a regulariser sown inside a module, `Penalty("sown", total,
    "hospital", ["smashed.state"])`; NoPeek, `Penalty("nopeek", correlation,
    "hospital", ["image", "smashed"])`.

    Args:
        name: Name of the penalty.
        fn: `fn(*inputs)`, a scalar or one number per example, [batch].
        party: Who computes it.
        inputs: Names of the party's own fields and values, or
            `<node>.params` and `<node>.state` of its own nodes.
        weight: Factor in the objective.

    Returns:
        A `Loss` whose `local` is true.

    Raises:
        ValueError: As for `Loss`; `Topology` raises where the penalty reads
            something that its party does not have.

    References:
        Vepakomma et al., `NoPeek: information leakage reduction to share
        activations in distributed deep learning
        <https://arxiv.org/abs/2008.09161>`_, 2020.

    Example:
        >>> import jsplit, optax
        >>> l2 = lambda params: optax.tree.norm(params, squared=True)
        >>> jsplit.Penalty("decay", l2, "hospital", "smashed.params", 1e-4).local
        True
    """
    return Loss(name, fn, party, inputs, weight, local=True)


def kind_of(node: Node | Loss | Metric) -> NodeKind:
    """Whether a part is a segment, a loss, a metric or a penalty."""
    if isinstance(node, Node):
        return NodeKind.SEGMENT
    # Weight first: a penalty of weight 0 is not trained for, so it is a metric.
    if isinstance(node, Metric) or not node.weight:
        return NodeKind.METRIC
    return NodeKind.PENALTY if node.local else NodeKind.LOSS


def in_order(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Nodes, each after those that it reads; else in the order given.

    Raises:
        ValueError: If nodes read each other's values in a circle.
    """
    by_name = {n.name: n for n in nodes}
    reads = {name: n.reads for name, n in by_name.items()}
    return tuple(by_name[name] for name in topological_order(reads, "the nodes"))
