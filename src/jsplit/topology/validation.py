"""What a topology may be: every input is made or held where it is read, and names are clear.

Each check names the culprit. A new rule about parts, parties or fields is
added here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from jsplit.topology.metrics import Metric
from jsplit.topology.names import OWN
from jsplit.topology.nodes import Loss, Node, in_order
from jsplit.topology.ties import find_loans

_Holds = Mapping[str, Sequence[str]]


def validate(
    nodes: Sequence[Node | Loss | Metric], holds: _Holds, public: Sequence[str] = ()
) -> None:
    """Refuse parts and holdings that make no topology.

    Args:
        nodes: What the user gave as `nodes`.
        holds: The fields of each party.
        public: What the user says is not secret.

    Raises:
        ValueError: Naming the culprit.
    """
    for n in nodes:
        if not isinstance(n, (Node, Loss, Metric)):
            raise ValueError(
                f"`nodes` must hold Node, Loss and Metric, got {type(n).__name__}."
            )
    computing = {n.name: n for n in nodes if isinstance(n, Node)}
    if not computing:
        raise ValueError("`nodes` holds no Node: there is nothing to compute.")

    _check_names(nodes, computing, holds)
    # In the order of the computation, so that of several culprits the first is named:
    # the others often follow from it.
    losses = [n for n in nodes if not isinstance(n, Node)]
    for node in (*in_order(computing.values()), *losses):
        for name in node.reads:
            _check_input(node, name, computing, losses, holds)
    for name in public:
        if not _holders(holds, name):
            there = ", ".join(dict.fromkeys(f for held in holds.values() for f in held))
            raise ValueError(
                f"`public` names `{name}`, which no party holds; there are {there}."
            )
    find_loans([*computing.values()])


def _check_names(
    nodes: Sequence[Node | Loss | Metric],
    computing: Mapping[str, Node],
    holds: _Holds,
) -> None:
    """A name means one thing, in every party."""
    names = [n.name for n in nodes]
    fields = dict.fromkeys(f for held in holds.values() for f in held)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two nodes are named `{name}`.")
        if name in fields:
            holder = _holders(holds, name)[0]
            raise ValueError(
                f"node `{name}` has the name of a field that `{holder}` holds."
            )

    # `smashed.params` is how a loss reads parameters, so nothing else may be named so.
    called = [("field", f) for f in fields] + [("node", n) for n in names]
    for what, name in called:
        base, _, own = name.rpartition(".")
        if own in OWN and base in computing:
            raise ValueError(
                f"the {what} `{name}` has the name of the {own} of the node `{base}`."
            )


def _check_input(
    node: Node | Loss | Metric,
    name: str,
    computing: Mapping[str, Node],
    losses: Sequence[Loss | Metric],
    holds: _Holds,
) -> None:
    """What `node` reads as `name` exists, and may be read at its party."""
    what = f"{type(node).__name__.lower()} `{node.name}` at `{node.party}`"
    base, _, own = name.rpartition(".")

    # A value first: it may cross, so a node elsewhere is fine. All else must be at home.
    if name in computing:
        maker = computing[name].party
        if isinstance(node, Loss) and node.local and maker != node.party:
            raise ValueError(
                f"penalty `{node.name}` at `{node.party}` reads `{name}`, which "
                f"`{maker}` makes: a penalty reads only what its party has."
            )
    elif owners := _holders(holds, name):
        if node.party not in owners:
            listed = " and ".join(f"`{p}`" for p in owners)
            is_input = isinstance(node, Node)
            goes = (
                f' What is not secret goes by `public=["{name}"]`.' if is_input else ""
            )
            raise ValueError(
                f"{what} reads the field `{name}`, which only {listed} holds; "
                f"raw inputs and labels do not cross.{goes}"
            )
    elif isinstance(node, Metric) and own in OWN and base in computing:
        # They have no row for each example, of which a metric is made.
        raise ValueError(
            f"{what} reads `{name}`; a metric reads fields and values of examples, a "
            "Loss of weight 0 reads parameters and states."
        )
    elif isinstance(node, Loss) and own in OWN and base in computing:
        owner = computing[base].party
        if owner != node.party:
            raise ValueError(f"{what} reads `{name}`, which belongs to `{owner}`.")
    elif any(name == x.name for x in losses):
        raise ValueError(
            f"{what} reads `{name}`, which is a loss or a metric; "
            "these are read by no one."
        )
    else:
        fields = dict.fromkeys(f for held in holds.values() for f in held)
        there = [*(n.name for n in in_order(computing.values())), *fields]
        # A slip of the pen is the usual cause, so names alike are shown if there are any.
        close = get_close_matches(name, there, 2) or there
        # Slices of one model alone have its key, and the names of its inputs.
        is_slice = isinstance(node, Node) and node.segment.shares_key
        cure = (
            " An input of a model that was split, which is read behind a cut: what is "
            'computed of it goes with the cut by `around="carry"` of `split`, itself, if '
            f'it is not secret, by `public=["{name}"]` of both.'
        )
        raise ValueError(
            f"{what} reads `{name}`, which no node produces and no party holds; "
            f"there are {', '.join(close)}.{cure if is_slice else ''}"
        )


def _holders(holds: _Holds, field: str) -> list[str]:
    return [party for party, fields in holds.items() if field in fields]
