"""An agreement as one training of all its parties, for whoever has all parts and all fields.

A party's process knows its own segments alone. Here every party's function is asked for its part,
and the whole of them is what the network would compute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import optax

from jsplit import party as parties
from jsplit.commands.brought import Given
from jsplit.core.base import Link, PyTree
from jsplit.core.trainer import Trainer
from jsplit.party.contract.checks import scale_of
from jsplit.topology.graph import Topology
from jsplit.training.fused import fused

_log = logging.getLogger("jsplit")
Links = Mapping[str, tuple[Link | None, Link | None]]


@dataclass(frozen=True)
class Whole:
    """All that the parties of an agreement bring.

    Attributes:
        agreed: the agreement.
        topology: with everybody's segments and losses.
        optimizers: by party.
        links: by value, as agreed.
        given: what each party's function gives.
        client: whose part it is, where clients take turns.
    """

    agreed: parties.Agreement
    topology: Topology
    optimizers: dict[str, optax.GradientTransformation]
    links: Links
    given: Mapping[str, Given]
    client: str | None

    def trainer(self, links: Links) -> Trainer:
        """The trainer of all parties, in one process.

        Args:
            links: of the values that cross.
        """
        return fused(
            self.topology,
            self.optimizers,
            links=dict(links),
            microbatches=self.agreed.microbatches,
            nonfinite=self.agreed.nonfinite,
            loss_scale=scale_of(self.agreed.loss_scale),
        )

    def fields(self) -> dict[str, PyTree]:
        """The fields that the parties' functions give, of the same records in one order.

        Raises:
            ValueError: naming who gives none, or none that can be laid side by side.
        """
        found, orders = {}, {}
        for role, held in self.agreed.holds.items():
            own = self._of_client(self.given[role].get("data"), role)
            if held and not isinstance(own, Mapping):
                raise ValueError(
                    f"`data` of `{role}` must be its fields, got {type(own).__name__}: "
                    "give all fields in a file by `--data`."
                )
            if own and held:
                found |= dict(cast("Mapping[str, PyTree]", own))
                ids = self._of_client(self.given[role].get("ids"), role)
                orders[role] = None if ids is None else [*cast(Iterable[object], ids)]
        first = next(iter(orders.values()), None)
        for role, ids in orders.items():
            # By the network rows are matched by their ids; here nobody would notice.
            if ids != first:
                raise ValueError(
                    f"`ids` of `{role}` are others, or in another order, than those of "
                    f"`{next(iter(orders))}`: give all fields in a file by `--data`."
                )
        return found

    def _of_client(self, given: object, role: str) -> object:
        """What a party gives of the client: one that is always there has it by client."""
        if self.client is None or not isinstance(given, Mapping):
            return given
        assert self.agreed.rotation is not None
        plays = self.agreed.rotation.clients[self.client]
        return given if role in plays else given.get(self.client)


def whole(
    agreed: parties.Agreement, part: Callable[[str], Given], client: str | None = None
) -> Whole:
    """Ask every party of an agreement for its part.

    Args:
        agreed: the agreement.
        part: gives the arguments of `jsplit.party.run` of a party, by its name.
        client: whose part is taken, where clients take turns; by default the first one's.

    Returns:
        All of them.

    Raises:
        ValueError: naming the part, the optimizer or the client that there is not.
    """
    names = {role: role for role in agreed.roles}
    if agreed.rotation is not None:
        clients = agreed.rotation.clients
        client = next(iter(clients)) if client is None else client
        if client not in clients:
            raise ValueError(
                f"`--client` must be one of {', '.join(clients)}, got {client}."
            )
        names |= dict(clients[client])
        _log.warning("what clients hand on to each other is not looked at")
    elif client is not None:
        raise ValueError("`--client` is of clients that take turns, and none do.")
    if agreed.staleness:
        _log.warning("steps that overlap (`staleness`) are taken one after the other")
    given = {role: part(name) for role, name in names.items()}
    own_links: dict[str, Link] = {}
    for one in given.values():
        own_links |= dict(one.get("links") or {})
    topology = _topology(agreed, given)
    owners = dict.fromkeys(n.party for n in topology.segments if n.segment.trainable)
    optimizers = {}
    for owner in owners:
        if given[owner].get("optimizer") is None:
            raise ValueError(f"`optimizer` is missing: `{owner}` owns parameters.")
        optimizers[owner] = given[owner]["optimizer"]
    links = agreed.links(own_links)
    return Whole(agreed, topology, optimizers, links, given, client)


def _topology(agreed: parties.Agreement, given: Mapping[str, Given]) -> Topology:
    """The topology with everybody's segments, in the order of the agreement."""
    made = {}
    for role, one in given.items():
        own = agreed.topology(role, one.get("own"))
        for x in (*own.segments, *own.losses, *own.metrics):
            if x.party == role:
                made[x.name] = x
    order = (*agreed.nodes, *agreed.losses, *agreed.metrics)
    return Topology([made[x.name] for x in order], agreed.holds, public=agreed.public)
