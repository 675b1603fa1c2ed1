"""Which cotangents a node receives, and under which names they lie at its party."""

from __future__ import annotations

from jsplit.topology.nodes import Node
from jsplit.training.config import Config
from jsplit.training.kinds import Kind
from jsplit.training.walk import Name


def cotangent(party: str, value: str, reader: str) -> Name:
    """The cotangent of a value that one node or loss of the party, `reader`, computes."""
    return Name(party, Kind.COTANGENT, value, reader=reader)


def returned(party: str, value: str, sender: str) -> Name:
    """The cotangent of a value that came back from the party `sender`."""
    return Name(party, Kind.COTANGENT, value, sender=sender)


def lent_gradient(party: str, owner: str, reader: str) -> Name:
    """The gradient of weights of the node `owner` that the node `reader` borrows."""
    return Name(party, Kind.GRAD, owner, reader=reader)


def lent_gradients(config: Config, node: Node) -> list[Name]:
    """The gradients of what a node borrows, of each lender that is trained."""
    loans = config.topology.loans.get(node.name, ())
    owners = [config.topology.node[loan.owner] for loan in loans]
    return [
        lent_gradient(node.party, owner.name, node.name)
        for owner in owners
        if owner.segment.trainable
    ]


def cotangents(config: Config, value: str, party: str) -> list[Name]:
    """The cotangents of a value that a party computes, one for each node or loss that reads it."""
    topology = config.topology
    # A node off the way to every loss gets no cotangent, so it gives
    # none.
    readers = [
        n.name
        for n in topology.segments
        if n.party == party
        and value in n.differentiable_inputs
        and n.name in topology.on_loss_path
    ]
    readers += [
        x.name
        for x in topology.losses
        if x.party == party and value in x.differentiable_inputs
    ]
    return [cotangent(party, value, reader) for reader in readers]


def all_cotangents(config: Config, node: Node) -> list[Name]:
    """Those of a node's value that its party computes, and those that come over a crossing."""
    # One of each receiver: it has summed those of its own readers
    # before it sends.
    back = [
        c.receiver
        for c in config.topology.crossings
        if c.name == node.name and c.returns
    ]
    own = cotangents(config, node.name, node.party)
    return own + [returned(node.party, node.name, party) for party in back]


def state_cotangents(config: Config, node: Node) -> list[Name]:
    """The cotangents of a node's new state: there are some where a penalty reads it."""
    return cotangents(config, f"{node.name}.state", node.party)


def needs_vjp(config: Config, node: Node) -> bool:
    """Whether a node's forward pass in training must leave a vjp."""
    # No cotangent, no vjp: the outputs that only metrics read cost
    # nothing in training.
    reached = all_cotangents(config, node) or state_cotangents(config, node)
    return node.name in config.topology.depends_on_params and bool(reached)
