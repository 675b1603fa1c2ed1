"""The parts of a topology: a `Node` computes a value at a party, a `Loss` is a term of the objective.

Both name what they read, in `inputs`; `differentiable_inputs` are the inputs that may get a cotangent from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import jax

from jsplit.core.base import Segment
from jsplit.core.checks import names_of

OWN = ("params", "state")
"""What a party has of its own nodes beside their outputs; a loss reads it as `<node>.params`, `<node>.state`."""


@dataclass(frozen=True)
class Node:
    """A segment at a party. Its output is a value with the node's name.

    Attributes:
        name: of the value produced.
        segment: what computes it.
        party: who runs it and owns its parameters.
        inputs: names of the fields and values read, in the segment's order, or the only one; by default its own names.
        detached: those of them that get no cotangent from this node: it learns from them, they do not learn from it.
    """

    name: str
    segment: Segment
    party: str
    inputs: str | Sequence[str] | None = None
    detached: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_names("node", self.name, self.party)
        if not isinstance(self.segment, Segment):
            raise ValueError(
                f"node `{self.name}`: `segment` must be a Segment, got {type(self.segment).__name__}; see jsplit.segment."
            )
        inputs = self.segment.inputs if self.inputs is None else self.inputs
        if inputs is None:
            raise ValueError(
                f"node `{self.name}`: its segment does not name its inputs, so `inputs` must."
            )
        object.__setattr__(self, "inputs", as_names(f"node `{self.name}`", inputs))
        object.__setattr__(
            self,
            "detached",
            as_names(f"node `{self.name}`", self.detached, "detached"),
        )
        if unknown := [i for i in self.detached if i not in self.reads]:
            raise ValueError(
                f"node `{self.name}`: `detached` names `{unknown[0]}`, which is none of its inputs."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.inputs or ())

    @property
    def differentiable_inputs(self) -> tuple[str, ...]:
        """The inputs that may get a cotangent from this node, each once."""
        return tuple(i for i in dict.fromkeys(self.reads) if i not in self.detached)

    pulls = differentiable_inputs  # its name until 0.1


@dataclass(frozen=True)
class Loss:
    """A term of the objective, computed at one party. The objective is the sum of `weight` times each.

    Attributes:
        name: of the loss.
        fn: `fn(*inputs)`, a scalar or one number per example, [batch]; its mean counts. Floating inputs
            narrower than float32 arrive as float32.
        party: who computes it.
        inputs: names of fields and values; also `<node>.params` and `<node>.state` of the party's own nodes
            (the state is the one after the step's forward pass, with all that the segment sowed).
        weight: factor in the objective; 0 makes it a metric, which is computed but not trained for.
        local: it may read only what the party already has, so it makes nothing cross. See `Penalty`.
    """

    name: str
    fn: Callable[..., jax.Array]
    party: str
    inputs: str | Sequence[str]
    weight: float = 1.0
    local: bool = False

    def __post_init__(self) -> None:
        _check_names("loss", self.name, self.party)
        if not callable(self.fn):
            raise ValueError(
                f"loss `{self.name}`: `fn` must be a function, got {type(self.fn).__name__}."
            )
        if not isinstance(self.weight, Real):
            raise ValueError(
                f"loss `{self.name}`: `weight` must be a number, got {self.weight!r}."
            )
        object.__setattr__(self, "inputs", as_names(f"loss `{self.name}`", self.inputs))
        if not self.reads:
            raise ValueError(
                f"loss `{self.name}`: `inputs` is empty, so it depends on nothing."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    @property
    def differentiable_inputs(self) -> tuple[str, ...]:
        """The inputs that may get a cotangent from this loss, each once."""
        return tuple(dict.fromkeys(self.reads)) if self.weight else ()

    pulls = differentiable_inputs  # its name until 0.1


def Penalty(
    name: str,
    fn: Callable[..., jax.Array],
    party: str,
    inputs: str | Sequence[str],
    weight: float = 1.0,
) -> Loss:  # noqa: N802
    """A `Loss` that one party adds on what it already has: its parameters, its activations, its fields.

    It makes nothing cross. Examples: weight decay, `Penalty("decay", l2, "hospital", ["smashed.params"], 1e-4)`; a
    regulariser sown inside a module, `Penalty("sown", total, "hospital", ["smashed.state"])`; NoPeek,
    `Penalty("nopeek", correlation, "hospital", ["image", "smashed"])`.
    """
    return Loss(name, fn, party, inputs, weight, local=True)


def as_names(owner: str, names: Iterable[str], what: str = "inputs") -> tuple[str, ...]:
    """Names as given, in a list or, where there is one alone, as a string."""
    return tuple(names_of(what, names, owner=owner, twice=True))


def _check_names(kind: str, name: str, party: str) -> None:
    for what, value in (("name", name), ("party", party)):
        if not isinstance(value, str) or not value:
            raise ValueError(
                f"{kind} {name!r}: `{what}` must be a name, got {value!r}."
            )
