"""What segments of one party lend each other: one owns a tied weight, others read it there.

The owner's parameters have the leaf, so whatever is done with parameters
(optimizers, averages, checkpoints, costs) does it once. A segment that borrows
it is applied to its own parameters with the borrowed leaves laid over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jsplit.core.base import Params, PyTree, Segment
from jsplit.core.paths import Nested, Path, nest, overlay
from jsplit.core.tied import Tied


class Loan(NamedTuple):
    """What one segment reads of the parameters of another.

    Attributes:
        owner: whose parameters, by its name among the segments.
        paths: to the leaves, which are the same in both.
    """

    owner: str
    paths: tuple[Path, ...]

    def part(self, params: Params) -> Nested:
        """The lent leaves of the owner's parameters, or of a tree like them."""
        return nest(self.paths, [_leaf(params, path) for path in self.paths])


def _leaf(tree: PyTree, path: Path) -> PyTree:
    for key in path:
        tree = tree[key]
    return tree


Loans = Mapping[str, Sequence[Loan]]
"""By segment that borrows, what it borrows of whom."""


def loans_of(segments: Mapping[str, Segment]) -> dict[str, tuple[Loan, ...]]:
    """Find what segments borrow of each other.

    Args:
        segments: of one party, by name.

    Returns:
        By segment that borrows, its loans.

    Raises:
        ValueError: if none of them owns what one borrows, or several do.
    """
    owners = owners_of(segments)
    found: dict[str, tuple[Loan, ...]] = {}
    for name, segment in segments.items():
        paths: dict[str, list[Path]] = {}
        for tied in segment.tied:
            if segment.name != tied.owner:
                owner = _one_owner(name, tied, owners.get(tied, []))
                paths.setdefault(owner, []).append(tied.path)
        if paths:
            found[name] = tuple(Loan(o, tuple(p)) for o, p in paths.items())
    return found


def owners_of(segments: Mapping[str, Segment]) -> dict[Tied, list[str]]:
    """By tied weight, the names of the segments that own it."""
    owners: dict[Tied, list[str]] = {}
    for name, segment in segments.items():
        for tied in segment.tied:
            # By the name that `split` gave it: a node may have another.
            if segment.name == tied.owner:
                owners.setdefault(tied, []).append(name)
    return owners


def _one_owner(name: str, tied: Tied, owners: Sequence[str]) -> str:
    if len(owners) == 1:
        return owners[0]
    reads = f"`{name}` reads the weight `{tied.dotted}` of the segment `{tied.owner}`"
    if not owners:
        raise ValueError(
            f"{reads}, which is not there; take both from one call of `jsplit.split`."
        )
    both = " and ".join(f"`{o}`" for o in owners)
    raise ValueError(
        f"{reads}, which {both} both are; split once for each, so that it is known whose "
        "weight is meant."
    )


def with_loans(params: Params, lent: Sequence[Nested]) -> Params:
    """Parameters of a segment with the leaves that it borrows; as they are without any."""
    # Parameters of other segments may be any pytree, which is not laid over.
    return overlay(params, *lent) if lent else params


def params_for(loans: Loans, name: str, params: Mapping[str, Params]) -> Params:
    """What the segment `name` is applied to, out of the parameters of all of its party.

    Args:
        loans: of the party.
        name: of the segment.
        params: own parameters of each segment, by name.
    """
    return with_loans(params[name], lent_to(loans, name, params))


def lent_to(loans: Loans, name: str, params: Mapping[str, Params]) -> list[Nested]:
    """The leaves that the segment `name` borrows, for each of its loans."""
    return [loan.part(params[loan.owner]) for loan in loans.get(name, ())]
