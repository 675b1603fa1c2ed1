"""Where the leaves of a state belong, whatever the topology: by part, node and path.

The leaves of slices of one model have the paths of the whole, so a node says only
who has which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from jsplit.core.arrays import is_copy
from jsplit.core.base import PyTree, TrainState
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Federation
from jsplit.core.paths import by_path

PARTS = "params", "state"


class Place(NamedTuple):
    """Where a leaf belongs: in the parameters or statistics, of which node, at which path."""

    part: str
    node: str
    path: str


class Wanted(NamedTuple):
    """A leaf of the state as it is, and for how many clients, `None` where all share it."""

    like: jax.Array
    clients: int | None


def key_of(place: Place, whole: bool) -> tuple[str, ...]:
    """Return what two places of one leaf have in common: all, or all but the node."""
    return (place.part, place.path) if whole else tuple(place)


def places_of(
    state: TrainState | Federation, paths_of: Callable[[PyTree], list[str]]
) -> dict[Place, Wanted]:
    """Return the place of each weight and statistic of a state, in the order of its leaves."""
    # Of a state that is used up optimizers would be gone, though weights come anew.
    refuse_used_up(state)
    found: dict[Place, Wanted] = {}
    own = state.clients if isinstance(state, Federation) else None
    for party, held in state.parties.items():
        for part in PARTS:
            for node, tree in getattr(held, part).items():
                each = own and own.own_of(party, part, node)
                # The path of a node's name, quoted as the paths in it are.
                (name, *_) = [*paths_of({node: 0})]
                leaves = jax.tree.leaves(tree)
                at = by_path(tree).paths
                for path, x, place in zip(paths_of(tree), leaves, at, strict=True):
                    rows = x.shape[0] if each and each(place) else None
                    found[Place(part, name, path)] = Wanted(x, rows)
    return found


def check_once(places: Mapping[Place, PyTree], where: str) -> None:
    """Refuse two nodes that hold the same leaf: they are not slices of one model.

    But for copies of a frozen weight, which have the same numbers.
    """
    seen: dict[tuple[str, ...], Place] = {}
    for place, leaf in places.items():
        other = seen.setdefault(key_of(place, True), place)
        if other is not place and not is_copy(places[other], leaf):
            raise ValueError(
                f"the leaf `{place.path}` is in the nodes `{other.node}` and "
                f"`{place.node}` of {where}, which are not slices of one model."
            )


def check_whole(
    places: Mapping[Place, Wanted],
    given: Mapping[tuple[str, ...], object],
    where: str,
) -> None:
    """Refuse a leaf that is lacking, and one that has no place."""
    check_once({place: x.like for place, x in places.items()}, "the state")
    wanted = {key_of(place, True) for place in places}
    for part, path in sorted(wanted ^ given.keys()):
        what = "weight" if part == "params" else "statistic"
        if (part, path) in wanted:
            raise ValueError(f"{where} lacks the {what} `{path}` of the model.")
        raise ValueError(f"{where} has the {what} `{path}`, which no segment has.")
