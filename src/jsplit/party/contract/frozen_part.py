"""Which parameters of a node are frozen, as a hash: parties agree on it, and learn no name.

It is of paths, dtypes and shapes. What the frozen ones hold is compared by those who play
one role, when they hand over.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from jsplit.core.base import Params, PartyState, PyTree, Segment
from jsplit.core.frozen import divided
from jsplit.core.paths import by_path, dotted
from jsplit.party.contract.entries import NodeEntry
from jsplit.topology.graph import Topology


def frozen_part(segment: Segment, params: Params) -> str:
    """The SHA-256 of the frozen paths, dtypes and shapes; "" if nothing is frozen.

    Args:
        segment: of a node.
        params: its parameters, or their shapes.

    Returns:
        In hexadecimal.
    """
    if segment.trains is None:
        return ""
    lines = [*_lines(divided(segment.trains, params)[1])]
    return sha256("\n".join(sorted(lines)).encode()).hexdigest() if lines else ""


def _lines(frozen: PyTree) -> Iterable[str]:
    leaves = by_path(frozen)
    for path, x in zip(leaves.paths, leaves.shapes, strict=True):
        yield f"{dotted(path)} {x.dtype}{list(x.shape)}"


def check_frozen(
    nodes: Iterable[NodeEntry], topology: Topology, party: str, own: PartyState
) -> None:
    """Refuse segments that freeze other parameters than was agreed on.

    Args:
        nodes: of the agreement.
        topology: with the party's own segments.
        party: its role.
        own: its first state.

    Raises:
        ValueError: naming the node.
    """
    for node in nodes:
        # Where nothing is said, whoever made the agreement did not have the segment.
        if node.party != party or not node.frozen:
            continue
        found = frozen_part(topology.node[node.name].segment, own.params[node.name])
        if found != node.frozen:
            what = "freezes nothing" if not found else "freezes other parameters"
            raise ValueError(
                f"node `{node.name}`: its segment {what}, and not those that are agreed "
                "on (`trainable`): paths, dtypes and shapes must be those of the segment "
                "that the agreement was made of."
            )
