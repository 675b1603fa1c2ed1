"""Configurations in which one client's values go through a chain of segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsplit.core.base import Segment
from jsplit.topology.configurations.building import (
    Held,
    LossFunction,
    build,
    labels_of,
    loss_at,
    make_node,
    takes_segments,
)
from jsplit.topology.graph import Topology


@takes_segments
def vanilla(
    bottom: Segment,
    top: Segment,
    *,
    loss: LossFunction,
    client: str = "client",
    server: str = "server",
    fields: str | Sequence[str] | None = None,
    label: str | None = "label",
    public: str | Sequence[str] = (),
) -> Topology:
    """A topology whose client has data and bottom, whose server has top, labels and loss.

    One activation goes up, one cotangent comes down.

    Args:
        bottom: The client's segment.
        top: The server's segment; it reads what `bottom` produces.
        loss: `loss(output, label)`, a scalar or one number per example,
            [batch].
        client: Name of the client.
        server: Name of the server.
        fields: What `bottom` reads; by default its own names.
        label: The field with the labels; `None`: there are none, and the loss is
            `loss(output)`, as one that compares the records of a batch.
        public: Fields that are not secret (a mask, positions, lengths), as `split` takes
            them: who holds one sends it, as `public_<field>`, to all that read it.

    Returns:
        A `Topology` of two parties.

    Raises:
        ValueError: If an argument is no segment, the segments are given in
            another order than they run, or both parties have one name.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figure 2a.

    Example:
        >>> import jsplit
        >>> init = lambda key, x: 1.0
        >>> bottom = jsplit.segment(lambda w, image: w * image, init=init)
        >>> top = jsplit.segment(lambda w, h: w * h, init=init)
        >>> jsplit.vanilla(bottom, top, loss=max, client="hospital")
        Topology
          hospital  holds image; smashed = segment(image)
          server    holds label; output = segment(smashed); loss = loss(output, label)
          smashed: hospital <-> server
    """
    low = make_node(bottom, client, fields, "smashed")
    # By the node's name, as a segment that `split` made brings one of its own.
    high = make_node(top, server, [low.name], "output", public)
    nodes = [low, high, loss_at(server, loss, high, label)]
    return build(nodes, [(client, low.reads), (server, labels_of(label))], public)


@takes_segments
def u_shaped(
    head: Segment,
    body: Segment,
    tail: Segment,
    *,
    loss: LossFunction,
    client: str = "client",
    server: str = "server",
    fields: str | Sequence[str] | None = None,
    label: str | None = "label",
    public: str | Sequence[str] = (),
) -> Topology:
    """A topology whose client has data, head, tail, labels and loss; the server the body.

    Labels never leave the client. Four messages a step: two activations,
    two cotangents. The tail reads the body's output and, if it was split
    so, also the head's output or the client's fields.

    Args:
        head: The client's first segment.
        body: The server's segment; it reads what `head` produces.
        tail: The client's last segment; it reads what `body` produces.
        loss: `loss(output, label)`, a scalar or one number per example,
            [batch].
        client: Name of the client.
        server: Name of the server.
        fields: What `head` reads; by default its own names.
        label: The field with the labels; `None`: there are none, and the loss is
            `loss(output)`, as one that compares the records of a batch.
        public: Fields that are not secret (a mask, positions, lengths), as `split` takes
            them: who holds one sends it, as `public_<field>`, to all that read it.

    Returns:
        A `Topology` of two parties.

    Raises:
        ValueError: If an argument is no segment, the segments are given in
            another order than they run, or both parties have one name.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figure 2b.

    Example:
        >>> import jsplit
        >>> init = lambda key, x: 1.0
        >>> part = jsplit.segment(lambda w, x: w * x, init=init)
        >>> topology = jsplit.u_shaped(part, part, part, loss=max)
        >>> [(c.name, c.sender, c.receiver) for c in topology.crossings]
        [('up', 'client', 'server'), ('down', 'server', 'client')]
        >>> topology.holds["server"]
        ()
    """
    low = make_node(head, client, fields, "up")
    mid = make_node(body, server, [low.name], "down", public)
    high = make_node(tail, client, [mid.name], "output", public)
    nodes = [low, mid, high, loss_at(client, loss, high, label)]
    # What the tail reads beside the two values is a field of the client, or an error
    # that `Topology` names.
    own = [i for i in (*low.reads, *high.reads) if i not in (low.name, mid.name)]
    # The server is listed, though it holds nothing: that is the point of a U.
    return build(nodes, [(client, [*own, *labels_of(label)]), (server, [])], public)


# Not `takes_segments`: here a dictionary is right, since a chain has any length.
def multihop(
    segments: Mapping[str, Segment],
    *,
    loss: LossFunction,
    fields: str | Sequence[str] | None = None,
    label: str | None = "label",
    public: str | Sequence[str] = (),
) -> Topology:
    """A topology of a chain of parties, as in Tor; the last has the labels and the loss.

    Each sees only its predecessor's activation and its successor's
    cotangent.

    Args:
        segments: By party, in the order of the chain; the first reads the
            fields.
        loss: `loss(output, label)`, a scalar or one number per example,
            [batch].
        fields: What the first segment reads; by default its own names.
        label: The field with the labels; `None`: there are none, and the loss is
            `loss(output)`, as one that compares the records of a batch.
        public: Fields that are not secret (a mask, positions, lengths), as `split` takes
            them: who holds one sends it, as `public_<field>`, to all that read it.

    Returns:
        A `Topology` with as many parties as segments.

    Raises:
        ValueError: If there are fewer than two parties, or one of them has
            no segment.

    References:
        Vepakomma et al., `Split learning for health
        <https://arxiv.org/abs/1812.00564>`_, 2018, Figure 4c.

    Example:
        >>> import jsplit
        >>> part = jsplit.segment(lambda x: x)
        >>> chain = {"clinic": part, "relay": part, "server": part}
        >>> jsplit.multihop(chain, loss=max)
        Topology
          clinic  holds x; hop1 = segment(x)
          relay   hop2 = segment(hop1)
          server  holds label; output = segment(hop2); loss = loss(output, label)
          hop1: clinic -> relay
          hop2: relay -> server
    """
    if len(segments) < 2:
        raise ValueError(
            f"`segments` must be a chain of at least two parties, got {list(segments)}."
        )
    nodes = []
    reads = fields
    for i, (party, part) in enumerate(segments.items(), start=1):
        # The last is called as in all configurations, so that code that reads what a
        # trainer predicts fits each of them.
        name = f"hop{i}" if i < len(segments) else "output"
        shared = public if i > 1 else ()
        nodes.append(make_node(part, party, reads, name, shared))
        reads = [nodes[-1].name]

    # A relay holds nothing, and is listed all the same: `holds` names every party.
    held: list[Held] = [(party, ()) for party in segments]
    held.insert(0, (nodes[0].party, nodes[0].reads))
    held.append((nodes[-1].party, labels_of(label)))
    last = loss_at(nodes[-1].party, loss, nodes[-1], label)
    return build([*nodes, last], held, public)
