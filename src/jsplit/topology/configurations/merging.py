"""Configurations in which the values of several clients are merged into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jsplit.core.base import PyTree, Segment
from jsplit.topology.configurations.building import (
    Held,
    LossFunction,
    build,
    client_nodes,
    labels_of,
    loss_at,
    make_node,
    merger,
)
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node


def vertical(
    bottoms: Mapping[str, Segment],
    top: Segment,
    *,
    loss: LossFunction,
    server: str = "server",
    fields: Mapping[str, str | Sequence[str]] | None = None,
    label: str | None = "label",
    merge: Callable[..., PyTree] | None = None,
    public: str | Sequence[str] = (),
) -> Topology:
    """A topology of K clients with different fields of the same records; the server merges.

    Each client has a bottom of its own. K activations go up, K cotangents
    come down.

    Args:
        bottoms: By client; each produces a value of its own.
        top: The server's segment; it reads all values in order or, with
            `merge`, their merger.
        loss: `loss(output, label)`, a scalar or one number per example,
            [batch].
        server: Name of the server.
        fields: By client, what its bottom reads; by default its own names.
        label: The field with the labels; `None`: there are none, and the loss is
            `loss(output)`, as one that compares the records of a batch.
        merge: `merge(*values) -> value`, a concatenation, say; without it
            `top` takes K inputs.
        public: Fields that are not secret (a mask, positions, lengths), as `split` takes
            them: who holds one sends it, as `public_<field>`, to all that read it.

    Returns:
        A `Topology` of K + 1 parties, or K where the server is one of the
        clients.

    Raises:
        ValueError: If there is no client, a part is no segment, or `fields`
            names a client that has no bottom.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figure 2c.

    Example:
        >>> import jsplit
        >>> lab = jsplit.segment(lambda blood: blood)
        >>> clinic = jsplit.segment(lambda scan: scan)
        >>> top = jsplit.segment(lambda h: h)
        >>> bottoms = {"lab": lab, "clinic": clinic}
        >>> topology = jsplit.vertical(bottoms, top, loss=max, merge=max)
        >>> topology.node["merged"].reads
        ('smashed_lab', 'smashed_clinic')
    """
    lows, held = client_nodes(bottoms, fields)
    merged, inputs = merger(merge, lows, server, "merged")
    high = make_node(top, server, inputs, "output", public)
    nodes = [*lows, *merged, high, loss_at(server, loss, high, label)]
    # The server may be one of the clients, the active party of vertical learning: it then
    # holds its own fields and the labels.
    return build(nodes, [*held, (server, labels_of(label))], public)


def extended_vanilla(
    bottoms: Mapping[str, Segment],
    middle: Segment,
    top: Segment,
    *,
    loss: LossFunction,
    intermediary: str = "intermediary",
    server: str = "server",
    fields: Mapping[str, str | Sequence[str]] | None = None,
    label: str | None = "label",
    merge: Callable[..., PyTree] | None = None,
    public: str | Sequence[str] = (),
) -> Topology:
    """A topology as `vertical`, but another client merges before the server.

    That client, the intermediary, runs a middle segment. K + 1 activations
    go up, K + 1 cotangents come down.

    Args:
        bottoms: By client; each produces a value of its own.
        middle: The intermediary's segment; it reads the bottoms' values or,
            with `merge`, their merger.
        top: The server's segment; it reads what `middle` produces.
        loss: `loss(output, label)`, a scalar or one number per example,
            [batch].
        intermediary: Name of the client that merges.
        server: Name of the server.
        fields: By client, what its bottom reads; by default its own names.
        label: The field with the labels; `None`: there are none, and the loss is
            `loss(output)`, as one that compares the records of a batch.
        merge: `merge(*values) -> value`; without it `middle` takes K
            inputs.
        public: Fields that are not secret (a mask, positions, lengths), as `split` takes
            them: who holds one sends it, as `public_<field>`, to all that read it.

    Returns:
        A `Topology` of up to K + 2 parties.

    Raises:
        ValueError: If there is no client, a part is no segment, or `fields`
            names a client that has no bottom.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figure 4a.

    Example:
        >>> import jsplit
        >>> part = jsplit.segment(lambda x: x)
        >>> bottoms, fields = {"a": part, "b": part}, {"a": "x1", "b": "x2"}
        >>> topology = jsplit.extended_vanilla(
        ...     bottoms, part, part, loss=max, fields=fields, merge=max
        ... )
        >>> topology.parties
        ('a', 'b', 'intermediary', 'server')
    """
    lows, held = client_nodes(bottoms, fields)
    merged, inputs = merger(merge, lows, intermediary, "merged")
    mid = make_node(middle, intermediary, inputs, "middle", public)
    # Only what the middle makes goes on: the server never sees a client's own value.
    high = make_node(top, server, [mid.name], "output", public)
    nodes = [*lows, *merged, mid, high, loss_at(server, loss, high, label)]
    # The intermediary may be one of the clients too: `build` adds up the fields of roles.
    return build(nodes, [*held, (intermediary, []), (server, labels_of(label))], public)


def multitask(
    bottoms: Mapping[str, Segment],
    tops: Mapping[str, Segment],
    *,
    losses: Mapping[str, LossFunction],
    labels: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    fields: Mapping[str, str | Sequence[str]] | None = None,
    merge: Callable[..., PyTree] | None = None,
    public: str | Sequence[str] = (),
) -> Topology:
    """A topology as `vertical`, but with several servers: tasks, labels, losses of their own.

    Every bottom's value goes to every server; the cotangents that come back
    add up.

    Args:
        bottoms: By client; each produces a value of its own.
        tops: By server; each reads all values in order or, with `merge`,
            their merger.
        losses: By server, `loss(output, label)`, a scalar or one number per
            example.
        labels: By server, its field of labels; by default `label_<server>`.
        weights: By server, the weight of its loss; 1 by default.
        fields: By client, what its bottom reads; by default its own names.
        merge: `merge(*values) -> value`; each server merges for itself.
        public: Fields that are not secret (a mask, positions, lengths), as `split` takes
            them: who holds one sends it, as `public_<field>`, to all that read it.

    Returns:
        A `Topology` with a party for every client and every server.

    Raises:
        ValueError: If `losses` and `tops` are not for the same servers,
            `labels` or `weights` name another one, there is no client, or a
            part is no segment.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figure 4b.

    Example:
        >>> import jsplit
        >>> part = jsplit.segment(lambda x: x)
        >>> tops = {"prognosis": part, "therapy": part}
        >>> topology = jsplit.multitask(
        ...     {"clinic": part}, tops, losses={"prognosis": max, "therapy": max}
        ... )
        >>> topology.holds["therapy"]
        ('label_therapy',)
        >>> [c.receiver for c in topology.crossings]
        ['prognosis', 'therapy']
    """
    # Matched by name, so a slip of the pen would leave a task without its loss.
    if set(losses) != set(tops):
        raise ValueError(
            f"`losses` is for {sorted(losses)}, `tops` for {sorted(tops)}; "
            "every server needs both."
        )
    for what, given in (("labels", labels), ("weights", weights)):
        if unknown := sorted(set(given or ()) - set(tops)):
            raise ValueError(
                f"`{what}` names `{unknown[0]}`, which has no top; "
                f"there are {sorted(tops)}."
            )

    lows, held = client_nodes(bottoms, fields)
    # The bottoms first: `build` expects nodes in the order of the computation.
    nodes: list[Node | Loss] = [*lows]
    roles: list[Held] = [*held]
    for server, top in tops.items():
        # Names of its own for each server: a field or a value has one meaning in all of
        # the topology.
        label = (labels or {}).get(server, f"label_{server}")
        weight = (weights or {}).get(server, 1.0)
        # Merged at each server anew. One merger at one of them would show its value to
        # the others, and make it a party of every task.
        merged, inputs = merger(merge, lows, server, f"merged_{server}")
        high = make_node(top, server, inputs, f"output_{server}", public)
        reads = [high.name, label]
        loss = Loss(f"loss_{server}", losses[server], server, reads, weight)
        nodes += [*merged, high, loss]
        roles.append((server, [label]))
    return build(nodes, roles, public)
